# ruff: noqa: E402
"""`compare` finds the place, the program and the step, and names the faults of logic it knows."""

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton installs on Linux only")
import triton.language as tl

from seqlab.figures.comparison import comparison
from seqlab.gpu.compare import compare


@triton.jit
def matmul(p_a, p_b, p_c, M, N, K, STEPS, B: tl.constexpr):
    m = tl.program_id(0) * B + tl.arange(0, B)
    n = tl.program_id(1) * B + tl.arange(0, B)
    k = tl.arange(0, B)
    b_c = tl.zeros([B, B], dtype=tl.float32)
    for i in range(0, STEPS):
        at = i * B + k
        b_a = tl.load(p_a + m[:, None] * K + at[None, :])
        b_b = tl.load(p_b + at[:, None] * N + n[None, :])
        b_c += tl.dot(b_a, b_b)
    tl.store(p_c + m[:, None] * N + n[None, :], b_c)


@triton.jit
def one_tile_short(p_a, p_b, p_c, M, N, K, STEPS, B: tl.constexpr):
    m = tl.program_id(0) * B + tl.arange(0, B)
    n = tl.program_id(1) * B + tl.arange(0, B)
    k = tl.arange(0, B)
    b_c = tl.zeros([B, B], dtype=tl.float32)
    for i in range(0, STEPS - 1):
        at = i * B + k
        b_a = tl.load(p_a + m[:, None] * K + at[None, :])
        b_b = tl.load(p_b + at[:, None] * N + n[None, :])
        b_c += tl.dot(b_a, b_b)
    tl.store(p_c + m[:, None] * N + n[None, :], b_c)


@triton.jit
def half_accumulator(p_a, p_b, p_c, M, N, K, STEPS, B: tl.constexpr):
    m = tl.program_id(0) * B + tl.arange(0, B)
    n = tl.program_id(1) * B + tl.arange(0, B)
    k = tl.arange(0, B)
    b_c = tl.zeros([B, B], dtype=tl.float16)
    for i in range(0, STEPS):
        at = i * B + k
        b_a = tl.load(p_a + m[:, None] * K + at[None, :])
        b_b = tl.load(p_b + at[:, None] * N + n[None, :])
        b_c += tl.dot(b_a, b_b).to(tl.float16)
    tl.store(p_c + m[:, None] * N + n[None, :], b_c)


@triton.jit
def wrong_axis(p_a, p_b, p_c, M, N, K, STEPS, B: tl.constexpr):
    m = tl.program_id(0) * B + tl.arange(0, B)
    n = tl.program_id(1) * B + tl.arange(0, B)
    k = tl.arange(0, B)
    b_c = tl.zeros([B, B], dtype=tl.float32)
    for i in range(0, STEPS):
        at = i * B + k
        b_a = tl.load(p_a + m[:, None] * K + at[None, :])
        b_b = tl.load(p_b + at[:, None] * N + n[None, :])
        b_c += tl.dot(b_a, b_b)
    tl.store(p_c + n[None, :] * M + m[:, None], b_c)


@triton.jit
def row_softmax(p_x, p_y, N, RESCALED: tl.constexpr, R: tl.constexpr, B: tl.constexpr):
    """The softmax of R rows a program, tile by tile."""
    r, c = tl.program_id(0) * R + tl.arange(0, R), tl.arange(0, B)
    b_m = tl.full([R], float("-inf"), dtype=tl.float32)
    b_l = tl.zeros([R], dtype=tl.float32)
    for i in range(0, N, B):
        b_x = tl.load(p_x + r[:, None] * N + i + c[None, :])
        b_new = tl.maximum(b_m, tl.max(b_x, 1))
        if RESCALED:
            b_l *= tl.exp(b_m - b_new)
        b_l += tl.sum(tl.exp(b_x - b_new[:, None]), 1)
        b_m = b_new
    for i in range(0, N, B):
        b_x = tl.load(p_x + r[:, None] * N + i + c[None, :])
        b_y = tl.exp(b_x - b_m[:, None]) / b_l[:, None]
        tl.store(p_y + r[:, None] * N + i + c[None, :], b_y)


def factors(M=32, N=48, K=64, dtype=torch.float32):
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(*s, generator=rng).to(dtype) for s in ((M, K), (K, N)))
    return a, b, torch.zeros(M, N, dtype=dtype), M, N, K, K // 16


def of(kernel, *given, right, **named):
    M, N = given[3:5]
    return compare(kernel, (M // 16, N // 16), *given, right=right, B=16, **named)


def product(given):
    return {"p_c": given[0].double() @ given[1].double()}


def test_a_right_kernel_is_right_and_nothing_is_changed():
    given = factors()
    found = of(matmul, *given, right=product(given))
    assert found and not found.wrong and not found.causes and found.largest < 1e-6
    assert repr(found).startswith("matmul is right: the largest error is ")
    assert (given[2] == 0).all()
    assert of(matmul, *given, right=matmul)


def test_a_loop_one_tile_short_leaves_part_of_the_inputs_unread():
    given = factors()
    found = of(one_tile_short, *given, right=product(given))
    assert not found and found.wrong[0].program == (0, 0) and found.wrong[0].wrong.mean() > 0.99
    assert found.parts is None
    assert found.causes == (
        "No program reads p_a[0, 48] (512 of 2,048 elements of p_a): does a loop end a tile early, "
        "or a mask cut off too much?",
    )
    (said, *_) = repr(found).splitlines()
    assert said.startswith("p_c[0, 0] is ") and "program (0, 0) wrote it (test_compare.py:" in said
    assert said.endswith("made by 6 of 6 programs.")


def test_beside_a_right_kernel_the_number_of_steps_is_told():
    given = factors()
    found = of(one_tile_short, *given, right=matmul)
    assert found.parts is None  # as far as it goes, the loop is right
    assert "takes 3 steps where the right kernel's takes 4" in found.causes[0]


def test_an_accumulator_of_16_bits_is_found_by_its_type():
    given = factors(K=256, dtype=torch.float16)
    found = of(half_accumulator, *given, right=product(given), tolerance=5e-4)
    assert any("`b_c` is carried through the 16 steps" in c and "fp16" in c for c in found.causes)
    assert of(matmul, *given, right=product(given), tolerance=5e-4)


def test_the_step_at_which_a_variable_leaves_the_right_kernels():
    given = factors(K=256, dtype=torch.float16)
    found = of(half_accumulator, *given, right=matmul, tolerance=5e-4)
    assert found.parts.name == "b_c" and found.parts.step >= 1
    assert str(found.parts).startswith("In program (0, ")
    assert f"in step {found.parts.step} of the loop at test_compare.py:" in str(found.parts)


def test_a_result_in_the_wrong_places_is_told_its_axes():
    given = factors()
    (said,) = of(wrong_axis, *given, right=product(given)).causes
    assert "laid out with the axes in the order (1, 0)" in said


def softmaxed(x, rescaled, right=None):
    R, N = x.shape
    right = right or {"p_y": x.double().softmax(-1)}
    named = {"RESCALED": rescaled, "R": 4, "B": 16}
    return compare(row_softmax, (R // 4,), x, torch.zeros(R, N), N, right=right, **named)


def test_a_maximum_that_is_not_rescaled_is_told_by_the_rows_that_are_wrong():
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    x[::2, 3] = 9.0  # every second row has its largest number in the first tile
    assert softmaxed(x, True)
    found = softmaxed(x, False)
    assert {int(i) // 64 for i in np.flatnonzero(found.wrong[0].wrong)} <= {1, 3, 5, 7}
    (said,) = found.causes
    assert "only rows whose maximum `b_m` still grows after the first step" in said
    assert "must be multiplied by exp(old - new)" in said


def test_without_a_right_row_the_maximum_is_not_blamed():
    x = torch.arange(64.0).repeat(8, 1) / 8
    assert softmaxed(x, False).causes == ()


@triton.jit
def scaled(p_x, p_y, n, STRIDE, B: tl.constexpr):
    o = tl.program_id(0) * STRIDE + tl.arange(0, B)
    tl.store(p_y + o, 2 * tl.load(p_x + o, mask=o < n, other=0.0), mask=o < n)


@triton.jit
def careless(p_x, p_y, n, STRIDE, B: tl.constexpr):
    o = tl.program_id(0) * STRIDE + tl.arange(0, B)
    keep = o < n - n % B
    tl.store(p_y + o, 2 * tl.load(p_x + o, mask=keep, other=0.0), mask=o < n)


def test_programs_that_are_wrong_for_where_they_are():
    x = torch.arange(1.0, 21.0)
    right = {"p_y": 2 * x}
    found = compare(careless, (3,), x, torch.zeros(20), 20, 8, right=right, B=8)
    assert found.wrong[0].wrong_programs == {(2,)} and found.wrong[0].first == 16
    assert "the last programs along axis 0" in found.causes[-1]
    found = compare(scaled, (3,), x, torch.full((20,), torch.nan), 20, 4, right=right, B=8)
    assert found.wrong[0].program is None and "nobody wrote it" in repr(found)


def test_numbers_that_moved_along():
    @triton.jit
    def shifted(p_x, p_y, B: tl.constexpr):
        o = tl.arange(0, B)
        tl.store(p_y + (o + 1) % B, tl.load(p_x + o))

    x = torch.randn(16)
    (said,) = compare(shifted, (1,), x, torch.zeros(16), B=16, right={"p_y": x}).causes
    assert "moved by 1 along axis 0" in said


def test_nan_is_right_only_where_it_is_right():
    x = torch.tensor([1.0, torch.nan, torch.inf, 4.0])
    right = {"p_y": 2 * x}
    assert compare(scaled, (1,), x, torch.zeros(4), 4, 4, right=right, B=4)
    right = {"p_y": torch.tensor([2.0, 2.0, torch.inf, 8.0])}
    found = compare(scaled, (1,), x, torch.zeros(4), 4, 4, right=right, B=4)
    assert found.wrong[0].wrong.tolist() == [False, True, False, False]


def test_wrong_questions_get_one_sentence():
    x = torch.zeros(4)
    with pytest.raises(ValueError, match="scaled has no tensor p_z: it has p_x, p_y"):
        compare(scaled, (1,), x, x.clone(), 4, 4, right={"p_z": x}, B=4)
    with pytest.raises(ValueError, match=r"the right p_y has shape \(2,\), the kernel's \(4,\)"):
        compare(scaled, (1,), x, x.clone(), 4, 4, right={"p_y": x[:2]}, B=4)


def test_the_figure_frames_the_tile_of_the_first_wrong_program():
    given = factors(M=32, N=320, K=32)
    found = of(one_tile_short, *given, right=product(given))
    fig = comparison(found)
    (frame,) = fig.layout.shapes
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (-0.5, 15.5, -0.5, 15.5)
    assert np.array(fig.data[0].z).shape == (32, 80)  # 4 columns a cell
    assert "elements of p_c are wrong; program (0, 0) (frame) made the first" in (
        fig.layout.title.text.replace("<br>", " ")
    )
    with pytest.raises(ValueError, match="p_a is not wrong in one_tile_short: p_c is"):
        comparison(found, "p_a")
    assert "application/vnd.plotly.v1+json" in found._repr_mimebundle_()
