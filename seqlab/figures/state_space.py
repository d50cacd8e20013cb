"""Figures of chapter 06: curves, HiPPO's fit, rules of discretisation, modes, scan trees, Δ."""

import math
from collections.abc import Callable, Mapping, Sequence

import plotly.graph_objects as go
import torch
from jaxtyping import Complex, Float
from plotly.subplots import make_subplots
from torch import Tensor

from seqlab.core import discretize
from seqlab.core.scan import linear_scan
from seqlab.figures.panels import dressed, flip_book
from seqlab.figures.table import rounded
from seqlab.figures.theme import COLORS, EDGE, INK, LINES, WEIGHTS, figure

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x")
RULES = {
    "zero-order hold": discretize.zero_order_hold,
    "bilinear": discretize.bilinear,
    "Euler": discretize.euler,
}
BELOW = {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0}


def curves(
    lines: Mapping[str, tuple[Sequence[float], Tensor]],
    *,
    title: str,
    x: str,
    y: str,
    log: str = "",
    markers: bool = False,
) -> go.Figure:
    """One line per name: name -> (xs, ys). `log` names the axes that are logarithmic."""
    traces = []
    for i, (name, (xs, ys)) in enumerate(lines.items()):
        trace = _line(list(xs), rounded(ys), LINES[i % 8], name=name, dash=DASHES[i % 5])
        if markers:
            trace.update(mode="lines+markers", marker={"size": 8, "symbol": SYMBOLS[i % 5]})
        traces.append(trace)
    fig = figure(*traces, title=title, x=x, y=y, height=410)
    for axis in log:
        fig.update_layout({f"{axis}axis": {"type": "log", "exponentformat": "power"}})
        if axis == "y":
            fig.update_yaxes(dtick=_decades(traces))
    return fig.update_layout(legend=BELOW, showlegend=True, margin_b=100)


def _decades(traces) -> int:
    """How many powers of ten between two labels, so that there are at most eight."""
    ys = [y for trace in traces for y in trace.y if y]
    return max(1, math.ceil(math.log10(max(ys) / min(ys)) / 8))


def polynomials(z: Float[Tensor, " S"], n: int) -> Float[Tensor, "S n"]:
    """√(2k + 1) P_k(z), k = 0 .. n - 1: Legendre's polynomials, orthonormal in the mean over z."""
    root = (2 * torch.arange(n, dtype=z.dtype) + 1).sqrt()
    return root * torch.stack([torch.special.legendre_polynomial_p(z, k) for k in range(n)], dim=-1)


def recalled(
    c: Float[Tensor, " N"], t: int, window: int | None = None, points: int = 96
) -> tuple[Tensor, Tensor]:
    """Places s before time t, and what N coefficients say x(s) was there: (s, x).

    They describe the whole past 0 .. t, or only the last `window` tokens.
    """
    z = torch.linspace(-1, 1, points, dtype=c.dtype)
    span = t if window is None else window
    s = t - span * (1 - z) / 2
    known = s >= 0
    return s[known], (polynomials(z, len(c)) @ c)[known]


def recall_error(
    x: Float[Tensor, " T"], c: Float[Tensor, " N"], window: int | None = None
) -> Float[Tensor, ""]:
    """How far the past that c recalls is from x, both as root mean squares: 0 is perfect."""
    T, span = len(x), window or len(x)
    middle = torch.arange(max(T - span, 0), T, dtype=c.dtype) + 0.5  # token t fills t .. t + 1
    read = polynomials(1 - 2 * (T - middle) / span, len(c)) @ c
    heard = x[-len(middle) :]
    return (read - heard).square().mean().sqrt() / heard.square().mean().sqrt()


def error_on_sine(
    rule: Callable[..., tuple[Tensor, Tensor]], dt: float, rate: complex = -0.5 + 2j, end: float = 4
) -> Float[Tensor, ""]:
    """|h - exact| at time `end`, for h' = rate h + sin t, h(0) = 0, in steps of dt by this rule.

    Each step is given the input at its start; the bilinear rule, as it asks, the mean of both ends.
    """
    A = torch.tensor(rate, dtype=torch.complex128)
    gate, gain = rule(A, torch.tensor(dt, dtype=torch.float64))
    t = torch.arange(1, int(end / dt) + 1).double() * dt
    start, stop = (t - dt).sin(), t.sin()
    u = (start + stop) / 2 if rule.__name__ == "bilinear" else start
    h = linear_scan(gate.expand(1, len(t)), (gain * u)[None])[0, -1]
    exact = (torch.exp(A * t[-1]) - A * stop[-1] - t[-1].cos()) / (A * A + 1)
    return (h - exact).abs()


def errors_by_size(
    x: Float[Tensor, " T"], remember: Callable[..., Tensor], sizes: Sequence[int], window: int
) -> go.Figure:
    """recall_error of remember(x, N, window) against N, for the whole past and for a window."""
    lines = {}
    for name, span in {"LegS, the whole past": None, f"LegT, the last {window}": window}.items():
        found = [recall_error(x, remember(x, N, span)[-1], span) for N in sizes]
        lines[name] = (sizes, torch.stack(found))
    return curves(
        lines,
        title="Each memory becomes accurate once its polynomial can follow the waves",
        x="numbers N in the state",
        y="error of the recalled signal (log scale)",
        log="y",
        markers=True,
    )


def orders_of_rules(steps: Sequence[float] = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005)) -> go.Figure:
    """error_on_sine of the three rules against the length of a step."""
    lines = {
        name: (steps, torch.stack([error_on_sine(rule, dt) for dt in steps]))
        for name, rule in RULES.items()
    }
    return curves(
        lines,
        title="For sin t, ten times smaller steps: bilinear gains 100, the others 10",
        x="step Δ (log scale)",
        y="error of the state at t = 4 (log scale)",
        log="xy",
        markers=True,
    )


def online_at(
    x: Float[Tensor, " T"], fits: Mapping[str, tuple[Float[Tensor, "T N"], int | None]], t: int
) -> go.Figure:
    """The signal, and what each memory says at time t about its past: name -> (coefficients, window
    or None).
    """
    T = len(x)
    every = max(1, T // 128)
    ages = list(range(0, T, every))
    past = [n for n in ages if n <= t]
    traces = [
        _line(ages, rounded(x[ages]), EDGE, name="still to come", dash="dot"),
        _line(past, rounded(x[past]), INK, name="the signal so far"),
    ]
    for i, (name, (c, window)) in enumerate(fits.items()):
        s, read = recalled(c[t - 1], t, window)
        color = (COLORS["write"], COLORS["q"])[i % 2]
        traces.append(_line(rounded(s), rounded(read), color, name=name, dash=DASHES[i % 5]))
    n = next(iter(fits.values()))[0].shape[1]
    title = f"After {t} tokens: {n} numbers recall the shape of the past"
    fig = figure(*traces, title=title, x="token", y="signal", height=400)
    top = 1.25 * float(x.abs().max())
    fig.update_xaxes(range=[0, T]).update_yaxes(range=[-top, top])
    return fig.update_layout(
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0}, margin_t=74
    )


def online(x, fits, times: Sequence[int]) -> go.Figure:
    """`online_at` with a slider over time."""
    return flip_book(
        {str(t): online_at(x, fits, t) for t in times}, "tokens read", start=len(times) - 1
    )


def rules_at(dt: float, n_modes: int = 16, span: float = 4.0) -> go.Figure:
    """Three rules of discretisation at one step length: the gates of S4D-Lin's modes, and how one
    of them answers an input that is switched on and stays on.
    """
    step = torch.tensor(dt, dtype=torch.float64)
    A = discretize.s4d_lin(2 * n_modes)
    fig = make_subplots(1, 2, column_widths=[0.47, 0.53], horizontal_spacing=0.14)
    _unit_circle(fig)
    slow = A[2:3]
    t = torch.linspace(0, span, 200, dtype=torch.float64)
    exact = ((slow * t).exp() - 1) / slow
    fig.add_trace(_line(rounded(t), rounded(exact.real), EDGE, name="exact", width=6), 1, 2)
    outside = {}
    for i, (name, rule) in enumerate(RULES.items()):
        a, b = rule(A, step)
        outside[name] = int((a.abs() > 1 + 1e-9).sum())
        marker = {"size": 8, "symbol": SYMBOLS[i], "color": LINES[i]}
        far = a.real.abs().maximum(a.imag.abs()) < 3
        gates = {"x": rounded(a.real[far]), "y": rounded(a.imag[far])}
        fig.add_trace(go.Scatter(mode="markers", marker=marker, showlegend=False, **gates), 1, 1)
        a, b = rule(slow, step)
        n = torch.arange(int(span / dt) + 1)
        h = (b * (a**n - 1) / (a - 1)).real
        line = _line(rounded(n * dt), rounded(h.clamp(-9, 9)), LINES[i], name=name, dash=DASHES[i])
        fig.add_trace(line, 1, 2)
    fig.update_xaxes(title_text="real part of the gate", range=[-1.6, 1.6], row=1, col=1)
    fig.update_yaxes(title_text="imaginary part", range=[-1.6, 1.6], row=1, col=1)
    fig.update_xaxes(title_text="time", range=[0, span], row=1, col=2)
    fig.update_yaxes(title_text="state (real part)", range=[-0.5, 0.5], row=1, col=2)
    title = (
        f"dt = {dt:g}: Euler puts {outside['Euler']} of {n_modes} gates outside the unit circle, "
        f"the others {outside['bilinear'] + outside['zero-order hold']}"
    )
    return dressed(fig, title, 430, legend=BELOW, margin_b=96)


def modes_at(
    name: str, gates: Complex[Tensor, " n"], kernels: Float[Tensor, "c L"], n_lines: int = 4
) -> go.Figure:
    """The gates in the plane, and the kernels that they make, by age."""
    fig = make_subplots(1, 2, column_widths=[0.45, 0.55], horizontal_spacing=0.15)
    _unit_circle(fig)
    gates = gates[torch.linspace(0, len(gates) - 1, min(200, len(gates))).long()]
    at = {"x": rounded(gates.real), "y": rounded(gates.imag)}
    marker = {"size": 6, "color": COLORS["decay"], "line": {"width": 0.5, "color": INK}}
    fig.add_trace(go.Scatter(mode="markers", marker=marker, **at), 1, 1)
    ages = torch.arange(kernels.shape[1])
    for i, kernel in enumerate(kernels[:n_lines]):
        line = _line(ages.tolist(), rounded(kernel / kernel.abs().max()), LINES[i], dash=DASHES[i])
        fig.add_trace(line, 1, 2)
    turns = (gates.imag.abs() > 1e-6).float().mean().item()
    kind = "fading waves" if turns > 0.5 else "pure decays"
    fig.update_xaxes(title_text="real part of the gate", range=[-1.15, 1.15], row=1, col=1)
    fig.update_yaxes(title_text="imaginary part", range=[-1.15, 1.15], row=1, col=1)
    fig.update_xaxes(title_text="age, in tokens", row=1, col=2)
    fig.update_yaxes(title_text="weight (largest = 1)", range=[-1.1, 1.1], row=1, col=2)
    slowest = gates.abs().max().item()
    life = math.log(0.5) / math.log(slowest) if slowest < 1 else math.inf
    title = f"{name} starts as {kind}; the longest half-life is about {life:,.0f} tokens"
    return dressed(fig, title, 400, showlegend=False)


def modes(rows: Mapping[str, tuple[Tensor, Tensor]]) -> go.Figure:
    """`modes_at` with a slider over the names: name -> (gates, kernels)."""
    return flip_book({name: modes_at(name, *row) for name, row in rows.items()}, "architecture")


Joins = list[list[tuple[int, int]]]


def hillis_steele_joins(T: int) -> Joins:
    """The joins of each step as (from, to): to's span is extended by from's."""
    spans = [2**i for i in range(max(T - 1, 0).bit_length())]
    return [[(i - span, i) for i in range(span, T)] for span in spans]


def blelloch_joins(T: int) -> Joins:
    """The same for the tree of pairs, up and down again."""
    return [step for step in _tree(list(range(T))) if step]


def _tree(places: list[int]) -> Joins:
    if len(places) < 2:
        return []
    pairs = list(zip(places[::2], places[1::2], strict=False))
    rest = list(zip(places[1::2], places[2::2], strict=False))
    return [pairs, *_tree(places[1::2]), rest]


def scan_at(step: int, T: int = 16) -> go.Figure:
    """Both trees after so many steps: how many tokens each place has summed, and the last joins."""
    trees = {"Hillis-Steele": hillis_steele_joins(T), "Blelloch": blelloch_joins(T)}
    fig = make_subplots(1, 2, horizontal_spacing=0.09, subplot_titles=list(trees))
    words = []
    for col, (name, joins) in enumerate(trees.items(), 1):
        rows, edges = _history(joins[:step], T)
        for trace in _tree_traces(rows, edges, T):
            fig.add_trace(trace, 1, col)
        work = sum(map(len, joins[:step]))
        complete = rows[-1] == list(range(1, T + 1))
        words.append(f"{name} {'is done' if complete else 'is not done'} after {work} joins")
        depth = max(map(len, trees.values()))
        fig.update_xaxes(title_text="token", range=[-0.7, T - 0.3], row=1, col=col)
        fig.update_yaxes(range=[depth + 0.6, -0.6], row=1, col=col, dtick=1, showgrid=False)
    fig.update_yaxes(title_text="step", row=1, col=1)
    title = f"Step {step}: " + ", ".join(words)
    return dressed(fig, title, 430, showlegend=False, margin_t=92)


def scan_steps(T: int = 16) -> go.Figure:
    """`scan_at` with a slider over the steps."""
    last = max(len(hillis_steele_joins(T)), len(blelloch_joins(T)))
    return flip_book({str(s): scan_at(s, T) for s in range(last + 1)}, "step", start=last)


def _history(joins: Joins, T: int) -> tuple[list[list[int]], list[tuple[int, int, int]]]:
    """For each step, how many tokens each place has summed; and all joins as (step, from, to)."""
    rows = [[1] * T]
    for step in joins:
        now = list(rows[-1])
        for i, j in step:
            now[j] += rows[-1][i]
        rows.append(now)
    return rows, [(s, i, j) for s, step in enumerate(joins) for i, j in step]


def _tree_traces(rows, edges, T) -> list[go.Scatter]:
    xs: list[float | None] = []
    ys: list[float | None] = []
    for s, i, j in edges:
        xs += [i, j, None]
        ys += [s, s + 1, None]
    lines = go.Scatter(x=xs, y=ys, mode="lines", line={"color": EDGE, "width": 1.5})
    place = [(t, s) for s in range(len(rows)) for t in range(T)]
    summed = [n for row in rows for n in row]
    marker = {
        "size": 11,
        "color": summed,
        "colorscale": WEIGHTS,
        "cmin": 0,
        "cmax": T,
        "line": {
            "color": [INK if n == t + 1 else EDGE for n, (t, _) in zip(summed, place, strict=True)],
            "width": 1.5,
        },
    }
    dots = go.Scatter(
        x=[t for t, _ in place],
        y=[s for _, s in place],
        mode="markers",
        marker=marker,
        text=summed,
        hovertemplate="token %{x}, step %{y}: sums %{text} tokens<extra></extra>",
    )
    return [lines, dots]


def openings(words: Sequence[str], steps: Float[Tensor, "T E"], *, title: str) -> go.Figure:
    """Δ of each channel at each token, as a power of ten; channels by their Δ at the first."""
    order = steps[0].argsort()
    heat = go.Heatmap(
        z=rounded(steps[:, order].clamp(min=1e-8).log10().T),
        colorscale=WEIGHTS,
        zmin=-6,
        zmax=1,
        colorbar={
            "title": "Δ",
            "tickvals": [-6, -4, -2, 0],
            "ticktext": ["10⁻⁶", "10⁻⁴", "0.01", "1"],
        },
        hovertemplate="token %{x}, channel %{y}: Δ = 10^%{z}<extra></extra>",
    )
    y = "channel, by its Δ at a blank"
    fig = figure(heat, title=title, x="token", y=y, height=400)
    fig.update_yaxes(autorange="reversed")
    return fig.update_xaxes(tickvals=list(range(len(words))), ticktext=list(words), tickangle=0)


def _unit_circle(fig: go.Figure) -> None:
    angle = torch.linspace(0, 2 * math.pi, 73)
    circle = _line(rounded(angle.cos()), rounded(angle.sin()), EDGE, dash="dot")
    fig.add_trace(circle.update(showlegend=False, hoverinfo="skip"), 1, 1)
    fig.update_xaxes(constrain="domain", row=1, col=1)
    fig.update_yaxes(scaleanchor="x", constrain="domain", row=1, col=1)


def _line(x, y, color, *, name="", dash="solid", width=2.5) -> go.Scatter:
    return go.Scatter(
        x=x, y=y, name=name, mode="lines", line={"color": color, "dash": dash, "width": width}
    )
