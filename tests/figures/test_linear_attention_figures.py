"""The figures of chapter 03: pure, readable, and right about what they draw."""

import json
import math

import plotly.graph_objects as go
import pytest
import torch
import torch.nn.functional as F

from seqlab.core.recurrence import recurrent
from seqlab.figures import linear_attention as figures

rng = torch.Generator().manual_seed(0)
T, K, V = 6, 4, 3
q, k, v = (torch.randn(T, width, generator=rng) for width in (K, K, V))
scores = torch.linspace(-2, 2, 9)

FIGURES = {
    "memory": lambda: figures.memory(q, k, v, [f"token {t}" for t in range(T)]),
    "smear": lambda: figures.smear(v[0], v[1], (0, 60, 90, 120)),
    "capacity": lambda: figures.capacity({"random": ([0.5, 1], [0.7, 1.0])}, math.sqrt),
    "kernels": lambda: figures.kernels_at(
        scores, {"exp": scores.exp(), "identity": scores}, "a finding"
    ),
    "kernels of each size": lambda: figures.kernels({"exp": torch.exp}, (0.5, 1), K=4, start=1),
    "overlaps": lambda: figures.overlaps({"before": k.abs(), "after": k}, "a finding"),
    "growth": lambda: figures.growth(
        [1, 2, 4], {"a": [1.0, 2.0, 4.0]}, title="a finding", y="size"
    ),
    "forms": lambda: figures.forms(8, [1, 2, 4, 8], K, V),
    "moved": lambda: figures.moved(
        {"causal": torch.ones(T, T).tril(), "not": torch.ones(T, T)}, "a finding"
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_pure_titled_and_in_the_courses_look(name):
    fig = FIGURES[name]()
    assert isinstance(fig, go.Figure)
    assert fig.to_json() == FIGURES[name]().to_json()
    assert fig.layout.title.text
    assert fig.layout.template.layout.paper_bgcolor == "white"
    assert "$" not in fig.to_json()  # plotly does not render LaTeX


@pytest.mark.parametrize("name", ["memory", "smear", "forms"])
def test_the_slider_reaches_every_page_and_every_page_redraws_every_trace(name):
    fig = FIGURES[name]()
    (slider,) = fig.layout.sliders
    assert [step.args[0][0] for step in slider.steps] == [frame.name for frame in fig.frames]
    for frame in fig.frames:
        assert [trace.type for trace in frame.data] == [trace.type for trace in fig.data]
        assert frame.layout.title.text


def test_the_figure_opens_on_the_page_its_slider_shows():
    fig = figures.smear(v[0], v[1], (0, 60, 90), start=1)
    assert fig.layout.sliders[0].active == 1
    assert (
        fig.layout.title.text
        == fig.frames[1].layout.title.text
        == "Keys 60° apart: key 1 returns v₁ + 0.50 v₂"
    )


def test_memory_shows_the_state_and_the_read_of_the_recurrence():
    y, _ = recurrent(*(u[None, :, None] for u in (q, k, v)))
    for t in range(T):
        _, S = recurrent(*(u[None, : t + 1, None] for u in (q, k, v)))
        drawn = [torch.tensor(trace.z) for trace in figures.memory_at(q, k, v, t).data]
        torch.testing.assert_close(drawn[3], torch.outer(v[t], k[t]), rtol=0.01, atol=1e-6)
        torch.testing.assert_close(drawn[4], S[0, 0], rtol=0.01, atol=1e-6)
        torch.testing.assert_close(drawn[5][:, 0], y[0, t, 0], rtol=0.01, atol=1e-6)


def test_memory_outlines_the_column_that_is_written_and_the_one_that_is_read():
    one_hot = torch.eye(K)
    fig = figures.memory_at(one_hot[[2]], one_hot[[1]], v[:1], 0)
    assert [(shape.x0, shape.x1) for shape in fig.layout.shapes] == [(0.5, 1.5), (1.5, 2.5)]


@pytest.mark.parametrize("degrees", [0, 45, 90, 135, 180])
def test_smear_returns_v1_plus_cos_v2(degrees):
    stored, returned, smear = (
        torch.tensor(bar.y) for bar in figures.smear_at(v[0], v[1], degrees).data[2:]
    )
    expected = v[0] + math.cos(math.radians(degrees)) * v[1]
    torch.testing.assert_close(returned, expected, rtol=0.01, atol=1e-3)
    torch.testing.assert_close(stored + smear, expected, rtol=0.02, atol=1e-2)


def test_orthonormal_keys_have_no_recall_error():
    keys = torch.linalg.qr(torch.randn(8, 8, generator=rng, dtype=torch.float64)).Q
    values = torch.randn(8, V, generator=rng, dtype=torch.float64)
    assert figures.recall_error(keys, values).max() < 1e-12


def test_random_keys_have_the_error_the_chapter_derives():
    N, K = 128, 64
    keys, values = (
        F.normalize(torch.randn(20, N, width, generator=rng), dim=-1) for width in (K, 16)
    )
    squares = torch.stack(
        [figures.recall_error(*pair).square() for pair in zip(keys, values, strict=True)]
    )
    assert squares.mean().item() == pytest.approx((N - 1) / K, rel=0.05)


def test_an_exact_kernel_lies_on_the_line_whatever_its_constant():
    fig = figures.kernels_at(scores, {"scaled exp": 7 * scores.exp()}, "a finding")
    cloud = fig.data[1]
    torch.testing.assert_close(torch.tensor(cloud.y), torch.tensor(cloud.x), rtol=0.01, atol=1e-3)
    assert "×1" in fig.layout.annotations[-1].text


def test_scores_below_zero_are_counted_and_crossed():
    fig = figures.kernels_at(scores, {"identity": scores}, "a finding")
    assert fig.data[1].marker.symbol.count("x") == (scores <= 0).sum()
    assert "56 % below 0" in fig.layout.annotations[-1].text  # 5 of 9


def test_forms_count_what_the_chapter_says():
    for C in (1, 2, 4, 8):
        cells, pairs, through, steps = figures.forms_at(8, C, K, V).data
        assert (pairs.y[0], through.y[0], steps.y[0]) == (8 * C * (K + V), 2 * 8 * K * V, 8 // C)
        flat = [cell for row in cells.z for cell in row]
        assert flat.count(None) == 8 * 7 / 2  # the future
        assert flat.count(0) == 8 // C * C * (C + 1) / 2  # by pairs
    assert "recurrent" in figures.forms_at(8, 1, K, V).layout.title.text
    assert "parallel" in figures.forms_at(8, 8, K, V).layout.title.text


def test_figures_with_sliders_stay_small():
    assert len(json.dumps(FIGURES["memory"]().to_plotly_json(), default=str)) < 100_000


def test_random_keys_err_by_the_root_of_their_load_and_orthonormal_keys_not_at_all():
    """error² = (N - 1) / K in the mean; the 64 memories of 32 reads each leave 5 % of noise."""
    own = torch.Generator().manual_seed(1)
    loads, errors = figures.capacity_curve([0.5, 1.0], 64, own)
    assert loads == [0.5, 1.0]
    for load, error in zip(loads, errors, strict=True):
        assert abs(error - math.sqrt((64 * load - 1) / 64)) < 0.05
    _, exact = figures.capacity_curve([0.5], 64, own, lambda N, K, rng: torch.eye(K)[:N])
    assert exact[0] < 1e-6
