"""Figures of chapter 17: where tokens go, how full experts are, what a mixture costs."""

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from seqlab.figures.panels import dressed, flip_book, legend_below
from seqlab.figures.table import rounded
from seqlab.figures.theme import COLORS, EDGE, HEIGHTS, INK, LINES, WEIGHTS, figure
from seqlab.figures.training import DASHES, SYMBOLS


def loads(runs: Mapping[str, Float[Tensor, "S E"]], *, title: str, every: int = 1) -> go.Figure:
    """Each expert's share of the tokens over training, stacked: one panel for each run."""
    fig = make_subplots(1, len(runs), subplot_titles=list(runs), shared_yaxes=True)
    for col, shares in enumerate(runs.values(), start=1):
        for e, share in enumerate(shares.T):
            fig.add_scatter(
                x=[every * s for s in range(len(share))],
                y=rounded(share),
                name=f"expert {e}",
                stackgroup="all",
                mode="lines",
                line={"width": 0.8, "color": "white"},
                fillcolor=LINES[e % 8],
                showlegend=col == 1,
                row=1,
                col=col,
            )
    fig.update_xaxes(title_text="training step")
    fig.update_yaxes(range=[0, 1], tickformat=".0%")
    fig.update_yaxes(title_text="share of the tokens", col=1)
    return dressed(fig, title, 400)


def tables(named: Mapping[str, Float[Tensor, "R C"]], *, title: str, x: str, y: str) -> go.Figure:
    """Tables of shares side by side: row r, column c in shades from 0 to 1."""
    fig = make_subplots(1, len(named), subplot_titles=list(named), horizontal_spacing=0.06)
    for col, table in enumerate(named.values(), start=1):
        heat = go.Heatmap(
            z=rounded(table),
            coloraxis="coloraxis",
            hovertemplate=f"{y} %{{y}}, {x} %{{x}}: %{{z}}<extra></extra>",
        )
        fig.add_trace(heat, 1, col)
    fig.update_xaxes(title_text=x, dtick=1, showgrid=False, zeroline=False)
    fig.update_yaxes(autorange="reversed", dtick=1, showgrid=False, zeroline=False)
    fig.update_yaxes(title_text=y, col=1)
    bar = {"thickness": 12, "outlinewidth": 0, "tickformat": ".0%"}
    axis = {"colorscale": WEIGHTS, "cmin": 0, "cmax": 1, "colorbar": bar}
    return dressed(fig, title, 340, coloraxis=axis)


GAP = 0.02


def flow_at(table: Float[Tensor, "C E"], *, title: str = "") -> go.Figure:
    """An alluvial figure: bands from clusters (left) to experts (right), as wide as their share."""
    share = (table / table.sum()).double()
    C, E = share.shape
    fig = figure(title=title, height=440)
    left = _tops(share.sum(1), share)
    right = _tops(share.sum(0), share.T).T
    for c in range(C):
        xs, ys = [], []
        for e in range(E):
            if share[c, e] > 5e-4:
                band = _band(left[c, e], right[c, e], share[c, e])
                xs += [*band[0], None]
                ys += [*band[1], None]
        fig.add_scatter(
            x=xs or [None],
            y=ys or [None],
            mode="lines",
            fill="toself",
            fillcolor=LINES[c % 8],
            opacity=0.6,
            line={"width": 0.5, "color": LINES[c % 8]},
            name=f"cluster {c}",
            hoverinfo="name",
            showlegend=False,
        )
    notes = [
        *_notes("cluster", share.sum(1), x=-0.02, anchor="right", always=True),
        *_notes("expert", share.sum(0), x=1.02, anchor="left"),
    ]
    fig.update_xaxes(visible=False, range=[-0.25, 1.35])
    fig.update_yaxes(visible=False, range=[-GAP, 1 + GAP * max(C, E)], autorange=False)
    return fig.update_layout(annotations=notes)


def flow(pages: Mapping[str, Float[Tensor, "C E"]], *, title: str) -> go.Figure:
    """`flow_at` with a slider over training; the number of busy experts is in the title."""
    figs = {}
    for label, table in pages.items():
        busy = (table.sum(0) >= 0.01 * table.sum()).sum().item()
        said = f"{title}: at step {label}, {busy} of {table.shape[1]} experts work"
        figs[label] = flow_at(table, title=said)
    return flip_book(figs, "training step", len(figs) - 1)


def _starts(sizes: Tensor) -> Tensor:
    """Where each block begins, from the bottom, with a gap between blocks."""
    return sizes.cumsum(0) - sizes + GAP * torch.arange(len(sizes))


def _tops(sizes: Tensor, parts: Tensor) -> Tensor:
    """Where each part of each block begins."""
    return _starts(sizes)[:, None] + parts.cumsum(1) - parts


def _band(y0, y1, width, n: int = 16) -> tuple[list[float], list[float]]:
    """The outline of a band from (0, y0) to (1, y1): up along its lower edge, back on the upper."""
    t = torch.linspace(0, 1, n, dtype=torch.float64)
    lower = y0 + (y1 - y0) * (3 * t**2 - 2 * t**3)
    xs = [*t.tolist(), *t.flip(0).tolist(), 0.0]
    ys = [*lower.tolist(), *(lower + width).flip(0).tolist(), lower[0].item()]
    return [round(x, 3) for x in xs], [round(y, 4) for y in ys]


def _notes(what: str, sizes: Tensor, *, x: float, anchor: str, always: bool = False) -> list[dict]:
    """A name beside each block, and its share; experts without tokens are not named."""
    look = {"x": x, "xanchor": anchor, "showarrow": False, "font": {"size": 12}}
    return [
        look | {"y": y, "text": f"{what} {i}: {size:.0%}"}
        for i, (y, size) in enumerate(
            zip((_starts(sizes) + sizes / 2).tolist(), sizes.tolist(), strict=True)
        )
        if always or size >= 0.01
    ]


def dropped(load: Float[Tensor, " E"], capacity_factor: float) -> float:
    """The share of the tokens that find their expert full, if expert e is chosen load[e] times."""
    full = (load - _places(load, capacity_factor)).clamp(min=0)
    return full.sum().item() / load.sum().item()


def _places(load: Float[Tensor, " E"], capacity_factor: float) -> int:
    """Of each expert."""
    return math.ceil(capacity_factor * load.sum().item() / len(load))


def capacity_at(
    named: Mapping[str, Float[Tensor, " E"]], capacity_factor: float = 1.25
) -> go.Figure:
    """Bars: the load of each expert; a line: its places. What is above the line is dropped."""
    fig = make_subplots(1, len(named), subplot_titles=list(named), shared_yaxes=True)
    said = []
    for col, (name, load) in enumerate(named.items(), start=1):
        places = _places(load, capacity_factor)
        parts = {"kept": load.clamp(max=places), "dropped": (load - places).clamp(min=0)}
        for part, color, pattern in (("kept", "q", ""), ("dropped", "write", "/")):
            fig.add_bar(
                x=list(range(len(load))),
                y=parts[part].tolist(),
                name=part,
                marker={"color": COLORS[color], "pattern": {"shape": pattern}},
                showlegend=col == 1,
                row=1,
                col=col,
            )
        ends = [-0.5, len(load) - 0.5]
        line = {"color": INK, "dash": "dash", "width": 1.5}
        fig.add_scatter(
            x=ends,
            y=[places] * 2,
            mode="lines",
            name="places",
            line=line,
            showlegend=col == 1,
            row=1,
            col=col,
        )
        said.append(f"{name} {dropped(load, capacity_factor):.0%}")
    fig.update_xaxes(title_text="expert", dtick=1)
    fig.update_yaxes(title_text="tokens", col=1)
    title = f"Capacity factor {capacity_factor:g} drops: {', '.join(said)}"
    return dressed(fig, title, 400, barmode="stack")


def drops(
    named: Mapping[str, Sequence[Float[Tensor, " E"]]],
    factors: Sequence[float],
    expected: Sequence[float],
    *,
    title: str,
) -> go.Figure:
    """The share of tokens dropped against the capacity factor, one line for each load (seed)."""
    fig = figure(title=title, x="capacity factor", y="tokens dropped", height=400)
    for n, (name, many) in enumerate(named.items()):
        for i, load in enumerate(many):
            fig.add_scatter(
                x=list(factors),
                y=[dropped(load, c) for c in factors],
                name=name,
                legendgroup=name,
                showlegend=i == 0,
                mode="lines",
                line={"color": LINES[n], "dash": DASHES[n], "width": 2},
            )
    look = {"color": INK, "dash": "dot", "width": 1.5}
    fig.add_scatter(
        x=list(factors), y=list(expected), name="chosen by dice", mode="lines", line=look
    )
    fig.update_yaxes(tickformat=".0%", rangemode="tozero")
    return fig.update_layout(legend={"x": 0.98, "xanchor": "right", "y": 0.98})


def dispatch(seconds: Mapping[str, Mapping[int, float]], *, title: str) -> go.Figure:
    """Milliseconds against the number of experts, both logarithmic."""
    fig = figure(title=title, x="experts E (log scale)", height=400)
    for n, (name, times) in enumerate(seconds.items()):
        fig.add_scatter(
            x=list(times),
            y=[float(f"{1000 * t:.3g}") for t in times.values()],
            name=name,
            mode="lines+markers",
            line={"color": LINES[n], "dash": DASHES[n]},
            marker={"size": 8, "symbol": SYMBOLS[n]},
        )
    shown = sorted({E for times in seconds.values() for E in times})
    fig.update_xaxes(type="log", tickvals=shown, ticktext=[str(E) for E in shown])
    ticks = [1, 2, 5, 10, 20, 50, 100, 200, 500]
    fig.update_yaxes(type="log", tickvals=ticks, title_text="milliseconds (log scale)")
    return legend_below(fig)


def product_keys_at(
    first: Float[Tensor, " n"], second: Float[Tensor, " n"], k: int = 4
) -> go.Figure:
    """All n² sums as a table, the k × k candidates framed, the k best marked."""
    n = len(first)
    rows, columns = (u.argsort(descending=True) for u in (first, second))
    sums = first[rows][:, None] + second[columns]
    best = sums.flatten().topk(k).indices
    heat = go.Heatmap(
        z=rounded(sums), colorscale=HEIGHTS, colorbar_title_text="score", xgap=0, ygap=0
    )
    marks = go.Scatter(
        x=(best % n).tolist(),
        y=(best // n).tolist(),
        mode="markers",
        marker={"color": COLORS["write"], "size": 9, "symbol": "x"},
        name=f"the {k} best of all",
    )
    inside = ((best // n < k) & (best % n < k)).sum().item()
    title = (
        f"{inside} of the {k} best of {n * n:,} are among {k * k} sums: "
        f"{2 * n + k * k} numbers in place of {n * n:,}"
    )
    fig = figure(heat, marks, title=title, height=480)
    fig.add_shape(
        type="rect",
        x0=-0.5,
        x1=k - 0.5,
        y0=-0.5,
        y1=k - 0.5,
        line={"color": COLORS["write"], "width": 2},
    )
    bare = {"showgrid": False, "zeroline": False}
    fig.update_xaxes(title_text="second half of the key, best first", range=[-0.5, n - 0.5], **bare)
    return fig.update_yaxes(
        title_text="first half of the key, best first", range=[n - 0.5, -0.5], **bare
    )


def active(models: Mapping[str, tuple[float, float]], *, title: str) -> go.Figure:
    """Active against total parameters in billions, both logarithmic. model -> (total, active)."""
    fig = figure(title=title, x="total parameters (log scale)", height=480, showlegend=False)
    shares = {"dense": 1.0, "1 in 4": 1 / 4, "1 in 20": 1 / 20, "1 in 1,000": 1 / 1000}
    for name, share in shares.items():
        left, right = max(11.0, 0.6 / share), 2500.0
        fig.add_scatter(
            x=[left, right],
            y=[left * share, right * share],
            mode="lines+text",
            text=[name, ""],
            textposition="top right",
            textfont={"size": 11},
            line={"color": EDGE, "dash": "dot", "width": 1},
            hoverinfo="skip",
        )
    fig.add_scatter(
        x=[total / 1e9 for total, _ in models.values()],
        y=[used / 1e9 for _, used in models.values()],
        text=list(models),
        mode="markers+text",
        textposition=_beside([math.log10(total) for total, _ in models.values()]),
        marker={"size": 10, "color": COLORS["q"]},
        hovertemplate="%{text}: %{x:.0f}B, %{y:.1f}B active<extra></extra>",
    )
    ticks = [1, 3, 10, 30, 100, 300, 1000]
    words = [f"{t}B" if t < 1000 else "1,000B" for t in ticks]
    fig.update_xaxes(type="log", tickvals=ticks, ticktext=words, range=[1.0, 3.45])
    fig.update_yaxes(type="log", tickvals=ticks, ticktext=words, range=[-0.3, 2.2])
    return fig.update_yaxes(title_text="active parameters (log scale)")


def _beside(places: Sequence[float], near: float = 0.18) -> list[str]:
    """Where names go: above a mark, or to both sides of two that are near each other."""
    gaps = [[other - x for other in places if other != x] for x in places]
    nearest = [min(gap, key=abs) for gap in gaps]
    sides = {True: "middle left", False: "middle right"}
    return [sides[gap > 0] if abs(gap) < near else "top center" for gap in nearest]


def merges(pairs: Sequence[tuple[float, float, bool]], *, title: str) -> go.Figure:
    """Each pair of experts: (their distance, the loss after merging them, same cluster or not)."""
    fig = figure(title=title, x="distance of the two experts' weights", height=400)
    for same, name, color in ((True, "serve one cluster", "v"), (False, "serve two", "write")):
        chosen = [pair for pair in pairs if pair[2] == same]
        fig.add_scatter(
            x=[round(d, 3) for d, _, _ in chosen],
            y=[round(loss, 4) for _, loss, _ in chosen],
            mode="markers",
            name=name,
            marker={"color": COLORS[color], "symbol": SYMBOLS[0 if same else 4], "size": 8},
        )
    fig.update_layout(legend={"x": 0.98, "xanchor": "right", "y": 0.98})
    return fig.update_yaxes(title_text="loss after merging", rangemode="tozero")
