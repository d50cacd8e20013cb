"""Figures of chapter 11: answers by range, the size of a state, gates over a text."""

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from seqlab.figures.panels import flip_book, legend_below
from seqlab.figures.table import rounded
from seqlab.figures.theme import INK, LINES, WEIGHTS, figure
from seqlab.figures.training import DASHES, SYMBOLS


def by_range(
    found: Mapping[str, Mapping[str, Sequence[float]]], *, title: str, chance: float
) -> go.Figure:
    """A mark for each model, kind of question and seed. found: model -> question -> seeds."""
    fig = figure(title=title, y="right answers", height=400)
    kinds = list(next(iter(found.values())))
    for n, (name, by_kind) in enumerate(found.items()):
        xs, ys = [], []
        for place, kind in enumerate(kinds):
            for i, share in enumerate(by_kind[kind]):
                xs.append(place + 0.22 * (n - (len(found) - 1) / 2) + 0.03 * i)
                ys.append(share)
        marker = {"size": 11, "symbol": SYMBOLS[n % 6], "color": LINES[n % 8]}
        ys = rounded(torch.tensor(ys, dtype=torch.float64))
        fig.add_scatter(x=xs, y=ys, name=name, mode="markers", marker=marker)
    places = list(range(len(kinds)))
    fig.update_xaxes(tickvals=places, ticktext=kinds, range=[-0.6, len(kinds) - 0.4])
    fig.update_xaxes(showgrid=False, zeroline=False)
    fig.update_yaxes(range=[0, 1.06], tickformat=".0%")
    line = {"dash": "dot", "width": 1.5, "color": INK}
    fig.add_hline(chance, line=line, annotation_text=f"guessing: {chance:.1%}")
    return legend_below(fig)


def sizes_at(a: float, T: int = 300, n: int = 200) -> go.Figure:
    """The standard deviation of h over T tokens of noise of size 1, by three factors."""
    x = torch.randn(T, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    factors = {"1": 1.0, "1 - a": 1 - a, "√(1 - a²)": math.sqrt(1 - a**2)}
    lines, last = [], {}
    for i, (name, factor) in enumerate(factors.items()):
        h, sizes = torch.zeros(n, dtype=torch.float64), []
        for u in x:
            h = a * h + factor * u
            sizes.append(h.std().item())
        last[name] = sizes[-1]
        look = {"color": LINES[i], "dash": DASHES[i]}
        ys = rounded(torch.tensor(sizes, dtype=torch.float64))
        lines.append(go.Scatter(y=ys, name=f"factor {name}", mode="lines", line=look))
    said = f"a = {a:g}: at the end {last['1']:.2g} without a factor, {last['√(1 - a²)']:.2g} with"
    y = "standard deviation of h (log scale)"
    fig = figure(*lines, title=f"{said} the root", x="token", y=y, height=400)
    return fig.update_yaxes(type="log", range=[-2.6, 1.4], dtick=1)


def sizes(decays: Sequence[float], start: int = 0) -> go.Figure:
    """`sizes_at` with a slider over a."""
    return flip_book({f"{a:g}": sizes_at(a) for a in decays}, "a", start)


def gates_over(a: Float[Tensor, "T D"], words: Sequence[str], *, title: str) -> go.Figure:
    """The decay of each channel (rows, the slowest on top) at each token."""
    order = a.mean(0).argsort(descending=True)
    bar = {"title": "a", "thickness": 12, "outlinewidth": 0}
    heat = go.Heatmap(z=rounded(a[:, order].mT), colorscale=WEIGHTS, zmin=0, zmax=1, colorbar=bar)
    fig = figure(heat, title=title, x="token", y="channel, sorted by its mean a", height=430)
    ticks = list(range(0, len(words)))
    fig.update_xaxes(tickvals=ticks, ticktext=list(words), tickangle=-90, tickfont_size=9)
    return fig.update_yaxes(autorange="reversed", showgrid=False, showticklabels=False)
