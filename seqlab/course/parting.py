"""One picture of a wrong answer: yours, the reference and the difference, where they differ."""

import math
from typing import Any

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from seqlab.course.report import Parting
from seqlab.figures.panels import hline
from seqlab.figures.theme import INK, SIGNED


def figure(p: Parting) -> go.Figure:
    """Three heat maps of the axes with the largest difference, at or along the first wrong step."""
    yours, right, rows, columns, tile = _picture(p)
    top = right[right.isfinite()].abs().max().item() if right.isfinite().any() else 0.0
    titles = ("yours", "reference", "yours − reference")
    fig = make_subplots(1, 3, subplot_titles=titles, horizontal_spacing=0.08)
    hover = f"{rows} %{{y}}, {columns} %{{x}}: %{{z:.4g}}<extra></extra>"
    step = 1 if right.shape[1] <= 10 else None
    for col, picture in enumerate((yours, right, yours - right), start=1):
        at: dict[str, Any] = {"row": 1, "col": col}
        fig.add_heatmap(z=_finite(picture), coloraxis="coloraxis", hovertemplate=hover, **at)
        fig.update_xaxes(title_text=columns, dtick=step, **at)
        fig.update_yaxes(autorange="reversed", title_text=rows if col == 1 else None, **at)
        fig.update_yaxes(dtick=1 if right.shape[0] <= 10 else None, **at)
        if tile is not None and tile.any():
            fig.add_shape(**_frame(tile), **at)
        if rows == "t" and p.t:
            hline(fig, p.t - 0.5, line_dash="dot", line_color=INK, **at)
    where = "where they differ most" if p.t is None else f"they part at t = {p.t}"
    where = f"{p.program} wrote the frame" if p.tile is not None and p.program else where
    return fig.update_layout(
        template="seqlab",
        title_text=f"{p.name}, case “{p.case}”: {where}",
        coloraxis={
            "colorscale": SIGNED,
            "cmin": -top or -1,
            "cmax": top or 1,
            "colorbar_title_text": "value",
        },
        height=330,
        width=760,
        margin_t=86,
    )


def _frame(tile: Tensor) -> dict[str, Any]:
    """A rectangle around all that is True in a picture."""
    (top, left), (bottom, right) = (f(tile.nonzero(), 0).tolist() for f in (torch.amin, torch.amax))
    corners = {"x0": left - 0.5, "x1": right + 0.5, "y0": top - 0.5, "y1": bottom + 0.5}
    return {"type": "rect", "line": {"color": INK, "width": 2}, **corners}


def _picture(p: Parting) -> tuple[Tensor, Tensor, str, str, Tensor | None]:
    """(yours, reference, name of the rows, of the columns, what one program wrote): at the first
    wrong step, of a state.
    """
    yours, right = p.yours.double(), p.reference.double()
    rows, columns = "row", "column"
    if p.axis is not None and right.ndim >= 5:
        yours, right = (x.movedim(p.axis, 0)[p.t] for x in (yours, right))
    elif p.axis is not None and right.ndim > 1:
        yours, right = (x.movedim(p.axis, -2) for x in (yours, right))
        rows, columns = "t", "channel"
    worst = _worst(torch.nan_to_num(yours - right, nan=math.inf).abs())
    tile = None if p.tile is None else p.tile[worst].reshape(-1, right.shape[-1])
    yours, right = (x[worst].reshape(-1, x.shape[-1]) for x in (yours, right))
    return yours, right, rows, columns, tile


def _worst(gap: Tensor) -> tuple[int, ...]:
    """Index of the leading axes whose last two have the largest difference."""
    if gap.ndim <= 2:
        return ()
    most = gap.flatten(-2).amax(-1)
    return tuple(int(i) for i in torch.unravel_index(most.argmax(), most.shape))


def _finite(x: Tensor) -> list[list[float | None]]:
    """Numbers, with a gap for NaN or inf."""
    return [[v if math.isfinite(v) else None for v in row] for row in x.tolist()]
