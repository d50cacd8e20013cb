"""Tables of numbers as pictures: a state, an implied attention matrix, two states beside each
other.
"""

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from seqlab.figures.table import colour_range, largest, rounded, ticks
from seqlab.figures.theme import SIGNED, WEIGHTS, figure


def state_table(S: Float[Tensor, "V K"], keys=None, *, title: str = "") -> go.Figure:
    """A state as a heat map, one column per key channel. `keys` names the columns, where they stand
    for something.
    """
    V, K = S.shape
    fig = figure(
        _signed(S), title=title, x="key channel" if keys is None else "key", y="value channel"
    )
    fig.update_xaxes(
        showgrid=False, zeroline=False, **ticks(range(K) if keys is None else keys, 24)
    )
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
    """Your states (T, V, K) beside the reference's, at the first token where they part by more than
    the tolerance.
    """
    if mine.shape != reference.shape:
        raise ValueError(
            f"your states have shape {tuple(mine.shape)}, the reference's {tuple(reference.shape)}"
        )
    apart = ((mine - reference).abs() > tolerance * (1 + reference.abs())).flatten(1).any(
        1
    ) | mine.isnan().flatten(1).any(1)
    t = int(apart.nonzero()[0]) if apart.any() else len(mine) - 1
    name = str(t) if labels is None else f"{t} (‘{labels[t]}’)"
    title = (
        f"The states part at token {name}"
        if apart.any()
        else f"The states agree up to the last token, {name}"
    )
    scale = colour_range(torch.cat([mine[t], reference[t]]))
    fig = figure(title=title, height=340, margin={"l": 60, "r": 70, "t": 84, "b": 52})
    for n, S in enumerate((mine[t], reference[t], mine[t] - reference[t]), 1):
        fig.add_trace(
            _signed(S, **({} if n == 3 else scale)).update(
                xaxis=f"x{n}", yaxis=f"y{n}", showscale=n == 3
            )
        )
        left = (n - 1) * 0.345
        axis = {"showgrid": False, "zeroline": False}
        fig.layout[f"xaxis{n}"] = axis | {
            "domain": [left, left + 0.31],
            "title": "key channel",
            **ticks(range(S.shape[1]), 6),
        }
        fig.layout[f"yaxis{n}"] = axis | {
            "anchor": f"x{n}",
            "autorange": "reversed",
            **ticks(range(S.shape[0]), 8),
        }
        named = {
            "text": f"<b>{('yours', 'reference', 'difference, own scale')[n - 1]}</b>",
            "showarrow": False,
        }
        fig.add_annotation(
            **named,
            x=left,
            y=1,
            xref="paper",
            yref="paper",
            xanchor="left",
            yanchor="bottom",
            yshift=4,
        )
    fig.layout.yaxis.title = "value channel"
    return fig


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
