"""Figures of chapter 19: what they show is what they were given."""

import pytest
import torch

from seqlab.figures import recall_gap


def test_a_curve_is_the_mean_and_its_bar_the_range():
    fig = recall_gap.curves({"a": {4: [0.5, 1.0], 8: [0.25, 0.25]}}, title="", x="pairs")
    (line,) = fig.data
    assert list(line.y) == [0.75, 0.25]
    assert list(line.error_y.array) == [0.25, 0] and list(line.error_y.arrayminus) == [0.25, 0]
    assert list(fig.layout.xaxis.tickvals) == [4, 8]


def test_exact_curves_are_thin_and_errors_logarithmic():
    exact = {"count": {0: 4.0, 1: 2.0}}
    fig = recall_gap.curves({"a": {0: [4.0], 1: [1.0]}}, exact=exact, title="", x="n", log=True)
    assert list(fig.data[1].y) == [4.0, 2.0] and fig.data[1].mode == "lines"
    assert fig.layout.yaxis.type == "log" and fig.layout.xaxis.type is None


def seen():
    kept = torch.tensor([[1.0, float("nan")], [-2.0, 0.5]])
    return recall_gap.Seen(kept, torch.tensor([0.25, -0.5, 1.0]), torch.tensor([0.75, 0.25]))


def test_a_question_marks_the_asked_pair_and_the_right_answer():
    fig = recall_gap.question({"m": seen()}, ["a1", "b0", "c1"], 2, 1, title="")
    heat, weights, answers = fig.data
    assert list(heat.z[0]) == [1.0, None] and heat.zmax == 2
    assert list(weights.marker.line.width) == [0, 0, 2] and list(weights.y) == [0.25, -0.5, 1.0]
    assert list(answers.marker.line.width) == [0, 2]


def test_the_slider_opens_on_the_question_that_was_chosen():
    pages = {
        name: recall_gap.question({"m": seen()}, ["a1", "b0", "c1"], 0, 0, title=name)
        for name in ("a?", "b?")
    }
    fig = recall_gap.questions(pages, 1)
    assert fig.layout.title.text == "b?" and fig.layout.sliders[0].active == 1


def test_needles_have_a_map_for_each_model():
    tables = {"x": torch.tensor([[1.0, 0.5]]), "y": torch.tensor([[0.0, 0.25]])}
    fig = recall_gap.needles(tables, [64], [0.0, 1.0], title="")
    assert [list(heat.z[0]) for heat in fig.data] == [[1.0, 0.5], [0.0, 0.25]]
    assert list(fig.data[0].text[0]) == ["100", "50"] and list(fig.data[1].x) == ["0", "1"]


def test_a_tracker_has_a_line_by_length_and_two_eigenvalues():
    run = recall_gap.Tracker({16: 1.0, 32: 0.75}, at_zero=0.9, at_one=-1.0)
    fig = recall_gap.trackers({"signed": [run, run]}, title="", chance=0.5)
    assert len(fig.data) == 4 and [t.showlegend for t in fig.data] == [True, False, False, False]
    assert list(fig.data[0].y) == [1.0, 0.75] and list(fig.data[1].y) == pytest.approx([0.9, -1.0])
