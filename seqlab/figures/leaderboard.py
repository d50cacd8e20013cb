"""The leaderboard as pictures: accuracy against size, against bytes of state, and speeds.

Each function takes the lines that `seqlab.course.leaderboard.load` returns.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from seqlab.figures.theme import INK, LINES, figure
from seqlab.figures.training import DASHES, SYMBOLS

Line = dict[str, Any]
KINDS = ("training", "decoding")


def accuracy_by_size(
    lines: Sequence[Line], contest: str, *, rows: Sequence[str] | None = None, title: str = ""
) -> go.Figure:
    """Accuracy against the size of a task (pairs, say), with standard errors over the seeds.

    rows: which architectures, at most eight; without it, the first eight lines.
    """
    shown = _shown(lines, contest, rows)[:8]
    traces = []
    for n, line in enumerate(shown):
        result = line["contests"][contest]
        points = [_mean_error(xs) for xs in result["accuracy"].values()]
        traces.append(
            go.Scatter(
                x=[float(label) for label in result["accuracy"]],
                y=[mean for mean, _ in points],
                error_y={"array": [error for _, error in points], "thickness": 1.2},
                name=line["row"],
                mode="lines+markers",
                line={"color": LINES[n % 8], "dash": DASHES[n % 4]},
                marker={"size": 8, "symbol": SYMBOLS[n % 6]},
            )
        )
    first = shown[0]["contests"][contest]
    sizes = [float(label) for label in first["accuracy"]]
    title = title or f"{contest}: accuracy against {first['what']}"
    fig = figure(*traces, title=title, y="right answers", height=430, showlegend=True)
    x = f"{first['what']} (log scale)"
    fig.update_xaxes(title_text=x, type="log", tickvals=sizes, ticktext=[f"{s:g}" for s in sizes])
    _percent(fig, next(iter(first["chance"].values())))
    legend = {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0}
    return fig.update_layout(legend=legend, margin_b=120)


def accuracy_by_state(lines: Sequence[Line], contest: str, *, title: str = "") -> go.Figure:
    """Mean accuracy against the bytes kept of a sequence: one point a row, a colour a family."""
    traces = []
    for n, (family, members) in enumerate(_families(_shown(lines, contest)).items()):
        results = [line["contests"][contest] for line in members]
        points = [_mean_error(_by_seed(r)) for r in results]
        traces.append(
            go.Scatter(
                x=[r["state_bytes"] for r in results],
                y=[mean for mean, _ in points],
                error_y={"array": [error for _, error in points], "thickness": 1},
                text=[line["row"] for line in members],
                **_look(n, family, len(lines)),
            )
        )
    title = title or f"{contest}: accuracy against the bytes of state"
    fig = figure(*traces, title=title, y="right answers", height=460, showlegend=True)
    fig.update_xaxes(title_text="bytes of state per sequence (log scale)")
    shown = [line["contests"][contest] for line in _shown(lines, contest)]
    fig.update_xaxes(_log_axis([result["state_bytes"] for result in shown]))
    chance = shown[0]["chance"]
    _percent(fig, statistics.fmean(chance.values()))
    return _below(fig)


def speeds(lines: Sequence[Line], *, title: str = "") -> go.Figure:
    """Tokens per second in training and in decoding: one point a row, a colour a family."""
    measured = [line for line in lines if "training_tokens_per_second" in line]
    xs, ys = ([line[f"{kind}_tokens_per_second"] for line in measured] for kind in KINDS)
    traces = [
        go.Scatter(
            x=[float(f"{line['training_tokens_per_second']:.3g}") for line in members],
            y=[float(f"{line['decoding_tokens_per_second']:.3g}") for line in members],
            text=[line["row"] for line in members],
            **_look(n, family, len(measured)),
        )
        for n, (family, members) in enumerate(_families(measured).items())
    ]
    title = title or "Speed on one processor thread, in training and token by token"
    fig = figure(*traces, title=title, height=460, showlegend=True)
    fig.update_xaxes(title_text="training: tokens per second (log scale)")
    fig.update_yaxes(title_text="decoding: tokens per second (log scale)")
    fig.update_xaxes(_log_axis(xs))
    fig.update_yaxes(_log_axis(ys))
    return _below(fig)


def _shown(lines: Sequence[Line], contest: str, rows: Sequence[str] | None = None) -> list[Line]:
    """The lines that have a result, in the order of `rows` if there is one."""
    known = {line["row"]: line for line in lines if contest in line["contests"]}
    wanted = list(known) if rows is None else rows
    missing = [name for name in wanted if name not in known]
    if missing or not wanted:
        raise ValueError(f"{contest} has no result of {', '.join(missing) or 'any row'}")
    return [known[name] for name in wanted]


def _families(lines: Sequence[Line]) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line["family"], []).append(line)
    return found


def _look(n: int, family: str, total: int) -> dict[str, Any]:
    """Names beside the points if there are few; else the mouse shows them."""
    return {
        "name": family,
        "mode": "markers+text" if total <= 12 else "markers",
        "textposition": "top center",
        "textfont": {"size": 10},
        "hovertemplate": "%{text}<br>%{x:,}<br>%{y:.3g}<extra></extra>",
        "marker": {"size": 10, "color": LINES[n % 8], "symbol": SYMBOLS[n % 6]},
        "cliponaxis": False,
    }


def _log_axis(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis with room for the names, and the ticks written out."""
    low, high = math.log10(min(values)), math.log10(max(values))
    room = max(0.12 * (high - low), 0.1)
    low, high = low - room, high + room
    decades = range(math.floor(low), math.ceil(high))
    shown = []
    for digits in ((1, 2, 5), range(1, 10)):  # all digits where three are too few
        ticks = [m * 10**e for e in decades for m in digits]
        shown = [t for t in ticks if low <= math.log10(t) <= high]
        if len(shown) > 2:
            break
    texts = [f"{t:,g}" if t < 1 else f"{t:,}" for t in shown]
    return {"type": "log", "range": [low, high], "tickvals": shown, "ticktext": texts}


def _percent(fig: go.Figure, chance: float) -> None:
    line = {"dash": "dot", "width": 1.5, "color": INK}
    fig.add_hline(chance, line=line, annotation_text=f"guessing: {chance:.1%}")
    fig.update_yaxes(range=[0, 1.06], tickformat=".0%")


def _below(fig: go.Figure) -> go.Figure:
    legend = {"orientation": "h", "y": -0.18, "yanchor": "top", "x": 0}
    return fig.update_layout(legend=legend, margin_b=110)


def _by_seed(result: dict[str, Any]) -> list[float]:
    return [statistics.fmean(xs) for xs in zip(*result["accuracy"].values(), strict=True)]


def _mean_error(xs: Sequence[float]) -> tuple[float, float]:
    error = statistics.stdev(xs) / math.sqrt(len(xs)) if len(xs) > 1 else 0.0
    return round(statistics.fmean(xs), 4), round(error, 4)
