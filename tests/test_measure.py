"""The memory of a computation: what was made, less what was freed."""

import math
import statistics

import pytest
import torch
import torch.nn.functional as F

from seqlab.measure import growth, peak_bytes


def test_what_is_freed_no_longer_counts():
    def chain():
        x = torch.ones(250)
        for _ in range(50):
            x = x * 1.01  # the old x is freed after the new one is made

    assert peak_bytes(chain) == 2 * 1000


def test_all_that_is_kept_counts():
    assert peak_bytes(lambda: [torch.ones(250) for _ in range(5)]) == 5 * 1000


def test_views_and_changes_in_place_make_nothing():
    x = torch.ones(10, 100)
    assert peak_bytes(lambda: x.view(100, 10).mT[2:].add_(1)) == 0


def test_plain_attention_makes_the_matrix_twice_and_fused_attention_never():
    T, K = 512, 16
    q = torch.randn(1, 1, T, K)
    plain = peak_bytes(lambda: (q @ q.mT).softmax(-1) @ q)
    assert 2 * 4 * T * T <= plain <= 2 * 4 * T * T + 2 * 4 * T * K
    fused = peak_bytes(lambda: F.scaled_dot_product_attention(q, q, q))
    assert 4 * T * K <= fused < 4 * T * T / 2


def test_growth_is_the_exponent_and_its_error_that_of_a_regression():
    p, error = growth({T: 3.0 * T**2 for T in (1, 2, 4, 8)})
    assert p == pytest.approx(2) and error == pytest.approx(0, abs=1e-9)
    costs = {10: 1.0, 20: 2.2, 40: 3.9, 80: 8.3, 160: 15.0}
    x, y = ([math.log(u) for u in us] for us in (costs, costs.values()))
    p, error = growth(costs)
    assert p == pytest.approx(statistics.linear_regression(x, y).slope)
    r = statistics.correlation(x, y)  # the textbook's standard error of a slope
    assert error == pytest.approx(p * math.sqrt((1 / r**2 - 1) / (len(x) - 2)))
