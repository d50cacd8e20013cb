"""Measurements as pictures: loss curves, timings against T, accuracies."""

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from seqlab.figures.panels import dressed, legend_below
from seqlab.figures.theme import COLORS, INK, LINES, figure
from seqlab.measure import growth
from seqlab.train import History

DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up")


def loss_curves(
    losses: dict[str, list[float]], *, title: str = "", y: str = "loss (nats)", every: int = 1
) -> go.Figure:
    """One curve per name. `every`: training steps between two numbers of a list."""
    lines = [
        go.Scatter(
            x=[i * every for i in range(len(ys))],
            y=_short(ys),
            name=name,
            line_dash=DASHES[n % 4],
            mode="lines",
        )
        for n, (name, ys) in enumerate(losses.items())
    ]
    return legend_below(figure(*lines, title=title, x="training step", y=y))


def learning_curves(history: History, *, title: str = "") -> go.Figure:
    """Loss and accuracy of each training step side by side; the thick line is a running mean."""
    n = len(history.loss)
    fig = make_subplots(1, 2, horizontal_spacing=0.14)
    kinds = (("loss", history.loss, COLORS["write"]), ("accuracy", history.accuracy, COLORS["q"]))
    for column, (name, ys, color) in enumerate(kinds, start=1):
        steps = list(range(1, n + 1))[:: max(n // 500, 1)]
        mean = _running_mean(ys, max(n // 20, 1))
        for values, width, opacity in ((ys, 1, 0.35), (mean, 2.5, 1.0)):
            line = {"color": color, "width": width}
            shown = _short(values[step - 1] for step in steps)
            trace = go.Scatter(x=steps, y=shown, name=name, mode="lines", line=line)
            fig.add_trace(trace.update(opacity=opacity, showlegend=False), 1, column)
        fig.update_yaxes(title_text=name, row=1, col=column)
    fig.update_xaxes(title_text="training step")
    if min(history.accuracy) >= 0:
        fig.update_yaxes(range=[0, 1.04], tickformat=".0%", row=1, col=2)
    last = _running_mean(history.accuracy, max(n // 20, 1))[-1]
    return dressed(fig, title or f"After {n:,} steps the accuracy is {last:.1%}", 340)


def _running_mean(ys: list[float], over: int) -> list[float]:
    """The mean of each number and those before it, `over` numbers in all."""
    total, means = 0.0, []
    for i, y in enumerate(ys):
        total += y - (ys[i - over] if i >= over else 0.0)
        means.append(total / min(i + 1, over))
    return means


def timing_lines(
    seconds: dict[str, dict[int, float]], *, title: str = "", y: str = "seconds"
) -> go.Figure:
    """Time against T, both logarithmic; the legend has fitted slopes: 1 is linear, 2 quadratic."""
    lines = [
        go.Scatter(
            x=list(times),
            y=_short(times.values()),
            name=name if len(times) < 2 else f"{name}: T<sup>{slope(times):.2f}</sup>",
            mode="lines+markers",
            line_dash=DASHES[n % 4],
            marker={"size": 8, "symbol": SYMBOLS[n % 6]},
        )
        for n, (name, times) in enumerate(seconds.items())
    ]
    fig = figure(*lines, title=title, x="tokens T (log scale)", y=f"{y} (log scale)")
    shown = sorted({T for times in seconds.values() for T in times})
    fig.update_xaxes(type="log", tickvals=shown, ticktext=[f"{T:,}" for T in shown])
    times = [t for by_length in seconds.values() for t in by_length.values()]
    few_decades = max(times) < 100 * min(times)  # then name 2 and 5 of each decade too
    fig.update_yaxes(type="log", dtick="D2" if few_decades else 1, exponentformat="power")
    return legend_below(fig)


def slope(times: dict[int, float]) -> float:
    """The exponent p of the least-squares fit seconds = c T^p."""
    return growth(times)[0]


def scaling_lines(
    costs: dict[str, dict[int, float]], *, title: str, y: str, fitted_from: int = 0
) -> go.Figure:
    """Costs against T, both logarithmic, between thin lines that grow as T and as T².

    The legend has the exponent fitted to the lengths from `fitted_from` on, with its error.
    """
    fig = timing_lines(costs, title=title, y=y)
    for line, (name, by_length) in zip(fig.data, costs.items(), strict=True):
        p, error = growth({T: cost for T, cost in by_length.items() if fitted_from <= T})
        line.name = f"{name}: T<sup>{p:.2f} ± {error:.2f}</sup>"
    lengths = sorted({T for by_length in costs.values() for T in by_length})
    all_costs = [cost for by_length in costs.values() for cost in by_length.values()]
    least, most = min(all_costs), max(all_costs)
    for power, name in ((1, "T"), (2, "T²")):
        ys = [2 * least * (T / lengths[0]) ** power for T in lengths]
        shown = {T: cost for T, cost in zip(lengths, ys, strict=True) if cost <= 2 * most}
        fig.add_scatter(
            x=list(shown),
            y=_short(shown.values()),
            mode="lines",
            name=f"grows as {name}",
            line={"color": INK, "width": 1, "dash": "longdash" if power == 1 else "dot"},
            opacity=0.5,
        )
    return fig


def bars(
    values: dict[str, float], *, title: str = "", y: str = "accuracy", chance: float | None = None
) -> go.Figure:
    """One bar per name, its number above it; a dotted line at `chance`, what guessing gives."""
    names = list(values)
    bar = go.Bar(
        x=names,
        y=_short(values.values()),
        text=[f"{value:.0%}" if 0 <= value <= 1 else f"{value:.3g}" for value in values.values()],
        textposition="outside",
        cliponaxis=False,
        width=min(0.6, 0.15 * len(names)),
        marker={"color": [LINES[n % 8] for n in range(len(names))]},
    )
    fig = figure(bar, title=title, y=y, showlegend=False)
    if chance is not None:
        fig.add_hline(
            chance,
            line={"dash": "dot", "width": 1.5, "color": INK},
            annotation_text=f"guessing: {chance:.2%}",
            annotation_position="top right",
        )
    if max(values.values()) <= 1:
        fig.update_yaxes(range=[min(0, *values.values()), 1.08], tickformat=".0%")
    return fig


def _short(values) -> list[float]:
    return [float(f"{float(value):.4g}") for value in values]
