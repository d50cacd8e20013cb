"""Figures of chapter 14: one pass over scores, tiles on chip, bytes moved, rescaling, FP8."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from seqlab.core.masks import visible_tiles
from seqlab.figures.panels import dressed, flip_book, playable
from seqlab.figures.table import largest, rounded
from seqlab.figures.theme import COLORS, INK, LINES, MARKED, SIGNED, UNTOUCHED, figure

DASHES = ("solid", "dash", "dashdot", "longdash")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x")

PLACES = ("never loaded", "to come", "done", "on chip", "on chip, masked")
PLACE_COLORS = (UNTOUCHED, "#DADADA", "#E3B5CF", COLORS["write"], MARKED)
KINDS = ("skipped", "needs no mask", "needs a mask")
KIND_COLORS = (UNTOUCHED, COLORS["attention"], COLORS["write"])


def stream(scores: Float[Tensor, " n"], *, title: str = "") -> go.Figure:
    """Scores one by one with their running maximum; below, the sum of exp(score - maximum)."""
    top = scores.cummax(0).values
    total = [float((scores[: n + 1] - top[n]).exp().sum()) for n in range(len(scores))]
    sizes = [float(f"{x:.4g}") for x in total]
    raised = [n for n in range(1, len(scores)) if top[n] > top[n - 1]]
    fig = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.1, row_heights=[0.5, 0.5])
    x = list(range(1, len(scores) + 1))
    dots = {"mode": "markers", "marker": {"size": 8, "color": COLORS["attention"]}}
    steps: dict[str, Any] = {"shape": "hv", "color": COLORS["softmax"], "width": 2}
    fig.add_scatter(x=x, y=rounded(scores), name="score", row=1, col=1, **dots)
    fig.add_scatter(x=x, y=rounded(top), name="maximum so far", line=steps, row=1, col=1)
    sums = {"color": COLORS["q"], "width": 2}
    fig.add_scatter(x=x, y=sizes, name="sum so far", line=sums, row=2, col=1)
    fig.add_scatter(
        x=[n + 1 for n in raised],
        y=[sizes[n] for n in raised],
        name="the old sum has shrunk",
        mode="markers",
        marker={"size": 11, "symbol": "triangle-down", "color": COLORS["write"]},
        row=2,
        col=1,
    )
    fig.update_yaxes(title_text="score", row=1, col=1)
    fig.update_yaxes(title_text="sum, over e<sup>maximum</sup>", rangemode="tozero", row=2, col=1)
    fig.update_xaxes(title_text="scores read", row=2, col=1)
    title = title or f"{len(raised)} times a larger score appears, and the old sum shrinks"
    legend = {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0}
    return dressed(fig, title, 460, legend=legend, margin_b=90)


class Step(NamedTuple):
    """What is known after one tile: for every row the maximum, the sum and the read so far."""

    rows: slice
    cols: slice
    hidden: Tensor | None
    raised: int
    top: Tensor
    total: Tensor
    read: Tensor


def tiling_steps(
    q: Float[Tensor, "T K"],
    k: Float[Tensor, "T K"],
    v: Float[Tensor, "T V"],
    *,
    tile: int = 4,
    order: str = "fa2",
    causal: bool = True,
) -> list[Step]:
    """Attention of one head, tile by tile; "fa1" divides after each tile, "fa2" at a row's end."""
    T = len(q)
    tiles = visible_tiles(T, T, causal=causal, tile=(tile, tile))
    if order == "fa1":
        tiles = sorted(tiles, key=lambda tile: tile.cols.start)
    top, total, read = q.new_full((T,), -torch.inf), q.new_zeros(T), torch.zeros_like(v)
    steps = []
    for n, (rows, cols, hidden) in enumerate(tiles):
        s = q[rows] @ k[cols].mT / q.shape[-1] ** 0.5
        s = s if hidden is None else s.masked_fill(hidden, -torch.inf)
        old = top[rows].clone()
        top[rows] = torch.maximum(old, s.amax(-1))
        fade, p = (old - top[rows]).exp(), (s - top[rows, None]).exp()
        total[rows] = fade * total[rows] + p.sum(-1)
        read[rows] = fade[:, None] * read[rows] + p @ v[cols]
        shown = read.clone()
        last = n + 1 == len(tiles) or tiles[n + 1].rows != rows
        if order == "fa1":
            shown = read / total.clamp(min=1e-30)[:, None]
        elif last:
            read[rows] = shown[rows] = read[rows] / total[rows, None]
        raised = int((top[rows] > old).sum())
        steps.append(Step(rows, cols, hidden, raised, top.clone(), total.clone(), shown))
    return steps


def tiling_at(q, k, v, step: int, *, tile: int = 4, order: str = "fa2", causal: bool = True):
    """One moment of attention by tiles: which tile is on chip, and what each row knows so far."""
    return _page(tiling_steps(q, k, v, tile=tile, order=order, causal=causal), step, order)


def tiling(q, k, v, *, tile: int = 4, order: str = "fa2", causal: bool = True) -> go.Figure:
    """`tiling_at` with plotly's own slider and a play button."""
    steps = tiling_steps(q, k, v, tile=tile, order=order, causal=causal)
    pages = {str(n + 1): _page(steps, n, order) for n in range(len(steps))}
    book = playable(flip_book(pages, "tile"))
    layout: Any = book.layout
    layout.sliders[0].pad.t, layout.updatemenus[0].pad.t = 74, 88  # below the legend
    return book.update_layout(margin_b=layout.margin.b + 30, height=layout.height + 30)


def _page(steps: list[Step], now: int, order: str) -> go.Figure:
    step, T = steps[now], len(steps[0].top)
    place = torch.zeros(T, T, dtype=torch.int)
    for n, other in enumerate(steps):
        place[other.rows, other.cols] = 1 if n > now else 2
        if n < now and other.hidden is not None:
            place[other.rows, other.cols][other.hidden] = 0
    on_chip = torch.full_like(place[step.rows, step.cols], 3)
    if step.hidden is not None:
        on_chip[step.hidden] = 4
    place[step.rows, step.cols] = on_chip
    titles = ["pairs of tokens", "max", "sum", "y so far"]
    fig = make_subplots(
        1, 4, subplot_titles=titles, column_widths=[0.52, 0.12, 0.12, 0.24], horizontal_spacing=0.03
    )
    fig.add_trace(_map(place, PLACE_COLORS, PLACES), 1, 1)
    known = step.total > 0
    columns = (step.top, step.total)
    for n, x in enumerate(columns):
        fig.add_trace(_numbers(x.masked_fill(~known, torch.nan)), 1, n + 2)
    ends = largest(torch.stack([s.read for s in steps]))
    read = rounded(step.read.masked_fill(~known[:, None], torch.nan))
    heat = go.Heatmap(z=read, colorscale=SIGNED, zmin=-ends, zmax=ends, showscale=False)
    fig.add_trace(heat, 1, 4)
    for name, color in zip(PLACES, PLACE_COLORS, strict=True):
        fig.add_trace(_key(name, color), 1, 1)
    _frame(fig, step)
    fig.update_yaxes(autorange="reversed", zeroline=False, showgrid=False, dtick=4)
    fig.update_yaxes(showticklabels=False, ticks="", col=2).update_yaxes(
        showticklabels=False, ticks="", col=3
    ).update_yaxes(showticklabels=False, ticks="", col=4)
    fig.update_xaxes(zeroline=False, showgrid=False, showticklabels=False, ticks="")
    fig.update_xaxes(title_text="keys j", row=1, col=1)
    fig.update_yaxes(title_text="queries i", row=1, col=1)
    n = step.rows.stop - step.rows.start
    name = {"fa1": "FlashAttention 1", "fa2": "FlashAttention 2"}[order]
    title = f"{name}, tile {now + 1} of {len(steps)}: {step.raised} of {n} rows rescale"
    legend = {"orientation": "h", "y": -0.1, "yanchor": "top", "x": 0}
    return dressed(fig, title, 470, legend=legend, showlegend=True, margin_b=70)


def _frame(fig: go.Figure, step: Step) -> None:
    """The tile on chip in the first panel, and its rows in the others, framed in black."""
    left, right = step.cols.start - 0.5, step.cols.stop - 0.5
    top, bottom = step.rows.start - 0.5, step.rows.stop - 0.5
    look: dict[str, Any] = {"type": "rect", "line": {"width": 2.5, "color": INK}}
    wide = (left, right), (-0.5, 0.5), (-0.5, 0.5), (-0.5, step.read.shape[1] - 0.5)
    for n, (x0, x1) in enumerate(wide):
        fig.add_shape(x0=x0, x1=x1, y0=top, y1=bottom, row=1, col=n + 1, **look)


def visited(
    T: int = 64, tile: int = 8, window: int | None = None, *, causal: bool = True
) -> go.Figure:
    """Which tiles of T x T pairs are skipped, need no mask, or need one."""
    tiles = visible_tiles(T, T, causal=causal, window=window, tile=(tile, tile))
    n = -(-T // tile)
    kind = torch.zeros(n, n, dtype=torch.int)
    for rows, cols, hidden in tiles:
        kind[rows.start // tile, cols.start // tile] = 1 if hidden is None else 2
    masked = int((kind == 2).sum())
    share = len(tiles) / n**2
    title = f"{len(tiles)} of {n * n} tiles are computed ({share:.0%}), {masked} with a mask"
    keys = [_key(*pair) for pair in zip(KINDS, KIND_COLORS, strict=True)]
    axes = {"x": f"blocks of {tile} keys", "y": f"blocks of {tile} queries"}
    fig = figure(_map(kind, KIND_COLORS, KINDS), *keys, title=title, height=440, **axes)
    fig.update_xaxes(zeroline=False, showgrid=False, constrain="domain")
    fig.update_yaxes(autorange="reversed", zeroline=False, showgrid=False, scaleanchor="x")
    return fig.update_layout(showlegend=True, legend={"x": 1.02, "y": 1})


def traffic(moved: Mapping[str, Mapping[int, float]], *, title: str) -> go.Figure:
    """Bytes moved against the fast memory's size, both logarithmic: name -> {size: bytes}.

    A name that ends in "bound" is drawn as a dotted line.
    """
    fig = figure(title=title, x="fast memory, KiB (log scale)", height=430)
    for n, (name, by_size) in enumerate(moved.items()):
        bound = name.endswith("bound")
        look = {"color": COLORS["decay"] if bound else LINES[n], "width": 2.5}
        fig.add_scatter(
            x=[size / 1024 for size in by_size],
            y=[float(f"{b / 2**20:.4g}") for b in by_size.values()],
            name=name,
            mode="lines" if bound else "lines+markers",
            line=look | {"dash": "dot" if bound else DASHES[n % 4]},
            marker={"size": 9, "symbol": SYMBOLS[n % 5]},
        )
    shown = sorted({size // 1024 for by_size in moved.values() for size in by_size})
    fig.update_xaxes(type="log", tickvals=shown, ticktext=[str(size) for size in shown])
    fig.update_yaxes(type="log", dtick="D2", title_text="MiB moved (log scale)")
    return _legend_below(fig)


def rescales(shares: Mapping[str, Sequence[Sequence[float]]], *, title: str) -> go.Figure:
    """The share of rows whose maximum rises at each tile: name -> one list a seed.

    Marks are means over seeds, bars reach from the lowest to the highest. The dotted line is 1 / n:
    scores in random order.
    """
    n_tiles = len(next(iter(shares.values()))[0]) + 1
    x = list(range(2, n_tiles + 1))
    fig = figure(title=title, x="tile read (1 is the first)", height=430)
    for n, (name, seeds) in enumerate(shares.items()):
        columns = list(zip(*seeds, strict=True))
        mean = [sum(column) / len(column) for column in columns]
        spread = {
            "type": "data",
            "symmetric": False,
            "array": [round(max(c) - m, 4) for c, m in zip(columns, mean, strict=True)],
            "arrayminus": [round(m - min(c), 4) for c, m in zip(columns, mean, strict=True)],
            "thickness": 1.2,
        }
        fig.add_scatter(
            x=x,
            y=[round(m, 4) for m in mean],
            error_y=spread if len(seeds) > 1 else None,
            name=name,
            mode="lines+markers",
            line={"color": LINES[n], "dash": DASHES[n % 4]},
            marker={"size": 8, "symbol": SYMBOLS[n % 5]},
        )
    dotted = {"color": INK, "dash": "dot", "width": 1.5}
    fig.add_scatter(
        x=x, y=[round(1 / t, 4) for t in x], name="random order: 1 / n", mode="lines", line=dotted
    )
    fig.update_yaxes(title_text="share of rows that rescale", tickformat=".0%", rangemode="tozero")
    return _legend_below(fig)


def errors(found: Mapping[str, Mapping[str, Sequence[float]]], *, title: str) -> go.Figure:
    """Relative errors, one mark a seed: data -> way of rounding -> errors. Logarithmic."""
    fig = figure(title=title, y="relative error of y (log scale)", height=430)
    for n, (data, ways) in enumerate(found.items()):
        points = [(way, float(f"{e:.3g}")) for way, es in ways.items() for e in es]
        fig.add_scatter(
            x=[way for way, _ in points],
            y=[e for _, e in points],
            name=data,
            mode="markers",
            marker={"size": 10, "symbol": SYMBOLS[n % 5], "color": LINES[n]},
        )
    low = min(e for ways in found.values() for es in ways.values() for e in es)
    high = max(e for ways in found.values() for es in ways.values() for e in es)
    shown = [x for x in (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5) if low / 1.5 < x < high * 1.5]
    reach = [math.log10(low / 1.5), math.log10(high * 1.5)]
    fig.update_yaxes(type="log", range=reach, tickvals=shown, ticktext=[f"{x:.0%}" for x in shown])
    return _legend_below(fig)


def _map(z: Tensor, colors: Sequence[str], names: Sequence[str]) -> go.Heatmap:
    """A table of kinds: one colour and one name for each."""
    n = len(colors)
    scale = [[edge / n, color] for i, color in enumerate(colors) for edge in (i, i + 1)]
    rows = z.tolist()
    return go.Heatmap(
        z=rows,
        text=[[names[cell] for cell in row] for row in rows],
        colorscale=scale,
        zmin=-0.5,
        zmax=n - 0.5,
        showscale=False,
        hovertemplate="query %{y}, key %{x}: %{text}<extra></extra>",
    )


def _numbers(x: Float[Tensor, " T"]) -> go.Heatmap:
    """A column of numbers to be read, not coloured."""
    text = [["" if math.isnan(number) else f"{number:.2f}"] for number in x.tolist()]
    blank = [[0, "#F4F4F4"], [1, "#F4F4F4"]]
    z = [[0.0]] * len(text)
    return go.Heatmap(z=z, text=text, texttemplate="%{text}", colorscale=blank, showscale=False)


def _key(name: str, color: str) -> go.Scatter:
    marker = {"size": 12, "symbol": "square", "color": color, "line": {"width": 1, "color": INK}}
    return go.Scatter(x=[None], y=[None], name=name, mode="markers", marker=marker)


def _legend_below(fig: go.Figure) -> go.Figure:
    legend = {"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0}
    return fig.update_layout(legend=legend, showlegend=True, margin_b=110)
