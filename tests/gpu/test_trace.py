# ruff: noqa: E402
"""`trace`: its counts against counts made by hand."""

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton installs on Linux only")
import triton.language as tl

from seqlab.gpu.events import OutOfBounds
from seqlab.gpu.trace import trace


@triton.jit
def add(p_x, p_y, p_out, n, BT: tl.constexpr):
    o = tl.program_id(0) * BT + tl.arange(0, BT)
    m = o < n
    tl.store(p_out + o, tl.load(p_x + o, mask=m) + tl.load(p_y + o, mask=m), mask=m)


@triton.jit
def matmul(p_a, p_b, p_c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    b_c = tl.zeros([BM, BN], dtype=tl.float32)
    for i in range(0, K, BK):
        m_a = (m < M)[:, None] & (i + k < K)[None, :]
        m_b = (i + k < K)[:, None] & (n < N)[None, :]
        b_a = tl.load(p_a + m[:, None] * K + i + k[None, :], mask=m_a, other=0.0)
        b_b = tl.load(p_b + (i + k)[:, None] * N + n[None, :], mask=m_b, other=0.0)
        b_c = tl.dot(b_a, b_b, b_c)
    tl.store(p_c + m[:, None] * N + n[None, :], b_c, mask=(m < M)[:, None] & (n < N)[None, :])


@triton.jit
def counts(p_x, p_total, n, BT: tl.constexpr):
    o = tl.program_id(0) * BT + tl.arange(0, BT)
    tl.atomic_add(p_total + tl.load(p_x + o, mask=o < n), 1, mask=o < n)
    tl.load(p_x + tl.zeros([BT], dtype=tl.int32))  # one element, named by every lane


@pytest.fixture
def product():
    a, b, c = torch.randn(40, 24), torch.randn(24, 33), torch.full((40, 33), torch.nan)
    seen = trace(matmul, (3, 3), a, b, c, 40, 33, 24, BM=16, BN=16, BK=16)
    assert torch.allclose(c, a @ b, atol=1e-5)
    return seen


def test_an_elementwise_kernel_moves_every_element_once():
    x, y, out = torch.randn(100), torch.randn(100), torch.zeros(100)
    seen = trace(add, (7,), x, y, out, 100, BT=16)
    assert torch.equal(out, x + y)
    assert (seen.bytes_in, seen.bytes_out, seen.bytes_read_again) == (800, 400, 0)
    assert (seen.flops, seen.intensity) == (0, 0)


def test_a_matmul_reads_a_once_per_column_of_tiles_and_b_once_per_row(product):
    a, b, c = (product.traffic[name] for name in ("p_a", "p_b", "p_c"))
    assert (a.bytes_in, a.bytes_read_again) == (3 * 40 * 24 * 4, 2 * 40 * 24 * 4)
    assert (b.bytes_in, b.bytes_read_again) == (3 * 24 * 33 * 4, 2 * 24 * 33 * 4)
    assert (c.bytes_in, c.bytes_out) == (0, 40 * 33 * 4)


def test_flops_are_those_of_the_tiles(product):
    # 9 programs, 2 steps over K, tiles with their padding
    assert product.flops == 9 * 2 * (2 * 16 * 16 * 16)
    assert product.intensity == product.flops / (product.bytes_in + product.bytes_out)


def test_touched_says_which_program_reads_and_writes_which_element(product):
    reads, writes = product.touched("p_c", (1, 2))
    expected = np.zeros((40, 33), dtype=bool)
    expected[16:32, 32:] = True
    assert np.array_equal(writes, expected) and not reads.any()
    reads, writes = product.touched("p_b", (1, 2))
    assert np.array_equal(reads, np.arange(33) >= 32 + np.zeros((24, 1))) and not writes.any()


def test_the_parts_of_the_programs_make_up_the_whole(product):
    parts = [product.of(program) for program in product.programs]
    assert sum(part.bytes_in for part in parts) == product.bytes_in
    assert sum(part.bytes_out for part in parts) == product.bytes_out
    assert sum(part.flops for part in parts) == product.flops


def test_an_element_named_by_many_lanes_moves_once_and_an_atomic_moves_both_ways():
    x = torch.tensor([0, 1, 1, 1, 2, 0, 0, 3], dtype=torch.int32)
    total = torch.zeros(4, dtype=torch.int32)
    seen = trace(counts, (2,), x, total, 8, BT=4)
    assert total.tolist() == [3, 3, 1, 1]
    assert seen.traffic["p_x"].bytes_in == (4 + 1) * 4 * 2
    assert seen.traffic["p_x"].bytes_read_again == 2 * 4
    assert seen.traffic["p_total"].bytes_in == seen.traffic["p_total"].bytes_out == (2 + 3) * 4


def test_every_access_names_its_line(product):
    lines = {access.argument.name: access.line.text for access in product.accesses}
    assert lines["p_a"].startswith("b_a = tl.load(p_a +")
    assert lines["p_c"].startswith("tl.store(p_c +")


def test_transposed_and_strided_arguments_are_counted_by_their_own_elements():
    table = torch.randn(8, 6)
    seen = trace(add, (1,), table[3], table[4], torch.zeros(6), 6, BT=8)
    assert seen.touched("p_x", 0)[0].shape == (6,) and seen.touched("p_x", 0)[0].all()
    assert seen.bytes_in == 48


def test_tiles_thin_a_large_tensor_and_lose_no_touch():
    x = torch.randn(1000)
    tiles = trace(add, (8,), x, x, torch.zeros(1000), 1000, BT=128).tiles("p_x", limit=50)
    assert tiles.shape == (8, 1, 32)  # 32 elements a cell: 20 would do, but 32 divides 128
    assert ((tiles > 0).sum(0) == 1).all()  # so no cell belongs to two programs
    assert tiles.any(0).all()
    assert (tiles > 0).sum(0).max() <= 2  # two programs may touch a cell of 20 elements


def test_an_access_out_of_bounds_stops_the_trace_and_changes_nothing():
    out = torch.zeros(8)
    with pytest.raises(OutOfBounds, match=r"program 0 stores p_out\[8\]"):
        trace(add, (1,), torch.ones(16), torch.ones(16), out, 16, BT=16)
    assert out.eq(0).all()


def test_a_trace_prints_as_a_table(product):
    lines = repr(product).splitlines()
    assert lines[0] == "matmul: 9 programs, grid (3, 3)"
    assert lines[2].split() == ["p_a", "40×24", "float32", "11,520", "7,680", "0"]
    assert lines[-1] == f"{product.flops:,} flops in 18 dots: {product.intensity:.3g} flops a byte"


@pytest.mark.parametrize(
    ("tensor", "program", "said"),
    [
        ("p_d", (0, 0), "matmul has no tensor 'p_d': it has p_a, p_b, p_c"),
        ("p_a", (3, 0), r"program \(3, 0\) is not in the grid \(3, 3\)"),
    ],
)
def test_wrong_questions_get_one_sentence(product, tensor, program, said):
    with pytest.raises(ValueError, match=said):
        product.touched(tensor, program)


@triton.jit
def by_column(p_x, p_y, N, BT: tl.constexpr):
    """Copies a column of x into a row of y."""
    i = tl.arange(0, BT)
    b_x = tl.load(p_x + i * N + tl.program_id(0))
    tl.store(p_y + tl.program_id(0) * BT + i, b_x)


def test_lanes_a_row_apart_bring_a_sector_each():
    seen = trace(by_column, (16,), torch.randn(16, 16), torch.zeros(16, 16), 16, BT=16)
    load, store = seen.coalescing
    assert (load.tensor, load.kind, load.accesses) == ("p_x", "load", 16)
    assert load.asked == store.asked == store.moved == 16 * 16 * 4
    assert load.moved == 16 * 16 * 32 and load.share == 4 / 32
    assert repr(seen.coalescing).startswith(" 12% of 8,192 bytes in sectors: load p_x, ")


def test_an_element_across_two_sectors_needs_both():
    x = torch.zeros(64, dtype=torch.float32)[1:]
    seen = trace(by_column, (1,), x, torch.zeros(8), 1, BT=8)
    load, store = seen.coalescing
    assert (load.asked, load.moved, store.moved) == (32, 64, 32)  # x starts 4 bytes into a sector


def test_the_floor_of_a_launch_moves_each_element_once(product):
    floor = product.floor("H100", "fp16")
    assert floor.bytes == product.bytes_in_once + product.bytes_out_once < product.bytes
    assert floor.flops == product.flops


def test_values_and_masked_lanes_of_each_program():
    x, y = torch.arange(6.0), torch.zeros(6)
    seen = trace(add, (2,), x, x, y, 6, BT=4)
    read, written = seen.values("p_x", 1)
    assert read[4:].tolist() == [4, 5] and np.isnan(read[:4]).all() and np.isnan(written).all()
    assert seen.values("p_out", 1)[1][4:].tolist() == [8, 10]
    short = trace(add, (1,), x, x, y, 3, BT=4)
    assert short.masked("p_x", 0).tolist() == [False, False, False, True, False, False]


def test_of_a_large_run_no_values_are_kept(monkeypatch):
    monkeypatch.setattr("seqlab.gpu.trace.MOST_VALUES", 5)
    seen = trace(add, (2,), torch.zeros(6), torch.zeros(6), torch.zeros(6), 6, BT=4)
    assert seen.values("p_x", 0) is None and seen.masked("p_x", 0) is None
