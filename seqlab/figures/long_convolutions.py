"""Figures of chapter 12: answers by model, filters before and after training, modes of a filter."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from seqlab.figures.griffin import by_range
from seqlab.figures.panels import flip_book
from seqlab.figures.state import attention_matrix
from seqlab.figures.state_space import curves
from seqlab.figures.table import largest, rounded
from seqlab.figures.theme import SIGNED, figure


def by_model(found: Mapping[str, Sequence[float]], *, title: str, chance: float) -> go.Figure:
    """The share of right answers of each model (a place on the axis) and seed (a mark)."""
    seeds = range(len(next(iter(found.values()))))
    marks = {f"seed {s}": {name: [found[name][s]] for name in found} for s in seeds}
    fig = by_range(marks, title=title, chance=chance)
    return fig.update_annotations(yanchor="top")  # below the line: marks are above it


def filters_at(h: Float[Tensor, "D L"], *, title: str, top: float) -> go.Figure:
    """Each channel's filter, a row, by age."""
    bar = {"title": "weight", "thickness": 12, "outlinewidth": 0}
    heat = go.Heatmap(z=rounded(h), colorscale=SIGNED, zmin=-top, zmax=top, colorbar=bar)
    fig = figure(heat, title=title, x="age of the token", y="channel", height=400)
    return fig.update_yaxes(autorange="reversed", showgrid=False)


def filters(stages: Mapping[str, Float[Tensor, "D L"]], titles: Mapping[str, str]) -> go.Figure:
    """`filters_at` with a slider over the stages, channels in one order, each with its scale."""
    last = list(stages.values())[-1].abs()
    ages = torch.arange(last.shape[1])
    order = ((last * ages).sum(1) / last.sum(1)).argsort()  # by its mean age
    pages = {n: filters_at(h[order], title=titles[n], top=largest(h)) for n, h in stages.items()}
    return flip_book(pages, "filters", len(pages) - 1)


def hankel_values(h: Float[Tensor, " L"]) -> Float[Tensor, " n"]:
    """Singular values of the matrix h_{i+j+1}, i, j < L // 2, the largest divided out.

    Its rank is the number of modes of the smallest recurrence whose response is h_1, h_2, …
    """
    n = len(h) // 2
    i = torch.arange(n)
    values = torch.linalg.svdvals(h.double()[i[:, None] + i + 1])
    return values / values[0]


def modes(filters: Mapping[str, Float[Tensor, "D L"]], share: float = 0.01) -> go.Figure:
    """Hankel's singular values, the median over channels; the title counts those above `share`."""
    lines, counts = {}, []
    for name, h in filters.items():
        values = torch.stack([hankel_values(row) for row in h])
        counts.append(f"{name} {int((values > share).sum(1).median())}")
        lines[name] = range(1, 17), values.median(0).values[:16].clamp(min=1e-12)
    title = f"Modes above {share:.0%} of the largest: {', '.join(counts)}"
    y = "size, relative to the largest (log scale)"
    return curves(lines, title=title, x="singular value", y=y, log="y", markers=True)


def circle(T: int) -> go.Figure:
    """The matrix of a fading filter, by an FFT of T points and by one of 2T, with a slider."""
    fade = 0.8 ** torch.arange(T)
    lag = torch.arange(T)[:, None] - torch.arange(T)
    padded = torch.where(lag >= 0, fade[lag.clamp(min=0)], 0.0)
    pages = {
        "T points": (fade[lag % T], "On a circle the first outputs hold the last tokens"),
        "2T points": (padded, "With T zeros appended nothing comes from the future"),
    }
    drawn = {name: attention_matrix(W, title=title) for name, (W, title) in pages.items()}
    return flip_book(drawn, "the FFT has")


def operator(
    h: Float[Tensor, "D L"],
    inner: Float[Tensor, "T D"],
    outer: Float[Tensor, "T D"],
    words: Sequence[str],
    place: int,
) -> go.Figure:
    """How much of v_s is in y_t for one channel of Hyena: the filter, then gate by gate.

    The channel is the one whose inner gate stands out most at `place`.
    """
    T = len(words)
    size = inner.abs()
    others = torch.cat([size[:place], size[place + 1 :]]).mean(0)
    c = int((size[place] / others).argmax())
    ratio = float(size[place, c] / others[c])
    lag = torch.arange(T)[:, None] - torch.arange(T)
    toeplitz = torch.where(lag >= 0, h[c, lag.clamp(min=0)], 0.0)
    stages = {
        "the filter": (toeplitz, "every token is weighed by its age"),
        "× inner gate": (
            toeplitz * inner[:, c],
            f"the gate is {ratio:.1f} × as large at one token",
        ),
        "× outer gate": (outer[:, c, None] * toeplitz * inner[:, c], "the outer gate scales rows"),
    }
    pages = {}
    for name, (W, said) in stages.items():
        heat = {"colorscale": SIGNED, "zmin": -largest(W), "zmax": largest(W)}
        fig = attention_matrix(W, title=f"Channel {c}, {name}: {said}")
        pages[name] = fig.update_traces(heat)
        named = {"tickvals": list(range(T)), "ticktext": list(words), "tickangle": 0}
        fig.update_xaxes(named).update_yaxes(named)
    return flip_book(pages, "shown", 1)
