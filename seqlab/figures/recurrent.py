"""Figures of chapter 02: a gradient through time, gates, what waits for what, early attention."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from seqlab.figures.panels import dressed, flip_book
from seqlab.figures.table import rounded
from seqlab.figures.theme import COLORS, EDGE, INK, LINES, UNTOUCHED, WEIGHTS, figure

DASHES = ("solid", "dash", "dot", "dashdot")
FLOOR = 1e-40  # the smallest norm that a logarithmic axis is asked to show


def path_norms(R: Float[Tensor, "D D"], h: Float[Tensor, "T D"]) -> Float[Tensor, " T"]:
    """‖∂h_T / ∂h_t‖₂ of Elman's network by age T - t, from its states: 1 for age 0."""
    product, norms = torch.eye(len(R), dtype=R.dtype), []
    for h_t in h.flip(0):
        norms.append(torch.linalg.matrix_norm(product, 2))
        product = product @ ((1 - h_t**2)[:, None] * R)
    return torch.stack(norms)


def failure(
    right: Mapping[int, Sequence[float]], norms: Float[Tensor, "S T"], *, chance: float
) -> go.Figure:
    """Right answers by delay, one dot per seed; and the norm of ∂h_T/∂h_t by age, by seed."""
    fig = make_subplots(1, 2, horizontal_spacing=0.16)
    delays = list(right)
    mean = [sum(found) / len(found) for found in right.values()]
    fig.add_trace(_line(delays, mean, COLORS["q"], name="mean of the seeds"), 1, 1)
    dots = [(delay, share) for delay, found in right.items() for share in found]
    marker = {"color": COLORS["write"], "size": 9, "opacity": 0.6}
    xs, ys = ([dot[i] for dot in dots] for i in (0, 1))
    fig.add_trace(go.Scatter(x=xs, y=ys, mode="markers", name="a seed", marker=marker), 1, 1)
    _guessing(fig, chance, row=1, col=1)
    ages = list(range(norms.shape[1]))
    for n, norm in enumerate(norms):
        line = _line(ages, rounded(norm.clamp(min=FLOOR)), LINES[n], dash=DASHES[n % 4])
        fig.add_trace(line.update(showlegend=False), 1, 2)
    fig.update_xaxes(type="log", tickvals=delays, ticktext=[f"{d}" for d in delays], row=1, col=1)
    fig.update_xaxes(title_text="blanks to wait (log scale)", row=1, col=1)
    fig.update_yaxes(title_text="right answers", tickformat=".0%", range=[0, 1.06], row=1, col=1)
    fig.update_xaxes(title_text="steps back, T - t", row=1, col=2)
    fig.update_yaxes(title_text="‖∂h<sub>T</sub>/∂h<sub>t</sub>‖ (log scale)", row=1, col=2)
    fig.update_yaxes(type="log", exponentformat="power", dtick=5, row=1, col=2)
    title = (
        f"Ten steps back a gradient is scaled by {norms[:, 10].mean():.1g}: training stops working"
    )
    return dressed(fig, title, 400, legend=_below(), margin_b=96)


def dial(
    R: Float[Tensor, "D D"], drive: Float[Tensor, "T D"], singular: float, power: float = 1.0
) -> go.Figure:
    """The norm of ∂h_T/∂h_t if R is scaled to this largest singular value, for h = tanh(R h + x),
    x = power · drive; beside it the bound singular^age, and the same network without its tanh.
    """
    R = singular * R / torch.linalg.matrix_norm(R, 2)
    h, states = torch.zeros_like(drive[0]), []
    for x in power * drive:
        h = torch.tanh(R @ h + x)
        states.append(h)
    ages = list(range(len(drive)))
    found = path_norms(R, torch.stack(states))
    lines = {
        "the bound ‖R‖ⁿ": torch.tensor([singular], dtype=R.dtype) ** torch.tensor(ages),
        "without tanh": path_norms(R, 0 * drive),
        "with tanh": found,
    }
    looks = ((EDGE, "dot"), (COLORS["q"], "dash"), (COLORS["write"], "solid"))
    traces = [
        _line(ages, rounded(norms.clamp(min=FLOOR)), color, name=name, dash=dash)
        for (name, norms), (color, dash) in zip(lines.items(), looks, strict=True)
    ]
    n = len(drive) - 1
    title = f"‖R‖ = {singular:g}: over {n} steps the gradient is scaled by {found[-1]:.0e}"
    y = "‖∂h<sub>T</sub>/∂h<sub>t</sub>‖ (log scale)"
    fig = figure(*traces, title=title, x="steps back, T - t", y=y, height=410)
    fig.update_yaxes(type="log", exponentformat="power", range=[-20, 20], dtick=5)
    return fig.update_layout(legend=_below(), showlegend=True, margin_b=100)


def by_seed(found: Mapping[str, Sequence[float]], *, chance: float, title: str) -> go.Figure:
    """A bar for each model, the mean of its seeds, and a dot for each seed."""
    names = list(found)
    means = [sum(runs) / len(runs) for runs in found.values()]
    bars = go.Bar(x=names, y=means, marker_color=COLORS["state"], width=0.5, name="mean")
    dots = go.Scatter(
        x=[name for name, runs in found.items() for _ in runs],
        y=[share for runs in found.values() for share in runs],
        mode="markers",
        name="a seed",
        marker={"color": COLORS["write"], "size": 9, "opacity": 0.7},
    )
    fig = figure(bars, dots, title=title, y="right answers", height=400)
    _guessing(fig, chance)
    fig.update_yaxes(range=[0, 1.06], tickformat=".0%")
    return fig.update_layout(legend=_below(), showlegend=True, margin_b=100)


def _guessing(fig: go.Figure, chance: float, **place: Any) -> None:
    fig.add_hline(
        chance,
        line={"dash": "dot", "width": 1.5, "color": INK},
        annotation_text=f"guessing: {chance:.0%}",
        annotation_position="top left",
        **place,
    )


def gates(
    cell: Mapping[str, Float[Tensor, " T"]], gate: Mapping[str, Float[Tensor, " T"]], *, title: str
) -> go.Figure:
    """One cell over the tokens: its value, a line for each symbol that was read; and its gates."""
    fig = make_subplots(1, 2, horizontal_spacing=0.14)
    for col, lines in enumerate((cell, gate), 1):
        for n, (name, ys) in enumerate(lines.items()):
            color = LINES[n + 4 * (col - 1)]
            tokens = list(range(len(ys)))
            line = _line(tokens, rounded(ys), color, name=name, dash=DASHES[n % 4])
            fig.add_trace(line, 1, col)
        fig.update_xaxes(title_text="token", row=1, col=col)
    fig.update_yaxes(title_text="the cell c", row=1, col=1)
    fig.update_yaxes(title_text="gate", range=[-0.04, 1.04], row=1, col=2)
    return dressed(fig, title, 400, legend=_below(), margin_b=96)


def rounds_needed(kind: str, layer: int, t: int) -> int:
    """The first round in which (layer, t) can be computed, if a round does all that is ready.

    An RNN's cell needs the cell below it and the one before it; attention needs the layer below.
    """
    return layer + t + 1 if kind == "recurrent" else layer + 1


def waiting_at(done: int, T: int = 8, layers: int = 3) -> go.Figure:
    """What is computed after so many rounds, in an RNN and in a transformer of the same size."""
    kinds = {"recurrent": "an RNN", "attention": "attention"}
    fig = make_subplots(1, 2, subplot_titles=list(kinds.values()), horizontal_spacing=0.08)
    counts = []
    for col, kind in enumerate(kinds, 1):
        cells = [(layer, t) for layer in range(layers) for t in range(T)]
        fig.add_trace(_edges(kind, cells), 1, col)
        rounds = [rounds_needed(kind, *cell) for cell in cells]
        color = [
            COLORS["write"] if r == done else COLORS["state"] if r < done else UNTOUCHED
            for r in rounds
        ]
        marker = {"size": 17, "color": color, "line": {"color": INK, "width": 1}}
        dots = go.Scatter(
            x=[t for _, t in cells],
            y=[layer + 1 for layer, _ in cells],
            mode="markers",
            marker=marker,
            text=[f"round {r}" for r in rounds],
            hovertemplate="token %{x}, layer %{y}: %{text}<extra></extra>",
        )
        fig.add_trace(dots, 1, col)
        counts.append(sum(r <= done for r in rounds))
        fig.update_xaxes(title_text="token", dtick=1, showgrid=False, row=1, col=col)
        fig.update_yaxes(range=[-0.3, layers + 0.6], dtick=1, row=1, col=col)
        fig.update_yaxes(showgrid=False, zeroline=False, row=1, col=col)
    fig.update_yaxes(title_text="layer (0: the input)", row=1, col=1)
    n = T * layers
    title = f"After {done} rounds: RNN {counts[0]} of {n} cells, attention {counts[1]} of {n}"
    return dressed(fig, title, 340, showlegend=False)


def waiting(T: int = 8, layers: int = 3) -> go.Figure:
    """`waiting_at` with a slider over the rounds."""
    last = rounds_needed("recurrent", layers - 1, T - 1)
    pages = {str(r): waiting_at(r, T, layers) for r in range(last + 1)}
    return flip_book(pages, "rounds", start=layers)


def _edges(kind: str, cells: Sequence[tuple[int, int]]) -> go.Scatter:
    xs: list[float | None] = []
    ys: list[float | None] = []
    for layer, t in cells:
        below = [(layer, t), (layer + 1, t - 1)] if kind == "recurrent" else []
        below = below or [(layer, s) for s in range(t + 1)]
        for level, s in below:
            if s >= 0:
                xs += [s, t, None]
                ys += [level, layer + 1, None]
    line = {"color": EDGE, "width": 1.2 if kind == "recurrent" else 0.6}
    return go.Scatter(x=xs, y=ys, mode="lines", line=line, hoverinfo="skip")


def heads(words: Sequence[str], weights: Float[Tensor, "T 2 N"], *, title: str) -> go.Figure:
    """Where the writing and the reading head of a Neural Turing Machine are at each token."""
    names = ["writing head", "reading head"]
    fig = make_subplots(1, 2, subplot_titles=names, horizontal_spacing=0.1)
    for col in (1, 2):
        fig.add_trace(_weights(weights[:, col - 1].T, "token %{x}, row %{y}", col == 2), 1, col)
        named = {"tickvals": list(range(len(words))), "ticktext": list(words), "tickangle": 0}
        fig.update_xaxes(title_text="token", **named, row=1, col=col)
        fig.update_yaxes(autorange="reversed", dtick=1, row=1, col=col)
    fig.update_yaxes(title_text="row of the memory", row=1, col=1)
    return dressed(fig, title, 380)


def story_at(
    sentences: Sequence[str], weights: Float[Tensor, "n h"], question: str, answer: str
) -> go.Figure:
    """How much each hop of a memory network looks at each sentence of a story."""
    heat = _weights(weights, "hop %{x}, %{y}", True)
    heat.update(texttemplate="%{z:.2f}", textfont_size=11, xgap=2, ygap=2)
    fig = figure(heat, title=f"“{question}?” The network says: {answer}", height=400)
    hops = weights.shape[1]
    named = {"tickvals": list(range(hops)), "ticktext": [f"hop {k + 1}" for k in range(hops)]}
    fig.update_xaxes(**named, side="bottom", showgrid=False)
    told = {"tickvals": list(range(len(sentences))), "ticktext": list(sentences)}
    return fig.update_yaxes(autorange="reversed", showgrid=False, **told)


def stories(pages: Mapping[str, tuple]) -> go.Figure:
    """`story_at` with a slider: label -> its arguments."""
    return flip_book({name: story_at(*page) for name, page in pages.items()}, "question")


def looks_back(weights: Mapping[str, Float[Tensor, " T"]], *, title: str) -> go.Figure:
    """The weights of the last token on all states before it, a line for each seed."""
    traces = []
    for n, (name, ys) in enumerate(weights.items()):
        line = _line(list(range(len(ys))), rounded(ys.clamp(min=FLOOR)), LINES[n], name=name)
        marker = {"size": 4, "symbol": ("circle", "square", "diamond")[n % 3]}
        traces.append(line.update(mode="lines+markers", marker=marker, line_width=1))
    x = "state that is looked at (0: the symbol was just read)"
    fig = figure(*traces, title=title, x=x, y="weight (log scale)", height=400)
    last = max(len(ys) for ys in weights.values())
    fig.update_xaxes(range=[-0.03 * last, 1.02 * last])
    fig.update_yaxes(type="log", exponentformat="power", dtick=1)
    return fig.update_layout(legend=_below(), showlegend=True, margin_b=100)


def _weights(z: Tensor, where: str, showscale: bool) -> go.Heatmap:
    return go.Heatmap(
        z=rounded(z),
        colorscale=WEIGHTS,
        zmin=0,
        zmax=1,
        showscale=showscale,
        hovertemplate=where + ": %{z}<extra></extra>",
    )


def _line(x, y, color, *, name="", dash="solid") -> go.Scatter:
    line = {"color": color, "dash": dash, "width": 2.5}
    return go.Scatter(x=x, y=y, name=name, mode="lines", line=line)


def _below() -> dict[str, Any]:
    return {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0}
