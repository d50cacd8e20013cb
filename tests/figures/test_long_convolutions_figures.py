"""Figures of chapter 12: what they show is what they were given."""

import torch

from seqlab.figures import long_convolutions as figures


def test_each_model_has_a_mark_for_each_seed():
    found = {"A": [0.5, 0.75], "B": [1.0, 0.25]}
    fig = figures.by_model(found, title="t", chance=0.25)
    assert [list(trace.y) for trace in fig.data] == [[0.5, 1.0], [0.75, 0.25]]
    assert list(fig.layout.xaxis.ticktext) == ["A", "B"]
    assert fig.to_json() == figures.by_model(found, title="t", chance=0.25).to_json()


def test_filters_keep_one_order():
    late = torch.tensor([[0.0, 1.0, 3.0], [3.0, 1.0, 0.0]])
    fig = figures.filters({"a": 2 * late, "b": late}, {"a": "before", "b": "after"})
    first, last = (frame.data[0] for frame in fig.frames)
    torch.testing.assert_close(torch.tensor(first.z), 2 * late.flip(0))
    torch.testing.assert_close(torch.tensor(last.z), late.flip(0))
    assert first.zmax == 6 and last.zmax == 3


def test_a_sum_of_three_modes_has_rank_three():
    t = torch.arange(40, dtype=torch.float64)
    values = figures.hankel_values(0.9**t - 2 * 0.5**t + (-0.7) ** t)
    assert values[0] == 1 and values[2] > 1e-3 and values[3] < 1e-12


def test_modes_are_counted_by_channel():
    t = torch.arange(40, dtype=torch.float64)
    fig = figures.modes({"two": (0.9**t + (-0.5) ** t)[None], "one": (0.9**t)[None]})
    assert fig.layout.title.text.replace("<br>", " ").endswith("largest: two 2, one 1")


def test_a_circle_of_2t_points_is_causal():
    wrapped, padded = (torch.tensor(frame.data[0].z) for frame in figures.circle(6).frames)
    torch.testing.assert_close(wrapped.tril(), padded)
    assert (wrapped.triu(1).sum() > 0.5) and (padded.triu(1) == 0).all()


def test_gates_scale_columns_and_rows():
    h, inner = torch.tensor([[1.0, 0.5, 0.25]]), torch.tensor([[0.0], [2.0], [4.0]])
    outer = torch.tensor([[1.0], [1.0], [-1.0]])
    pages = [f.data[0].z for f in figures.operator(h, inner, outer, list("abc"), 1).frames]
    assert [list(row) for row in pages[0]] == [[1, 0, 0], [0.5, 1, 0], [0.25, 0.5, 1]]
    assert [list(row) for row in pages[2]] == [[0, 0, 0], [0, 2, 0], [0, -1, -4]]
