# ruff: noqa: E402
"""`sanitize` on what the lanes of one program do to each other, and on what updates a tensor."""

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton installs on Linux only")
import triton.language as tl

from seqlab.gpu.sanitize import sanitize


def kinds(kernel, grid, *args, **named):
    return [finding.kind for finding in sanitize(kernel, grid, *args, **named)]


@triton.jit
def histogram(p_x, p_h, n, ATOMIC: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    b_x = tl.load(p_x + i, mask=i < n, other=0)
    if ATOMIC:
        tl.atomic_add(p_h + b_x, 1, mask=i < n)
    else:
        tl.store(p_h + b_x, tl.load(p_h + b_x, mask=i < n, other=0) + 1, mask=i < n)


def test_a_histogram_without_atomics_loses_counts():
    x = torch.tensor([3, 1, 3, 3, 0], dtype=torch.int32)
    h = torch.zeros(8, dtype=torch.int32)
    (finding,) = sanitize(histogram, (1,), x, h, 5, ATOMIC=False, N=8)
    assert finding.kind == "two lanes" and finding.element == (3,) and finding.lanes == (0, 3)
    said = "program 0 updates p_h[3] in lane 0 and in lane 3, which both read it before"
    assert str(finding).startswith(said) and "use an atomic" in str(finding)
    assert kinds(histogram, (1,), x, h, 5, ATOMIC=True, N=8) == []  # empty bins are no fault


def test_a_histogram_of_different_numbers_is_no_fault():
    x = torch.arange(8, dtype=torch.int32)
    assert kinds(histogram, (1,), x, torch.zeros(8), 8, ATOMIC=False, N=8) == []


@triton.jit
def spread(p_x, p_y, N: tl.constexpr, EQUAL: tl.constexpr):
    i = tl.arange(0, N)
    b_x = tl.load(p_x + (0 * i if EQUAL else i))
    tl.store(p_y + i // 4, b_x)


def test_lanes_that_store_equal_values_to_one_element_are_no_fault():
    x = torch.tensor([torch.nan, 2, 3, 4, 5, 6, 7, 8])
    y = torch.full((2,), torch.nan)
    assert kinds(spread, (1,), x, y, N=8, EQUAL=True, initialised=["p_x"]) == []
    (finding,) = sanitize(spread, (1,), x, y, N=8, EQUAL=False, initialised=["p_x"])
    assert (finding.kind, finding.lanes, finding.element) == ("two lanes", (0, 3), (0,))


@triton.jit
def mirrored(p_x, p_y, N: tl.constexpr, BARRIER: tl.constexpr):
    """Through p_y, which may be p_x itself."""
    i = tl.arange(0, N)
    tl.store(p_y + i, tl.load(p_x + i) * 2)
    if BARRIER:
        tl.debug_barrier()
    b_y = tl.load(p_y + N - 1 - i)
    if BARRIER:
        tl.debug_barrier()
    tl.store(p_y + i, b_y)


def test_what_other_lanes_have_just_stored_needs_a_barrier():
    x, y = torch.randn(16), torch.full((16,), torch.nan)
    found = sanitize(mirrored, (1,), x, y, N=16, BARRIER=False)
    assert {f.kind for f in found} == {"lane order"} and len(found) == 2
    assert "reads p_y[15], which another lane of the program has just stored" in str(found[0])
    assert "stores p_y[0], which another lane of the program reads just before" in str(found[1])
    assert found[0].lanes == (0, 15) and found[1].lanes == (0, 15)
    assert kinds(mirrored, (1,), x, y, N=16, BARRIER=True) == []


@triton.jit
def in_place(p_x, n, C, N: tl.constexpr, REVERSED: tl.constexpr, SUMMED: tl.constexpr):
    i = tl.program_id(0) * N + tl.arange(0, N)
    b_x = tl.load(p_x + i, mask=i < n, other=0.0)
    if SUMMED:
        b_x = b_x / tl.sum(b_x, 0)
    o = tl.program_id(0) * N + N - 1 - tl.arange(0, N) if REVERSED else i
    tl.store(p_x + o, 2 * b_x, mask=o < C)


@pytest.mark.parametrize("summed", [False, True])
def test_a_kernel_in_place_is_no_fault(summed):
    x = torch.rand(30)
    assert kinds(in_place, (4,), x, 30, 30, N=8, REVERSED=False, SUMMED=summed) == []


def test_an_element_that_a_kernel_in_place_leaves_out_is_found():
    (finding,) = sanitize(in_place, (4,), torch.rand(30), 30, 29, N=8, REVERSED=False, SUMMED=False)
    assert finding.kind == "never written" and finding.element == (29,)


def test_a_tensor_that_is_reversed_in_place_is_a_race():
    found = sanitize(in_place, (2,), torch.rand(16), 16, 16, N=8, REVERSED=True, SUMMED=False)
    assert [f.kind for f in found] == ["lane order"]


@triton.jit
def column_sums(p_x, p_y, R, C, LAST: tl.constexpr, N: tl.constexpr):
    c = tl.arange(0, N)
    b_x = tl.load(p_x + tl.program_id(0) * C + c, mask=c < C, other=0.0)
    tl.atomic_add(p_y + c, b_x, mask=c < LAST)


def test_an_element_that_atomics_leave_out_is_found_though_it_is_zero():
    x, y = torch.randn(4, 10), torch.zeros(10)
    assert kinds(column_sums, (4,), x, y, 4, 10, LAST=10, N=16) == []
    (finding,) = sanitize(column_sums, (4,), x, y, 4, 10, LAST=9, N=16)
    assert finding.kind == "never written" and finding.element == (9,)
    assert kinds(column_sums, (4,), x, y, 4, 10, LAST=9, N=16, initialised=["p_y"]) == []


@triton.jit
def first_only(p_x, p_unused, p_out):
    tl.store(p_out, tl.load(p_x))


def test_a_pointer_that_nobody_uses_is_no_alarm():
    x, out = torch.randn(4), torch.full((1,), torch.nan)
    assert kinds(first_only, (1,), x, torch.randn(3), out) == []
    found = kinds(first_only, (1,), x, torch.randn(3), out, outputs=["p_unused"])
    assert found == ["never written"]


@triton.jit
def indexed(p_i, p_x, p_y, n, N: tl.constexpr, OTHER: tl.constexpr):
    o = tl.arange(0, N)
    b_i = tl.load(p_i + o, mask=o < n, other=0) if OTHER else tl.load(p_i + o, mask=o < n)
    tl.store(p_y + o, tl.load(p_x + b_i))


def test_an_undefined_index_is_found_by_where_it_leads():
    i, x = torch.arange(5, dtype=torch.int64), torch.randn(5)
    y = torch.full((8,), torch.nan)
    assert kinds(indexed, (1,), i, x, y, 5, N=8, OTHER=True) == []
    (finding,) = sanitize(indexed, (1,), i, x, y, 5, N=8, OTHER=False)
    assert finding.kind == "undefined" and "b_i = " in finding.line.text


@triton.jit
def two_loads(p_x, p_y, n, N: tl.constexpr):
    i = tl.arange(0, N)
    b_x = tl.load(p_x + i, mask=i < n)
    b_y = tl.load(p_x + i, mask=i < n)  # reaches the sum
    tl.store(p_y + i, b_x + tl.sum(tl.where(i < N - 1, b_y, 0.0), 0), mask=i < n)


def test_only_the_load_whose_lanes_reach_the_result_is_named():
    (finding,) = sanitize(two_loads, (1,), torch.randn(5), torch.full((5,), torch.nan), 5, N=8)
    assert finding.kind == "undefined" and "# reaches the sum" in finding.line.text
