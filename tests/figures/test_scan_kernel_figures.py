from typing import Any

import pytest
import torch

from seqlab.figures import scan_kernel as figures

pytestmark = pytest.mark.filterwarnings("error")


def test_exponentials_bound_the_fused_scan_and_bytes_the_other():
    scan, fused, chunks = figures.floors(16).values()
    assert max(scan) == scan[0] and max(fused) == fused[2] and max(chunks) == chunks[0]
    assert fused[2] == pytest.approx(1e12 * 16 / 3.9e12)
    layout: Any = figures.bounds_at(16).layout
    assert "exponentials bound" in layout.title.text


def test_bounds_has_a_page_for_each_state():
    assert len(figures.bounds([16, 64]).frames) == 2


def test_doubling_is_a_cumulative_sum_where_the_operator_adds():
    a, b = torch.rand(2, 13)
    sums = figures.doubling(lambda a1, b1, a2, b2: (a1 + a2, b1 + b2), a, b)
    torch.testing.assert_close(sums, b.cumsum(0))


def test_orders_draws_an_error_of_zero_at_the_bottom():
    assert list(figures.orders({"a": [0.0, 0.5]}, "t").data[0].y) == [1e-9, 0.5]


@pytest.mark.parametrize("N, says", [(16, "from chunks of 16 on"), (4, "from chunks of 4 on")])
def test_checkpoints_says_when_states_need_as_few_bytes_as_the_inputs(N, says):
    layout: Any = figures.checkpoints(N).layout
    assert says in layout.title.text


def test_all_three_ways_invert():
    L = torch.randn(2, 64, 64, dtype=torch.float64).tril(-1) / 64
    exact = torch.linalg.inv(torch.eye(64, dtype=L.dtype) + L)
    for X in figures.inverses(L).values():
        torch.testing.assert_close(X, exact, rtol=0, atol=1e-12)


def test_powers_fail_where_one_key_is_repeated():
    found = figures.inverse_errors([{"trained": torch.ones(64, 64).tril(-1)}])
    assert found["powers of L"]["trained"][0] > 1e6
    assert found["tiles of 16, merged"]["trained"] == [0]
    assert len(figures.inverted(found).data) == 3


def test_signs_looks_below_the_diagonal_only():
    L = torch.tensor([[9.0, 9.0, 9.0], [1.0, 9.0, 9.0], [-1.0, 2.0, 9.0]])
    assert "67% to 100%" in figures.signs([{"some": L}, {"some": L.abs()}])
