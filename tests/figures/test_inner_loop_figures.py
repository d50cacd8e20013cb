"""Figures of chapter 13: what they show is what they were given."""

import pytest
import torch

from seqlab.figures import inner_loop


def test_a_line_is_the_mean_and_its_band_holds_the_middle():
    errors = torch.arange(11.0)[:, None] * torch.ones(11, 3)
    fig = inner_loop.over_time({"A": errors}, title="t", change=1, middle=0.8, floor=2.0)
    band, line = fig.data
    assert list(line.y) == [5.0] * 3
    assert list(band.y) == [9.0] * 3 + [1.0] * 3 and list(band.x) == [0, 1, 2, 2, 1, 0]
    assert [shape.x0 for shape in fig.layout.shapes] == [0, 1]  # the floor, and the change
    again = inner_loop.over_time({"A": errors}, title="t", change=1, middle=0.8, floor=2.0)
    assert fig.to_json() == again.to_json()
    whole = inner_loop.over_time({"A": errors}, title="t", middle=1).data[0]
    assert max(whole.y) == 10 and min(whole.y) == 0


def test_a_table_that_is_the_rule_is_off_by_nothing():
    rules = torch.tensor([[[1.0, 2.0]], [[3.0, -4.0]]])
    exact = rules[[0, 0, 1]]
    fig = inner_loop.rules_over(rules, {"W": exact, "none": 0 * exact}, change=2, pages=(1, 2, 3))
    titles = [frame.layout.title.text for frame in fig.frames]
    assert titles == [f"{t} pairs: off by 0% (W), 100% (none)" for t in (1, 2, 3)]
    assert list(fig.frames[2].data[0].z[0]) == [3.0, -4.0]


def test_the_head_that_moves_is_shown():
    W = torch.zeros(2, 2, 3, 4, 4)
    W[:, 1, 1:] = 1.0
    fig = inner_loop.weights_moved(W)
    assert "by 4 under the first rule, by 0 under the second" in fig.layout.title.text.replace(
        "<br>", " "
    )
    assert list(fig.data[1].z[0]) == [1.0] * 4


def test_only_the_network_follows_a_bent_rule():
    matrix, network = inner_loop.bent_rule_errors(n=20, T=200).values()
    assert matrix.shape == (20, 200)
    assert matrix[:, -50:].mean() > 2 * network[:, -50:].mean()


def test_the_inner_step_is_the_gradient_of_half_the_square():
    k, v = torch.randn(1, 2, 3), torch.randn(1, 2, 2)
    M = (torch.zeros(1, 2, 3),)
    first, second = inner_loop._learn(lambda M, x: M[0] @ x, M, k, v, 0.5)[0]
    assert first.item() == pytest.approx(v[0, 0].square().sum().item() / 2, rel=1e-5)
    W = 0.5 * torch.outer(v[0, 0], k[0, 0])
    expected = (W @ k[0, 1] - v[0, 1]).square().sum().item() / 2
    assert second.item() == pytest.approx(expected, rel=1e-5)
