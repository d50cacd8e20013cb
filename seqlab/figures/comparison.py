"""Where a kernel's result is wrong, and the tile of the program that is wrong first.

Drawn from a `seqlab.gpu.compare.Comparison`, laid out as `kernel_trace` lays out a tensor.
"""

import math
from typing import Any

import numpy as np
import plotly.graph_objects as go

from seqlab.figures.theme import INK, SIGNED, figure
from seqlab.gpu.events import program_name
from seqlab.gpu.trace import table


def comparison(found, tensor: str | None = None, limit: int = 96) -> go.Figure:
    """The error of each element, wrong ones marked; a frame around the first wrong program's tile.

    A table with more than `limit` rows or columns is thinned: a cell then shows the largest error
    among its elements.
    """
    wrong = found.wrong[0]
    if tensor is not None:
        wrong = next((w for w in found.wrong if w.argument.name == tensor), None)
    if wrong is None:
        known = ", ".join(w.argument.name for w in found.wrong)
        raise ValueError(f"{tensor} is not wrong in {found.kernel}: {known} is")
    rows, columns = (math.prod(part) for part in table(wrong.argument.shape))
    with np.errstate(invalid="ignore"):
        error = np.nan_to_num(wrong.ours - wrong.right, nan=0, posinf=0, neginf=0)
    lost = wrong.wrong & ~np.isfinite(wrong.ours)
    error = np.where(lost, np.abs(error).max() or 1.0, error).reshape(rows, columns)
    steps = tuple(-(-n // limit) for n in (rows, columns))
    z = _thinned(_thinned(error, steps[0], 0), steps[1], 1)
    most = float(np.abs(z).max()) or 1.0
    look: dict[str, Any] = {"colorscale": SIGNED, "zmin": -most, "zmax": most, "dx": steps[1]}
    look |= {"dy": steps[0], "x0": (steps[1] - 1) / 2, "y0": (steps[0] - 1) / 2}
    look["hovertemplate"] = "row %{y}, column %{x}: %{z:.3g}<extra></extra>"
    heat = go.Heatmap(z=z, colorbar={"title": "ours - right"}, **look)
    fig = figure(heat, title=_title(found, wrong), x="column", y="row", height=420)
    if wrong.program is not None:
        mine = wrong.writers == wrong.programs.index(wrong.program)
        fig.add_shape(**_frame(mine.reshape(rows, columns)))
    fig.update_xaxes(showgrid=False, zeroline=False, constrain="domain")
    return fig.update_yaxes(showgrid=False, zeroline=False, autorange="reversed")


def _title(found, wrong) -> str:
    n = int(wrong.wrong.sum())
    many = f"{n:,} of {len(wrong.wrong):,} elements of {wrong.argument.name} are wrong"
    who = f"; {program_name(wrong.program)} (frame) made the first" if wrong.program else ""
    return f"{found.kernel}: {many}{who}"


def _thinned(error: np.ndarray, step: int, axis: int) -> np.ndarray:
    """Of each `step` neighbours the one that is farthest from 0."""
    starts = np.arange(0, error.shape[axis], step)
    high = np.maximum.reduceat(error, starts, axis=axis)
    low = np.minimum.reduceat(error, starts, axis=axis)
    return np.where(high >= -low, high, low)


def _frame(mine: np.ndarray) -> dict[str, Any]:
    """A rectangle around what one program wrote."""
    rows, columns = (np.flatnonzero(mine.any(axis)) for axis in (1, 0))
    return {
        "type": "rect",
        "x0": columns[0] - 0.5,
        "x1": columns[-1] + 0.5,
        "y0": rows[0] - 0.5,
        "y1": rows[-1] + 0.5,
        "line": {"width": 3, "color": INK},
    }
