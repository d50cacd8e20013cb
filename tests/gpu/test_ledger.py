"""The ledger's algorithms compute attention, and what they move is what a count on paper says."""

import pytest
import torch

from seqlab.core.attention import attend
from seqlab.gpu.ledger import (
    ALGORITHMS,
    Ledger,
    fa1,
    fa2,
    largest_tile,
    paper_bound,
    rises,
    standard,
)

ROOM = 2**20


def draw(T_q=12, T_k=12, K=4, V=3):
    shapes = (T_q, K), (T_k, K), (T_k, V)
    return [torch.randn(*shape, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("name", list(ALGORITHMS))
@pytest.mark.parametrize("tile", [(1, 1), (4, 3), (5, 7), (64, 64)], ids=str)
@pytest.mark.parametrize("T_q", [12, 7, 1])
@pytest.mark.parametrize("causal", [False, True])
def test_each_algorithm_is_attention(name, tile, T_q, causal):
    q, k, v = draw(T_q)
    ours = ALGORITHMS[name](Ledger(ROOM), q, k, v, tile=tile, causal=causal)
    heads = (x[None, :, None] for x in (q, k, v))
    y, lse = attend(*heads, causal=causal, return_lse=True)
    torch.testing.assert_close(ours, (y[0, :, 0], lse[0, :, 0]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", [fa1, fa2])
def test_queries_that_see_nothing_read_zero(order):
    q, k, v = draw(T_q=12, T_k=5)
    y, lse = order(Ledger(ROOM), q, k, v, tile=(4, 2), causal=True)
    assert (y[:7] == 0).all() and (lse[:7] == -torch.inf).all() and y[7:].isfinite().all()


def test_traffic_is_what_a_count_on_paper_says():
    """T = 12 queries and keys, K = 4, V = 3, tiles of 4 x 3: 3 blocks of queries, 4 of keys."""
    T, K, V, rows, cols = 12, 4, 3, 3, 4
    q, k, v = draw()
    by = {}
    for name, run in ALGORITHMS.items():
        by[name] = Ledger(ROOM, itemsize=2)
        run(by[name], q, k, v, tile=(4, 3))
    assert by["fa2"].read == 2 * (T * K + rows * T * (K + V))
    assert by["fa2"].written == 2 * (T * V + T)
    assert by["fa1"].read == 2 * (T * (K + V) + cols * T * (K + V + 1))
    assert by["fa1"].written == 2 * cols * (T * V + T)
    assert by["standard"].read == 2 * (T * K + rows * T * (K + V) + 2 * T * T)
    assert by["standard"].written == 2 * (2 * T * T + T * V + T)
    assert by["fa2"].by_tensor()["y"] == {"read": 0, "write": 2 * T * V}
    assert by["fa2"].moved == sum(sum(t.values()) for t in by["fa2"].by_tensor().values())


def test_causal_tiles_above_the_diagonal_are_never_moved():
    q, k, v = draw()
    for run in (fa1, fa2):
        ledger = Ledger(ROOM)
        run(ledger, q, k, v, tile=(4, 4), causal=True)
        on_chip = {move.tile for move in ledger.moves if move.name == "q" or run is fa2}
        assert {(i, j) for i, j in on_chip if j > i} == set()
        assert {move.tile for move in ledger.moves} >= {(2, 0), (2, 1), (2, 2)}


def test_what_does_not_fit_is_refused_with_what_was_held():
    q, k, v = draw()
    ledger = Ledger(10**6)
    fa2(ledger, q, k, v, tile=(4, 4))
    needed = ledger.largest
    assert needed == 2 * (4 * 4 + 4 * 3 + 4 * 4 + 4 * 3 + 4 * 4 + 2 * 4)
    fa2(Ledger(needed), q, k, v, tile=(4, 4))
    with pytest.raises(MemoryError, match=f"q 32.*fast memory of {needed - 1} bytes"):
        fa2(Ledger(needed - 1), q, k, v, tile=(4, 4))


@pytest.mark.parametrize("K, V", [(4, 3), (16, 16)])
@pytest.mark.parametrize("size", [300, 2048, 20_000])
def test_the_largest_tile_fits_and_the_next_does_not(size, K, V):
    B = largest_tile(size, K, V)
    q, k, v = draw(100, 100, K, V)
    for run in (fa1, fa2):
        run(Ledger(size), q, k, v, tile=(B, B))
    more = B + (8 if B >= 8 else 1)
    with pytest.raises(MemoryError):
        fa1(Ledger(size), q, k, v, tile=(more, more))


def test_a_memory_too_small_for_any_tile_says_so():
    with pytest.raises(ValueError, match="holds no tile with K = 64"):
        largest_tile(100, 64)


def test_four_times_the_memory_moves_about_a_quarter_as_the_bound_says():
    """For tiles much smaller than K a tile's side grows with M, and traffic falls with 1 / M."""
    q, k, v = (torch.randn(256, 128) for _ in range(3))
    moved = {}
    for size in (2**13, 2**15):
        B = largest_tile(size, 128)
        ledger = Ledger(size)
        fa2(ledger, q, k, v, tile=(B, B))
        moved[size] = ledger.moved
    assert paper_bound(2**13, 256, 128) == 4 * paper_bound(2**15, 256, 128)
    assert 3 < moved[2**13] / moved[2**15] < 5
    assert moved[2**15] > paper_bound(2**15, 256, 128)


def test_standard_refuses_rows_that_do_not_fit():
    q, k, v = draw(4, 100)
    with pytest.raises(MemoryError):
        standard(Ledger(150), q, k, v, tile=(1, 1))


def test_rises_counts_rows_whose_maximum_grows():
    """Scores grow with the key: read forwards each tile brings a larger one, backwards none."""
    q, k = torch.ones(2, 12, 3, 1), torch.arange(12.0).view(1, 12, 1, 1).expand(2, 12, 3, 1)
    assert rises(q, k, 4).tolist() == [1, 1]
    assert rises(q, k, 4, newest_first=True).tolist() == [0, 0]


def test_rises_sees_no_future():
    q, k = torch.ones(1, 8, 1, 1), torch.zeros(1, 8, 1, 1)
    k[0, 6] = 1  # of the last four queries, those at 6 and 7 see it
    assert rises(q, k, 4).tolist() == [0.5]
