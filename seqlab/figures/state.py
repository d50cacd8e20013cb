"""Tables of numbers as pictures: a state, an implied attention matrix, two states compared."""

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from seqlab.figures.table import colour_range, largest, rounded, ticks
from seqlab.figures.theme import SIGNED, WEIGHTS, figure


def state_table(S: Float[Tensor, "V K"], keys=None, *, title: str = "") -> go.Figure:
    """A state as a heat map, one column per key channel. `keys` names the columns."""
    V, K = S.shape
    across = "key channel" if keys is None else "key"
    fig = figure(_signed(S), title=title, x=across, y="value channel")
    named = ticks(range(K) if keys is None else keys, 24)
    fig.update_xaxes(showgrid=False, zeroline=False, **named)
    return fig.update_yaxes(showgrid=False, zeroline=False, autorange="reversed", **ticks(range(V)))


def attention_matrix(W: Float[Tensor, "T T"], labels=None, *, title: str = "") -> go.Figure:
    """How much of token s (column) is in the read of token t (row). `labels` names the tokens."""
    T = len(W)
    image = _signed(W) if (W < 0).any() else _weights(W)
    named = ticks(range(T) if labels is None else labels)
    fig = figure(image, title=title, x="token s", y="read after token t", height=420)
    fig.update_xaxes(showgrid=False, zeroline=False, **named)
    return fig.update_yaxes(showgrid=False, zeroline=False, autorange="reversed", **named)


def state_pair(
    mine: Tensor, reference: Tensor, *, tolerance: float = 1e-4, labels=None
) -> go.Figure:
    """Your states (T, V, K) beside the reference's, at the first token at which they differ."""
    if mine.shape != reference.shape:
        yours, theirs = tuple(mine.shape), tuple(reference.shape)
        raise ValueError(f"your states have shape {yours}, the reference's {theirs}")
    wrong = (mine - reference).abs() > tolerance * (1 + reference.abs())
    apart = (wrong | mine.isnan()).flatten(1).any(1)
    t = int(apart.nonzero()[0]) if apart.any() else len(mine) - 1
    name = str(t) if labels is None else f"{t} (‘{labels[t]}’)"
    title = f"The states agree up to the last token, {name}"
    if apart.any():
        title = f"The states part at token {name}"
    scale = colour_range(torch.cat([mine[t], reference[t]]))
    fig = figure(title=title, height=340, margin={"l": 60, "r": 70, "t": 84, "b": 52})
    for n, S in enumerate((mine[t], reference[t], mine[t] - reference[t]), 1):
        own = {} if n == 3 else scale
        fig.add_trace(_signed(S, **own).update(xaxis=f"x{n}", yaxis=f"y{n}", showscale=n == 3))
        left = (n - 1) * 0.345
        plain = {"showgrid": False, "zeroline": False}
        across = {"domain": [left, left + 0.31], "title": "key channel"}
        down = {"anchor": f"x{n}", "autorange": "reversed"}
        fig.layout[f"xaxis{n}"] = plain | across | ticks(range(S.shape[1]), 6)
        fig.layout[f"yaxis{n}"] = plain | down | ticks(range(S.shape[0]), 8)
        above = {"xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
        text = f"<b>{('yours', 'reference', 'difference, own scale')[n - 1]}</b>"
        fig.add_annotation(text=text, showarrow=False, x=left, y=1, yshift=4, **above)
    return fig.update_layout(yaxis_title="value channel")


def _signed(S: Tensor, **scale) -> go.Heatmap:
    gap = int(max(S.shape) <= 40)
    scale = scale or colour_range(S)
    return go.Heatmap(
        z=rounded(S), colorscale=SIGNED, xgap=gap, ygap=gap, hovertemplate=HOVER, **scale
    )


def _weights(W: Tensor) -> go.Heatmap:
    gap = int(len(W) <= 40)
    return go.Heatmap(
        z=rounded(W),
        colorscale=WEIGHTS,
        zmin=0,
        zmax=largest(W),
        xgap=gap,
        ygap=gap,
        hovertemplate=HOVER,
    )


HOVER = "row %{y}, column %{x}: %{z}<extra></extra>"
