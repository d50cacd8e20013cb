"""What each program of a kernel touches: a table per tensor, with a slider and a play button.

Drawn from a `seqlab.gpu.trace.Trace`. A tensor is shown with its last dimension as columns and all
others as rows; the heads of (B, T, H, K) are side by side.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from seqlab.figures.panels import dressed, flip_book, playable
from seqlab.figures.theme import COLORS, OTHER_PROGRAMS, UNTOUCHED
from seqlab.gpu.trace import table

STATES = ("untouched", "by others", "read", "written", "both")
SHADES = (UNTOUCHED, OTHER_PROGRAMS, COLORS["q"], COLORS["write"], COLORS["attention"])
LETTERS = ("", "", "r", "w", "rw")
"""What a cell says besides its colour, if the table is small enough to write into."""


def kernel_trace(
    trace, tensors: Sequence[str] | None = None, *, limit: int = 48, pages: int = 64
) -> go.Figure:
    """A page per program: what it reads and writes of each tensor, and what other programs touch.

    Tensors are thinned to `limit` rows and columns, and at most `pages` programs are shown.
    """
    names = list(trace.arguments) if tensors is None else list(tensors)
    tables = {name: trace.tiles(name, limit) for name in names}
    tables = {name: tiles for name, tiles in tables.items() if tiles.any()}
    if not tables:
        what = " or ".join(names) or "any tensor"
        raise ValueError(f"no program of {trace.kernel} touches {what}: nothing to show")
    n = len(trace.programs)
    shown = np.unique(np.linspace(0, n - 1, min(pages, n)).round().astype(int))
    book = {_label(trace.programs[i]): _page(trace, tables, int(i)) for i in shown}
    return playable(flip_book(book, "program"))


def _page(trace, tables, i) -> go.Figure:
    columns = min(3, len(tables))
    rows = -(-len(tables) // columns)
    titles = [f"{name} {_size(trace.arguments[name].shape)}" for name in tables]
    gaps: dict[str, Any] = {"horizontal_spacing": 0.09, "vertical_spacing": 0.2 / rows}
    fig = make_subplots(rows, columns, subplot_titles=titles, **gaps)
    for n, (name, tiles) in enumerate(tables.items()):
        mine, others = tiles[i], tiles.any(0)
        state = np.where(mine > 0, mine + 1, others.astype(int))
        at: dict[str, Any] = {"row": n // columns + 1, "col": n % columns + 1}
        fig.add_trace(_table(state, *_thinning(trace.arguments[name].shape, state.shape)), **at)
        several = len(state) > 1
        fig.update_yaxes(showticklabels=several, ticks="outside" if several else "", **at)
        if len(state) <= 6:
            fig.update_yaxes(dtick=1, **at)
    fig.update_xaxes(showgrid=False, zeroline=False, constrain="domain", nticks=4)
    fig.update_yaxes(showgrid=False, zeroline=False, autorange="reversed", nticks=6)
    part = trace.of(trace.programs[i])
    work = f", {part.flops:,} flops" if part.flops else ""
    moved = f"{part.bytes_in:,} bytes in, {part.bytes_out:,} out"
    title = f"{trace.kernel}, program {_label(trace.programs[i])}: {moved}{work}"
    return dressed(fig, title, 130 + 230 * rows, coloraxis=_key())


def _key() -> dict:
    """One colour for each of STATES, and its name beside it."""
    steps = [[edge / 5, shade] for n, shade in enumerate(SHADES) for edge in (n, n + 1)]
    names = {"tickvals": list(range(5)), "ticktext": STATES}
    bar = names | {"thickness": 14, "outlinewidth": 1, "len": 0.9}
    return {"colorscale": steps, "cmin": -0.5, "cmax": 4.5, "colorbar": bar}


def _thinning(shape, shown) -> tuple[int, int]:
    """How many rows and columns of the tensor one row and one column of the picture show."""
    rows, columns = map(math.prod, table(shape))
    return -(-rows // shown[0]), -(-columns // shown[1])


def _table(state, tall, wide) -> go.Heatmap:
    letters = {}
    if max(state.shape) <= 16:
        text = [[LETTERS[s] for s in row] for row in state]
        letters = {"text": text, "texttemplate": "%{text}"}
    gap = int(max(state.shape) <= 40)
    hover = "row %{y}, column %{x}<extra></extra>"
    z = state.astype(np.int8)  # stored as bytes: a page is small
    fig = go.Heatmap(z=z, coloraxis="coloraxis", xgap=gap, ygap=gap, hovertemplate=hover, **letters)
    return fig.update(x0=(wide - 1) / 2, dx=wide, y0=(tall - 1) / 2, dy=tall)


def _size(shape) -> str:
    """`(2×100)×64`: first the dimensions that are rows, then those that are columns."""
    parts = ["×".join(map(str, part)) for part in table(shape) if part]
    return "×".join(f"({part})" if "×" in part and len(parts) > 1 else part for part in parts)


def _label(program) -> str:
    return str(program[0]) if len(program) == 1 else f"({', '.join(map(str, program))})"
