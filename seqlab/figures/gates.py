"""Figures of chapter 05: half-lives by token, families of gates, the graph of identities."""

import cmath
import math
from collections.abc import Callable, Mapping, Sequence

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from seqlab.figures.panels import dressed, flip_book
from seqlab.figures.table import rounded
from seqlab.figures.theme import COLORS, EDGE, INK, LINES, PAPER, SIGNED, figure

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x")


def half_lives(
    models: Mapping[str, Sequence[Float[Tensor, "N H"]]], kinds: Mapping[str, slice], *, title: str
) -> go.Figure:
    """The half-life that each model's gates give each kind of token: a mark per token and head.

    models: name -> one log decay per seed, of every token of the vocabulary (N, H).
    """
    fig = figure(title=title, y="half-life in tokens (log scale)", height=400)
    for i, (name, seeds) in enumerate(models.items()):
        lives = [math.log(0.5) / log_a.clamp(max=-1e-6) for log_a in seeds]
        xs: list[float] = []
        ys: list[float] = []
        for place, tokens in enumerate(kinds.values()):
            found = torch.cat([x[tokens].flatten() for x in lives])
            room = 0.8 / len(models)  # of each model, beside the others
            spread = torch.linspace(-0.35, 0.35, len(found))
            xs += (place + room * (i - (len(models) - 1) / 2 + spread)).tolist()
            ys += rounded(found)
        marker = {"size": 7, "symbol": SYMBOLS[i], "color": LINES[i], "opacity": 0.75}
        fig.add_scatter(x=xs, y=ys, mode="markers", name=name, marker=marker)
    fig.update_xaxes(
        tickvals=list(range(len(kinds))), ticktext=list(kinds), showgrid=False, zeroline=False
    )
    fig.update_yaxes(type="log", dtick=1)
    return fig.update_layout(showlegend=True, legend={"orientation": "h", "y": -0.15, "x": 0})


# Families of gates. A state of 4 rows and 4 columns; the letter a belongs to row and column 0.

N = 4
FILLER = "·"
Gate = tuple[list[complex], list[complex], list[float]]  # of rows, of columns; what is written


def _at(i: int | None, value: complex, other: complex = 1.0) -> list[complex]:
    """`value` at place i, `other` elsewhere."""
    return [value if n == i else other for n in range(N)]


def _every(value: complex) -> list[complex]:
    return [value] * N


def _retnet(i, dial, seen):
    return _every(1), _every(1 - dial / 2), _every(1)


def _one_number(i, dial, seen):
    return _every(1), _every(1 if i is None else 1 - dial), _every(1)


def _average(i, dial, seen):
    share = 0.0 if i is None else dial
    return _every(1), _every(1 - share), _every(share)


def _exponential(i, dial, seen):
    """mLSTM: how much is written does not depend on how much is forgotten."""
    return _every(1), _every(0.9), _every(1 if i is None else math.exp(2 * dial))


def _columns(i, dial, seen):
    return _every(1), _at(i, 1 - dial), _every(1)


def _tied(i, dial, seen):
    return _every(1), _at(i, 1 - dial), _at(i, dial, 0.0)


def _rows_and_columns(i, dial, seen):
    return _at(i, 1 - dial), _at(i, 1 - dial), _every(1)


def _turning(i, dial, seen):
    return _every(1), [0.95 * cmath.exp(1j * dial * n * math.pi / 3) for n in range(N)], _every(1)


def _mean(i, dial, seen):
    """ABC: φ = exp(4 dial) in the letter's slot, 1 in the others; seen: Σ φ, which it updates."""
    gates, shares = [], []
    for n in range(N):
        phi = math.exp(4 * dial) if n == i else 1.0
        seen[n] += phi
        gates.append(1 - phi / seen[n])
        shares.append(phi / seen[n])
    return _every(1), gates, shares


FAMILIES: dict[str, tuple[str, Callable]] = {
    "RetNet": ("one constant for all", _retnet),
    "gated retention, Mamba-2": ("one number, chosen by the token", _one_number),
    "Gated RFA": ("one number, and the write takes the rest", _average),
    "mLSTM": ("one number, and a free strength of the write", _exponential),
    "GLA, RWKV-6": ("a number for each column", _columns),
    "HGRN-2, GSA": ("a number for each column, and the write takes the rest", _tied),
    "DFW": ("a number for each row times one for each column", _rows_and_columns),
    "GateLoop": ("columns that turn as they fade (real part)", _turning),
    "ABC": ("each column keeps a running mean", _mean),
}


def gates_of(family: str, text: str, dial: float) -> tuple[Tensor, Tensor]:
    """G_t = α_t β_tᵀ of each token (T, N, N), complex, and what each writes into every cell.

    Letters a to d choose; anything else is filler. ValueError: the text is empty.
    """
    if not text:
        raise ValueError("the text is empty: write at least one letter")
    make, seen, gates, writes = FAMILIES[family][1], [0.0] * N, [], []
    for letter in text:
        i = ord(letter) - ord("a") if letter in "abcd" else None
        alpha, beta, write = make(i, dial, seen)
        gates.append(
            torch.outer(
                torch.tensor(alpha, dtype=torch.cfloat), torch.tensor(beta, dtype=torch.cfloat)
            )
        )
        writes.append(torch.tensor(write, dtype=torch.cfloat).expand(N, N))
    return torch.stack(gates), torch.stack(writes)


def family_at(family: str = "GLA, RWKV-6", dial: float = 0.8, text: str = "ab··a··c") -> go.Figure:
    """Above, the gate of each token; below, what is left of each write after the last token."""
    gates, left = gates_of(family, text, dial)
    for t in range(len(text)):
        left[t] *= gates[t + 1 :].prod(0) if t + 1 < len(text) else 1
    fig = make_subplots(2, 1, vertical_spacing=0.2, row_titles=None)
    top = max(1.0, left.real.abs().max().item())
    for row, (tiles, most) in enumerate(((gates, 1.0), (left, top)), 1):
        gap = torch.full((N, 1), math.nan)
        z = torch.cat([part for tile in tiles.real for part in (tile, gap)], dim=1)[:, :-1]
        bar = {"x": 1.01, "y": 0.8 if row == 1 else 0.2, "len": 0.45, "thickness": 12}
        look = {"colorscale": SIGNED, "zmin": -most, "zmax": most, "colorbar": bar}
        heat = go.Heatmap(y=list(range(N)), z=rounded(z), xgap=1, ygap=1, **look)
        heat.hovertemplate = "row %{y}: %{z}<extra></extra>"
        fig.add_trace(heat, row, 1)
        middles = [t * (N + 1) + (N - 1) / 2 for t in range(len(text))]
        fig.update_xaxes(
            tickvals=middles, ticktext=list(text), row=row, col=1, showgrid=False, zeroline=False
        )
        fig.update_yaxes(tickvals=list(range(N)), ticktext=list("abcd"), row=row, col=1)
        fig.update_yaxes(autorange="reversed", showgrid=False, zeroline=False, row=row, col=1)
    for y, words in ((1.0, "the gate of each token"), (0.4, "what is left of each write")):
        look = {"x": 0, "xref": "paper", "xanchor": "left", "yref": "paper", "yanchor": "bottom"}
        fig.add_annotation(text=words, y=y, showarrow=False, **look)
    return dressed(fig, f"{family}: {FAMILIES[family][0]}", 380, showlegend=False, margin_t=86)


def families(text: str = "ab··a··c", dial: float = 0.8) -> go.Figure:
    """`family_at` with a slider over the families."""
    return flip_book({name: family_at(name, dial, text) for name in FAMILIES}, "family")


# Where along its arrow an edge's words are, if not in the middle: clear of other words.
ALONG = {
    ("GLA", "HGRN-2"): 0.75,
    ("mLSTM", "gated retention"): 0.25,
    ("RetNet", "linear attention"): 0.64,
    ("RetNet", "lightning attention"): 0.4,
    ("Gated RFA", "linear attention"): 0.35,
}
PLACES = {  # in the graph of identities: across from 0 to 1, upwards from special to general
    "lightning attention": (0.11, 0),
    "linear attention": (0.37, 0),
    "attention": (0.9, 0),
    "RetNet": (0.16, 1),
    "Gated RFA": (0.66, 1),
    "ABC": (0.9, 1),
    "gated retention": (0.16, 2),
    "HGRN-2": (0.74, 2),
    "GSA": (0.9, 2),
    "mLSTM": (0.08, 3),
    "GLA": (0.4, 3),
    "DFW": (0.26, 4),
    "GateLoop": (0.7, 4),
}


def identities(
    edges: Sequence[tuple[str, str, str]],
    places: Mapping[str, tuple[float, float]] = PLACES,
) -> go.Figure:
    """An arrow from each architecture to its special case: (general, change, special).

    ValueError: a name has no place.
    """
    missing = {n for g, _, s in edges for n in (g, s)} - places.keys()
    if missing:
        raise ValueError(f"no place is given for {', '.join(sorted(missing))}")
    top = max(y for _, y in places.values())
    title = f"{len(edges)} identities hold: each arrow leads to a special case"
    height = round(195 + 105 * top)
    fig = figure(title=title, height=height, margin={"l": 8, "r": 8, "b": 8})
    for general, _, special in edges:
        (x0, y0), (x1, y1) = places[general], places[special]
        arrow = {"ax": x0, "ay": y0, "x": x1, "y": y1, "axref": "x", "ayref": "y"}
        look = {"arrowhead": 2, "arrowwidth": 1.6, "arrowcolor": EDGE, "standoff": 19}
        fig.add_annotation(**arrow, **look, startstandoff=17, text="", showarrow=True)
    for general, change, special in edges:  # after the arrows, so that none crosses the words
        (x0, y0), (x1, y1) = places[general], places[special]
        part = ALONG.get((general, special), 0.5)
        word = {"x": x0 + part * (x1 - x0), "y": y0 + part * (y1 - y0), "text": change}
        font = {"size": 11, "color": INK}
        fig.add_annotation(**word, showarrow=False, font=font, bgcolor=PAPER, borderpad=1)
    shown = {n for g, _, s in edges for n in (g, s)}
    for name, (x, y) in places.items():
        if name in shown:
            box = {"bgcolor": PAPER, "bordercolor": COLORS["q"], "borderwidth": 2}
            look = box | {"borderpad": 5, "text": f"<b>{name}</b>", "showarrow": False}
            fig.add_annotation(x=x, y=y, **look)
    fig.update_xaxes(visible=False, range=[0, 1], fixedrange=True)
    fig.update_yaxes(visible=False, range=[-0.4, top + 0.4], fixedrange=True)
    return fig
