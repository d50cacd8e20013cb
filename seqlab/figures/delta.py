"""Figures of chapter 08: what a write erases, what the transition turns, what a chunk solves."""

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import torch
from jaxtyping import Complex, Float
from plotly.subplots import make_subplots
from torch import Tensor

from seqlab.figures.panels import dressed, flip_book, legend_below
from seqlab.figures.retention import SYMBOLS
from seqlab.figures.table import largest, rounded, ticks
from seqlab.figures.theme import COLORS, LINES, SIGNED

BETAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)


def what_beta_does(beta: float) -> str:
    """The finding of `turned_at`, in words."""
    left = 1 - beta
    if beta == 0:
        return "β = 0: nothing happens"
    if left > 0:
        return f"β = {beta:g}: {left:.0%} of what lay along k is left"
    if left == 0:
        return "β = 1: a projection. Nothing along k is left"
    if beta < 2:
        return f"β = {beta:g}: what lay along k is turned over and shrunk to {-left:.0%}"
    return "β = 2: a reflection. What lay along k is turned over, at full size"


def turned_at(beta: float, degrees: float = 35.0) -> go.Figure:
    """A circle of rows s and its image s (I - β k kᵀ); beside it both eigenvalues against β."""
    angle = math.radians(degrees)
    k = torch.tensor([math.cos(angle), math.sin(angle)])
    around = torch.linspace(0, 2 * math.pi, 61)
    circle = torch.stack([around.cos(), around.sin()], dim=1)
    image = circle - beta * (circle @ k)[:, None] * k
    fig = make_subplots(1, 2, column_widths=[0.5, 0.5], horizontal_spacing=0.14)
    spokes = range(0, 60, 5)
    moves = torch.stack([circle[spokes], image[spokes], torch.full((12, 2), torch.nan)], dim=1)
    for name, points, look in (
        ("before", circle, {"color": COLORS["decay"], "dash": "dot", "width": 2}),
        ("after", image, {"color": COLORS["state"], "width": 4}),
        ("each point's way", moves.flatten(0, 1), {"color": COLORS["write"], "width": 1}),
        ("k", torch.stack([torch.zeros(2), k]), {"color": COLORS["k"], "width": 4}),
    ):
        x, y = rounded(points[:, 0]), rounded(points[:, 1])
        fig.add_trace(go.Scatter(x=x, y=y, mode="lines", line=look, name=name), 1, 1)
    for name, values, color, dash in (
        ("across k: 1", [1.0, 1.0], "decay", "dash"),
        ("along k: 1 - β", [1.0, -1.0], "write", "solid"),
    ):
        line = {"color": COLORS[color], "dash": dash, "width": 2.5}
        fig.add_trace(go.Scatter(x=[0, 2], y=values, mode="lines", line=line, name=name), 1, 2)
    dots = {"size": 12, "color": [COLORS["decay"], COLORS["write"]], "symbol": ["square", "circle"]}
    here = go.Scatter(x=[beta, beta], y=[1, 1 - beta], mode="markers", marker=dots)
    fig.add_trace(here.update(showlegend=False), 1, 2)
    fig.update_xaxes(title_text="key channel 0", range=[-1.3, 1.3], row=1, col=1)
    fig.update_yaxes(title_text="key channel 1", range=[-1.3, 1.3], scaleanchor="x", row=1, col=1)
    fig.update_xaxes(title_text="β", range=[-0.1, 2.1], row=1, col=2)
    fig.update_yaxes(title_text="eigenvalue", range=[-1.25, 1.25], row=1, col=2)
    dressed(fig, what_beta_does(beta), 410, margin_t=84)
    above = {"orientation": "h", "x": 0, "y": 1.03, "yanchor": "bottom"}
    return fig.update_layout(legend=above)


def turned(betas: Sequence[float] = BETAS, start: int = 4) -> go.Figure:
    """`turned_at` with a slider over β."""
    return flip_book({f"{b:g}": turned_at(b) for b in betas}, "β", start)


def overwritten_at(
    v1: Float[Tensor, " V"], v2: Float[Tensor, " V"], beta: float, degrees: float
) -> go.Figure:
    """v₁ is stored under k₁, then v₂ is written under k₂: what both keys return, by two rules."""
    angle = math.radians(degrees)
    k1, k2 = torch.tensor([1.0, 0.0]), torch.tensor([math.cos(angle), math.sin(angle)])
    S = torch.outer(v1, k1)
    rules = {
        "sum: S + v kᵀ": S + torch.outer(v2, k2),
        "delta rule": S + torch.outer(beta * (v2 - S @ k2), k2),
    }
    titles = ["key 2, asked for the new value", "key 1, asked for the old value"]
    fig = make_subplots(1, 2, subplot_titles=titles, shared_yaxes=True)
    channels = list(range(len(v1)))
    for col, (k, stored) in enumerate(((k2, v2), (k1, v1)), 1):
        bars = {"stored": (stored, "v", "")}
        shades = zip(rules.items(), (("decay", "/"), ("state", "")), strict=True)
        bars |= {name: (table @ k, *look) for (name, table), look in shades}
        for name, (height, color, pattern) in bars.items():
            marker = {"color": COLORS[color], "pattern_shape": pattern}
            bar = go.Bar(x=channels, y=rounded(height), name=name, marker=marker)
            fig.add_trace(bar.update(showlegend=col == 1), 1, col)
    off = [((table @ k2 - v2).norm() / v2.norm()).item() for table in rules.values()]
    title = f"Key 2 misses the new value by {off[0]:.0%} (sum) and {off[1]:.0%} (delta rule)"
    fig.update_xaxes(title_text="value channel", tickvals=channels)
    limit = 1.15 * float(v1.abs().max() + v2.abs().max())
    fig.update_yaxes(range=[-limit, limit])
    return legend_below(dressed(fig, title, 380))


def tables(named: Mapping[str, Float[Tensor, "R C"]], *, title: str) -> go.Figure:
    """Tables of signed numbers side by side, on one colour scale."""
    top = max(largest(table) for table in named.values())
    fig = make_subplots(1, len(named), subplot_titles=list(named), horizontal_spacing=0.09)
    for col, table in enumerate(named.values(), 1):
        image = go.Heatmap(
            z=rounded(table),
            colorscale=SIGNED,
            zmin=-top,
            zmax=top,
            showscale=col == len(named),
            hovertemplate="row %{y}, column %{x}: %{z}<extra></extra>",
        )
        fig.add_trace(image, 1, col)
        plain = {"showgrid": False, "zeroline": False}
        fig.update_xaxes(title_text="token j", row=1, col=col, **plain)
        fig.update_xaxes(row=1, col=col, **ticks(range(table.shape[1]), 6))
        fig.update_yaxes(autorange="reversed", row=1, col=col, **plain)
        fig.update_yaxes(row=1, col=col, **ticks(range(table.shape[0]), 6))
    fig.update_yaxes(title_text="token i", col=1)
    return dressed(fig, title, 360)


def eigenvalues(named: Mapping[str, Complex[Tensor, " n"]], *, title: str) -> go.Figure:
    """Eigenvalues in the complex plane, a colour and a symbol for each name."""
    fig = go.Figure()
    around = torch.linspace(0, 2 * math.pi, 91)
    circle = {"color": COLORS["decay"], "dash": "dot", "width": 1.5}
    x, y = rounded(around.cos()), rounded(around.sin())
    fig.add_scatter(x=x, y=y, mode="lines", line=circle, showlegend=False, hoverinfo="skip")
    for n, (name, values) in enumerate(named.items()):
        mark = {"size": 9 + 2 * n, "symbol": f"{SYMBOLS[n % 5]}-open", "color": LINES[n % 8]}
        x, y = rounded(values.real), rounded(values.imag)
        marker = mark | {"line": {"width": 2.5}}
        fig.add_scatter(x=x, y=y, mode="markers", marker=marker, name=name)
    fig.update_xaxes(title_text="real part", range=[-1.35, 1.35])
    fig.update_yaxes(title_text="imaginary part", range=[-1.25, 1.25], scaleanchor="x")
    return legend_below(dressed(fig, title, 430))
