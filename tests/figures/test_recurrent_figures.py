"""Figures of chapter 02: what they show is what they were given."""

import pytest
import torch

from seqlab.figures import recurrent
from seqlab.mixers import Elman

rng = torch.Generator().manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def test_path_norms_are_those_of_autograds_jacobians():
    layer, x = Elman(5).double(), randn(1, 7, 5)
    norms = recurrent.path_norms(layer.R.weight, layer(x)[0][0])
    for t in range(7):
        _, h = layer(x[:, : t + 1])
        rest = lambda h, t=t: layer(x[:, t + 1 :], h)[1][0] if t < 6 else h[0]  # noqa: E731
        jacobian = torch.autograd.functional.jacobian(rest, h)[:, 0]
        expected = torch.linalg.matrix_norm(jacobian, 2)
        torch.testing.assert_close(norms[6 - t], expected, rtol=1e-9, atol=0)


def test_a_failure_has_a_dot_for_each_seed_and_a_line_for_each_network():
    right = {2: [1.0, 0.5], 20: [0.25, 0.25]}
    fig = recurrent.failure(right, torch.full((2, 12), 1e-3), chance=0.25)
    assert list(fig.data[0].y) == [0.75, 0.25] and len(fig.data[1].y) == 4
    assert len(fig.data) == 4 and "scaled by 0.001" in fig.layout.title.text


@pytest.mark.parametrize("singular", [0.5, 1.0, 3.0])
def test_the_dial_stays_below_its_bound(singular):
    bound, linear, found = recurrent.dial(randn(6, 6), randn(21, 6), singular).data
    assert bound.y[20] == pytest.approx(singular**20, rel=1e-2)
    for line in (linear, found):
        assert all(a <= b * 1.01 for a, b in zip(line.y, bound.y, strict=True))
    assert linear.y[1] == pytest.approx(singular, rel=1e-2) and found.y[5] < linear.y[5]


def test_bars_have_means_and_seeds():
    fig = recurrent.by_seed({"a": [0.0, 1.0], "b": [0.5, 0.5]}, chance=0.25, title="t")
    assert list(fig.data[0].y) == [0.5, 0.5] and list(fig.data[1].y) == [0, 1, 0.5, 0.5]


def test_gates_have_the_cell_left_and_its_gates_right():
    lines = {"a": torch.zeros(4), "b": torch.ones(4)}
    fig = recurrent.gates(lines, {"forget gate f": torch.full((4,), 0.5)}, title="t")
    assert [trace.xaxis for trace in fig.data] == ["x", "x", "x2"]
    assert list(fig.data[2].y) == [0.5] * 4


@pytest.mark.parametrize("kind", ["recurrent", "attention"])
def test_a_cell_is_computed_one_round_after_the_last_that_it_needs(kind):
    """The rounds, by following the edges that are drawn."""
    T, layers = 5, 3
    cells = [(layer, t) for layer in range(layers) for t in range(T)]
    edges = recurrent._edges(kind, cells)
    needs = {(layer + 1, t): [] for layer, t in cells}
    xs, ys = edges.x, edges.y
    for n in range(0, len(xs), 3):
        needs[ys[n + 1], xs[n + 1]].append((ys[n], xs[n]))
    ready = {(0, t): 0 for t in range(T)}
    for cell in sorted(needs):
        ready[cell] = 1 + max(ready[need] for need in needs[cell])
    for layer, t in cells:
        assert recurrent.rounds_needed(kind, layer, t) == ready[layer + 1, t]


def test_waiting_counts_what_is_done():
    assert "RNN 3 of 8 cells, attention 8 of 8" in recurrent.waiting_at(2, 4, 2).layout.title.text
    book = recurrent.waiting(4, 2)
    assert len(book.frames) == 6  # 5 rounds, and none
    assert "RNN 8 of 8" in book.frames[-1].layout.title.text


def test_heads_and_stories_show_their_weights():
    weights = torch.rand(6, 2, 3, generator=rng)
    fig = recurrent.heads(list("ab??xy"), weights, title="t")
    torch.testing.assert_close(torch.tensor(fig.data[1].z), weights[:, 1].T, rtol=0, atol=1e-3)
    page = (["mary went hall", "mary took milk"], torch.eye(2), "where is milk", "hall")
    book = recurrent.stories({"0": page, "1": page})
    assert book.layout.title.text == "“where is milk?” The network says: hall"
    assert list(book.layout.yaxis.ticktext) == page[0] and len(book.frames) == 2


def test_looks_back_has_a_line_for_each_seed():
    fig = recurrent.looks_back({"seed 0": torch.tensor([0.9, 0.1, 0.0])}, title="t")
    assert list(fig.data[0].y) == [0.9, 0.1, recurrent.FLOOR] and fig.layout.yaxis.type == "log"
