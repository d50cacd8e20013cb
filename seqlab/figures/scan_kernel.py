"""Figures of chapter 26: what bounds a scan, wrong operators, checkpoints, triangular tiles."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from seqlab.core.recurrence import chunkwise
from seqlab.figures.panels import dressed, flip_book, legend_below
from seqlab.figures.theme import COLORS, INK, LINES, figure
from seqlab.figures.training import SYMBOLS
from seqlab.gpu.compile import compile_report
from seqlab.gpu.devices import DEVICES
from seqlab.zoo import recipe

EXPONENTIALS = 3.9e12
"""exp a second of an H100 (Shah et al. 2024, arXiv:2407.08608): they have units of their own."""
PARTS = ("bytes", "multiplications and additions", "exponentials", "matrix products")
WAYS = ("scan, states written", "scan, fused", "chunks of 64, a gate per head")
NOT_FINITE = 1e12
"""Where an error that is larger, inf or NaN is drawn."""


def counted(N: int, P: int = 64, C: int = 64) -> dict[str, tuple[float, float, float, float]]:
    """For one token of one channel with N numbers of state: way -> counts, in the order of PARTS.

    x, Δ and y have 2 bytes, states 4. What P channels of a head share, or all of them, is counted
    as a P-th, or not at all. Matrix products are counted as kernels make them, over whole tiles.
    """
    scanned = 6 * N + 1  # Δ A and (Δ x) B; a h + b; the sum of C h
    pairs = C * (1 + N / P)  # P (C, C) times v, and C Bᵀ, shared by the head
    in_chunk = C / P + 2 / P  # one decay for each pair, and two for each token
    return {
        WAYS[0]: (6 + 24 * N, scanned, N, 0),  # a, b, h: 4 bytes, written and read
        WAYS[1]: (6, scanned, N, 0),
        WAYS[2]: (4 + 8 * N / C, 2 * (C + N) / P + 1, in_chunk, 4 * N + 2 * pairs),
    }


def floors(N: int, P: int = 64, C: int = 64) -> dict[str, list[float]]:
    """`counted`, over the H100's published peaks: way -> picoseconds a token and channel."""
    gpu = DEVICES["H100"]
    peaks = gpu.bytes_per_second, gpu.flops["fp32"], EXPONENTIALS, gpu.flops["bf16"]
    return {
        way: [1e12 * n / peak for n, peak in zip(counts, peaks, strict=True)]
        for way, counts in counted(N, P, C).items()
    }


def bounds_at(N: int) -> go.Figure:
    """The floors of each way, one bar for each part."""
    found = floors(N)
    fused = found[WAYS[1]]
    bound = PARTS[fused.index(max(fused))]
    bars = [
        go.Bar(
            x=list(found),
            y=[float(f"{by[n]:.3g}") or None for by in found.values()],
            name=part,
            marker_color=LINES[n],
            marker_pattern_shape=("", "/", "x", ".")[n],
            hovertemplate="%{x}, " + part + ": at least %{y} ps<extra></extra>",
        )
        for n, part in enumerate(PARTS)
    ]
    title = f"State of {N}: {bound} bound the fused scan; chunks need {_least(found)} of its time"
    fig = figure(*bars, title=title, y="ps a token and channel, at least (log scale)", height=430)
    fig.update_yaxes(type="log", range=[-2, 3.3], dtick=1, exponentformat="power")
    return legend_below(fig.update_layout(barmode="group"))


def _least(found: Mapping[str, Sequence[float]]) -> str:
    share = max(found[WAYS[2]]) / max(found[WAYS[1]])
    return f"{share:.0%}"


def bounds(states: Sequence[int]) -> go.Figure:
    """`bounds_at` with a slider over the numbers of state of a channel."""
    return _slider_below(flip_book({str(N): bounds_at(N) for N in states}, "numbers of state"))


def _slider_below(book: go.Figure) -> go.Figure:
    layout: Any = book.layout
    layout.sliders[0].update(y=-0.30)
    return book


def orders(found: Mapping[str, Sequence[float]], title: str) -> go.Figure:
    """Errors token by token for each way of joining: name -> errors."""
    fig = figure(title=title, x="token", y="error of h (log scale)", height=380)
    for n, (name, errors) in enumerate(found.items()):
        fig.add_scatter(
            y=[float(f"{max(e, 1e-9):.3g}") for e in errors],
            name=name,
            mode="lines+markers",
            line={"color": LINES[n], "dash": ("solid", "dot", "dash", "dashdot")[n % 4]},
            marker={"symbol": SYMBOLS[n % len(SYMBOLS)], "size": 7},
        )
    fig.update_yaxes(type="log", dtick=2, exponentformat="power", range=[-9.4, 1])
    return legend_below(fig)


def checkpoints(N: int = 16) -> go.Figure:
    """What the forward saves, 4 bytes a number of state, and the steps that are made again.

    Both for a token of a channel, against the tokens of a chunk.
    """
    lengths = [2**n for n in range(9)]
    saved = [4 * N / C for C in lengths]
    again = [(C - 1) / 2 for C in lengths]
    fig = make_subplots(1, 2, horizontal_spacing=0.14)
    look: dict[str, Any] = {"x": lengths, "mode": "lines+markers", "showlegend": False}
    fig.add_scatter(**look, y=saved, line_color=COLORS["state"], row=1, col=1)
    fig.add_scatter(**look, y=again, line_color=COLORS["write"], row=1, col=2)
    fig.add_hline(6, row=1, col=1, line={"color": INK, "dash": "dot"})  # pyright: ignore
    fig.update_xaxes(type="log", tickvals=lengths[::2], title_text="tokens of a chunk (log scale)")
    top = math.log10(4 * max(saved))
    fig.update_yaxes(title_text="bytes of saved states (log scale)", row=1, col=1)
    fig.update_yaxes(type="log", range=[-1.5, top], dtick=1, row=1, col=1)
    fig.update_yaxes(title_text="steps made again", row=1, col=2)
    fewer = next(C for C in lengths if 4 * N / C <= 6) if 4 * N / lengths[-1] <= 6 else None
    title = f"State of {N}: from chunks of {fewer} on, saved states need no more bytes than x, Δ, y"
    return dressed(fig, title, 360, margin_b=60)


def inverses(L: torch.Tensor) -> dict[str, torch.Tensor]:
    """(I + L)⁻¹ of strictly lower triangular L (…, C, C), in L's own precision, by three ways."""
    C = L.shape[-1]
    eye = torch.eye(C, dtype=L.dtype)
    rows = eye.expand_as(L).clone()
    for i in range(1, C):
        rows[..., i, :] -= (L[..., i, None, :i] @ rows[..., :i, :])[..., 0, :]
    powers, power, n = eye - L, L @ L, 2
    while n < C:
        powers, power, n = powers @ (eye + power), power @ power, 2 * n
    tiles = merged(L, rows)
    return {"forward substitution": rows, "tiles of 16, merged": tiles, "powers of L": powers}


def merged(L: torch.Tensor, rows: torch.Tensor, size: int = 16) -> torch.Tensor:
    """The inverse from those of the tiles on its diagonal, twice as large each time.

    rows: any matrix whose tiles of `size` along the diagonal are those of the inverse.
    """
    at = torch.arange(L.shape[-1])
    X = torch.where(at[:, None] // size == at // size, rows, 0)
    while size < len(at):
        together = at[:, None] // (2 * size) == at // (2 * size)
        N = torch.where(together & (at[:, None] // size != at // size), L, 0)
        X = X - X @ N @ X
        size *= 2
    return X


def inverse_errors(seeds: Sequence[Mapping[str, torch.Tensor]]) -> dict:
    """way -> {keys: the largest error of (I + L)⁻¹ in float32 for each seed}.

    seeds: keys -> L, for each seed. Errors are against substitution in float64.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for cases in seeds:
        for name, L in cases.items():
            exact = inverses(L.double())["forward substitution"]
            for way, X in inverses(L.float()).items():
                error = (X - exact).abs().max().item()
                found.setdefault(way, {}).setdefault(name, []).append(error)
    return found


def inverted(found: Mapping[str, Mapping[str, Sequence[float]]]) -> go.Figure:
    """Largest errors of inverses, as from `inverse_errors`."""
    names = list(next(iter(found.values())))
    worst = max(found["powers of L"]["trained"])
    title = f"Trained keys: powers of L err by up to {worst:.2g}, the other ways by rounding"
    fig = figure(title=title, y="largest error (log scale)", height=430)
    for n, (way, by) in enumerate(found.items()):
        shift = 0.16 * (n - (len(found) - 1) / 2)
        points = [(names.index(name) + shift, e) for name, es in by.items() for e in es]
        fig.add_scatter(
            x=[x for x, _ in points],
            y=[float(f"{_drawn(e):.3g}") for _, e in points],
            name=way,
            mode="markers",
            marker={"size": 10, "symbol": SYMBOLS[n % len(SYMBOLS)], "color": LINES[n]},
        )
    fig.update_xaxes(tickvals=list(range(len(names))), ticktext=names)
    fig.update_xaxes(range=[-0.5, len(names) - 0.5])
    fig.update_yaxes(type="log", range=[-8.5, 13], dtick=3, exponentformat="power")
    fig.add_hline(1, line={"color": INK, "dash": "dot", "width": 1.5})
    return legend_below(fig)


def _drawn(error: float) -> float:
    return min(max(error, 1e-8), NOT_FINITE) if math.isfinite(error) else NOT_FINITE


def listed(N: int) -> str:
    """`counted` as text, a way a line."""
    ways = counted(N).items()
    each = {w: [f"{n:.3g} {part}" for n, part in zip(c, PARTS, strict=True)] for w, c in ways}
    return "\n".join(f"{way}:\n   {', '.join(parts)}" for way, parts in each.items())


def doubling(op: Callable, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The scan by Hillis and Steele's tree: join each element with the one 1, 2, 4, … before it."""
    span = 1
    while span < len(a):
        joined = op(a[:-span], b[:-span], a[span:], b[span:])
        a, b = (torch.cat([x[:span], y]) for x, y in zip((a, b), joined, strict=True))
        span *= 2
    return b


def systems(model: Any, tokens: torch.Tensor, C: int = 64) -> torch.Tensor:
    """L (B, H, C, C) of the first chunk, as the first layer of a model, a DeltaNet, makes it."""
    seen, mixer = [], model.blocks[0].mixer

    def noted(q, k, v, *, beta, log_a=None, state=None):
        seen.append(beta.mT[..., None] * (k.transpose(1, 2) @ k.permute(0, 2, 3, 1)))
        return chunkwise(q, k, v, log_a=log_a, beta=beta, state=state)

    form, mixer.form = mixer.form, noted
    with torch.no_grad():
        model(tokens[:, :C])
    mixer.form = form
    return seen[0].tril(-1)


def signs(seeds: Sequence[Mapping[str, torch.Tensor]]) -> str:
    """How many entries below the diagonal are positive: a line for each kind of keys."""
    lines = []
    for name in seeds[0]:
        C = seeds[0][name].shape[-1]
        i, j = torch.tril_indices(C, C, -1)
        shares = [(L[name][..., i, j] > 0).float().mean().item() for L in seeds]
        lines.append(f"{name}: {min(shares):.0%} to {max(shares):.0%} of the overlaps are positive")
    return "\n".join(lines)


def compiled(scan, selective, backward, wy, walk, theirs) -> dict[str, dict]:
    """For `registers`: chapter 26's kernels at real sizes, and the walk of kernels/chunk_delta.

    name -> {target: (registers, spilled bytes, whether a block fits)}.
    """
    T, E, H = 4096, 8192, 16
    shapes = (1, T, E), (E, 16), (1, T, 16), (1, E, 16), (T, H, 1), (H, 128, 128)
    x, A, B, S, a, h0 = (torch.empty(shape, device="meta") for shape in shapes)
    q = torch.empty(T, H, 128, dtype=torch.bfloat16, device="meta")
    tile = {"BT": 32, "BW": 32, "num_warps": 1}
    mamba = {"N": 16, "BT": 8, "BE": 32, "num_warps": 1}
    heads = {"K": 128, "V": 128, "C": 64, "num_stages": 1}
    walks = q, q, a, q, q, h0, q, h0, T, H
    backs = x, x, A, B, B, S, x, S, x, x, S, B, B, S, T, E
    cases = {
        "scan": (scan, (x, x, S, x, T, E), tile),
        "selective": (selective, (x, x, A, B, B, S, x, S, S, T, E), mamba),
        "its backward": (backward, backs, mamba),
        "WY, C = 64": (wy, (q, q, a, a, q, q, T, H), heads),
        "walk, 4 warps": (walk, walks, heads | {"BV": 32}),
        "walk, 8 warps": (walk, walks, heads | {"BV": 32, "num_warps": 8}),
        "C = 32, BV = 16": (walk, walks, heads | {"C": 32, "BV": 16}),
        "kernels/, C = 64": (
            theirs,
            (q, q, a, a, q, h0, q, q, h0, T, H),
            heads | {"BK": 128, "BV": 32, "PRECISION": "tf32"},
        ),
    }
    found: dict[str, dict] = {}
    for name, (kernel, given, how) in cases.items():
        targets = compile_report(kernel, *given, **how).targets.items()
        found[name] = {t: (c.registers, c.spills, c.occupancy.blocks > 0) for t, c in targets}
    return found


def state_of(name: str, kind: type) -> tuple[str, int, int]:
    """Of a published model: its size's name, d_model, and the bytes of a layer's float32 state."""
    size = list(recipe(name).published)[-1]
    with torch.device("meta"):
        layer = next(m for m in recipe(name).full(size).modules() if isinstance(m, kind))
        width = recipe(name).published[size]["d_model"]
        state = layer(torch.empty(1, 1, width))[1]
    return size, width, 4 * state.S.numel()
