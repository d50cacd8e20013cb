"""What each program of a kernel touches: a table per tensor, with a slider and a play button.

Drawn from a `seqlab.gpu.trace.Trace`. A tensor is shown with its last dimension as columns and all
others as rows; the heads of (B, T, H, K) are side by side. Places that a program touches beyond the
tensor are drawn red, in rows of their own before or after it.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from seqlab.figures.panels import dressed, flip_book, playable
from seqlab.figures.theme import COLORS, MASKED_OFF, OTHER_PROGRAMS, OUTSIDE, UNTOUCHED
from seqlab.gpu.trace import table

STATES = ("untouched", "by others", "masked off", "read", "written", "both", "outside")
SHADES = (
    UNTOUCHED,
    OTHER_PROGRAMS,
    MASKED_OFF,
    COLORS["q"],
    COLORS["write"],
    COLORS["attention"],
    OUTSIDE,
)
LETTERS = ("", "", "-", "r", "w", "rw", "!")
"""What a cell says besides its colour, if the table is small enough to write into."""
READ_STATE, MASKED_STATE, OUTSIDE_STATE = (
    STATES.index(s) for s in ("read", "masked off", "outside")
)
MARGIN = 3  # rows beyond a tensor that are drawn, at most
WIDE_ENOUGH = 44  # pixels of a cell into which a number fits


def kernel_trace(
    trace, tensors: Sequence[str] | None = None, *, limit: int = 48, pages: int = 64
) -> go.Figure:
    """A page per program: what it reads and writes of each tensor, and what other programs touch.

    Tensors are thinned to `limit` rows and columns, and at most `pages` programs are shown. A small
    table also shows the lanes that a mask switched off, and the values: in the cells if they fit,
    else where the mouse points.
    """
    names = list(trace.arguments) if tensors is None else list(tensors)
    tables = {name: trace.tiles(name, limit) for name in names}
    astray = {a.argument.name for a in trace.accesses if len(a.outside)}
    tables = {name: tiles for name, tiles in tables.items() if tiles.any() or name in astray}
    if not tables:
        what = " or ".join(names) or "any tensor"
        raise ValueError(f"no program of {trace.kernel} touches {what}: nothing to show")
    n = len(trace.programs)
    shown = np.unique(np.linspace(0, n - 1, min(pages, n)).round().astype(int))
    book = {_label(trace.programs[i]): _page(trace, tables, int(i)) for i in shown}
    wrong = {a.program for a in trace.accesses if len(a.outside)}
    at_fault = (page for page, i in enumerate(shown) if trace.programs[i] in wrong)
    return playable(flip_book(book, "program", start=next(at_fault, 0)))


def _page(trace, tables, i) -> go.Figure:
    columns = min(3, len(tables))
    rows = -(-len(tables) // columns)
    titles = [f"{name} {_size(trace.arguments[name].shape)}" for name in tables]
    gaps: dict[str, Any] = {"horizontal_spacing": 0.09, "vertical_spacing": 0.2 / rows}
    fig = make_subplots(rows, columns, subplot_titles=titles, **gaps)
    part = trace.of(trace.programs[i])
    for n, (name, tiles) in enumerate(tables.items()):
        at: dict[str, Any] = {"row": n // columns + 1, "col": n % columns + 1}
        panel = _panel(trace, part, name, tiles, i, 560 // columns)
        height = len(np.asarray(panel.z))
        fig.add_trace(panel, **at)
        several = height > 1
        fig.update_yaxes(showticklabels=several, ticks="outside" if several else "", **at)
        if height <= 6:
            fig.update_yaxes(dtick=1, **at)
    fig.update_xaxes(showgrid=False, zeroline=False, constrain="domain", nticks=4)
    fig.update_yaxes(showgrid=False, zeroline=False, autorange="reversed", nticks=6)
    title = f"{trace.kernel}, program {_label(trace.programs[i])}: {_did(part)}"
    return dressed(fig, title, 130 + 230 * rows, coloraxis=_key())


def _did(part) -> str:
    """What one program did, in a title."""
    said = [f"{part.bytes_in:,} bytes in", f"{part.bytes_out:,} out"]
    if part.flops:
        said.append(f"{part.flops:,} flops")
    out = sum(len(a.outside) for a in part.accesses)
    on = sum(len(set(a.lanes.tolist())) for a in part.accesses)
    if off := sum(math.prod(a.shape) for a in part.accesses) - on - out:
        said.append(f"{off:,} lane{'s' * (off > 1)} masked off")
    if out:
        said.append(f"{out:,} lane{'s' * (out > 1)} outside")
    return ", ".join(said)


def _panel(trace, part, name: str, tiles, i: int, pixels: int) -> go.Heatmap:
    """The table of one tensor as program i sees it."""
    argument = trace.arguments[name]
    mine, others = tiles[i], tiles.any(0)
    state = np.where(mine > 0, mine + READ_STATE - 1, others.astype(int))
    tall, wide = _thinning(argument.shape, state.shape)
    numbers = None
    if tall == wide == 1:
        values = part.values(name, trace.programs[i])
        numbers = values and tuple(x.reshape(state.shape) for x in values)
        masked = part.masked(name, trace.programs[i])
        if masked is not None:
            state[masked.reshape(state.shape) & (mine == 0)] = MASKED_STATE
    outside, above = _outside(trace, part, name, state.shape, (tall, wide))
    if outside is not None:
        rows = slice(above, above + len(state))
        outside[rows] = np.where(outside[rows] > 0, outside[rows], state)
        numbers = numbers and tuple(_moved(x, above, outside.shape) for x in numbers)
        state = outside
    return _table(state, numbers, (tall, wide), above, pixels)


def _outside(trace, part, name: str, shape, step) -> tuple[np.ndarray | None, int]:
    """A table with room for what the run touches beyond a tensor, this program's part of it marked.

    Also how many rows come before the tensor's first. None: nothing is outside, or the tensor has
    gaps between its elements, so that a place beyond it has no row.
    """
    argument = trace.arguments[name]
    rows, columns = (math.prod(part) for part in table(argument.shape))
    every = _offsets(trace, name)
    if not len(every) or not argument.contiguous or not columns:
        return None, 0
    above = int(min(MARGIN, max(0, -(every.min() // columns))))
    below = int(min(MARGIN, max(0, -(-(every.max() + 1 - rows * columns) // columns))))
    found = np.zeros((above + shape[0] + below, shape[1]), dtype=int)
    for offset in _offsets(part, name):
        row, column = divmod(int(offset), columns)
        past = row - rows
        at = row // step[0] if 0 <= row < rows else shape[0] + min(past, below - 1)
        at = max(row, -above) if row < 0 else at
        found[above + at, column // step[1]] = OUTSIDE_STATE
    return found, above


def _offsets(trace, name: str) -> np.ndarray:
    """Of the lanes outside the tensor, in elements from its first."""
    found = [a.outside.reshape(-1) for a in trace.accesses if a.argument.name == name]
    return np.concatenate([np.zeros(0, dtype=np.int64), *found])


def _moved(numbers: np.ndarray, above: int, shape) -> np.ndarray:
    room = np.full(shape, np.nan)
    room[above : above + len(numbers)] = numbers
    return room


def _key() -> dict:
    """One colour for each of STATES, and its name beside it."""
    n = len(STATES)
    steps = [[edge / n, shade] for i, shade in enumerate(SHADES) for edge in (i, i + 1)]
    names = {"tickvals": list(range(n)), "ticktext": STATES}
    bar = names | {"thickness": 14, "outlinewidth": 1, "len": 0.9}
    return {"colorscale": steps, "cmin": -0.5, "cmax": n - 0.5, "colorbar": bar}


def _thinning(shape, shown) -> tuple[int, int]:
    """How many rows and columns of the tensor one row and one column of the picture show."""
    rows, columns = map(math.prod, table(shape))
    return -(-rows // shown[0]), -(-columns // shown[1])


def _table(state, numbers, step, above: int, pixels: int) -> go.Heatmap:
    """numbers: what was read and what was written, or None. step: elements a cell on each axis."""
    look: dict[str, Any] = {"hovertemplate": "row %{y}, column %{x}<extra></extra>"}
    if max(state.shape) <= 16:
        text = [[LETTERS[s] for s in row] for row in state]
        look |= {"text": text, "texttemplate": "%{text}"}
        if numbers is not None:
            said = [
                [_said(*pair) for pair in zip(*rows, strict=True)]
                for rows in zip(*numbers, strict=True)
            ]
            look |= {"customdata": said}
            look["hovertemplate"] = "row %{y}, column %{x}%{customdata}<extra></extra>"
            if pixels / state.shape[1] >= WIDE_ENOUGH:
                look["text"] = _with_numbers(text, *numbers)
    gap = int(max(state.shape) <= 40)
    z = state.astype(np.int8)  # stored as bytes: a page is small
    fig = go.Heatmap(z=z, coloraxis="coloraxis", xgap=gap, ygap=gap, **look)
    (tall, wide), first = step, -above * step[0]
    return fig.update(x0=(wide - 1) / 2, dx=wide, y0=first + (tall - 1) / 2, dy=tall)


def _said(read: float, written: float) -> str:
    """`: reads 0.5, writes 1`."""
    parts = [(does, x) for does, x in (("reads", read), ("writes", written)) if x == x]
    return ": " * bool(parts) + ", ".join(f"{does} {x:.4g}" for does, x in parts)


def _with_numbers(text, read, written) -> list[list[str]]:
    """Each letter with the number below it: what was written, or else what was read."""
    shown = np.where(np.isnan(written), read, written)
    return [
        [f"{letter}<br>{x:.2g}" if x == x else letter for letter, x in zip(*row, strict=True)]
        for row in zip(text, shown, strict=True)
    ]


def _size(shape) -> str:
    """`(2×100)×64`: first the dimensions that are rows, then those that are columns."""
    parts = ["×".join(map(str, part)) for part in table(shape) if part]
    return "×".join(f"({part})" if "×" in part and len(parts) > 1 else part for part in parts)


def _label(program) -> str:
    return str(program[0]) if len(program) == 1 else f"({', '.join(map(str, program))})"
