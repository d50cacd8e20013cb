"""Figures of chapter 09: what they show is what they were given."""

import pytest
import torch
import torch.nn.functional as F

from seqlab.figures import rwkv
from seqlab.mixers import RWKV5, RWKV7


def test_the_copied_loop_loses_what_is_far_below_its_unit():
    kept = rwkv.units_at(60)
    assert "keeps all sums" in kept.layout.title.text
    assert "loses" in rwkv.units_at(110).layout.title.text
    book = rwkv.units([0, 110], start=1)
    assert [frame.name for frame in book.frames] == ["0", "110"]
    assert rwkv.units_at(60).to_json() == kept.to_json()


def test_the_true_sum_and_the_falling_unit_are_those_of_the_recurrence():
    lines = {line.name: line.y for line in rwkv.units_at(20, w=-0.5, T=31).data}
    n = torch.tensor(0.0).exp().double()
    total = (torch.tensor(20.0).double() - 0.5 * 30).exp()
    for age in range(30):
        total = total + n * torch.tensor(-0.5 * age).double().exp()
    assert lines["the true sum"][-1] == pytest.approx(total.log().item(), rel=2e-3)
    assert lines["unit that falls with the decay"][-1] == pytest.approx(5.0)
    assert lines["unit of the copied loop"][-1] == 20


@pytest.mark.parametrize("make", [RWKV5, RWKV7])
def test_transitions_are_the_gates_of_the_layer(make):
    """An empty write of a last token leaves S G."""
    layer, x = make(12, n_heads=2).double(), torch.randn(1, 7, 12, dtype=torch.float64)
    inputs = {name: u for name, u in layer.project(x).items() if name != "bonus"}
    G = rwkv.transitions(inputs)
    S = torch.randn(1, 2, 6, 6, dtype=torch.float64)
    inputs = {name: u[:, -1:] for name, u in inputs.items()} | {"state": S}
    inputs["k"] = 0 * inputs["k"]
    form = layer.FORMS["recurrent"]
    torch.testing.assert_close(form(**inputs)[1][0], S[0] @ G[-1], rtol=0, atol=1e-12)


def test_held_is_what_a_read_finds_of_one_write():
    T, K = 6, 4
    k = torch.randn(T, K, dtype=torch.float64)
    G = 0.5 * torch.randn(T, K, K, dtype=torch.float64)
    W = rwkv.held(k, G)
    unit = F.normalize(k, dim=-1)
    for s in range(T):
        row = unit[s]
        for t in range(s, T):
            row = row @ G[t] if t > s else row
            assert W[t, s].item() == pytest.approx((row @ unit[s]).item(), abs=1e-12)
    assert (W.triu(1) == 0).all()


def test_survival_tells_own_from_other_keys():
    k = torch.eye(3, dtype=torch.float64)[[0, 1, 0]][:, None]  # letters a, b, a
    G = torch.eye(3, dtype=torch.float64) - 0.8 * k[..., :, None] * k[..., None, :]
    own, other = rwkv.survival(k, G, [0, 1, 0])
    assert own == pytest.approx(0.2) and other == pytest.approx(1.0)
    fig = rwkv.survivors({"x": [(own, other)], "y": [(0.5, 0.5)]}, title="found")
    assert [line.name for line in fig.data] == ["x", "y", "own = other"]


def test_directions_are_sorted_by_letter_and_counted_by_size():
    labels = ["b1", "a1", "b2"]
    key = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, -2.0]])
    fig = rwkv.directions_at(key, key, labels, "head 0")
    assert list(fig.data[0].z[0]) == [1, 0, 0] and fig.layout.xaxis.ticktext[0] == "a1"
    assert "1.00" in fig.layout.title.text and "0.00" in fig.layout.title.text
    book = rwkv.directions({"one": (key, key), "two": (key, key)}, labels)
    assert [frame.name for frame in book.frames] == ["one", "two"]


def test_the_spectrum_is_bounded_at_a_factor_of_one_and_reflects_at_two():
    for lowest, highest in ((0.55, 0.55), (0.55, 1.0), (1.0, 1.0)):
        fig = rwkv.spectrum_at(1.0, lowest, highest)
        assert min(y for line in fig.data for y in line.y) > rwkv.LOWEST - 1
    fig = rwkv.spectrum_at(2.0, 1.0, 1.0)
    assert min(y for line in fig.data for y in line.y) == pytest.approx(-1)
    assert fig.to_json() == rwkv.spectrum_at(2.0, 1.0, 1.0).to_json()


def test_bars_are_means_and_marks_are_seeds():
    fig = rwkv.by_seed({"a": [0.5, 1.0], "b": [0.25, 0.25]}, title="found", chance=0.1)
    assert list(fig.data[0].y) == [0.75, 0.25]
    assert list(fig.data[1].x) == ["a", "a", "b", "b"] and list(fig.data[1].y)[:2] == [0.5, 1.0]


def test_half_lives_are_sorted_in_a_panel_for_each_model():
    lives = {"RWKV-4": {"layer 1": torch.tensor([3.0, 1.0])}, "RWKV-5": {"layer 1": torch.ones(2)}}
    fig = rwkv.half_lives(lives, title="found")
    assert list(fig.data[0].y) == [1, 3] and fig.data[1].xaxis == "x2"
