"""Figures of chapter 10: how large an exponential gate's numbers become, and what it weighs."""

from collections.abc import Sequence

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from seqlab.figures.panels import flip_book
from seqlab.figures.state import attention_matrix
from seqlab.figures.table import rounded
from seqlab.figures.theme import COLORS, INK, figure

# The natural logarithm of the largest number of each type.
LARGEST = {
    name: torch.tensor(torch.finfo(dtype).max, dtype=torch.float64).log().item()
    for name, dtype in (("float16", torch.float16), ("float32", torch.float32))
}


def log_normaliser(
    i: Float[Tensor, " T"], log_f: Float[Tensor, " T"]
) -> tuple[Float[Tensor, " T"], Float[Tensor, " T"]]:
    """ln n of every token, n_t = f_t n_{t-1} + e^ĩ, and ln of what the stabiliser keeps of it.

    In float64 and in logarithms, so nothing overflows here.
    """
    whole, m, kept = torch.tensor(-torch.inf), torch.tensor(-torch.inf), []
    logs = []
    for i_t, f_t in zip(i.double(), log_f.double(), strict=True):
        whole = torch.logaddexp(whole + f_t, i_t)
        m = torch.maximum(m + f_t, i_t)
        logs.append(whole)
        kept.append(whole - m)
    return torch.stack(logs), torch.stack(kept)


def sizes_at(size: float, i: Float[Tensor, " T"], log_f: Float[Tensor, " T"]) -> go.Figure:
    """ln n with and without the stabiliser, for input gates `size` times as large as `i`."""
    whole, kept = log_normaliser(size * i, log_f)
    t = list(range(len(whole)))
    lines = [
        go.Scatter(x=t, y=rounded(whole), name="the normaliser n", line_color=COLORS["write"]),
        go.Scatter(
            x=t,
            y=rounded(kept),
            name="what the stabiliser keeps, n e<sup>-m</sup>",
            line={"color": COLORS["q"], "dash": "dash"},
        ),
    ]
    over = int((whole > LARGEST["float16"]).sum())
    title = f"Input gates of size {size:g}: {over} of {len(t)} tokens are too large for float16"
    fig = figure(*lines, title=title, x="token", y="natural logarithm", height=400)
    for name, limit in LARGEST.items():
        fig.add_hline(
            limit,
            line={"dash": "dot", "width": 1.5, "color": INK},
            annotation_text=f"the largest {name}",
            annotation_position="top left",
        )
    fig.update_yaxes(range=[-30, 130])
    above = {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0}
    return fig.update_layout(legend=above, showlegend=True, margin_t=74)


def sizes(
    i: Float[Tensor, " T"], log_f: Float[Tensor, " T"], pages: Sequence[float], start: int = 0
) -> go.Figure:
    """`sizes_at` with a slider over the size of the input gates."""
    return flip_book({f"{s:g}": sizes_at(s, i, log_f) for s in pages}, "size", start)


def weights(i: Float[Tensor, " T"], log_f: Float[Tensor, " T"]) -> Float[Tensor, "T T"]:
    """The share of token s in c_t / n_t: softmax over s of ĩ_s + log f_{s+1} + … + log f_t."""
    F = log_f.double().cumsum(0)
    D = F[:, None] - F + i.double()
    ahead = torch.ones(len(i), len(i), dtype=torch.bool).triu(1)
    return D.masked_fill(ahead, -torch.inf).softmax(-1)


def loud_at(loudness: float, forget: float, labels: Sequence[str]) -> go.Figure:
    """What each read holds if the token `!` has ĩ = loudness, the others 0; all f = forget."""
    i = torch.tensor([loudness * (name == "!") for name in labels])
    log_f = torch.full_like(i, forget).log()
    W = weights(i, log_f)
    at = list(labels).index("!")
    title = f"In the last read the loud token has a share of {W[-1, at]:.0%}"
    return attention_matrix(W, list(labels), title=title)
