"""Figures of chapter 25: which pairs a chunk computes how, errors of decays, exponents, counts."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from seqlab.core.recurrence import chunkwise
from seqlab.figures.panels import dressed, flip_book, hline, legend_below
from seqlab.figures.theme import COLORS, INK, LINES, UNTOUCHED, figure
from seqlab.figures.training import SYMBOLS

WAYS = (
    "the future: not computed",
    "an earlier chunk: through the state",
    "an earlier block of the chunk: a product",
    "the same block: channel by channel",
)
WAY_COLORS = (UNTOUCHED, COLORS["state"], COLORS["q"], COLORS["write"])
NOT_FINITE = 100.0
"""Where an error that is inf or NaN is drawn."""


def asked(*traces: Any) -> dict[str, int]:
    """Bytes in and out of each tensor, over one or more traces."""
    found: dict[str, int] = {}
    for trace in traces:
        for name, moved in trace.traffic.items():
            found[name[2:]] = found.get(name[2:], 0) + moved.bytes_in + moved.bytes_out
    return found


def way_of(i: int, j: int, C: int, B: int) -> int:
    """How token i reads token j, by its place in WAYS."""
    if j > i:
        return 0
    if i // C != j // C:
        return 1
    return 2 if i // B != j // B else 3


def blocks_at(B: int, C: int = 32, T: int = 64) -> go.Figure:
    """Each pair of T tokens by the way it is computed, in chunks of C and blocks of B."""
    z = [[way_of(i, j, C, B) for j in range(T)] for i in range(T)]
    n = len(WAYS)
    scale = [[edge / n, color] for i, color in enumerate(WAY_COLORS) for edge in (i, i + 1)]
    heat = go.Heatmap(
        z=z,
        colorscale=scale,
        zmin=-0.5,
        zmax=n - 0.5,
        showscale=False,
        xgap=0,
        ygap=0,
        hovertemplate="token %{y} reads token %{x}<extra></extra>",
    )
    marker: dict[str, Any] = {"size": 12, "symbol": "square", "line": {"width": 1, "color": INK}}
    keys = [
        go.Scatter(x=[None], y=[None], name=way, mode="markers", marker=marker | {"color": color})
        for way, color in zip(WAYS, WAY_COLORS, strict=True)
    ]
    one_by_one = sum(row.count(3) for row in z) / sum(len(row) - row.count(0) for row in z)
    title = f"Blocks of {B}: {one_by_one:.0%} of the pairs are computed channel by channel"
    axes = {"x": "token that is read", "y": "token that reads"}
    fig = figure(heat, *keys, title=title, height=460, **axes)
    fig.update_xaxes(zeroline=False, showgrid=False, constrain="domain", range=[-0.5, T - 0.5])
    fig.update_yaxes(zeroline=False, showgrid=False, scaleanchor="x", range=[T - 0.5, -0.5])
    inside = {"x": 0.99, "xanchor": "right", "y": 0.99, "yanchor": "top"}  # the future is empty
    return fig.update_layout(showlegend=True, legend=inside)


def blocks(sizes: Sequence[int], C: int = 32, T: int = 64) -> go.Figure:
    """`blocks_at` with a slider over the size of a block."""
    pages = {str(B): blocks_at(B, C, T) for B in sizes}
    return flip_book(pages, "tokens in a block", start=len(pages) // 2)


def errors_of(
    decays: Callable[[torch.Tensor], dict[str, torch.Tensor]],
    lengths: Sequence[int],
    seeds: Sequence[int],
) -> dict[str, dict[int, list[float]]]:
    """way -> {C: the largest error of a decay for each seed}, of log gates between -2 and 0.

    The truth is the way "own spans" in float64.
    """
    found: dict[str, dict[int, list[float]]] = {}
    for C in lengths:
        for seed in seeds:
            log_a = -2 * torch.rand(C, generator=torch.Generator().manual_seed(seed))
            exact = decays(log_a.double())["own spans"]
            for way, d in decays(log_a).items():
                error = (d - exact).abs().max().item()
                found.setdefault(way, {}).setdefault(C, []).append(error)
    return found


def decay_errors(found: Mapping[str, Mapping[int, Sequence[float]]], title: str) -> go.Figure:
    """Largest errors of decays against the chunk's length: way -> {C: one error a seed}."""
    axes = {"x": "tokens in a chunk (log scale)", "y": "largest error of a decay (log scale)"}
    fig = figure(title=title, height=420, **axes)
    finite = [e for by in found.values() for es in by.values() for e in es if math.isfinite(e)]
    for n, (way, by) in enumerate(found.items()):
        points = [(C, e if math.isfinite(e) else NOT_FINITE) for C, es in by.items() for e in es]
        fig.add_scatter(
            x=[C for C, _ in points],
            y=[float(f"{e:.3g}") for _, e in points],
            name=way,
            mode="markers",
            marker={"size": 10, "symbol": SYMBOLS[n % len(SYMBOLS)], "color": LINES[n]},
        )
    fig.update_xaxes(type="log", tickvals=list(next(iter(found.values()))))
    low = math.floor(math.log10(min(finite)))
    powers = list(range(low, 1, 2 if low % 2 == 0 else 1))
    fig.update_yaxes(
        type="log",
        range=[low - 0.3, math.log10(NOT_FINITE) + 0.4],
        tickvals=[*(10.0**p for p in powers), NOT_FINITE],
        ticktext=[*(f"10<sup>{p}</sup>" if p else "1" for p in powers), "inf or NaN"],
    )
    return legend_below(fig)


def exponents(
    found: Mapping[str, Mapping[int, tuple[float, float, float]]],
    limits: Mapping[str, float],
    title: str,
) -> go.Figure:
    """How far log decays add up in a chunk: model -> {C: (1st, 50th, 99th percentile)}.

    limits: type -> the largest exponent whose exp it can hold, drawn as a line.
    """
    lengths = list(next(iter(found.values())))
    axes = {"x": "tokens in a chunk", "y": "−Σ log a over the chunk (log scale)"}
    fig = figure(title=title, height=430, **axes)
    for n, (model, by) in enumerate(found.items()):
        middle = [float(f"{by[C][1]:.3g}") for C in lengths]
        spread = {
            "type": "data",
            "symmetric": False,
            "array": [float(f"{by[C][2] - by[C][1]:.3g}") for C in lengths],
            "arrayminus": [float(f"{by[C][1] - by[C][0]:.3g}") for C in lengths],
            "thickness": 1.4,
        }
        shift = 0.12 * (n - (len(found) - 1) / 2)
        fig.add_scatter(
            x=[place + shift for place in range(len(lengths))],
            y=middle,
            error_y=spread,
            name=model,
            mode="markers",
            marker={"size": 9, "symbol": SYMBOLS[n % len(SYMBOLS)], "color": LINES[n]},
        )
    for name, limit in limits.items():
        fig.add_hline(limit, line={"color": INK, "dash": "dot", "width": 1.5})
        fig.add_annotation(
            x=1.01,
            xref="paper",
            y=math.log10(limit),
            text=f"limit of<br>{name}",
            align="left",
            showarrow=False,
            xanchor="left",
        )
    span = [-0.5, len(lengths) - 0.5]
    fig.update_xaxes(tickvals=list(range(len(lengths))), ticktext=lengths, range=span)
    top = max(by[lengths[-1]][2] for by in found.values())
    fig.update_yaxes(type="log", dtick=1, exponentformat="power", range=[-0.7, math.log10(2 * top)])
    return legend_below(fig).update_layout(margin_r=130)


def exponents_of(model: Any, texts: Any, lengths: Sequence[int]) -> dict:
    """{C: the 1st, 50th and 99th percentile of -Σ log a over chunks of C tokens}.

    model: a language model whose first layer has a form that is given log_a. For `exponents`.
    """
    seen, mixer = [], model.blocks[0].mixer
    form = mixer.form

    def noted(q, k, v, *, log_a, state=None):
        seen.append(log_a)
        return chunkwise(q, k, v, log_a=log_a, state=state, chunk_size=16)

    mixer.form = noted
    with torch.no_grad():
        model(texts.tokens)
    mixer.form = form
    at = torch.tensor([0.01, 0.5, 0.99])
    sums = {C: -seen[0].unflatten(1, (-1, C)).sum(2) for C in lengths}
    return {C: tuple(s.quantile(at).tolist()) for C, s in sums.items()}


def counted(K: int, V: int, C: int, B: int) -> tuple[float, float, float]:
    """(bytes, bytes of states, flops) for a token of a head, in chunks of C and blocks of B ≤ C.

    q, k, v and y have 2 bytes a number; log decays, one a token, and states have 4.
    """
    seen = (C // B + 1) / 2  # blocks whose keys and values a block reads, on average
    states = 4 * K * V * (1 / C + 1 / B)  # written once a chunk, read by each block
    walk, read = 2 * (K + V) + 4, 2 * (K + V) + (2 * (K + V) + 4) * seen
    return walk + read + states, states, 4 * K * V + 2 * (K + V) * B * seen


def counts(K: int = 128, V: int = 128, B: int = 64, T: int = 4096) -> go.Figure:
    """Bytes, flops and steps in a row against the chunk's length, for one head of T tokens."""
    lengths = [B * 2**n for n in range(6)]
    found = [counted(K, V, C, B) for C in lengths]
    once = 2 * (2 * K + 2 * V) + 4
    fig = make_subplots(1, 3, horizontal_spacing=0.11)
    look: dict[str, Any] = {"x": lengths, "mode": "lines+markers"}
    panels = (
        ("KiB a token", [total / 1024 for total, _, _ in found], COLORS["q"]),
        ("kflops a token", [flops / 1000 for *_, flops in found], COLORS["write"]),
        ("steps in a row (log scale)", [T / C for C in lengths], COLORS["v"]),
    )
    for n, (name, ys, color) in enumerate(panels):
        line = {"color": color, "width": 2.5}
        fig.add_scatter(
            **look, y=[float(f"{y:.4g}") for y in ys], line=line, showlegend=False, row=1, col=n + 1
        )
        fig.update_yaxes(title_text=name, rangemode="tozero", row=1, col=n + 1)
        fig.update_xaxes(type="log", title_text="C (log scale)", row=1, col=n + 1)
    fig.update_xaxes(tickvals=lengths[::2], tickangle=0)
    powers = [2**n for n in range(0, 13, 2)]
    fig.update_yaxes(type="log", tickvals=powers, rangemode="normal", row=1, col=3)
    hline(fig, once / 1024, row=1, col=1, line={"color": INK, "dash": "dot", "width": 1.5})
    least = min(range(len(found)), key=lambda n: found[n][0])
    times = found[least][0] / once
    title = f"Blocks of {B}: fewest bytes at C = {lengths[least]}, {times:.1f} times the recurrent"
    return dressed(fig, title, 370, margin_b=60)
