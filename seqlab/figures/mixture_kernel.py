"""Figures of chapter 27: what programs do at each step, where pairs go, rows of padding."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from seqlab.ffn import MoE
from seqlab.figures.panels import flip_book, legend_below
from seqlab.figures.theme import COLORS, EMPTY, LINES, MARKED, figure
from seqlab.figures.training import SYMBOLS
from seqlab.tasks import Clusters

PALE = ("#B3D4E8", MARKED)
"""The first two of LINES, pale: padding."""
Lanes = Sequence[Sequence[int]]
"""The expert of each step of each processor."""


def in_turn(programs: Lanes, processors: int) -> list[list[int]]:
    """Programs, in their order, each on the processor that is free first."""
    lanes: list[list[int]] = [[] for _ in range(processors)]
    for steps in programs:
        min(lanes, key=len).extend(steps)
    return lanes


def idle(lanes: Lanes) -> float:
    """The share of processor steps without work, until the last processor ends."""
    longest = max(map(len, lanes))
    return 1 - sum(map(len, lanes)) / (len(lanes) * longest)


def timeline(lanes: Lanes, experts: int, span: int, title: str, y: str) -> go.Figure:
    """Which expert's tile each lane works on at each step; grey where it has nothing to do."""
    z = np.full((len(lanes), span), -1)
    for row, steps in enumerate(lanes):
        z[row, : len(steps)] = steps
    colors = [EMPTY, *LINES[:experts]]
    n = len(colors)
    scale = [[edge / n, color] for i, color in enumerate(colors) for edge in (i, i + 1)]
    heat = go.Heatmap(
        z=z,
        text=[["" if e < 0 else str(e) for e in row] for row in z],
        texttemplate="%{text}",
        textfont_color="white",
        colorscale=scale,
        zmin=-1.5,
        zmax=experts - 0.5,
        showscale=False,
        xgap=2,
        ygap=3,
        hovertemplate=y + " %{y}, step %{x}<extra></extra>",
    )
    x = "step: one tile product each (numbers are experts)"
    fig = figure(heat, title=title, x=x, y=y, height=380)
    fig.update_xaxes(showgrid=False, zeroline=False, dtick=1 if span <= 16 else 4)
    return fig.update_yaxes(autorange="reversed", showgrid=False, zeroline=False, dtick=1)


def timelines(pages: Mapping[str, Lanes], experts: int, y: str, start: int = 0) -> go.Figure:
    """`timeline` with a slider over routers; all pages have the same axis of time."""
    span = max(len(steps) for lanes in pages.values() for steps in lanes)
    drawn = {}
    for name, lanes in pages.items():
        longest = max(map(len, lanes))
        title = f"{name}: {longest} steps, {idle(lanes):.0%} of the {y}s' steps are idle"
        drawn[name] = timeline(lanes, experts, span, title, y)
    return flip_book(drawn, "router", start=start)


def places(experts: Sequence[int], slots: int, to: Sequence[int], title: str) -> go.Figure:
    """Where the permutation puts each pair, coloured by expert."""
    fig = figure(title=title, x="pair (token · k + slot)", y="place", height=420)
    for e in sorted(set(experts)):
        mine = [pair for pair, expert in enumerate(experts) if expert == e]
        fig.add_scatter(
            x=mine,
            y=[to[pair] for pair in mine],
            mode="markers",
            name=f"expert {e}",
            marker={"size": 9, "symbol": SYMBOLS[e % len(SYMBOLS)], "color": LINES[e % len(LINES)]},
            customdata=[(pair // slots, pair % slots) for pair in mine],
            hovertemplate="token %{customdata[0]}, slot %{customdata[1]}: place %{y}",
        )
    return legend_below(fig)


def tiles(load: Iterable[int], tile: int) -> int:
    """Tiles of rows that the experts need."""
    return sum(math.ceil(rows / tile) for rows in load)


def drawn_loads(tokens: int, k: int, share: np.ndarray, seed: int = 0) -> np.ndarray:
    """Rows of each expert, if tokens choose k of them independently with these shares."""
    return np.random.default_rng(seed).multinomial(tokens * k, share)


def padding(E: int = 64, k: int = 8, tile: int = 64) -> go.Figure:
    """The share of a grouped product's rows that are padding, against the number of tokens."""
    even = np.full(E, 1 / E)
    skewed = 1 / np.arange(1, E + 1)
    counts = [2**n for n in range(4, 16)]
    k = min(k, E)
    at, lines = {}, []
    for n, (name, share) in enumerate({"even": even, "skewed": skewed / skewed.sum()}.items()):
        loads = [drawn_loads(N, k, share) for N in counts]
        empty = [
            1 - N * k / (tile * tiles(load, tile)) for N, load in zip(counts, loads, strict=True)
        ]
        at[name] = empty[counts.index(1024)]
        look: dict[str, Any] = {"line": {"color": LINES[n], "width": 2.5}}
        look["marker"] = {"symbol": SYMBOLS[n], "size": 8}
        ys = [float(f"{share:.4g}") for share in empty]
        lines.append(go.Scatter(x=counts, y=ys, name=name, mode="lines+markers", **look))
    even, skew = (f"{at[name]:.0%}" for name in ("even", "skewed"))
    title = f"1,024 tokens: {even} of the rows are padding, with skewed loads {skew}"
    axes = {"x": "tokens (log scale)", "y": "share of rows that are padding"}
    fig = figure(*lines, title=title, height=420, **axes)
    fig.update_xaxes(type="log", tickvals=counts[::2], ticktext=[f"{n:,}" for n in counts[::2]])
    fig.update_yaxes(range=[0, 1], tickformat=".0%")
    return legend_below(fig)


def learned(steps: Mapping[str, tuple[int, int]], title: str) -> go.Figure:
    """Steps in a row of each trained layer: run -> (a program an expert, a program a tile)."""
    names = list(steps)
    fig = figure(title=title, y="steps until the last processor ends", height=420)
    ways = ("a program for each expert", "a program for each tile")
    for n, (way, color) in enumerate(zip(ways, (COLORS["write"], COLORS["q"]), strict=True)):
        ys = [found[n] for found in steps.values()]
        look = {"texttemplate": "%{y}", "textposition": "outside", "marker_color": color}
        fig.add_bar(x=names, y=ys, name=way, **look)
    fig.update_yaxes(range=[0, 1.15 * max(max(found) for found in steps.values())])
    fig.update_xaxes(tickangle=0)
    return legend_below(fig)


def rows_in_tiles(loads: Mapping[str, Sequence[int]], tile: int) -> go.Figure:
    """Rows of each expert and the padding of its tiles: name -> load."""
    totals = {name: tile * tiles(load, tile) - sum(load) for name, load in loads.items()}
    title = "Rows of padding: " + ", ".join(f"{name} {n}" for name, n in totals.items())
    fig = figure(title=title, x="expert", y="rows", height=400)
    look: dict[str, Any] = {"marker_line": {"color": "white", "width": 1}}
    for n, (name, load) in enumerate(loads.items()):
        at = {"x": list(range(len(load))), "offsetgroup": n, **look}
        fig.add_bar(y=list(load), name=name, marker_color=LINES[n], **at)
        empty = [tile * math.ceil(rows / tile) - rows for rows in load]
        fig.add_bar(y=empty, base=list(load), name=f"{name}: padding", marker_color=PALE[n], **at)
    fig.update_xaxes(dtick=1)
    return legend_below(fig)


def learn_clusters(layer: MoE, balance: float, seed: int, steps: int = 150) -> Tensor:
    """Train a layer of width 16 on clusters, its balance loss times `balance`; 512 fresh tokens."""
    task, rng = Clusters(width=16, seed=seed), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.01)
    for _ in range(steps):
        x, y, _ = task.batch(256, rng)
        loss = (layer(x[None])[0] - y).square().mean()
        optimiser.zero_grad()
        routing: Any = layer.routing
        (loss + balance * routing.losses["balance"]).backward()
        optimiser.step()
    return task.batch(512, rng).x


def mixture_counts(
    N: int, *, n_experts: int, top_k: int, d_model: int, d_expert: int, **_: Any
) -> tuple[float, float]:
    """(bytes, flops) of a layer's products for N tokens, in bf16, experts chosen evenly.

    Matrices of each expert that has a token move once; so do the rows in and out of both products.
    """
    used = n_experts * (1 - (1 - top_k / n_experts) ** N)
    rows = N * top_k
    numbers = used * 3 * d_model * d_expert + rows * (2 * d_model + 3 * d_expert)
    return 2 * numbers, rows * 6 * d_model * d_expert


def fits(report: Any) -> dict[str, tuple[int, int, bool]]:
    """{target: (registers, spilled bytes, whether a block fits)} of a compile report."""
    found = report.targets.items()
    return {t: (c.registers, c.spills, c.occupancy.blocks > 0) for t, c in found}
