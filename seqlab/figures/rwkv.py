"""Figures of chapter 09: units of running sums, what survives a token, erase and write, spectra."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from seqlab.figures.panels import dressed, flip_book
from seqlab.figures.retention import DASHES, SYMBOLS
from seqlab.figures.table import rounded, ticks
from seqlab.figures.theme import COLORS, INK, LINES, WEIGHTS, figure

SMALLEST = torch.tensor(2.0**-149, dtype=torch.float64).log().item()
"""The natural logarithm of float32's smallest number above 0."""
LOWEST = torch.exp(-torch.exp(torch.tensor(-0.5, dtype=torch.float64))).item()
"""RWKV-7's decay is above this."""


def units_at(loud: float, w: float = -0.5, T: int = 300) -> go.Figure:
    """Keys of 0 but for the first, `loud`: ln of the true sum, and the units of two loops.

    A loop that divides by e^peak can keep what is at most 103 below its peak.
    """
    k = torch.zeros(T, dtype=torch.float64)
    k[0] = loud
    log_sum, peak = torch.tensor(-torch.inf, dtype=torch.float64), -torch.inf
    sums, falling = [], []
    for k_t in k:
        log_sum = torch.logaddexp(log_sum + w, k_t)
        peak = max(peak + w, float(k_t))
        sums.append(log_sum)
        falling.append(peak)
    t = list(range(T))[::3]
    still = torch.tensor([loud] * T)
    rows = {
        "the true sum": (torch.stack(sums), COLORS["write"], "solid"),
        "unit of the copied loop": (still, COLORS["q"], "dash"),
        "least that the copied loop can hold": (still + SMALLEST, INK, "dot"),
        "unit that falls with the decay": (torch.tensor(falling), COLORS["v"], "dashdot"),
    }
    lines = [
        go.Scatter(x=t, y=rounded(ys[::3]), name=name, line={"color": color, "dash": dash})
        for name, (ys, color, dash) in rows.items()
    ]
    lost = int((torch.stack(sums) < loud + SMALLEST).sum())
    said = f"the copied loop loses {lost} of {T} sums" if lost else "the copied loop keeps all sums"
    title = f"A first key of {loud:g}: {said}"
    fig = figure(*lines, title=title, x="token", y="natural logarithm", height=400)
    fig.update_yaxes(range=[-110, 160])
    above = {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0}
    return fig.update_layout(legend=above, showlegend=True, margin_t=98)


def units(pages: Sequence[float], start: int = 0) -> go.Figure:
    """`units_at` with a slider over the first key."""
    return flip_book({f"{x:g}": units_at(x) for x in pages}, "the first key", start)


def transitions(inputs: Mapping[str, Tensor]) -> Float[Tensor, "T H K K"]:
    """G_t of S_t = S_{t-1} G_t + v_t k_tᵀ, from what a mixer's `project` returns for one text."""
    G = inputs["log_a"][0].exp().diag_embed()
    if "e" in inputs:
        G = G + inputs["e"][0][..., :, None] * inputs["f"][0][..., None, :]
    return G


def held(k: Float[Tensor, "T K"], G: Float[Tensor, "T K K"]) -> Float[Tensor, "T T"]:
    """Row t, column s: what a read under token s's key finds of its value after token t.

    1 is all of it; pairs under other keys are left out. 0 where s has not been written.
    """
    k = F.normalize(k, dim=-1)
    W = torch.zeros(len(k), len(k), dtype=k.dtype)
    left = torch.zeros_like(k)  # row s: k_sᵀ G_{s+1} … G_t
    for t in range(len(k)):
        left = left @ G[t]
        left[t] = k[t]
        W[t] = (left * k).sum(-1)
    return W


def survival(
    k: Float[Tensor, "T H K"], G: Float[Tensor, "T H K K"], letters: Sequence[int]
) -> tuple[float, float]:
    """The share of a pair that one token leaves, under the token's own key and under others.

    k̂ᵀ G_t k̂ for the unit keys k̂ of tokens with the same letter as t, and of those with another:
    the mean over all tokens, keys and heads. Only the first len(letters) tokens count.
    """
    n = len(letters)
    unit = F.normalize(k[:n], dim=-1)
    left = torch.einsum("shi, thij, shj -> ts", unit, G[:n], unit) / k.shape[1]
    alike = torch.tensor(letters)[:, None] == torch.tensor(letters)
    return left[alike].mean().item(), left[~alike].mean().item()


def survivors(found: Mapping[str, Sequence[tuple[float, float]]], *, title: str) -> go.Figure:
    """Each seed of each model: across, what a token leaves of its own key; up, of other keys."""
    fig = figure(title=title, height=420)
    for i, (name, seeds) in enumerate(found.items()):
        xs, ys = (
            torch.tensor(numbers, dtype=torch.float64) for numbers in zip(*seeds, strict=True)
        )
        marker = {"size": 12, "symbol": SYMBOLS[i], "color": LINES[i], "opacity": 0.85}
        fig.add_scatter(x=rounded(xs), y=rounded(ys), mode="markers", name=name, marker=marker)
    line = {"color": COLORS["decay"], "dash": "dot", "width": 1.5}
    fig.add_scatter(
        x=[-0.2, 1.0], y=[-0.2, 1.0], mode="lines", line=line, name="own = other", hoverinfo="skip"
    )
    fig.update_xaxes(title_text="left of a pair under the token's own key", range=[-0.2, 1.05])
    fig.update_yaxes(title_text="left under other keys", range=[0, 1.05])
    below = {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0}
    return fig.update_layout(legend=below, showlegend=True, margin_b=96)


def directions_at(
    erase: Float[Tensor, "T K"], write: Float[Tensor, "T K"], labels: Sequence[str], name: str = ""
) -> go.Figure:
    """The size of the cosine of each token's erase key (row) with each write key (column).

    Tokens stand in the order of their labels, so that those with one letter are neighbours.
    """
    order = sorted(range(len(labels)), key=lambda i: labels[i])
    cosine = (F.normalize(erase, dim=-1)[order] @ F.normalize(write, dim=-1)[order].T).abs()
    named = [labels[i] for i in order]
    alike = torch.tensor([[a[0] == b[0] for b in named] for a in named])
    own, other = cosine[alike].mean().item(), cosine[~alike].mean().item()
    heat = go.Heatmap(z=rounded(cosine), colorscale=WEIGHTS, zmin=0, zmax=1, xgap=1, ygap=1)
    heat.hovertemplate = "erase of row %{y}, write of column %{x}: %{z}<extra></extra>"
    title = f"{name}: |cosine| {own:.2f} with writes of the same letter, {other:.2f} with others"
    fig = figure(heat, title=title, x="token, its write key", y="token, its erase key", height=460)
    shown = ticks(named, 24)
    fig.update_xaxes(showgrid=False, zeroline=False, **shown)
    return fig.update_yaxes(showgrid=False, zeroline=False, autorange="reversed", **shown)


def directions(
    heads: Mapping[str, tuple[Tensor, Tensor]], labels: Sequence[str], start: int = 0
) -> go.Figure:
    """`directions_at` with a slider over the heads: name -> (erase keys, write keys)."""
    pages = {name: directions_at(e, k, labels, name) for name, (e, k) in heads.items()}
    return flip_book(pages, "head", start)


def spectrum_at(
    factor: float = 1.0, lowest: float = 0.8, highest: float = 1.0, K: int = 6
) -> go.Figure:
    """The eigenvalues of diag(w) - factor · κ (a κ)ᵀ against a, the same a for all channels.

    w runs evenly from lowest to highest; κ is one fixed direction.
    """
    w = torch.linspace(lowest, highest, K, dtype=torch.float64)
    kappa = F.normalize(torch.tensor([1.0, -0.8, 0.6, 0.9, -0.5, 0.7][:K]).double(), dim=0)
    grid = torch.linspace(0, 1, 26, dtype=torch.float64)
    G = w.diag() - factor * grid[:, None, None] * torch.outer(kappa, kappa)
    values = torch.linalg.eigvalsh(G)  # (26, K), ascending
    fig = figure(x="in-context learning rate a", y="eigenvalue", height=420)
    for i in range(K):
        color = COLORS["write"] if i == 0 else COLORS["state"]
        name = "the smallest" if i == 0 else "the others"
        line: Any = {"color": color, "width": 3 if i == 0 else 1.5}
        ys = rounded(values[:, i])
        fig.add_scatter(x=rounded(grid), y=ys, line=line, name=name, showlegend=i < 2, mode="lines")
    look: Any = {"line_dash": "dot", "line_color": INK, "line_width": 1.5}
    fig.add_hline(LOWEST - 1, annotation_text="RWKV-7's bound", **look)
    fig.update_yaxes(range=[-1.1, 1.1])
    least = values.min().item()
    title = f"Factor {factor:g}: one eigenvalue moves far, down to {least:.2f}"
    below = {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0}
    return fig.update_layout(
        title_text=title, legend=below, showlegend=True, margin_b=96, margin_t=61
    )


def by_seed(found: Mapping[str, Sequence[float]], *, title: str, chance: float) -> go.Figure:
    """Accuracy of each model: a bar for the mean of its seeds, a mark for each."""
    names, fig = list(found), figure(title=title, y="right answers", height=380)
    means = [sum(xs) / len(xs) for xs in found.values()]
    fig.add_bar(x=names, y=rounded(torch.tensor(means)), marker_color=COLORS["state"], name="mean")
    marks = [(name, x) for name, xs in found.items() for x in xs]
    fig.add_scatter(
        x=[name for name, _ in marks],
        y=rounded(torch.tensor([x for _, x in marks])),
        mode="markers",
        marker={"size": 9, "color": COLORS["write"], "symbol": "diamond"},
        name="a seed",
    )
    line: Any = {"line_dash": "dot", "line_color": INK, "line_width": 1.5}
    fig.add_hline(chance, annotation_text=f"guessing: {chance:.3g}", **line)
    fig.update_yaxes(range=[0, 1.06], tickformat=".0%")
    below = {"orientation": "h", "y": -0.15, "yanchor": "top", "x": 0}
    return fig.update_layout(legend=below, showlegend=True)


def half_lives(lives: Mapping[str, Mapping[str, Float[Tensor, " D"]]], *, title: str) -> go.Figure:
    """Half-life of each channel, shortest first: a panel per model, a line per layer."""
    fig = make_subplots(1, len(lives), subplot_titles=list(lives), shared_yaxes=True)
    for col, layers in enumerate(lives.values(), 1):
        for i, (name, tokens) in enumerate(layers.items()):
            n = len(tokens)
            fig.add_scatter(
                x=[round(100 * (j + 0.5) / n, 1) for j in range(n)],
                y=rounded(tokens.sort().values),
                name=name,
                legendgroup=name,
                showlegend=col == 1,
                line={"color": LINES[i], "dash": DASHES[i % 5]},
                row=1,
                col=col,
            )
        fig.update_xaxes(title_text="channels, in per cent", row=1, col=col)
        fig.update_yaxes(type="log", row=1, col=col, dtick=1)
    fig.update_yaxes(title_text="half-life in tokens (log scale)", row=1, col=1)
    below = {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0}
    return dressed(fig, title, 400, legend=below, showlegend=True, margin_b=96)
