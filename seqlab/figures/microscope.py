"""The state microscope: four views of one memory, and a slider through time.

trace = observe(mixer, x, labels)        # seqlab.microscope
microscope(trace, t=5)                   # one still
microscope_frames(trace)                 # plays on a static page
state_surface(trace)                     # the state through time, to turn
"""

import html
import math
from enum import IntEnum
from typing import Any

import plotly.graph_objects as go

from seqlab.figures.table import colour_range, largest, outline, rounded, thinned, ticks
from seqlab.figures.theme import (
    COLORS,
    CONTOUR,
    GRID,
    HEIGHTS,
    LOST,
    OTHER_HEADS,
    OUTLINE,
    SIGNED,
    WALL,
    WEIGHTS,
    figure,
    wrap,
)
from seqlab.microscope import COMES_BACK, Trace

LEFT, RIGHT = [0.0, 0.395], [0.575, 1.0]
# Heights in px: a row of panels, the half-lives, and the space between two rows.
ROW, STRIP, GAP = 180, 64, 92


class Panel(IntEnum):
    """The panels, by the numbers of their axes in plotly."""

    STATE = 1
    WRITTEN = 2
    WEIGHTS = 3
    # One bar per token: whether its key still returns its value, or how much the output needs it.
    TOKENS = 4
    HALF_LIVES = 5

    @property
    def axes(self) -> dict[str, str]:
        """The axes of a trace in this panel."""
        return {"xaxis": f"x{self.value}", "yaxis": f"y{self.value}"}

    def layout(self, x: dict, y: dict) -> dict[str, dict]:
        """The entries of the figure's layout for the panel's axes."""
        return {f"xaxis{self.value}": x, f"yaxis{self.value}": y}


# What the state's rows and columns are, and the titles of its two panels.
WORDS = {
    "state": ("value channel", "key channel", "State S; outlined: written now", "Written now"),
    "cache": (
        "channels of k, then v",
        "token kept",
        "Cache; outlined: written now",
        "Written now: one more column",
    ),
    "any": ("", "all entries, wrapped into a table", "State", "Changed now"),
}
STAYS = {
    "state": "nothing decays; what is written stays.",
    "cache": "nothing decays; the table grows, or drops what leaves the window.",
    "any": "unknown; this mixer does not say what it decays.",
}


def microscope(trace: Trace, t: int | None = None) -> go.Figure:
    """What the mixer holds after token t (default: the last), just wrote, reads and still knows."""
    t = _checked(trace, t)
    return _layout(trace, t, cells=6000)


def microscope_frames(trace: Trace) -> go.Figure:
    """The same with a slider over t and a play button in the figure: it needs no kernel."""
    T = len(trace.labels)
    steps = sorted({*thinned(T, 24), T - 1})
    fig = _layout(trace, T - 1, cells=1000)
    frames = []
    for t in steps:
        panels = _panels(trace, t, cells=1000)
        moved = [i for i, panel in enumerate(panels) if panel.meta != "still"]
        data = [_only_what_moves(panels[i]) for i in moved]
        title = {"title": {"text": wrap(finding(trace, t))}}
        frames.append(go.Frame(name=str(t), data=data, traces=moved, layout=title))
    fig.frames = frames
    return _with_slider(fig, trace, steps)


def finding(trace: Trace, t: int) -> str:
    """One sentence about the memory after token t."""
    n = t + 1
    who = trace.mixer if trace.n_heads == 1 else f"{trace.mixer}, head {trace.head}"
    after = f"After {n} token{'s' * (n > 1)}"
    if trace.recall is not None:
        values = "value still comes" if n == 1 else "values still come"
        return f"{after}: {trace.comes_back(t)} of {n} {values} back ({who})"
    weights = trace.weights[t]
    if not weights.any():
        return f"{after}: the output depends on no token ({who})"
    s = int(weights.argmax())
    label = html.escape(trace.labels[s])
    return f"{after}: the output depends most on token {s}, ‘{label}’ ({who})"


def state_surface(trace: Trace, title: str = "") -> go.Figure:
    """The norm of each column of the state, token by token: a surface to turn with the mouse."""
    columns = thinned(trace.states.shape[2], 64)
    norms = trace.states.nan_to_num().norm(dim=1)[:, columns]  # (T, C)
    surface = go.Surface(
        x=columns,
        y=list(range(len(norms))),
        z=rounded(norms),
        colorscale=HEIGHTS,
        showscale=False,  # the height says it
        contours={name: {"show": True, "color": CONTOUR} for name in ("x", "y")},
        hovertemplate="column %{x}, token %{y}: %{z}<extra></extra>",
    )
    if not title:
        first, last = float(norms[0].norm()), float(norms[-1].norm())
        change = f"from {first:.2g} to {last:.2g} in {len(norms)} tokens"
        title = f"{trace.mixer}: the state's norm goes {change}"
    fig = figure(surface, title=title, height=520, margin={"l": 24, "r": 24, "t": 50, "b": 10})
    axis = {"backgroundcolor": WALL, "gridcolor": GRID, "showbackground": True}
    fig.update_layout(
        scene={
            "xaxis": axis | {"title": {"text": WORDS[trace.kind][1]}},
            "yaxis": axis | {"title": {"text": "token t"}} | ticks(trace.labels, 12),
            "zaxis": axis | {"title": {"text": "norm of column"}},
            "aspectmode": "manual",
            "aspectratio": {"x": 1.2, "y": 1.2, "z": 0.7},
            "camera": {
                "eye": {"x": 1.2, "y": -1.35, "z": 0.85},
                "center": {"x": 0, "y": 0, "z": -0.15},
            },
        }
    )
    return fig


def _panels(trace: Trace, t: int, cells: int) -> list:
    """Every trace of the figure at time t, in a fixed order; meta="still" if it never changes."""
    panels = [
        *_state(trace, t, *_fit(trace, cells)),
        *_weights(trace, t),
        *(_recall(trace, t) if trace.recall is not None else _reach(trace, t)),
    ]
    return panels + ([] if trace.half_lives is None else [_half_lives(trace, t)])


def _fit(trace, cells: int) -> tuple[list[int], list[int]]:
    """Rows and columns to draw: all that fit into that many cells, else every second, third …"""
    n_rows, n_columns = trace.states.shape[1:]
    side = math.isqrt(cells)
    rows = thinned(n_rows, max(side, cells // n_columns))
    return rows, thinned(n_columns, max(side, cells // len(rows)))


def _state(trace, t, rows, columns) -> list:
    states, written = (S[:, rows][:, :, columns] for S in (trace.states, trace.written))
    gap = int(len(columns) <= 40)
    look = {"x": columns, "y": rows, "colorscale": SIGNED, "xgap": gap, "ygap": gap}
    look |= {"hovertemplate": "row %{y}, column %{x}: %{z}<extra></extra>"}
    # z, a sum of positive numbers, would drown the values.
    values = slice(None, -1 if trace.normalised else None)
    of_state, of_written = (colour_range(S[:, values]) for S in (trace.states, trace.written))
    left, right = (_colour_bar(x, 1.0) for x in (LEFT[1] + 0.01, 1.01))
    x, y = _written_columns(written[t], rows, columns) if trace.kind != "any" else ([], [])
    now = of_written | look | Panel.WRITTEN.axes
    return [
        go.Heatmap(z=rounded(states[t]), colorbar=left, **of_state, **look),
        go.Scatter(x=x, y=y, **_line()),
        go.Heatmap(z=rounded(written[t]), colorbar=right, **now),
    ]


def _written_columns(written, rows, columns) -> tuple[list, list]:
    """An outline around the columns that got the most: at least half as much as the strongest."""
    size = written.nan_to_num().norm(dim=0)
    if not size.any():
        return [], []
    half = columns[1] / 2 - columns[0] / 2 if len(columns) > 1 else 0.5
    foot = rows[1] / 2 - rows[0] / 2 if len(rows) > 1 else 0.5
    strong = (size >= size.max() / 2).tolist()
    xs, ys = [], []
    for first, last in _runs(strong):
        left, right = columns[first] - half, columns[last] + half
        x, y = outline(left, right, rows[0] - foot, rows[-1] + foot)
        xs += x
        ys += y
    return xs, ys


def _runs(flags: list[bool]) -> list[tuple[int, int]]:
    """The first and last index of each run of True."""
    runs = []
    for i, flag in enumerate(flags):
        if flag and i and flags[i - 1]:
            runs[-1] = (runs[-1][0], i)
        elif flag:
            runs.append((i, i))
    return runs


def _weights(trace, t) -> list:
    T = len(trace.labels)
    signed = bool((trace.weights < 0).any())
    top = largest(trace.weights)
    image = go.Heatmap(
        z=rounded(trace.weights),
        zmin=-top if signed else 0,
        zmax=top,
        colorscale=SIGNED if signed else WEIGHTS,
        colorbar=_colour_bar(LEFT[1] + 0.01, 1 - (ROW + GAP) / _inside(trace)),
        xgap=int(T <= 32),
        ygap=int(T <= 32),
        hovertemplate="read %{y}, token %{x}: %{z}<extra></extra>",
        meta="still",
        **Panel.WEIGHTS.axes,
    )
    x, y = outline(-0.5, T - 0.5, t - 0.5, t + 0.5)
    return [image, go.Scatter(x=x, y=y, **_line(2 if T <= 32 else 1), **Panel.WEIGHTS.axes)]


def _recall(trace, t) -> list:
    T, cosines = len(trace.labels), trace.recall[t]
    colors = [COLORS["v"] if back else LOST for back in (cosines >= COMES_BACK).tolist()]
    bars = go.Bar(
        x=list(range(T)),
        y=rounded(cosines),
        marker={"color": colors, "line": {"color": COLORS["v"], "width": 1}},
        hovertemplate="key %{x}: cosine %{y}<extra></extra>",
        **Panel.TOKENS.axes,
    )
    line = {"color": COLORS["softmax"], "width": 1, "dash": "dot"}
    look = {"mode": "lines", "line": line, "hoverinfo": "skip", "meta": "still"}
    level = go.Scatter(x=[-0.6, T - 0.4], y=[COMES_BACK] * 2, **look, **Panel.TOKENS.axes)
    return [bars, level]


def _reach(trace, t) -> list:
    tokens = list(range(len(trace.labels)))
    look = {"marker_color": COLORS["attention"], "hovertemplate": "token %{x}: %{y}<extra></extra>"}
    return [go.Bar(x=tokens, y=rounded(trace.weights[t]), **look, **Panel.TOKENS.axes)]


def _half_lives(trace, t) -> go.Bar:
    lives, n = trace.half_lives[t], trace.half_lives.shape[1]
    low, high = _span(trace)
    texts = ["∞" if life == float("inf") else f"{float(life):.3g}" for life in lives]
    return go.Bar(
        x=list(range(n)),
        y=rounded(lives.clamp(low, high)),
        text=texts if n <= 16 else None,
        textposition="outside",
        cliponaxis=False,
        hovertext=texts,
        hovertemplate="%{x}: %{hovertext} tokens<extra></extra>",
        marker={
            "color": [COLORS["decay"] if _is_ours(trace, i) else OTHER_HEADS for i in range(n)]
        },
        **Panel.HALF_LIVES.axes,
    )


def _span(trace) -> tuple[float, float]:
    """The bars' range in tokens: what never decays is at the top, what is dropped at the bottom."""
    known = trace.half_lives[trace.half_lives.isfinite()].clamp_min(0.05)
    return (float(known.min()), 2 * float(known.max())) if len(known) else (0.5, 1.0)


def _log_axis(trace) -> dict:
    low, high = _span(trace)
    floor, top = math.log10(low / 2), math.log10(high)
    room = max(math.log10(2), 0.4 * (top - floor))  # for the numbers on top of the bars
    axis = {"type": "log", "range": [floor, top + room]}
    if trace.half_lives.shape[1] <= 16:  # the bars have their numbers on top
        return axis | {"showticklabels": False, "ticks": ""}
    return axis | {"dtick": 1}


def _is_ours(trace, i: int) -> bool:
    """Bars of other heads are pale; if the bars are key channels, all are this head's."""
    return trace.half_life_of != "head" or i == trace.head


def _colour_bar(x: float, top: float) -> dict:
    place = {"x": x, "xanchor": "left", "y": top, "yanchor": "top", "len": ROW, "lenmode": "pixels"}
    return place | {"tickfont": {"size": 10}, "nticks": 5, "exponentformat": "e"}


def _line(width: int = 2) -> dict:
    return {"mode": "lines", "line": {"color": OUTLINE, "width": width}, "hoverinfo": "skip"}


def _layout(trace, t, cells) -> go.Figure:
    heights = [ROW, ROW] if trace.half_lives is None else [ROW, ROW, STRIP]
    inside = _inside(trace)
    tops = [1 - (sum(heights[:i]) + GAP * i) / inside for i in range(len(heights))]
    bands = [[max(top - h / inside, 0), top] for top, h in zip(tops, heights, strict=True)]
    foot = 56 if trace.half_lives is not None else 82
    axes = _tables(trace, *_fit(trace, cells)) | _tokens(trace)
    for panel, (x, y) in _places(bands).items():
        if f"xaxis{panel.value}" in axes:
            axes[f"xaxis{panel.value}"] |= {"domain": x, "anchor": f"y{panel.value}"} | _plain
            axes[f"yaxis{panel.value}"] |= {"domain": y, "anchor": f"x{panel.value}"} | _plain
    return figure(
        *_panels(trace, t, cells),
        title=finding(trace, t),
        height=inside + 84 + foot,
        margin={"l": 62, "r": 58, "t": 84, "b": foot},
        font={"size": 11},
        showlegend=False,
        annotations=_names(trace, tops),
        **axes,
    )


def _places(bands: list) -> dict[Panel, tuple[list, list]]:
    """The horizontal and vertical extent of each panel."""
    return {
        Panel.STATE: (LEFT, bands[0]),
        Panel.WRITTEN: (RIGHT, bands[0]),
        Panel.WEIGHTS: (LEFT, bands[1]),
        Panel.TOKENS: (RIGHT, bands[1]),
        Panel.HALF_LIVES: ([0, 1], bands[-1]),
    }


def _inside(trace) -> int:
    """The height of all panels, in px."""
    return 2 * ROW + GAP + (0 if trace.half_lives is None else GAP + STRIP)


def _tables(trace, rows, columns) -> dict:
    """The axes of the two tables on top."""
    row_word, column_word, *_ = WORDS[trace.kind]
    row_name, column_name = _counted(row_word, rows), _counted(column_word, columns)
    n_rows, n_columns = trace.states.shape[1:]
    side = ticks(range(n_rows - trace.normalised), 8)
    if trace.normalised:
        side = {"tickvals": [*side["tickvals"], n_rows - 1], "ticktext": [*side["ticktext"], "z"]}
    down = {"autorange": "reversed"} | side
    of_tokens = trace.kind == "cache"
    over = ticks(trace.labels, _room(trace)) if of_tokens else ticks(range(n_columns), 8)
    across = _title(column_name) | {"tickangle": 0} | over
    state = Panel.STATE.layout(across, _title(row_name) | down)
    return state | Panel.WRITTEN.layout(dict(across), down)


def _counted(name: str, shown: list[int]) -> str:
    """The name of an axis, with how many of its rows or columns are drawn if not all."""
    if len(shown) < 2 or shown[1] == 1:
        return name
    return f"{name} (1 in {shown[1]} shown)"


def _tokens(trace) -> dict:
    """The axes of what is drawn against tokens, and of the half-lives."""
    tokens = ticks(trace.labels, _room(trace))
    down = _title("read after token t") | {"autorange": "reversed"} | tokens
    axes = Panel.WEIGHTS.layout(_title("token s") | tokens, down)
    across = {"range": [-0.6, len(trace.labels) - 0.4]} | tokens
    if trace.recall is None:
        up = {"range": [0, 1.05 * largest(trace.weights)]}
        names = _title("token s"), _title("|∂y<sub>t</sub>/∂x<sub>s</sub>|")
    else:
        low = min(0.0, 1.1 * float(trace.recall.nan_to_num().min()))
        up = {"range": [low, 1.1], "tickvals": [-1, -0.5, 0, 0.5, COMES_BACK]}
        names = _title("key of token j"), _title("cosine")
    axes |= Panel.TOKENS.layout(names[0] | across, names[1] | up)
    if trace.half_lives is not None:
        unit = "head (this one dark)" if trace.half_life_of == "head" else trace.half_life_of
        each = _title(unit) | ticks(range(trace.half_lives.shape[1]))
        axes |= Panel.HALF_LIVES.layout(each, _title("tokens") | _log_axis(trace))
    return axes


def _names(trace, tops) -> list[dict]:
    """The titles of the panels, and without half-lives a line that says why there are none."""
    _, _, state, now = WORDS[trace.kind]
    weight = "Weight of token s in read t"
    if trace.kind == "any":
        weight = "Influence of token s on y<sub>t</sub>"
    names = [
        state,
        now if trace.half_lives is None else f"{now}: S − decayed S",
        f"{weight} (t outlined)",
        "What y<sub>t</sub> depends on"
        if trace.recall is None
        else "Does each key still return its value?",
    ]
    at = [(x, y) for y in tops[:2] for x in (LEFT[0], RIGHT[0])]
    if trace.half_lives is not None:
        names.append("Half-life: tokens until half is left (log scale)")
        at.append((0, tops[-1]))
    above = {"xanchor": "left", "yanchor": "bottom", "yshift": 6, **_free}
    shown = [
        {"text": f"<b>{name}</b>", "x": x, "y": y, **above}
        for name, (x, y) in zip(names, at, strict=True)
    ]
    if trace.half_lives is None:
        below = {"x": 0, "y": 0, "xanchor": "left", "yanchor": "top", "yshift": -52, **_free}
        shown.append({"text": f"Half-lives: {STAYS[trace.kind]}", **below})
    return shown


def _room(trace) -> int:
    """How many token labels fit under a panel."""
    return 16 if max(map(len, trace.labels)) == 1 else 12


def _title(text: str) -> dict:
    return {"title": {"text": text, "font": {"size": 11}, "standoff": 4}}


_plain = {"showgrid": False, "zeroline": False}
_free = {"xref": "paper", "yref": "paper", "showarrow": False, "font": {"size": 12}}


def _only_what_moves(panel):
    """A frame repeats only the numbers; plotly keeps the rest from the first drawing."""
    moves = {"heatmap": ("z",), "scatter": ("x", "y"), "bar": ("y", "text", "hovertext")}
    kept = {name: panel[name] for name in moves[panel.type] if panel[name] is not None}
    if panel.type == "bar" and panel.xaxis == Panel.TOKENS.axes["xaxis"]:
        kept["marker"] = {"color": panel.marker.color}
    return {"type": panel.type} | kept


def _with_slider(fig, trace, steps) -> go.Figure:
    foot, height, room = fig.layout.margin.b, fig.layout.height, 76
    at_once = {"mode": "immediate"} | _redraw(0)
    stops = [
        {"label": trace.labels[t], "method": "animate", "args": [[str(t)], at_once]} for t in steps
    ]
    slider = {"x": 0.14, "len": 0.86, "y": 0, "yanchor": "top", "pad": {"t": foot + 2}}
    slider |= {"active": len(steps) - 1, "steps": stops}
    slider |= {"currentvalue": {"prefix": "after token ", "font": {"size": 12}}}
    play = {"fromcurrent": True} | _redraw(500)
    buttons = [
        {"label": "▶ play", "method": "animate", "args": [None, play]},
        {"label": "❚❚ stop", "method": "animate", "args": [[None], at_once]},
    ]
    menu = {"type": "buttons", "direction": "down", "showactive": False, "buttons": buttons}
    menu |= {"x": 0, "xanchor": "left", "y": 0, "yanchor": "top"}
    menu |= {"pad": {"t": foot}, "font": {"size": 11}}
    margin = {"b": foot + room}
    return fig.update_layout(
        sliders=[slider], updatemenus=[menu], height=height + room, margin=margin
    )


def _redraw(ms: int) -> dict[str, Any]:
    return {"frame": {"duration": ms, "redraw": True}, "transition": {"duration": 0}}


def _checked(trace: Trace, t: int | None) -> int:
    T = len(trace.labels)
    t = T - 1 if t is None else t
    if not 0 <= t < T:
        raise ValueError(f"t is {t}: the trace has tokens 0 to {T - 1}")
    return t
