"""One picture of a wrong answer: yours, the reference, and the difference, where they part."""

import math

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from seqlab.course.report import Parting
from seqlab.figures.theme import SIGNED


def figure(p: Parting) -> go.Figure:
    """Three heat maps of the two axes that hold the largest difference, at or along the first wrong
    time step.
    """
    yours, right, rows, columns = _picture(p)
    top = right[right.isfinite()].abs().max().item() if right.isfinite().any() else 0.0
    fig = make_subplots(
        1, 3, subplot_titles=("yours", "reference", "yours − reference"), horizontal_spacing=0.08
    )
    hover = f"{rows} %{{y}}, {columns} %{{x}}: %{{z:.4g}}<extra></extra>"
    for i, picture in enumerate((yours, right, yours - right), 1):
        fig.add_heatmap(
            z=_finite(picture), coloraxis="coloraxis", hovertemplate=hover, row=1, col=i
        )
        fig.update_xaxes(
            title_text=columns, dtick=1 if right.shape[1] <= 10 else None, row=1, col=i
        )
        fig.update_yaxes(autorange="reversed", title_text=rows if i == 1 else None, row=1, col=i)
        if rows == "t" and p.t:
            fig.add_hline(y=p.t - 0.5, line_dash="dot", line_color="#2B2B2B", row=1, col=i)
    where = "where they differ most" if p.t is None else f"they part at t = {p.t}"
    fig.update_layout(
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
    return fig


def _picture(p: Parting) -> tuple[Tensor, Tensor, str, str]:
    """(yours, reference, row axis, column axis). A state with time is cut at the first wrong
    step.
    """
    yours, right = p.yours.double(), p.reference.double()
    timed = p.axis is not None and right.ndim > 1
    if timed and right.ndim >= 5:
        yours, right, timed = yours.movedim(p.axis, 0)[p.t], right.movedim(p.axis, 0)[p.t], False
    elif timed:
        yours, right = yours.movedim(p.axis, -2), right.movedim(p.axis, -2)
    worst = _worst(torch.nan_to_num(yours - right, nan=math.inf).abs())
    yours, right = (x[worst].reshape(-1, x.shape[-1]) for x in (yours, right))
    return yours, right, *(("t", "channel") if timed else ("row", "column"))


def _worst(gap: Tensor) -> tuple[int, ...]:
    """Index of the leading axes whose last two hold the largest difference."""
    if gap.ndim <= 2:
        return ()
    most = gap.flatten(-2).amax(-1)
    return tuple(int(i) for i in torch.unravel_index(most.argmax(), most.shape))


def _finite(x: Tensor) -> list:
    """Numbers, with a gap where there is NaN or inf."""
    return [[v if math.isfinite(v) else None for v in row] for row in x.tolist()]
