"""Figures of chapter 07: the price of a state, one matrix in blocks, four gates, a byte model."""

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from seqlab.figures.panels import dressed, flip_book, legend_below
from seqlab.figures.table import rounded
from seqlab.figures.theme import COLORS, INK, LINES, UNTOUCHED, WEIGHTS, figure

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x")

STEPS = ("nothing: j > i", "1: pairs inside", "2: write", "3: pass on", "4: read")
STEP_COLORS = (UNTOUCHED, COLORS["q"], COLORS["write"], COLORS["state"], COLORS["v"])


def state_cost(seconds: Mapping[str, Mapping[int, float]], *, title: str) -> go.Figure:
    """Time against the state's width N, both logarithmic: name -> {N: seconds}."""
    fig = figure(title=title, x="numbers of state per channel N (log scale)", height=400)
    for n, (name, by_width) in enumerate(seconds.items()):
        fig.add_scatter(
            x=list(by_width),
            y=[float(f"{1e3 * s:.3g}") for s in by_width.values()],
            name=name,
            mode="lines+markers",
            line={"color": LINES[n], "dash": DASHES[n], "width": 2.5},
            marker={"size": 9, "symbol": SYMBOLS[n]},
        )
    shown = sorted({N for by_width in seconds.values() for N in by_width})
    fig.update_xaxes(type="log", tickvals=shown, ticktext=[str(N) for N in shown])
    fig.update_yaxes(type="log", dtick=1, title_text="milliseconds (log scale)")
    return legend_below(fig)


def blocks_at(chunk: int, T: int = 24) -> go.Figure:
    """The matrix M (T, T): which of the four steps computes each cell, in chunks of `chunk`.

    A block below the diagonal is a product. Its right edge here stands for the write of the chunk
    that it reads, its lower edge for the read; between them the state is passed on.
    """
    i, j = torch.arange(T)[:, None], torch.arange(T)
    step = torch.where(i // chunk == j // chunk, 1, 3)
    if chunk > 1:
        ends = torch.minimum(torch.arange(T) // chunk * chunk + chunk, torch.tensor(T)) - 1
        step = torch.where((step == 3) & (j == ends), 2, step)
        step = torch.where((step == 3) & (i == ends[:, None]), 4, step)
    step = torch.where(j > i, 0, step)
    inside = (step == 1).sum().item()
    words = [[STEPS[cell] for cell in row] for row in step.tolist()]
    heat = go.Heatmap(
        z=step.tolist(),
        text=words,
        colorscale=_in_steps(STEP_COLORS),
        zmin=-0.5,
        zmax=len(STEPS) - 0.5,
        showscale=False,
        hovertemplate="token %{x} in the read of token %{y}: %{text}<extra></extra>",
    )
    names = [
        go.Scatter(
            x=[None],
            y=[None],
            name=name,
            mode="markers",
            marker={"size": 12, "symbol": "square", "color": color},
        )
        for name, color in zip(STEPS[1:], STEP_COLORS[1:], strict=True)
    ]
    title = f"Chunks of {chunk}: {inside} of {T * (T + 1) // 2} pairs are computed one by one"
    fig = figure(heat, *names, title=title, x="token j, written", y="token i, reads", height=470)
    fig.update_xaxes(zeroline=False, showgrid=False, constrain="domain")
    fig.update_yaxes(autorange="reversed", zeroline=False, showgrid=False, scaleanchor="x")
    return fig.update_layout(showlegend=True, legend={"x": 1.02, "y": 1})


def blocks(chunks: Sequence[int], T: int = 24) -> go.Figure:
    """`blocks_at` with a slider over the chunk's length."""
    return flip_book({str(C): blocks_at(C, T) for C in chunks}, "chunk length C", len(chunks) // 2)


def singular_values(blocks: Mapping[str, Float[Tensor, "R C"]], *, title: str) -> go.Figure:
    """The singular values of each block, largest first, as shares of the block's largest."""
    fig = figure(title=title, x="number of the singular value", height=400)
    for n, (name, block) in enumerate(blocks.items()):
        s = torch.linalg.svdvals(block.double())
        fig.add_scatter(
            x=list(range(1, len(s) + 1)),
            y=rounded((s / s[0]).clamp(min=1e-17)),
            name=name,
            mode="lines+markers",
            line={"color": LINES[n], "dash": DASHES[n]},
            marker={"size": 6, "symbol": SYMBOLS[n]},
        )
    fig.update_yaxes(
        type="log",
        title_text="share of the largest (log scale)",
        exponentformat="power",
        dtick=4,
        range=[-17.5, 0.5],
    )
    return legend_below(fig)


def masks(named: Mapping[str, Float[Tensor, "T T"]], *, title: str) -> go.Figure:
    """Four masks, side by side: what is left of token j when token i reads."""
    fig = make_subplots(2, 2, subplot_titles=list(named), vertical_spacing=0.16)
    for n, mask in enumerate(named.values()):
        T = len(mask)
        shown = mask.masked_fill(torch.ones(T, T).triu(1).bool(), torch.nan)
        heat = go.Heatmap(
            z=rounded(shown),
            coloraxis="coloraxis",
            xgap=0,
            ygap=0,
            hovertemplate="token %{x} in the read of token %{y}: %{z}<extra></extra>",
        )
        fig.add_trace(heat, n // 2 + 1, n % 2 + 1)
    fig.update_yaxes(autorange="reversed", showgrid=False, zeroline=False)
    fig.update_xaxes(showgrid=False, zeroline=False)
    fig.update_xaxes(title_text="token j, written", row=2)
    fig.update_yaxes(title_text="token i, reads", col=1)
    bar = {"thickness": 12, "outlinewidth": 0}
    axis = {"colorscale": WEIGHTS, "cmin": 0, "cmax": 1, "colorbar": bar}
    return dressed(fig, title, 560, coloraxis=axis)


def bits_per_byte(
    losses: Mapping[str, Sequence[float]], bounds: Mapping[str, float], *, title: str, every: int
) -> go.Figure:
    """Training loss in bits, averaged over `every` steps; dotted lines for the `bounds`."""
    fig = figure(title=title, x="training step", y="bits per byte", height=420)
    for n, (name, nats) in enumerate(losses.items()):
        bits = torch.tensor(nats).split(every)
        fig.add_scatter(
            x=[every * (i + 1) for i in range(len(bits))],
            y=rounded(torch.stack([b.mean() / math.log(2) for b in bits])),
            name=name,
            mode="lines",
            line={"color": LINES[n], "dash": DASHES[n], "width": 2},
        )
    last = max(len(nats) for nats in losses.values())
    for n, (name, bits) in enumerate(bounds.items()):
        fig.add_scatter(
            x=[0, last],
            y=[round(bits, 3)] * 2,
            name=f"{name}: {bits:.2f}",
            mode="lines",
            line={"color": INK, "dash": ("dot", "dash")[n % 2], "width": 1.5},
        )
    return legend_below(fig)


def half_lives(lives: Float[Tensor, "H T"], labels: Sequence[str], *, title: str) -> go.Figure:
    """The half-life that each head chooses at each token, in tokens, on a log scale."""
    logs = lives.clamp(0.1, 1e4).log10()
    ticks = [-1, 0, 1, 2, 3, 4]
    heat = go.Heatmap(
        z=rounded(logs),
        customdata=rounded(lives),
        colorscale=WEIGHTS,
        zmin=-1,
        zmax=3,
        colorbar={
            "title": {"text": "tokens", "side": "right"},
            "tickvals": ticks,
            "ticktext": [f"{10.0**t:g}" for t in ticks],
        },
        hovertemplate="head %{y}, token %{x}: half-life %{customdata}<extra></extra>",
    )
    fig = figure(heat, title=title, x="byte", y="head", height=300)
    places = list(range(len(labels)))
    fig.update_xaxes(tickvals=places, ticktext=list(labels), tickangle=0, showgrid=False)
    return fig.update_yaxes(
        autorange="reversed", tickvals=list(range(len(lives))), showgrid=False, zeroline=False
    )


def memory_lines(
    bytes_at: Mapping[str, Sequence[float]], lengths: Sequence[int], *, title: str
) -> go.Figure:
    """Bytes kept for one sequence against its length, both logarithmic."""
    fig = figure(title=title, x="tokens read (log scale)", height=400)
    for n, (name, sizes) in enumerate(bytes_at.items()):
        fig.add_scatter(
            x=list(lengths),
            y=[float(f"{size / 1e9:.3g}") for size in sizes],
            name=name,
            mode="lines",
            line={"color": LINES[n], "dash": DASHES[n], "width": 2.5},
        )
    shown = [T for T in lengths if math.log2(T) % 4 == 2 or lengths[-1] == T]
    names = [f"{T // 2**20}M" if T >= 2**20 else f"{T // 2**10}K" for T in shown]
    fig.update_xaxes(type="log", tickvals=shown, ticktext=names)
    fig.update_yaxes(type="log", dtick=1, title_text="gigabytes (log scale)")
    return legend_below(fig)


def _in_steps(colors: Sequence[str]) -> list[list]:
    """A colour scale of flat steps, one per colour."""
    n = len(colors)
    return [[at / n, color] for i, color in enumerate(colors) for at in (i, i + 1)]
