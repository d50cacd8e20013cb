"""Positions as pictures: query and key turned by RoPE, and what their score knows."""

from collections.abc import Sequence

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from seqlab.core.position import rope_frequencies, rotate
from seqlab.figures.panels import dressed, flip_book
from seqlab.figures.theme import COLORS


def turned_pairs(
    q: Float[Tensor, " K"], k: Float[Tensor, " K"], position: int, distance: int, base: float
) -> go.Figure:
    """Each pair of channels as a circle: q at `position`, k `distance` tokens before it.

    The number above a circle is the pair's part of the score q · k.
    """
    theta = rope_frequencies(len(q), base=base)
    places = torch.tensor([position, position - distance])
    both = rotate(torch.stack([q, k])[None, :, None], places, theta)[0, :, 0]
    pairs = torch.stack(both.chunk(2, dim=-1), dim=-1)  # (2, K/2, 2)
    parts = pairs.prod(0).sum(-1)
    n = len(theta)
    titles = [f"pair {p}: {part:+.2f}" for p, part in enumerate(parts.tolist())]
    fig = make_subplots(1, n, subplot_titles=titles, horizontal_spacing=0.03)
    reach = 1.1 * pairs.norm(dim=-1).max().item()
    for p in range(n):
        for name, (x, y) in (("q", pairs[0, p]), ("k", pairs[1, p])):
            arrow = go.Scatter(
                x=[0, round(x.item(), 3)],
                y=[0, round(y.item(), 3)],
                name=name,
                mode="lines+markers",
                line={
                    "color": COLORS[name],
                    "width": 3,
                    "dash": "solid" if name == "q" else "dot",
                },
                marker={"size": [0, 9], "symbol": "circle" if name == "q" else "square"},
                showlegend=p == 0,
            )
            fig.add_trace(arrow, 1, p + 1)
    fig.update_xaxes(range=[-reach, reach], showticklabels=False, zeroline=False)
    fig.update_yaxes(range=[-reach, reach], showticklabels=False, zeroline=False)
    title = f"q at {position}, k at {position - distance}: the score is {parts.sum():.2f}"
    return dressed(fig, title, 290)


def turning(
    q: Float[Tensor, " K"],
    k: Float[Tensor, " K"],
    positions: Sequence[int],
    distance: int,
    base: float = 10000.0,
) -> go.Figure:
    """`turned_pairs` with a slider over the positions of q."""
    pages = {str(n): turned_pairs(q, k, n, distance, base) for n in positions}
    return flip_book(pages, "position of q")
