"""Figures of chapter 03: a memory written and read, its smear, its capacity, its forms' cost.

One head is drawn at a time: q, k (T, K), v (T, V).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from seqlab.figures.panels import dressed, flip_book
from seqlab.figures.table import rounded
from seqlab.figures.theme import COLORS, EMPTY, SIGNED, WEIGHTS, figure

DASHES = ("solid", "dash", "dot", "dashdot")
STATE, READ = "state S<sub>t</sub>", "y<sub>t</sub>"
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x")


def memory_at(
    q: Float[Tensor, "T K"],
    k: Float[Tensor, "T K"],
    v: Float[Tensor, "T V"],
    t: int,
    labels: Sequence[str] | None = None,
) -> go.Figure:
    """Token t of S_t = S_{t-1} + v_t k_tᵀ, y_t = S_t q_t: the write, the table and the read."""
    write, S = torch.outer(v[t], k[t]), v[: t + 1].mT @ k[: t + 1]
    fig = make_subplots(
        2,
        4,
        column_widths=[0.07, 0.38, 0.38, 0.07],
        row_heights=[0.13, 0.87],
        horizontal_spacing=0.07,
        vertical_spacing=0.16,
        specs=[[None, {}, {}, None], [{}, {}, {}, {}]],
        subplot_titles=(
            "k<sub>t</sub>",
            "q<sub>t</sub>",
            "v<sub>t</sub>",
            "write v<sub>t</sub>k<sub>t</sub>ᵀ",
            STATE,
            READ,
        ),
    )
    top = float(max(S.abs().max() for S in (v[:, :, None] * k[:, None]).cumsum(0)))
    panels = [(1, 2, k[t][None]), (1, 3, q[t][None]), (2, 1, v[t][:, None])]
    panels += [(2, 2, write), (2, 3, S), (2, 4, (S @ q[t])[:, None])]
    for row, col, z in panels:
        fig.add_trace(_cells(z, top), row, col)
    _bare_axes(fig)
    for col in (2, 3):
        fig.update_xaxes(title_text="key channel", row=2, col=col)
    fig.update_yaxes(title_text="value channel", row=2, col=1)
    for used, color in ((k[t], "write"), (q[t], "q")):
        for channel in (used.abs() > max(1e-6, used.abs().max() / 2)).nonzero()[:, 0].tolist():
            fig.add_shape(**_frame(channel, len(S), COLORS[color]), row=2, col=3)
    title = f"Token {t}: {labels[t]}" if labels else f"Token {t}"
    return dressed(fig, title, 430, plot_bgcolor=EMPTY)


def memory(q, k, v, labels: Sequence[str] | None = None, start: int = 0) -> go.Figure:
    """`memory_at` for every token, with a slider over the tokens."""
    return flip_book({str(t): memory_at(q, k, v, t, labels) for t in range(len(k))}, "token", start)


def _cells(z: Float[Tensor, "R C"], top: float) -> go.Heatmap:
    """A small table of signed numbers, each in its cell; 0 is blank."""
    text = [["" if abs(x) < 0.05 else f"{x:.1f}" for x in row] for row in z.tolist()]
    return go.Heatmap(
        z=rounded(z),
        text=text,
        texttemplate="%{text}",
        textfont_size=11,
        colorscale=SIGNED,
        zmin=-1.6 * top,  # the middle of the scale, on which dark text reads
        zmax=1.6 * top,
        showscale=False,
        hovertemplate="row %{y}, column %{x}: %{z:.2f}<extra></extra>",
    )


def _frame(channel: int, height: int, color: str) -> dict:
    """A rectangle around one column of a table."""
    return {
        "type": "rect",
        "x0": channel - 0.5,
        "x1": channel + 0.5,
        "y0": -0.5,
        "y1": height - 0.5,
        "line": {"color": color, "width": 3},
    }


def _bare_axes(fig: go.Figure) -> None:
    fig.update_xaxes(showticklabels=False, ticks="", showgrid=False, zeroline=False, showline=False)
    fig.update_yaxes(
        showticklabels=False,
        ticks="",
        showgrid=False,
        zeroline=False,
        showline=False,
        autorange="reversed",
    )


def smear_at(v1: Float[Tensor, " V"], v2: Float[Tensor, " V"], degrees: float) -> go.Figure:
    """Two pairs under unit keys `degrees` apart: what key 1 returns is v₁ + cos(angle) v₂."""
    angle = torch.deg2rad(torch.tensor(float(degrees)))
    k1, k2 = torch.tensor([1.0, 0.0]), torch.stack([angle.cos(), angle.sin()])
    S = torch.outer(v1, k1) + torch.outer(v2, k2)
    share = round(float(k1 @ k2), 6)
    fig = make_subplots(1, 2, column_widths=[0.36, 0.64], subplot_titles=["the two keys", ""])
    for name, key, dash in (("k₁", k1, "solid"), ("k₂", k2, "dash")):
        arrow = go.Scatter(
            x=[0, float(key[0])],
            y=[0, float(key[1])],
            mode="lines+markers+text",
            text=["", name],
            textposition="top right" if name == "k₁" else "top center",
            line={"color": COLORS["k"], "width": 4, "dash": dash},
            marker={"size": [1, 10]},
            showlegend=False,
        )
        fig.add_trace(arrow, 1, 1)
    channels = list(range(len(v1)))
    for name, height, color, pattern in (
        ("stored: v₁", v1, COLORS["v"], ""),
        ("returned: S k₁", S @ k1, COLORS["state"], ""),
        ("smear: cos·v₂", share * v2, COLORS["write"], "/"),
    ):
        bars = go.Bar(
            x=channels,
            y=rounded(height),
            name=name,
            marker={"color": color, "pattern_shape": pattern},
        )
        fig.add_trace(bars, 1, 2)
    limit = 1.1 * float(v1.abs().max() + v2.abs().max())
    fig.update_xaxes(range=[-1.2, 1.4], row=1, col=1)
    fig.update_yaxes(range=[-0.35, 1.35], scaleanchor="x", row=1, col=1)
    fig.update_xaxes(title_text="value channel", tickvals=channels, row=1, col=2)
    fig.update_yaxes(range=[-limit, limit], row=1, col=2)
    title = (
        f"Keys {degrees:g}° apart: key 1 returns v₁ {'−' if share < 0 else '+'} {abs(share):.2f} v₂"
    )
    return dressed(
        fig, title, 380, legend={"orientation": "h", "y": 1.02, "x": 0.4, "yanchor": "bottom"}
    )


def smear(v1, v2, degrees: Sequence[float], start: int = 0) -> go.Figure:
    """`smear_at` with a slider over the angle."""
    return flip_book(
        {f"{d:g}°": smear_at(v1, v2, d) for d in degrees}, "angle between the keys", start
    )


def recall_error(k: Float[Tensor, "N K"], v: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """|S k_i - v_i| / |v_i| for S = Σ v_i k_iᵀ."""
    S = v.mT @ k
    return (k @ S.mT - v).norm(dim=-1) / v.norm(dim=-1)


def random_keys(N: int, K: int, rng: torch.Generator) -> Float[Tensor, "N K"]:
    """N random directions: unit keys."""
    return torch.nn.functional.normalize(torch.randn(N, K, generator=rng), dim=-1)


def capacity_curve(
    loads: Sequence[float],
    K: int,
    rng: torch.Generator,
    keys: Callable[[int, int, torch.Generator], Tensor] = random_keys,
) -> tuple[Sequence[float], list[float]]:
    """(N / K, root mean square of the read error) for each load, over new keys and values.

    The values are random, of length 1. The more keys there are in one memory, the fewer memories.
    """
    errors = []
    for load in loads:
        N = round(load * K)
        reads = [recall_error(keys(N, K, rng), random_keys(N, 32, rng)) for _ in range(4096 // K)]
        errors.append(float(torch.stack(reads).square().mean().sqrt()))
    return loads, errors


def capacity(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], law: Callable[[float], float]
) -> go.Figure:
    """Recall error against pairs per key channel: name -> (N / K, error), and the law for both."""
    grid = torch.linspace(0, 4, 81)
    line = {"color": COLORS["softmax"], "width": 2}
    traces = [
        go.Scatter(
            x=rounded(grid),
            y=[law(x) for x in grid.tolist()],
            name="√(N / K)",
            mode="lines",
            line=line,
        )
    ]
    for i, (name, (load, error)) in enumerate(curves.items()):
        color = [COLORS[c] for c in ("v", "write", "q", "k", "attention")][i % 5]
        marker = {"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 9, "color": color}
        traces.append(
            go.Scatter(x=list(load), y=list(error), name=name, mode="markers", marker=marker)
        )
    title = "Orthonormal keys read back exactly, up to N = K; random keys always smear"
    fig = figure(
        *traces,
        title=title,
        x="pairs stored ÷ key channels, N / K",
        y="relative error of the read",
        height=400,
    )
    fig.add_vline(
        1.0,
        line_dash="dash",
        line_color=COLORS["decay"],
        annotation_text="N = K",
        annotation_xshift=6,
    )
    note = "above this line, answering 0 is better"
    fig.add_hline(1.0, line_dash="dot", line_color=COLORS["decay"])
    fig.add_annotation(x=3.9, y=1.0, text=note, showarrow=False, xanchor="right", yanchor="bottom")
    return fig.update_layout(legend={"x": 0.99, "y": 0.03, "xanchor": "right", "yanchor": "bottom"})


def kernels_at(
    scores: Float[Tensor, " N"], dots: Mapping[str, Float[Tensor, " N"]], title: str
) -> go.Figure:
    """φ(q)·φ(k) against s = q·k / √K on a log scale, a panel per feature map.

    On the line, φ(q)·φ(k) = exp(s). Each cloud is moved up or down as a whole onto the line: a
    constant factor cancels in the normaliser. Crosses at the foot are below 0, where there is no
    logarithm.
    """
    reach = 1.05 * float(scores.abs().max())
    fig = make_subplots(
        2,
        2,
        subplot_titles=list(dots),
        shared_xaxes=True,
        horizontal_spacing=0.1,
        vertical_spacing=0.13,
    )
    for i, dot in enumerate(dots.values()):
        at: dict[str, Any] = {"row": i // 2 + 1, "col": i % 2 + 1}
        positive = dot > 0
        off = dot[positive].log() - scores[positive]
        height = torch.full_like(scores, -reach).masked_scatter(
            positive, scores[positive] + off - off.median()
        )
        symbols = (
            "circle" if positive.all() else ["circle" if p else "x" for p in positive.tolist()]
        )
        marker = {"size": 5, "opacity": 0.7, "symbol": symbols, "color": COLORS["attention"]}
        exact = {"mode": "lines", "line_color": COLORS["softmax"], "hoverinfo": "skip"}
        fig.add_trace(go.Scatter(x=[-reach, reach], y=[-reach, reach], **exact), **at)
        fig.add_trace(
            go.Scatter(x=rounded(scores), y=rounded(height), mode="markers", marker=marker), **at
        )
        note = f"typically off by ×{float(off.sub(off.median()).abs().median().exp()):.2g}"
        if not positive.all():
            note = f"{100 * float((~positive).float().mean()):.0f} % below 0 (✕)<br>the rest {note}"
        fig.add_annotation(
            x=-0.95 * reach,
            y=0.97 * reach,
            text=note,
            showarrow=False,
            xanchor="left",
            yanchor="top",
            align="left",
            **at,
        )
    fig.update_xaxes(range=[-reach, reach], zeroline=False)
    fig.update_yaxes(range=[-1.1 * reach, reach], zeroline=False)
    fig.update_xaxes(title_text="s = q·k / √K", row=2)
    fig.update_yaxes(title_text="ln φ(q)·φ(k)", col=1)
    return dressed(fig, title, 520, showlegend=False)


def kernels(
    maps: Mapping[str, Callable[[Tensor], Tensor]],
    sizes: Sequence[float],
    K: int = 16,
    start: int = 0,
) -> go.Figure:
    """`kernels_at` for 120 random pairs with entries of each size, with a slider over the sizes."""
    pages = {}
    for size in sizes:
        q, k = size * torch.randn(2, 120, K, generator=torch.Generator().manual_seed(0))
        dots = {name: (phi(q) * phi(k)).sum(-1) for name, phi in maps.items()}
        title = f"φ(q)·φ(k) against exp(s), entries of size {size:g}, K = {K}"
        pages[f"{size:g}"] = kernels_at((q * k).sum(-1) / K**0.5, dots, title)
    return flip_book(pages, "size of the entries", start)


def overlaps(keys: Mapping[str, Float[Tensor, "N K"]], title: str) -> go.Figure:
    """The cosine of every two keys, a panel for each set of keys."""
    fig = make_subplots(1, len(keys), subplot_titles=list(keys), horizontal_spacing=0.12)
    for col, k in enumerate(keys.values(), start=1):
        unit = torch.nn.functional.normalize(k, dim=-1)
        look = {"colorscale": SIGNED, "zmin": -1, "zmax": 1, "showscale": col == len(keys)}
        table = go.Heatmap(z=rounded(unit @ unit.mT), colorbar_title_text="cosine", **look)
        fig.add_trace(table, 1, col)
    fig.update_xaxes(title_text="key j", showgrid=False, zeroline=False)
    fig.update_yaxes(autorange="reversed", showgrid=False, zeroline=False)
    fig.update_yaxes(title_text="key i", row=1, col=1)
    return dressed(fig, title, 400, showlegend=False)


def growth(
    t: Sequence[float], curves: Mapping[str, Sequence[float]], *, title: str, y: str
) -> go.Figure:
    """One line per name over the tokens t, both axes logarithmic: growth like t has slope 1."""
    fig = figure(title=title, x="token t (log scale)", y=f"{y} (log scale)", height=420)
    for i, (name, values) in enumerate(curves.items()):
        line = {
            "color": COLORS[("write", "k", "state", "q")[i % 4]],
            "dash": DASHES[i % 4],
            "width": 2.5,
        }
        fig.add_scatter(
            x=list(t), y=rounded(torch.as_tensor(values)), name=name, mode="lines", line=line
        )
    fig.update_xaxes(type="log", dtick=1)
    fig.update_yaxes(type="log", dtick=1, exponentformat="power")
    return fig.update_layout(legend={"orientation": "h", "y": -0.2, "x": 0, "yanchor": "top"})


def forms_at(T: int, C: int, K: int, V: int) -> go.Figure:
    """How token i's read reaches token j with chunks of C: by the pair (i, j) itself, or through
    the state.
    """
    i, j = torch.arange(T)[:, None], torch.arange(T)[None]
    how = torch.where(j > i, torch.nan, (i // C != j // C).float())  # 0: pair, 1: state
    fig = make_subplots(
        1,
        3,
        column_widths=[0.56, 0.22, 0.22],
        horizontal_spacing=0.11,
        subplot_titles=["which way from j to i", "multiply-adds", "steps, at most"],
    )
    colors = [
        [0, COLORS["attention"]],
        [0.5, COLORS["attention"]],
        [0.5, COLORS["state"]],
        [1, COLORS["state"]],
    ]
    fig.add_trace(
        go.Heatmap(
            z=rounded(how), colorscale=colors, zmin=0, zmax=1, showscale=False, hoverinfo="skip"
        ),
        1,
        1,
    )
    pairs, through = T * C * (K + V), 2 * T * K * V
    fig.add_trace(_bar("pairs", pairs, COLORS["attention"]), 1, 2)
    fig.add_trace(_bar("state", through, COLORS["state"]), 1, 2)
    fig.add_trace(_bar("chunks", T // C, COLORS["decay"]), 1, 3)
    fig.update_xaxes(title_text="token j, written", constrain="domain", row=1, col=1)
    fig.update_xaxes(zeroline=False)
    fig.update_yaxes(
        title_text="token i, reads",
        autorange="reversed",
        scaleanchor="x",
        zeroline=False,
        row=1,
        col=1,
    )
    fig.update_yaxes(range=[0, T * (1.12 * T * (K + V) + 2 * K * V)], row=1, col=2)
    fig.update_yaxes(range=[0, 1.12 * T], row=1, col=3)
    name = {1: " (the recurrent form)", T: " (the parallel form)"}.get(C, "")
    return dressed(
        fig,
        f"Chunks of {C}{name}: purple by pairs, blue through the state",
        380,
        barmode="stack",
        showlegend=False,
    )


def forms(T: int, chunks: Sequence[int], K: int, V: int) -> go.Figure:
    """`forms_at` with a slider over the chunk length."""
    return flip_book(
        {str(C): forms_at(T, C, K, V) for C in chunks}, "chunk length C", start=len(chunks) // 2
    )


def _bar(name: str, height: float, color: str) -> go.Bar:
    return go.Bar(
        x=[""],
        y=[height],
        name=name,
        marker_color=color,
        text=[f"{height:,}"],
        textangle=0,
        textfont_size=12,
        insidetextanchor="middle",
    )


def moved(maps: Mapping[str, Float[Tensor, "T T"]], title: str) -> go.Figure:
    """|change of output i| (row) when token j (column) changes; above the stairs must be none."""
    fig = make_subplots(1, len(maps), subplot_titles=list(maps), horizontal_spacing=0.12)
    for col, change in enumerate(maps.values(), start=1):
        shades = {"colorscale": WEIGHTS, "zmin": 0, "zmax": 0.4, "showscale": col == len(maps)}
        fig.add_trace(
            go.Heatmap(z=rounded(change / change.max()), colorbar_title_text="change", **shades),
            1,
            col,
        )
        steps = [
            (x, y) for t in range(len(change)) for x, y in ((t + 0.5, t - 0.5), (t + 0.5, t + 0.5))
        ]
        stairs = {"x": [x for x, _ in steps][:-1], "y": [y for _, y in steps][:-1]}
        edge = go.Scatter(
            **stairs, mode="lines", line={"color": COLORS["write"], "width": 2}, hoverinfo="skip"
        )
        fig.add_trace(edge, 1, col)
    fig.update_xaxes(title_text="token j, changed", showgrid=False, zeroline=False)
    fig.update_yaxes(autorange="reversed", showgrid=False, zeroline=False)
    fig.update_yaxes(title_text="output i", row=1, col=1)
    return dressed(fig, title, 400, showlegend=False)
