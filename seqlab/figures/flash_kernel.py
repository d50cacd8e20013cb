"""Figures of chapter 24: what attention kernels move, their rounding, their registers, splits."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from seqlab.figures.panels import legend_below
from seqlab.figures.theme import COLORS, LINES, MARKED, UNTOUCHED, figure
from seqlab.figures.training import SYMBOLS


def moved(ways: Mapping[str, Mapping[str, int]], title: str) -> go.Figure:
    """KiB moved by each way, stacked by tensor: way -> {tensor: bytes}."""
    tensors = list(dict.fromkeys(t for by in ways.values() for t in by))
    bars = [
        go.Bar(
            x=list(ways),
            y=[by.get(tensor, 0) / 1024 for by in ways.values()],
            name=tensor,
            marker_color=LINES[n % len(LINES)],
            marker_pattern_shape="/" if n >= len(LINES) else "",
            hovertemplate="%{x}, " + tensor + ": %{y:,.0f} KiB<extra></extra>",
        )
        for n, tensor in enumerate(tensors)
    ]
    fig = figure(*bars, title=title, y="KiB, in and out", height=400)
    for way, by in ways.items():
        total = sum(by.values()) / 1024
        fig.add_annotation(x=way, y=total, text=f"{total:,.0f}", showarrow=False, yshift=10)
    return legend_below(fig.update_layout(barmode="stack"))


def rounding(found: Mapping[str, Mapping[int, Sequence[float]]], title: str) -> go.Figure:
    """Relative errors against the number of keys: way -> {keys: one error a seed}."""
    fig = figure(title=title, x="keys (log scale)", y="relative error (log scale)", height=400)
    for n, (way, by) in enumerate(found.items()):
        fig.add_scatter(
            x=[keys for keys, errors in by.items() for _ in errors],
            y=[float(f"{e:.4g}") for errors in by.values() for e in errors],
            name=way,
            mode="markers",
            marker={"size": 10, "symbol": SYMBOLS[n % len(SYMBOLS)], "color": LINES[n]},
        )
    fig.update_xaxes(type="log", tickvals=list(next(iter(found.values()))))
    fig.update_yaxes(type="log", exponentformat="power", dtick=1)
    return legend_below(fig)


def registers(found: Mapping[str, Mapping[str, tuple[int, int, bool]]], title: str) -> go.Figure:
    """Registers of a thread by kernel and target, marked where it spills or does not fit.

    found: kernel -> {target: (registers, spilled bytes, whether a block fits)}.
    """
    targets = list(dict.fromkeys(t for by in found.values() for t in by))
    state, text = np.zeros((len(found), len(targets))), []
    for row, by in enumerate(found.values()):
        text.append([])
        for col, target in enumerate(targets):
            used, spilled, fits = by[target]
            state[row, col] = 0 if fits and not spilled else 1
            why = f"<br>spills {spilled:,} B" if spilled else ""
            why += "" if fits else "<br>does not fit"
            text[-1].append(f"{used}{why}")
    heat = go.Heatmap(
        z=state,
        x=targets,
        y=list(found),
        text=text,
        texttemplate="%{text}",
        textfont_size=11,
        colorscale=[[0, UNTOUCHED], [1, MARKED]],
        zmin=0,
        zmax=1,
        showscale=False,
        xgap=2,
        ygap=2,
        hovertemplate="%{y}, %{x}: %{text}<extra></extra>",
    )
    fig = figure(heat, title=title, height=130 + 44 * len(found))
    fig.update_xaxes(showgrid=False, zeroline=False, side="top")
    fig.update_yaxes(showgrid=False, zeroline=False, autorange="reversed")
    return fig.update_layout(margin_l=150, margin_t=110)


def splits(keys: int, heads: int, multiprocessors: int, width: int = 128) -> go.Figure:
    """Programs and extra bytes of a decoding step, for each number of splits of its cache.

    heads: those of the cache, times the batch. Bytes: a bf16 cache; each part is written and read
    once in float32, with its lse.
    """
    counts = [2**n for n in range(10)]
    programs = [heads * n for n in counts]
    cache = 2 * 2 * keys * width * heads
    extra = [2 * 4 * (width + 1) * heads * n / cache for n in counts]
    enough = next((n for n, p in zip(counts, programs, strict=True) if p >= multiprocessors), None)
    title = (
        f"{keys:,} keys, {heads} heads: {enough} splits give every multiprocessor a program"
        if enough
        else f"{keys:,} keys, {heads} heads: not even {counts[-1]} splits are enough"
    )
    look = {"mode": "lines+markers", "x": counts}
    busy = [100 * min(1, p / multiprocessors) for p in programs]
    lines = (
        go.Scatter(**look, y=busy, name="multiprocessors with work", line_color=COLORS["q"]),
        go.Scatter(
            **look,
            y=[100 * e for e in extra],
            name="bytes of the parts, of those of the cache",
            line={"color": COLORS["write"], "dash": "dash"},
        ),
    )
    fig = figure(*lines, title=title, x="splits of each head (log scale)", y="per cent", height=360)
    fig.update_xaxes(type="log", tickvals=counts)
    fig.update_yaxes(range=[-4, 110])
    return legend_below(fig)
