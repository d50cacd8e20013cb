"""Figures of chapter 04: what they show is what they were given."""

import json
import math

import plotly.graph_objects as go
import pytest
import torch

from seqlab.figures import retention


def test_mask_holds_gamma_to_the_distance_and_nothing_above_the_diagonal():
    heat, curve, mark = retention.mask_at(2.0, T=6).data
    D = torch.tensor(
        [[math.nan if z is None else z for z in row] for row in heat.z], dtype=torch.float64
    )
    assert D.isnan().equal(torch.ones(6, 6).triu(1).bool())
    for i in range(6):
        for j in range(i + 1):
            assert D[i, j] == pytest.approx(0.5 ** ((i - j) / 2), abs=1e-3)
    assert list(curve.y) == pytest.approx([0.5 ** (n / 2) for n in range(6)], abs=1e-3)
    assert (mark.x[0], mark.y[0]) == (2.0, 0.5)


def test_mask_without_decay_is_the_whole_triangle():
    fig = retention.mask_at(math.inf, T=5)
    assert {z for row in fig.data[0].z for z in row} == {1.0, None}
    assert fig.data[2].x[0] is None  # no half-life to mark
    assert "nothing fades" in fig.layout.title.text


def test_mask_slider_has_a_page_for_each_half_life():
    fig = retention.mask([1, 4, math.inf], T=8)
    assert [frame.name for frame in fig.frames] == ["1", "4", "∞"]
    (slider,) = fig.layout.sliders
    assert [step.label for step in slider.steps] == ["1", "4", "∞"]
    assert [len(frame.data) for frame in fig.frames] == [len(fig.data)] * 3
    shown = fig.frames[slider.active]
    assert (
        fig.data[0].z == shown.data[0].z
    )  # the first picture is the page that the slider points at


def test_heads_are_marked_where_half_is_left():
    gammas = 1 - 2.0 ** (-5 - torch.arange(3, dtype=torch.float64))
    marks = [trace for trace in retention.head_decays(gammas).data if trace.mode == "markers"]
    assert [
        float(gamma) ** mark.x[0] for gamma, mark in zip(gammas, marks, strict=True)
    ] == pytest.approx([0.5] * 3, abs=2e-3)


def test_rotation_draws_the_last_row_along_the_distance():
    scores = torch.arange(16.0).reshape(4, 4)
    heat, alone, decayed = retention.rotation(scores, scores / 2).data
    assert [list(row) for row in heat.z] == scores.tolist()
    assert list(alone.y) == [15, 14, 13, 12]  # distance 0 is the diagonal
    assert list(decayed.y) == [7.5, 7, 6.5, 6]


def test_accuracy_shows_the_mean_and_reaches_to_the_extreme_seeds():
    curves = {"limit": ([1, 2], [[1, 1]]), "m": ([1, 2], [[0.2, 0.5], [0.4, 0.9]])}
    fig = retention.accuracy(curves, title="", x="n", chance=0.1, bound="limit")
    limit, model = fig.data
    assert list(model.y) == pytest.approx([0.3, 0.7])
    assert list(model.error_y.array) == pytest.approx([0.1, 0.2])
    assert list(model.error_y.arrayminus) == pytest.approx([0.1, 0.2])
    assert limit.error_y.array is None


def test_a_model_keeps_its_colour_whether_or_not_the_bound_is_drawn():
    runs = ([1], [[0.5]])
    with_bound = retention.accuracy(
        {"limit": runs, "m": runs}, title="", x="", chance=0, bound="limit"
    )
    without = retention.accuracy({"m": runs}, title="", x="", chance=0)
    assert with_bound.data[1].line.color == without.data[0].line.color


def test_only_marks_that_have_a_place_are_drawn():
    def draw(marks):
        return retention.accuracy(
            {"m": ([1, 8], [[1, 0]])}, title="", x="", chance=0.5, log=True, marks=marks
        )

    assert len(draw({"guess": None}).layout.shapes) == 1  # chance
    fig = draw({"guess": 4, "none": None})
    assert fig.layout.shapes[1].x0 == 4
    assert fig.layout.annotations[-1].x == pytest.approx(
        math.log10(4)
    )  # plotly wants the logarithm here


def test_chunk_dial_names_both_ends():
    fig = retention.chunk_dial({1: 0.1, 64: 0.01, 256: 0.05}, title="")
    assert [(note.text, round(10**note.x)) for note in fig.layout.annotations] == [
        ("recurrent form", 1),
        ("parallel form", 256),
    ]


FIGURES = [
    lambda: retention.mask([1, 8, math.inf]),
    lambda: retention.head_decays(torch.tensor([0.9, 0.99])),
    lambda: retention.rotation(torch.randn(8, 8), torch.randn(8, 8)),
    lambda: retention.accuracy({"m": ([1], [[0.5]])}, title="t", x="n", chance=0.1),
    lambda: retention.chunk_dial({1: 1.0, 2: 0.5}, title="t"),
]


@pytest.mark.parametrize("draw", FIGURES)
def test_every_figure_is_small_strict_json_with_a_title(draw):
    fig = draw()
    assert isinstance(fig, go.Figure)
    text = fig.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in the JSON"))
    assert len(text) < 100_000
    assert fig.layout.title.text
