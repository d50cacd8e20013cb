"""Figures of chapter 04: decay mask, half-lives, rotation as distance, accuracy, chunk length."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from seqlab.figures.panels import dressed, flip_book
from seqlab.figures.table import largest, rounded
from seqlab.figures.theme import COLORS, INK, LIMIT, LINES, SIGNED, WEIGHTS, figure

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x")


def mask_at(half_life: float, T: int = 32) -> go.Figure:
    """D_ij = γ^(i-j) for this half-life (∞: linear attention), and its last row by age."""
    gamma = 0.5 ** (1 / half_life)
    age = torch.arange(T)[:, None] - torch.arange(T)
    D = torch.where(age >= 0, gamma ** age.clamp(min=0), torch.nan)
    fig = make_subplots(1, 2, column_widths=[0.48, 0.52], horizontal_spacing=0.2)
    bar = {"x": 0.41, "thickness": 12, "outlinewidth": 0}
    hover = "token %{x} in the read of token %{y}: %{z}<extra></extra>"
    fig.add_trace(
        go.Heatmap(
            z=rounded(D),
            colorscale=WEIGHTS,
            zmin=0,
            zmax=1,
            colorbar=bar,
            hovertemplate=hover,
            xgap=0,
            ygap=0,
        ),
        1,
        1,
    )
    weights = rounded(D[-1].flip(0))
    fig.add_trace(_line(list(range(T)), weights, COLORS["decay"]), 1, 2)
    seen = half_life < T
    fig.add_trace(
        go.Scatter(
            x=[half_life if seen else None],
            y=[0.5],
            mode="markers+text",
            text=["half-life"],
            textposition="top right",
            marker={"size": 11, "color": COLORS["write"], "symbol": "diamond"},
        ),
        1,
        2,
    )
    fig.update_xaxes(title_text="token j, written", zeroline=False, showgrid=False, row=1, col=1)
    fig.update_yaxes(
        title_text="token i, reads",
        autorange="reversed",
        zeroline=False,
        showgrid=False,
        scaleanchor="x",
        row=1,
        col=1,
    )
    fig.update_xaxes(title_text="age i - j, in tokens", range=[-1, T], row=1, col=2)
    fig.update_yaxes(title_text="weight γ<sup>i-j</sup>", range=[0, 1.08], row=1, col=2)
    half = f"half is left after {half_life:g} token{'s' * (half_life != 1)}"
    if math.isinf(half_life):
        half = "nothing fades"
    return dressed(fig, f"γ = {gamma:.4g}: {half}", 380, showlegend=False)


def mask(half_lives: Sequence[float], T: int = 32) -> go.Figure:
    """`mask_at` with a slider over the half-life."""
    pages = {("∞" if math.isinf(h) else f"{h:g}"): mask_at(h, T) for h in half_lives}
    return flip_book(pages, "half-life in tokens", start=len(half_lives) // 2)


def head_decays(gammas: Float[Tensor, " H"], ages: int = 4096) -> go.Figure:
    """The weight γ_h^n of a pair n tokens old, a line for each head, marked where half is left."""
    n = torch.logspace(0, math.log2(ages), 73, base=2.0, dtype=torch.float64)
    half_lives = (math.log(0.5) / gammas.double().log()).tolist()
    traces = []
    for h, (gamma, half_life) in enumerate(zip(gammas.tolist(), half_lives, strict=True)):
        name = f"h = {h}: half-life {half_life:,.0f}"
        traces.append(
            _line(rounded(n), rounded(gamma**n), LINES[h % 8], name=name, dash=DASHES[h % 5])
        )
        dot = {"size": 9, "color": LINES[h % 8], "symbol": SYMBOLS[h % 5]}
        traces.append(
            go.Scatter(
                x=[round(half_life, 1)], y=[0.5], mode="markers", marker=dot, showlegend=False
            )
        )
    fig = figure(
        *traces, x="age n, in tokens (log scale)", y="weight γ<sub>h</sub><sup>n</sup>", height=400
    )
    fig.update_layout(
        title_text="Each head remembers twice as long as the one before it", margin_t=44
    )
    shown = [2**i for i in range(0, int(math.log2(ages)) + 1, 2)]
    fig.update_xaxes(type="log", tickvals=shown, ticktext=[f"{x:,}" for x in shown])
    fig.add_hline(0.5, line={"dash": "dot", "width": 1, "color": INK})
    return fig.update_yaxes(range=[0, 1.05])


def rotation(scores: Float[Tensor, "T T"], decayed: Float[Tensor, "T T"]) -> go.Figure:
    """One q at position n, one k at m: the score for each pair, and along the distance n - m."""
    T, top = len(scores), largest(scores)
    fig = make_subplots(1, 2, column_widths=[0.48, 0.52], horizontal_spacing=0.2)
    hover = "q at %{y}, k at %{x}: %{z}<extra></extra>"
    bar = {"x": 0.41, "thickness": 12, "outlinewidth": 0}
    look = {
        "zmin": -top,
        "zmax": top,
        "colorbar": bar,
        "hovertemplate": hover,
        "xgap": 0,
        "ygap": 0,
    }
    fig.add_trace(go.Heatmap(z=rounded(scores), colorscale=SIGNED, showlegend=False, **look), 1, 1)
    ages = list(range(T))
    for name, S, color, dash in (
        ("rotation alone", scores, COLORS["q"], "dash"),
        ("rotation and decay", decayed, COLORS["write"], "solid"),
    ):
        fig.add_trace(_line(ages, rounded(S[-1].flip(0)), color, name=name, dash=dash), 1, 2)
    fig.update_xaxes(title_text="position m of k", zeroline=False, row=1, col=1)
    fig.update_yaxes(
        title_text="position n of q",
        autorange="reversed",
        zeroline=False,
        scaleanchor="x",
        row=1,
        col=1,
    )
    fig.update_xaxes(title_text="distance n - m, in tokens", row=1, col=2)
    fig.update_yaxes(title_text="score", row=1, col=2)
    legend = {"orientation": "h", "x": 0.52, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}
    return dressed(
        fig,
        "The same q and k everywhere: the score depends on their distance alone",
        400,
        legend=legend,
    )


def accuracy(
    curves: Mapping[str, tuple[Sequence[float], Sequence[Sequence[float]]]],
    *,
    title: str,
    x: str,
    chance: float,
    log: bool = False,
    marks: Mapping[str, float | None] | None = None,
    bound: str | None = None,
) -> go.Figure:
    """Accuracy of each model: name -> (xs, one list of accuracies per seed). Bars reach from the
    lowest seed to the highest. `marks`: vertical lines, name -> x. `bound`: the curve that is a
    computed limit and not a model.
    """
    fig = figure(title=title, x=x, y="right answers", height=420)
    models = [name for name in curves if name != bound]
    for name, (xs, runs) in curves.items():
        runs = torch.tensor(runs, dtype=torch.float64).reshape(-1, len(xs))
        mean = runs.mean(0)
        line: Any = _line(list(xs), rounded(mean), LIMIT, name=name)
        if name == bound:
            line.line.width = 7
        else:
            i = models.index(name)
            line.line.update(color=LINES[i % 8], dash=DASHES[i % 5])
            line.update(mode="lines+markers", marker={"size": 8, "symbol": SYMBOLS[i % 5]})
        if len(runs) > 1:
            spread = {
                "array": rounded(runs.amax(0) - mean),
                "arrayminus": rounded(mean - runs.amin(0)),
            }
            line.error_y = spread | {"symmetric": False, "thickness": 1, "width": 3}
        fig.add_trace(line)
    fig.add_hline(
        chance,
        line={"dash": "dot", "width": 1.5, "color": INK},
        annotation_text=f"guessing: {chance:.3g}",
        annotation_position="bottom left",
    )
    marks = {words: at for words, at in (marks or {}).items() if at is not None}
    for row, (words, at) in enumerate(marks.items()):
        fig.add_vline(at, line={"dash": "dot", "width": 1.5, "color": COLORS["decay"]})
        at = math.log10(at) if log else at
        fig.add_annotation(
            text=words, x=at, y=1.16 - 0.07 * row, showarrow=False, xanchor="left", xshift=4
        )
    if log:
        shown = sorted({value for xs, _ in curves.values() for value in xs})
        fig.update_xaxes(type="log", tickvals=shown, ticktext=[f"{value:g}" for value in shown])
    fig.update_yaxes(
        range=[0, 1.2 if marks else 1.06], tickformat=".0%", tickvals=[0, 0.25, 0.5, 0.75, 1]
    )
    fig.update_layout(
        legend={"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0},
        showlegend=True,
        margin_b=100,
    )
    return fig


def chunk_dial(seconds: Mapping[int, float], *, title: str) -> go.Figure:
    """Time against the chunk length C, from the recurrent (C = 1) to the parallel form (C = T)."""
    chunks = list(seconds)
    line = _line(chunks, [float(f"{s:.3g}") for s in seconds.values()], COLORS["state"])
    line.update(mode="lines+markers", marker_size=9, showlegend=False)
    fig = figure(
        line, title=title, x="chunk length C (log scale)", y="seconds (log scale)", height=360
    )
    ends = {chunks[0]: "recurrent form", chunks[-1]: "parallel form"}
    fig.update_xaxes(type="log", tickvals=chunks, ticktext=[f"{C:,}" for C in chunks])
    fig.update_yaxes(type="log", dtick=1, exponentformat="power")
    for C, name in ends.items():
        at = {"x": math.log10(C), "y": math.log10(seconds[C])}
        side = "left" if chunks[0] == C else "right"
        fig.add_annotation(text=name, showarrow=False, yshift=16, xanchor=side, **at)
    return fig


def _line(x, y, color, *, name="", dash="solid") -> go.Scatter:
    return go.Scatter(
        x=x, y=y, name=name, mode="lines", line={"color": color, "dash": dash, "width": 2.5}
    )
