"""The state microscope: four views of one memory, and a slider through time.

trace = observe(mixer, x, labels)        # seqlab.microscope
microscope(trace, t=5)                   # one still
microscope_frames(trace)                 # plays on a static page
state_surface(trace)                     # the state through time, to turn
"""

import html
import math

import plotly.graph_objects as go

from seqlab.figures.table import colour_range, largest, outline, rounded, thinned, ticks
from seqlab.figures.theme import COLORS, SIGNED, WEIGHTS, figure, wrap
from seqlab.microscope import COMES_BACK, Trace

LEFT, RIGHT = [0.0, 0.395], [0.575, 1.0]
ROW, STRIP, GAP = (
    180,
    64,
    92,
)  # heights in px: a row of panels, the half-lives, and what lies between

WORDS = {  # what the state's rows and columns are, and the titles of its two panels
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
    """What the mixer holds after token t (the last one, if not given), what it just wrote, reads,
    and still knows.
    """
    t = _checked(trace, t)
    return _layout(trace, t, cells=6000)


def microscope_frames(trace: Trace) -> go.Figure:
    """The same with a slider over t and a play button, all inside the figure: it works without a
    kernel.
    """
    T = len(trace.labels)
    steps = sorted({*thinned(T, 24), T - 1})
    fig = _layout(trace, T - 1, cells=1000)
    frames = []
    for t in steps:
        panels = _panels(trace, t, cells=1000)
        moved = [i for i, panel in enumerate(panels) if panel.meta != "still"]
        data = [_only_what_moves(panels[i]) for i in moved]
        frames.append(
            go.Frame(
                name=str(t),
                data=data,
                traces=moved,
                layout={"title": {"text": wrap(finding(trace, t))}},
            )
        )
    fig.frames = frames
    return _with_slider(fig, trace, steps)


def finding(trace: Trace, t: int) -> str:
    """One sentence about the memory after token t."""
    n = t + 1
    who = trace.mixer if trace.n_heads == 1 else f"{trace.mixer}, head {trace.head}"
    after = f"After {n} token{'s' * (n > 1)}"
    if trace.recall is not None:
        verb = "comes" if n == 1 else "come"
        return (
            f"{after}: {trace.comes_back(t)} of {n} value{'s' * (n > 1)} still {verb} back ({who})"
        )
    weights = trace.weights[t]
    if not weights.any():
        return f"{after}: the output depends on no token ({who})"
    s = int(weights.argmax())
    return (
        f"{after}: the output depends most on token {s}, ‘{html.escape(trace.labels[s])}’ ({who})"
    )


def state_surface(trace: Trace, title: str = "") -> go.Figure:
    """How much each column of the state holds (its norm), token by token: a surface to turn with
    the mouse.
    """
    columns = thinned(trace.states.shape[2], 64)
    norms = trace.states.nan_to_num().norm(dim=1)[:, columns]  # (T, C)
    surface = go.Surface(
        x=columns,
        y=list(range(len(norms))),
        z=rounded(norms),
        colorscale=[[0, "#FFFFFF"], [0.5, COLORS["state"]], [1, "#00456E"]],
        showscale=False,  # the height says it
        contours={"x": {"show": True, "color": "#7A7A7A"}, "y": {"show": True, "color": "#7A7A7A"}},
        hovertemplate="column %{x}, token %{y}: %{z}<extra></extra>",
    )
    if not title:
        first, last = float(norms[0].norm()), float(norms[-1].norm())
        title = f"{trace.mixer}: the state's norm goes from {first:.2g} to {last:.2g} in {len(norms)} tokens"
    fig = figure(surface, title=title, height=520, margin={"l": 24, "r": 24, "t": 50, "b": 10})
    axis = {"backgroundcolor": "#F7F7F7", "gridcolor": "#DDDDDD", "showbackground": True}
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
    """Every trace of the figure at time t, always in the same order. meta="still" marks those that
    never change.
    """
    panels = [
        *_state(trace, t, *_fit(trace, cells)),
        *_weights(trace, t),
        *(_recall(trace, t) if trace.recall is not None else _reach(trace, t)),
    ]
    return panels + ([] if trace.half_lives is None else [_half_lives(trace, t)])


def _fit(trace, cells: int) -> tuple[list[int], list[int]]:
    """Rows and columns to draw: all of them where they fit into that many cells, else every second,
    third …
    """
    n_rows, n_columns = trace.states.shape[1:]
    side = math.isqrt(cells)
    rows = thinned(n_rows, max(side, cells // n_columns))
    return rows, thinned(n_columns, max(side, cells // len(rows)))


def _state(trace, t, rows, columns) -> list:
    values = slice(
        None, -1 if trace.normalised else None
    )  # z, a sum of positive numbers, would drown the values
    states, written = (S[:, rows][:, :, columns] for S in (trace.states, trace.written))
    gap = int(len(columns) <= 40)
    look = {"x": columns, "y": rows, "colorscale": SIGNED, "xgap": gap, "ygap": gap}
    look |= {"hovertemplate": "row %{y}, column %{x}: %{z}<extra></extra>"}
    scales = [colour_range(S[:, values]) for S in (trace.states, trace.written)]
    bars = [_colour_bar(x, 1.0) for x in (LEFT[1] + 0.01, 1.01)]
    x, y = _written_columns(written[t], rows, columns) if trace.kind != "any" else ([], [])
    return [
        go.Heatmap(z=rounded(states[t]), colorbar=bars[0], **scales[0], **look),
        go.Scatter(x=x, y=y, **_line()),
        go.Heatmap(
            z=rounded(written[t]), colorbar=bars[1], **scales[1], **look, xaxis="x2", yaxis="y2"
        ),
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
    for i, column in enumerate(columns):
        if strong[i] and not (i and strong[i - 1]):
            left = column - half
        if strong[i] and not (i + 1 < len(columns) and strong[i + 1]):
            x, y = outline(left, column + half, rows[0] - foot, rows[-1] + foot)
            xs, ys = xs + x, ys + y
    return xs, ys


def _weights(trace, t) -> list:
    T, signed = len(trace.labels), bool((trace.weights < 0).any())
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
        xaxis="x3",
        yaxis="y3",
        meta="still",
    )
    x, y = outline(-0.5, T - 0.5, t - 0.5, t + 0.5)
    return [image, go.Scatter(x=x, y=y, **_line(2 if T <= 32 else 1), xaxis="x3", yaxis="y3")]


def _recall(trace, t) -> list:
    T, cosines = len(trace.labels), trace.recall[t]
    colors = [COLORS["v"] if back else "#A9D9C9" for back in (cosines >= COMES_BACK).tolist()]
    bars = go.Bar(
        x=list(range(T)),
        y=rounded(cosines),
        marker={"color": colors, "line": {"color": COLORS["v"], "width": 1}},
        hovertemplate="key %{x}: cosine %{y}<extra></extra>",
        xaxis="x4",
        yaxis="y4",
    )
    line = {"color": COLORS["softmax"], "width": 1, "dash": "dot"}
    level = go.Scatter(
        x=[-0.6, T - 0.4], y=[COMES_BACK] * 2, mode="lines", line=line, hoverinfo="skip"
    )
    return [bars, level.update(xaxis="x4", yaxis="y4", meta="still")]


def _reach(trace, t) -> list:
    T = len(trace.labels)
    look = {"marker_color": COLORS["attention"], "hovertemplate": "token %{x}: %{y}<extra></extra>"}
    return [go.Bar(x=list(range(T)), y=rounded(trace.weights[t]), xaxis="x4", yaxis="y4", **look)]


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
        marker={"color": [COLORS["decay"] if _is_ours(trace, i) else "#D0D0D0" for i in range(n)]},
        xaxis="x5",
        yaxis="y5",
    )


def _span(trace) -> tuple[float, float]:
    """The bars' range in tokens. What never decays stands at the top, what is dropped at once at
    the bottom.
    """
    known = trace.half_lives[trace.half_lives.isfinite()].clamp_min(0.05)
    return (float(known.min()), 2 * float(known.max())) if len(known) else (0.5, 1.0)


def _log_axis(trace) -> dict:
    low, high = _span(trace)
    named = (
        {"showticklabels": False, "ticks": ""} if trace.half_lives.shape[1] <= 16 else {"dtick": 1}
    )
    return {"type": "log", "range": [math.log10(low / 2), math.log10(2 * high)]} | named


def _is_ours(trace, i: int) -> bool:
    """Bars of other heads are drawn paler; when the bars are key channels, all are this head's."""
    return trace.half_life_of != "head" or i == trace.head


def _colour_bar(x: float, top: float) -> dict:
    place = {"x": x, "xanchor": "left", "y": top, "yanchor": "top", "len": ROW, "lenmode": "pixels"}
    return place | {"tickfont": {"size": 10}, "nticks": 5, "exponentformat": "e"}


def _line(width: int = 2) -> dict:
    return {"mode": "lines", "line": {"color": "black", "width": width}, "hoverinfo": "skip"}


def _layout(trace, t, cells) -> go.Figure:
    heights, inside = [ROW, ROW, STRIP][: 2 + (trace.half_lives is not None)], _inside(trace)
    tops = [1 - (sum(heights[:i]) + GAP * i) / inside for i in range(len(heights))]
    bands = [
        [max(top - height / inside, 0), top] for top, height in zip(tops, heights, strict=True)
    ]
    foot = 56 if trace.half_lives is not None else 82
    axes = _tables(trace, *_fit(trace, cells)) | _tokens(trace)
    places = [
        (LEFT, bands[0]),
        (RIGHT, bands[0]),
        (LEFT, bands[1]),
        (RIGHT, bands[1]),
        ([0, 1], bands[-1]),
    ]
    for n, (x, y) in enumerate(places[: len(axes) // 2], 1):
        axes[f"xaxis{n}"] |= {"domain": x, "anchor": f"y{n}"} | _plain
        axes[f"yaxis{n}"] |= {"domain": y, "anchor": f"x{n}"} | _plain
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


def _inside(trace) -> int:
    """The height of all panels, in px."""
    return 2 * ROW + GAP + (0 if trace.half_lives is None else GAP + STRIP)


def _tables(trace, rows, columns) -> dict:
    """The axes of the two tables on top."""
    row_name, column_name = (
        name if len(shown) < 2 or shown[1] == 1 else f"{name} (1 in {shown[1]} shown)"
        for name, shown in zip(WORDS[trace.kind], (rows, columns), strict=False)
    )
    n_rows, n_columns = trace.states.shape[1:]
    side = ticks(range(n_rows - trace.normalised), 8)
    if trace.normalised:
        side = {"tickvals": [*side["tickvals"], n_rows - 1], "ticktext": [*side["ticktext"], "z"]}
    down = {"autorange": "reversed"} | side
    over = (
        ticks(trace.labels, _room(trace)) if trace.kind == "cache" else ticks(range(n_columns), 8)
    )
    across = _title(column_name) | {"tickangle": 0} | over
    return {
        "xaxis1": across,
        "yaxis1": _title(row_name) | down,
        "xaxis2": dict(across),
        "yaxis2": down,
    }


def _tokens(trace) -> dict:
    """The axes of what is drawn against tokens, and of the half-lives."""
    tokens = ticks(trace.labels, _room(trace))
    across = {"range": [-0.6, len(trace.labels) - 0.4]} | tokens
    axes = {
        "xaxis3": _title("token s") | tokens,
        "yaxis3": _title("read after token t") | {"autorange": "reversed"} | tokens,
    }
    if trace.recall is None:
        axes["xaxis4"] = _title("token s") | across
        axes["yaxis4"] = _title("|∂y<sub>t</sub>/∂x<sub>s</sub>|") | {
            "range": [0, 1.05 * largest(trace.weights)]
        }
    else:
        low = min(0.0, 1.1 * float(trace.recall.nan_to_num().min()))
        axes["xaxis4"] = _title("key of token j") | across
        axes["yaxis4"] = _title("cosine") | {
            "range": [low, 1.1],
            "tickvals": [-1, -0.5, 0, 0.5, COMES_BACK],
        }
    if trace.half_lives is not None:
        unit = "head (this one dark)" if trace.half_life_of == "head" else trace.half_life_of
        axes["xaxis5"] = _title(unit) | ticks(range(trace.half_lives.shape[1]))
        axes["yaxis5"] = _title("tokens") | _log_axis(trace)
    return axes


def _names(trace, tops) -> list[dict]:
    """The titles of the panels, and where there are no half-lives a line that says why."""
    _, _, state, now = WORDS[trace.kind]
    names = [
        state,
        now if trace.half_lives is None else f"{now}: S − decayed S",
        (
            "Influence of token s on y<sub>t</sub>"
            if trace.kind == "any"
            else "Weight of token s in read t"
        )
        + " (t outlined)",
        "What y<sub>t</sub> depends on"
        if trace.recall is None
        else "Does each key still return its value?",
    ]
    at = [
        (LEFT[0], tops[0]),
        (RIGHT[0], tops[0]),
        (LEFT[0], tops[1]),
        (RIGHT[0], tops[1]),
        (0, tops[-1]),
    ]
    if trace.half_lives is not None:
        names.append("Half-life: tokens until half is left (log scale)")
    above = {"xanchor": "left", "yanchor": "bottom", "yshift": 6, **_free}
    shown = [
        {"text": f"<b>{name}</b>", "x": x, "y": y, **above}
        for name, (x, y) in zip(names, at, strict=False)
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
    moves = {"heatmap": ("z",), "scatter": ("x", "y"), "bar": ("y", "text", "hovertext")}[
        panel.type
    ]
    kept = {name: panel[name] for name in moves if panel[name] is not None}
    if panel.type == "bar" and panel.xaxis == "x4":
        kept["marker"] = {"color": panel.marker.color}
    return {"type": panel.type} | kept


def _with_slider(fig, trace, steps) -> go.Figure:
    still = {
        "mode": "immediate",
        "frame": {"duration": 0, "redraw": True},
        "transition": {"duration": 0},
    }
    play = {
        "fromcurrent": True,
        "frame": {"duration": 500, "redraw": True},
        "transition": {"duration": 0},
    }
    height, room = fig.layout.height, 76
    below = {
        "x": 0.14,
        "len": 0.86,
        "y": 0,
        "yanchor": "top",
        "pad": {"t": fig.layout.margin.b + 2},
    }
    slider = below | {
        "active": len(steps) - 1,
        "currentvalue": {"prefix": "after token ", "font": {"size": 12}},
        "steps": [
            {"label": trace.labels[t], "method": "animate", "args": [[str(t)], still]}
            for t in steps
        ],
    }
    buttons = [
        {"label": "▶ play", "method": "animate", "args": [None, play]},
        {"label": "❚❚ stop", "method": "animate", "args": [[None], still]},
    ]
    menu = {
        "type": "buttons",
        "direction": "down",
        "x": 0,
        "xanchor": "left",
        "y": 0,
        "yanchor": "top",
    }
    menu |= {
        "pad": {"t": fig.layout.margin.b},
        "showactive": False,
        "buttons": buttons,
        "font": {"size": 11},
    }
    margin = {"b": fig.layout.margin.b + room}
    return fig.update_layout(
        sliders=[slider], updatemenus=[menu], height=height + room, margin=margin
    )


def _checked(trace: Trace, t: int | None) -> int:
    T = len(trace.labels)
    t = T - 1 if t is None else t
    if not 0 <= t < T:
        raise ValueError(f"t is {t}: the trace has tokens 0 to {T - 1}")
    return t
