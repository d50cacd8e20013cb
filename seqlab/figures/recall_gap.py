"""Figures of chapter 19: recall against size, one failing question, needles, eigenvalues."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from seqlab.figures.panels import dressed, flip_book, legend_below
from seqlab.figures.table import largest, rounded
from seqlab.figures.theme import COLORS, INK, LINES, SIGNED, WEIGHTS, figure
from seqlab.figures.training import DASHES, SYMBOLS


def curves(
    found: Mapping[str, Mapping[int, Sequence[float]]],
    *,
    title: str,
    x: str,
    y: str = "right answers",
    exact: Mapping[str, Mapping[int, float]] | None = None,
    chance: float | None = None,
    log: bool = False,
) -> go.Figure:
    """One curve for each name: the mean over seeds, with bars from the lowest to the highest.

    exact: curves without seeds, drawn thin in grey. chance: a dotted line. log: errors on a
    logarithmic axis against a plain one; else shares against sizes on a logarithmic axis.
    """
    fig = figure(title=title, x=x, y=y, height=430)
    for n, (name, by_size) in enumerate(found.items()):
        look = {"color": LINES[n % 8], "dash": DASHES[n % 4]}
        marker = {"size": 8, "symbol": SYMBOLS[n % 6]}
        fig.add_scatter(**_with_bars(by_size), name=name, line=look, marker=marker)
    for n, (name, by_size) in enumerate((exact or {}).items()):
        line = {"color": COLORS["decay"], "width": 1.5, "dash": DASHES[(n + 1) % 4]}
        ys = _short(by_size.values())
        fig.add_scatter(x=list(by_size), y=ys, name=name, mode="lines", line=line)
    if log:
        fig.update_yaxes(type="log", dtick=1, exponentformat="power")
        return legend_below(fig)
    sizes = sorted({n for by_size in found.values() for n in by_size})
    fig.update_xaxes(type="log", tickvals=sizes, ticktext=[str(s) for s in sizes])
    fig.update_yaxes(range=[0, 1.06], tickformat=".0%")
    if chance is not None:
        line = {"dash": "dot", "width": 1.5, "color": INK}
        fig.add_hline(chance, line=line, annotation_text=f"guessing: {chance:.1%}")
    return legend_below(fig)


def _with_bars(by_size: Mapping[int, Sequence[float]]) -> dict[str, Any]:
    means = [statistics.fmean(xs) for xs in by_size.values()]
    pairs = list(zip(means, by_size.values(), strict=True))
    up = _short([max(xs) - m for m, xs in pairs])
    down = _short([m - min(xs) for m, xs in pairs])
    bars = {"array": up, "arrayminus": down, "symmetric": False, "thickness": 1.2}
    return {"x": list(by_size), "y": _short(means), "error_y": bars, "mode": "lines+markers"}


def _short(xs) -> list[float]:
    return rounded(torch.tensor(list(xs), dtype=torch.float64))


class Seen(NamedTuple):
    """What one model does at one question: what it keeps, whom it reads, what it answers.

    kept (R, C), NaN where nothing is; weights (n,), one for each written pair; answers, a
    probability for each value.
    """

    kept: Float[Tensor, "R C"]
    weights: Float[Tensor, " n"]
    answers: Float[Tensor, " values"]


def question(
    seen: Mapping[str, Seen], pairs: Sequence[str], asked: int, value: int, *, title: str
) -> go.Figure:
    """A row for each model: memory, weight of each pair in the read, probability of each value.

    pairs: a name for each written pair; asked: which one the question is about; value: the answer.
    """
    heads = ["what is kept", "weight in the read", "answer"]
    titles = [f"{name}: {head}" for name in seen for head in heads]
    rows = len(seen)
    fig = make_subplots(
        rows, 3, subplot_titles=titles, horizontal_spacing=0.09, vertical_spacing=0.24
    )
    for row, one in enumerate(seen.values(), start=1):
        top = largest(one.kept)
        look = {"colorscale": SIGNED, "zmin": -top, "zmax": top, "showscale": False}
        fig.add_trace(go.Heatmap(z=rounded(one.kept), **look), row, 1)
        fig.update_yaxes(autorange="reversed", showticklabels=False, row=row, col=1)
        fig.update_xaxes(showticklabels=False, row=row, col=1)
        fig.add_trace(_bars(pairs, one.weights, asked), row, 2)
        values = [str(v) for v in range(len(one.answers))]
        fig.add_trace(_bars(values, one.answers, value), row, 3)
        for col in (2, 3):
            fig.update_xaxes(type="category", tickfont_size=9, tickangle=0, row=row, col=col)
        fig.update_yaxes(range=[0, 1.05], tickformat=".0%", row=row, col=3)
        low = min(0.0, *one.weights.tolist())
        fig.update_yaxes(range=[1.1 * low, 1.1 * float(one.weights.max())], row=row, col=2)
    return dressed(fig, title, 480, showlegend=False)


def _bars(names: Sequence[str], values: Tensor, right: int) -> go.Bar:
    """The right one in orange and outlined."""
    color = [COLORS["write"] if i == right else COLORS["state"] for i in range(len(names))]
    outline = [2 if i == right else 0 for i in range(len(names))]
    marker = {"color": color, "line": {"color": INK, "width": outline}}
    return go.Bar(x=list(names), y=rounded(values), marker=marker)


def questions(pages: Mapping[str, go.Figure], start: int) -> go.Figure:
    """`question` with a slider over the questions of one sequence."""
    return flip_book(pages, "question", start)


def needles(
    named: Mapping[str, Float[Tensor, "L D"]],
    lengths: Sequence[int],
    depths: Sequence[float],
    *,
    title: str,
) -> go.Figure:
    """A heat map for each model: accuracy by length (row) and depth (column)."""
    rows = math.ceil(len(named) / 2)
    fig = make_subplots(
        rows, 2, subplot_titles=list(named), horizontal_spacing=0.1, vertical_spacing=0.2
    )
    for i, table in enumerate(named.values()):
        heat = go.Heatmap(
            z=rounded(table),
            x=[f"{d:g}" for d in depths],
            y=[str(length) for length in lengths],
            text=[[f"{100 * float(x):.0f}" for x in row] for row in table],
            texttemplate="%{text}",
            coloraxis="coloraxis",
        )
        fig.add_trace(heat, i // 2 + 1, i % 2 + 1)
    fig.update_xaxes(title_text="depth", row=rows)
    fig.update_xaxes(type="category")
    fig.update_yaxes(title_text="length", type="category", autorange="reversed", col=1)
    fig.update_yaxes(type="category", autorange="reversed", col=2)
    bar = {"thickness": 12, "outlinewidth": 0, "tickformat": ".0%"}
    axis = {"colorscale": WEIGHTS, "cmin": 0, "cmax": 1, "colorbar": bar}
    return dressed(fig, title, 540, coloraxis=axis)


class Tracker(NamedTuple):
    """One run on parity: accuracy by length, and the eigenvalues at a 0 and at a 1."""

    accuracy: dict[int, float]
    at_zero: float
    at_one: float


def trackers(runs: Mapping[str, Sequence[Tracker]], *, title: str, chance: float) -> go.Figure:
    """Left, accuracy against length, a line a run. Right, the eigenvalues that each run learned."""
    heads = ["accuracy against length", "learned eigenvalue 1 - β"]
    fig = make_subplots(1, 2, subplot_titles=heads, horizontal_spacing=0.13)
    for n, (name, members) in enumerate(runs.items()):
        look = {"color": LINES[n], "dash": DASHES[n]}
        for i, run in enumerate(members):
            one = {"name": name, "legendgroup": name, "showlegend": i == 0}
            marker = {"color": LINES[n], "size": 9, "symbol": SYMBOLS[n]}
            xs, ys = list(run.accuracy), _short(run.accuracy.values())
            fig.add_scatter(x=xs, y=ys, line=look, marker=marker, row=1, col=1, **one)
            one["showlegend"] = False
            ys = _short([run.at_zero, run.at_one])
            look_right = {"marker": marker, "line": look, "mode": "lines+markers"}
            fig.add_scatter(x=["at a 0", "at a 1"], y=ys, row=1, col=2, **look_right, **one)
    lengths = list(next(iter(runs.values()))[0].accuracy)
    ticks = {"tickvals": lengths, "ticktext": [str(n) for n in lengths]}
    fig.update_xaxes(title_text="bits (log scale)", type="log", **ticks, row=1, col=1)
    fig.update_yaxes(range=[0.4, 1.04], tickformat=".0%", row=1, col=1)
    fig.update_yaxes(range=[-1.1, 1.1], row=1, col=2)
    line: Any = {"line_dash": "dot", "line_color": INK, "line_width": 1.5}
    fig.add_hline(chance, row=1, col=1, **line)  # pyright: ignore[reportArgumentType]  plotly: str
    return legend_below(dressed(fig, title, 400))
