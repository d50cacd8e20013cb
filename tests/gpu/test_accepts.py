# ruff: noqa: E402
"""What a launch on a GPU accepts, the lab accepts: each kernel here compiles, and runs on CPU."""

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton installs on Linux only")
import triton.language as tl
from triton.language import load, static_range
from triton.language import max as most
from triton.language.extra import libdevice
from triton.language.extra.cuda import libdevice as cuda_libdevice
from triton.language.extra.libdevice import tanh as imported_tanh
from triton.tools.tensor_descriptor import TensorDescriptor

from seqlab.gpu.compile import compile_report
from seqlab.gpu.events import LabError
from seqlab.gpu.interpreter import launch
from seqlab.gpu.sanitize import sanitize
from seqlab.gpu.trace import trace

ONE = ("sm_90",)
exp = tl.exp


@triton.jit
def scalars(p_y, n, eps, flag, N: tl.constexpr):
    o = tl.arange(0, N)
    total = tl.zeros([N], tl.float32)
    for i in range(0, n, 2):
        total += i.to(tl.float32)
    for i in tl.range(n):
        total += tl.where(i.to(tl.int64) > 3, 1.0, 0.0)
    for i in static_range(2):
        total += tl.sum(tl.arange(0, 2 * (i + 1)), 0)
    tl.store(p_y + o, total + eps.to(tl.float32) + n.to(tl.float32) + flag.to(tl.float32))


def test_scalars_and_loop_variables_are_tritons_numbers():
    y = torch.zeros(4)
    launch(scalars, (1,), y, 6, 0.5, True, N=4)
    assert y.tolist() == [0 + 2 + 4 + 2 + 1 + 6 + 0.5 + 6 + 1] * 4
    compile_report(scalars, y, 6, 0.5, True, N=4, targets=ONE)["sm_90"]


@triton.jit
def halved(p_x, p_y, factor, N: tl.constexpr):
    o = tl.arange(0, N)
    tl.store(p_y + o, tl.load(p_x + o) * factor)


def test_a_float_argument_is_a_float32_and_widens_float16():
    """2⁻²⁰ is lost if it is rounded to float16 before it multiplies, or the product after it."""
    x, y = torch.full((4,), 3.0).half(), torch.zeros(4)
    launch(halved, (1,), x, y, 2.0**-26, N=4)
    assert y.eq(3 * 2.0**-26).all()


@triton.jit
def by_other_names(p_x, p_y, N: tl.constexpr):
    o = tl.arange(0, N)
    b_x = load(p_x + o)
    tl.store(p_y + o, exp(b_x - most(b_x, 0)) + max(b_x, 0.5) + min(b_x, tl.load(p_x)))


def test_functions_of_the_language_work_under_any_name():
    x, y = torch.randn(16), torch.zeros(16)
    launch(by_other_names, (1,), x, y, N=16)
    expected = (x - x.max()).exp() + x.clamp_min(0.5) + torch.minimum(x, x[0])
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint8])
def test_numbers_of_numpy_are_numbers(kind):
    y = torch.zeros(4)
    launch(scalars, (1,), y, kind(6), np.float32(0.5), np.bool_(True), N=np.int64(4))
    assert y[0] == 24.5 - 2
    assert compile_report(
        scalars, y, kind(6), np.float32(0.5), np.bool_(True), N=np.int64(4), targets=ONE
    )["sm_90"]


configs = [
    triton.Config({"BT": 8}, num_warps=2, num_stages=1),
    triton.Config({"BT": 16}, num_warps=8),
]


@triton.autotune(configs, key=["n"])
@triton.heuristics(
    {"EVEN": lambda v: v["n"] % v["BT"] == 0, "TWICE": lambda v: 2 if v["EVEN"] else 1}
)
@triton.jit
def tuned(p_x, n, BT: tl.constexpr, EVEN: tl.constexpr, TWICE: tl.constexpr):
    o = tl.program_id(0) * BT + tl.arange(0, BT)
    if EVEN:
        tl.store(p_x + o, BT * TWICE)
    else:
        tl.store(p_x + o, BT * TWICE, mask=o < n)


def test_the_constants_of_autotune_and_heuristics_are_filled_in_and_named():
    x = torch.zeros(16)
    seen = trace(tuned, lambda meta: (triton.cdiv(16, meta["BT"]),), x, 16)
    assert x.eq(16).all()
    said = "BT = 8, num_warps = 2, num_stages = 1 (the first of 2 configurations)"
    assert said in repr(seen)
    report = compile_report(tuned, x, 16, targets=ONE)
    assert said in repr(report) and report["sm_90"].warps == 2
    assert compile_report(tuned, x, 16, BT=16, num_warps=4, targets=ONE)["sm_90"].warps == 4


def zero(arguments):
    arguments["p_sum"].zero_()


@triton.autotune([triton.Config({"N": 8}, pre_hook=zero)], key=[])
@triton.jit
def added(p_x, p_sum, N: tl.constexpr):
    tl.atomic_add(p_sum, tl.sum(tl.load(p_x + tl.arange(0, N)), 0))


def test_a_configurations_hook_runs_on_the_copies():
    x, total = torch.ones(8), torch.full((1,), 100.0)
    assert sanitize(added, (1,), x, total) == []
    assert total.item() == 100
    launch(added, (1,), x, total)
    assert total.item() == 8


@triton.jit
def rows(d_x, p_y, R, C, BR: tl.constexpr, BC: tl.constexpr):
    d_y = tl.make_tensor_descriptor(p_y, [R, C], [C, 1], [BR, BC])
    for i in range(0, R, BR):
        d_y.store([i, 0], d_x.load([i, 0]) * 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_tensor_descriptors_run_and_compile(dtype):
    x, y = torch.randn(20, 16).to(dtype), torch.zeros(20, 16).to(dtype)
    d_x = TensorDescriptor.from_tensor(x, [8, 16])
    launch(rows, (1,), d_x, y, 20, 16, BR=8, BC=16)
    assert torch.equal(y, 2 * x)
    assert sanitize(rows, (1,), d_x, y, 20, 16, BR=8, BC=16) == []
    report = compile_report(rows, d_x, y, 20, 16, BR=8, BC=16, targets=("sm_90", "gfx942"))
    assert report["sm_90"].registers > 0 and report["gfx942"].registers > 0


FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


@triton.jit
def convert(p_x, p_y, N: tl.constexpr):
    o = tl.arange(0, N)
    tl.store(p_y + o, tl.load(p_x + o).to(p_y.dtype.element_ty))


@pytest.mark.parametrize("fp8", FP8)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_eight_bit_numbers_convert_as_pytorchs_do(fp8, dtype):
    every = torch.arange(256, dtype=torch.uint8).view(fp8)
    y = torch.zeros(256, dtype=dtype)
    launch(convert, (1,), every, y, N=256)
    torch.testing.assert_close(y, every.to(dtype), rtol=0, atol=0, equal_nan=True)
    largest = torch.finfo(fp8).max
    x = torch.cat([torch.randn(250) * 20, torch.tensor([0, -0.0, 1e9, -1e9, largest, 1e-3])])
    back = torch.zeros(256).to(fp8)
    launch(convert, (1,), x.to(dtype), back, N=256)
    expected = x.to(dtype).float().clamp(-largest, largest).to(fp8)
    assert torch.equal(back.view(torch.uint8), expected.view(torch.uint8))


@triton.jit
def product(p_a, p_b, p_c, N: tl.constexpr):
    i, j = tl.arange(0, N)[:, None], tl.arange(0, N)[None, :]
    b_a, b_b = tl.load(p_a + i * N + j), tl.load(p_b + i * N + j)
    tl.store(p_c + i * N + j, tl.dot(b_a, b_b))


@pytest.mark.parametrize("fp8", FP8)
def test_a_dot_of_eight_bit_numbers_is_exact(fp8):
    a, b = torch.randn(32, 32).to(fp8), torch.randn(32, 32).to(fp8)
    c = torch.zeros(32, 32)
    launch(product, (1,), a, b, c, N=32)
    torch.testing.assert_close(c, a.float() @ b.float())
    assert compile_report(product, a, b, c, N=32, targets=ONE)["sm_90"].tensor_cores


@triton.jit
def by_library(p_x, p_y, N: tl.constexpr):
    o = tl.arange(0, N)
    b_x = tl.load(p_x + o)
    b_y = libdevice.tanh(b_x) + imported_tanh(b_x) + cuda_libdevice.erf(b_x)
    tl.store(p_y + o, tl.where(libdevice.isnan(b_x), 0.0, b_y + libdevice.pow(b_x, b_x)))


def test_libdevice_is_numpys_where_numpy_has_it():
    x, y = torch.rand(16), torch.zeros(16)
    x[3] = torch.nan
    launch(by_library, (1,), x, y, N=16)
    expected = (2 * x.tanh() + x.erf() + x**x).nan_to_num(0)
    torch.testing.assert_close(y, expected)
    compile_report(by_library, x, y, N=16, targets=ONE)["sm_90"]


@triton.jit
def bessel(p_x, N: tl.constexpr):
    o = tl.arange(0, N)
    tl.store(p_x + o, libdevice.j0(tl.load(p_x + o)))


@triton.jit
def assembly(p_x, N: tl.constexpr):
    o = tl.arange(0, N)
    b_x = tl.load(p_x + o)
    b_y = tl.inline_asm_elementwise(
        "mov.b32 $0, $1;", "=r,r", [b_x], dtype=tl.float32, is_pure=True, pack=1
    )
    tl.store(p_x + o, b_y)


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (bessel, "libdevice.j0 does not run on CPU"),
        (assembly, "inline assembly does not run on CPU"),
    ],
)
def test_what_does_not_run_is_named_in_one_sentence(kernel, said):
    with pytest.raises(LabError, match=r"program 0 stopped at test_accepts.py:\d+ .*" + said):
        launch(kernel, (1,), torch.zeros(8), N=8)
