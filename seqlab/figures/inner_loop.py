"""Figures of chapter 13: errors over time with their spread, and inner models as tables."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor
from torch.func import grad_and_value, vmap

from seqlab.figures.panels import dressed, flip_book, legend_below
from seqlab.figures.table import rounded, ticks
from seqlab.figures.theme import INK, LINES, SIGNED, figure
from seqlab.figures.training import DASHES


def over_time(
    errors: Mapping[str, Float[Tensor, "n T"]],
    *,
    title: str,
    x: str = "pairs read",
    y: str = "squared error",
    change: int | None = None,
    middle: float = 0.8,
    top: float | None = None,
    floor: float | None = None,
) -> go.Figure:
    """The mean over n sequences (or seeds) at each token, and the band that holds their `middle`.

    change: where the rule changes. middle=1: the band reaches from the lowest to the highest.
    floor: a level that theory says, dotted.
    """
    fig = figure(title=title, x=x, y=y, height=430)
    for n, (name, found) in enumerate(errors.items()):
        sides = torch.tensor([(1 - middle) / 2, (1 + middle) / 2], dtype=found.dtype)
        low, high = found.quantile(sides, dim=0)
        t = list(range(found.shape[1]))
        around = {"x": t + t[::-1], "y": rounded(high) + rounded(low)[::-1]}
        fill = {"fill": "toself", "fillcolor": LINES[n % 8], "opacity": 0.14, "hoverinfo": "skip"}
        fig.add_scatter(**around, **fill, line_width=0, mode="lines", showlegend=False)
        look = {"color": LINES[n % 8], "dash": DASHES[n % 5], "width": 2.5}
        fig.add_scatter(x=t, y=rounded(found.mean(0)), name=name, mode="lines", line=look)
    if floor is not None:
        fig.add_hline(floor, line={"dash": "dot", "width": 2, "color": INK})
    if change is not None:
        line = {"dash": "dash", "width": 1.5, "color": INK}
        fig.add_vline(change, line=line, annotation_text=" the rule changes")
    if top is not None:
        fig.update_yaxes(range=[0, top])
    return legend_below(fig)


def tables_at(
    named: Mapping[str, Float[Tensor, "V K"]],
    *,
    title: str,
    top: float,
    x: str = "key channel",
    y: str = "value channel",
) -> go.Figure:
    """Tables of signed numbers side by side, on one colour scale from -top to top."""
    fig = make_subplots(1, len(named), subplot_titles=list(named), horizontal_spacing=0.07)
    plain = {"showgrid": False, "zeroline": False}
    for col, table in enumerate(named.values(), 1):
        hover = "value channel %{y}, key channel %{x}: %{z}<extra></extra>"
        scale = {"colorscale": SIGNED, "zmin": -top, "zmax": top, "showscale": col == len(named)}
        fig.add_trace(go.Heatmap(z=rounded(table), hovertemplate=hover, **scale), 1, col)
        across, down = ticks(range(table.shape[1]), 9), ticks(range(table.shape[0]), 9)
        fig.update_xaxes(title_text=x, row=1, col=col, **plain, **across)
        fig.update_yaxes(autorange="reversed", row=1, col=col, **plain, **down)
    fig.update_yaxes(title_text=y, col=1)
    return dressed(fig, title, 330)


def rules_over(
    rules: Float[Tensor, "2 V K"],
    tables: Mapping[str, Float[Tensor, "T V K"]],
    *,
    change: int,
    pages: Sequence[int],
) -> go.Figure:
    """The rule in force beside each table after t pairs, with a slider over t.

    The title says how far each table is from the rule, relative to the length of the rule.
    """
    figs = {}
    top = rules.abs().max().item()
    for t in pages:
        A = rules[int(t > change)]
        named = {name: table[t - 1] for name, table in tables.items()}
        off = [f"{(W - A).norm() / A.norm():.0%} ({name})" for name, W in named.items()]
        title = f"{t} pairs: off by " + ", ".join(off)
        figs[str(t)] = tables_at({"the rule": A, **named}, title=title, top=top)
    return flip_book(figs, "pairs read", list(pages).index(change))


def weights_moved(W: Float[Tensor, "n H 3 V K"]) -> go.Figure:
    """Inner weights at three times: the first, and the two changes since, of one sequence.

    Of the H heads the one that moves most is shown; the title has means over the n sequences.
    """
    moves = W.diff(dim=2)  # (n, H, 2, V, K)
    lengths = moves.norm(dim=(-1, -2)).mean(0)  # (H, 2)
    head = int(lengths.sum(1).argmax())
    first, second = (round(x, 2) for x in lengths[head].tolist())
    names = ("W₀", "changed by the first rule", "changed by the second")
    named: dict[str, Tensor] = dict(zip(names, (W[0, head, 0], *moves[0, head]), strict=True))
    title = (
        f"The inner weights move by {first:g} under the first rule, by {second:g} under the second"
    )
    return tables_at(
        named, title=title, top=max(table.abs().max().item() for table in named.values())
    )


def bent_rule_errors(
    n: int = 100, T: int = 256, K: int = 4, hidden: int = 32, eta: float = 0.1
) -> dict[str, Float[Tensor, "n T"]]:
    """Errors of a matrix and of a two-layer network that follow v = |A k| less its mean.

    Both take one step of size eta on ½ ‖f(k) - v‖² for each pair; the error is that before the
    step, relative to answering 0. Both have biases, the network a gelu and small random weights.
    """
    rng = torch.Generator().manual_seed(2)
    k = F.normalize(torch.randn(n, T, K, generator=rng), dim=-1)
    v = (k @ torch.randn(n, K, K, generator=rng).mT).abs()
    v = v - v.mean()

    def one(x):
        return F.pad(x, (0, 1), value=1.0)

    models = {
        "a matrix": (lambda M, x: M[0] @ one(x), (torch.zeros(n, K, K + 1),)),
        f"two layers, {hidden} hidden": (
            lambda M, x: M[1] @ one(F.gelu(M[0] @ one(x))),
            (
                0.5 * torch.randn(n, hidden, K + 1, generator=rng),
                0.05 * torch.randn(n, K, hidden + 1, generator=rng),
            ),
        ),
    }
    scale = v.square().sum(-1).mean() / 2
    return {name: _learn(f, M, k, v, eta) / scale for name, (f, M) in models.items()}


def _learn(f, M, k, v, eta) -> Float[Tensor, "n T"]:
    """½ ‖f(k_t) - v_t‖² before each step, of one inner model for each sequence."""
    step = vmap(grad_and_value(lambda M, k, v: (f(M, k) - v).square().sum() / 2))
    found = []
    for k_t, v_t in zip(k.unbind(1), v.unbind(1), strict=True):
        G, loss = step(M, k_t, v_t)
        M = tuple(W - eta * g for W, g in zip(M, G, strict=True))
        found.append(loss)
    return torch.stack(found, 1)
