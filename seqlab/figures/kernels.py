"""Figures of chapter 23: lanes, sectors, orders of programs, and what compilers report."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from seqlab.figures.panels import dressed, flip_book, legend_below
from seqlab.figures.theme import COLORS, LINES, MARKED, OTHER_PROGRAMS, UNTOUCHED, figure

ON, OFF = COLORS["q"], COLORS["write"]


def lanes(n: int, block: int) -> go.Figure:
    """Which lanes of which program have a number to copy, for n numbers in blocks."""
    programs = -(-n // block)
    idle = programs * block - n
    inside = np.arange(programs * block).reshape(programs, block) < n
    heat = go.Heatmap(
        z=inside.astype(int),
        zmin=0,
        zmax=1,
        colorscale=[[0, OFF], [0.5, OFF], [0.5, ON], [1, ON]],
        colorbar={"tickvals": [0.25, 0.75], "ticktext": ["masked", "copies"], "thickness": 14},
        hovertemplate="program %{y}, lane %{x}<extra></extra>",
        xgap=1 if block <= 64 else 0,
        ygap=2,
    )
    share = idle / (programs * block)
    title = f"{programs} programs of {block}: {idle} lanes ({share:.0%}) have nothing to copy"
    fig = figure(heat, title=title, x="lane", y="program", height=320)
    fig.update_xaxes(showgrid=False, zeroline=False)
    step = 1 if programs <= 12 else None
    return fig.update_yaxes(autorange="reversed", showgrid=False, zeroline=False, dtick=step)


def sector_bars(moved: Mapping[str, tuple[int, int]], title: str) -> go.Figure:
    """Bytes asked for, and bytes of the sectors touched, for each shape of tile."""
    names = list(moved)
    look = {"texttemplate": "%{y:,}", "textposition": "outside"}
    asked, touched = zip(*moved.values(), strict=True)
    bars = (
        go.Bar(x=names, y=asked, name="asked for", marker_color=ON, **look),
        go.Bar(x=names, y=touched, name="in the sectors", marker_color=OFF, **look),
    )
    fig = figure(*bars, title=title, x="tile (rows × columns)", y="bytes")
    fig.update_yaxes(range=[0, 1.15 * max(touched)])
    return legend_below(fig)


def spread(sums: Sequence[float], exact: float, bits: int) -> go.Figure:
    """Sums of the same numbers in other orders, as distances from the exact one."""
    errors = [(s - exact) / abs(exact) for s in sums]
    different = len(set(sums))
    points = go.Scatter(x=list(range(len(sums))), y=errors, mode="markers", marker_color=OFF)
    title = f"{len(sums)} orders of the same programs give {different} different sums"
    y = f"relative error, {bits} bits"
    fig = figure(points, title=title, x="order", y=y, height=320)
    return fig.update_yaxes(exponentformat="power", zeroline=True)


def spills(reports: Mapping[int, Sequence[tuple[int, int, int]]], title: str) -> go.Figure:
    """Registers and spilled bytes of a thread. reports: warps -> (width, registers, spilled)."""
    fig = make_subplots(1, 2, subplot_titles=("registers", "spilled bytes"))
    for n, (warps, rows) in enumerate(reports.items()):
        for col in (1, 2):
            line = go.Scatter(
                x=[row[0] for row in rows],
                y=[row[col] for row in rows],
                name=f"{warps} warps" if warps > 1 else "1 warp",
                line_color=LINES[n],
                mode="lines+markers",
                showlegend=col == 1,
                legendgroup=str(warps),
            )
            fig.add_trace(line, row=1, col=col)
    widths = [row[0] for row in next(iter(reports.values()))]
    ticks = {"tickvals": widths, "ticktext": [f"{w:,}" for w in widths]}
    fig.update_xaxes(type="log", title_text="width of a row", **ticks)
    fig.update_yaxes(title_text="of a thread", row=1, col=1)
    return legend_below(dressed(fig, title, 340))


def orders(rows: int, cols: int, groups: Sequence[int], concurrent: int) -> go.Figure:
    """A page per group size: the order of the tiles of c, and those of the second wave."""
    pages = {str(group): _order(rows, cols, group, concurrent) for group in groups}
    return flip_book(pages, "GROUP", start=list(pages).index("1"))


def tile_of(number: int, rows: int, cols: int, group: int) -> tuple[int, int]:
    """Row and column of a program's tile: down `group` rows, then a column, then a group."""
    first = number // (group * cols) * group
    height = min(rows - first, group)
    inside = number % (group * cols)
    return first + inside % height, inside // height


def _order(rows: int, cols: int, group: int, concurrent: int) -> go.Figure:
    number = np.zeros((rows, cols), dtype=int)
    for i in range(rows * cols):
        number[tile_of(i, rows, cols, group)] = i
    wave = (number // concurrent == 1).astype(int)
    need = int(wave.any(1).sum() + wave.any(0).sum())
    heat = go.Heatmap(
        z=wave,
        text=number,
        texttemplate="%{text}",
        textfont_size=9,
        colorscale=[[0, UNTOUCHED], [0.5, OTHER_PROGRAMS], [1, COLORS["k"]]],
        showscale=False,
        xgap=1,
        ygap=1,
        zmin=0,
        zmax=1,
    )
    title = f"GROUP = {group}: the second {concurrent} programs need {need} strips of a and b"
    fig = figure(heat, title=title, x="tile column of c", y="tile row of c", height=430)
    fig.update_xaxes(showgrid=False, zeroline=False, constrain="domain", dtick=2)
    scale = {"scaleanchor": "x", "autorange": "reversed", "dtick": 2}
    return fig.update_yaxes(showgrid=False, zeroline=False, constrain="domain", **scale)


def cache_lines(moved: Mapping[str, Mapping[int, int]], once: int, title: str) -> go.Figure:
    """KiB fetched from memory against the size of the cache, a line for each order of programs."""
    lines = [
        go.Scatter(
            x=[size / 1024 for size in by_size],
            y=[b / 1024 for b in by_size.values()],
            name=name,
            mode="lines+markers",
            line_color=LINES[n],
        )
        for n, (name, by_size) in enumerate(moved.items())
    ]
    fig = figure(*lines, title=title, x="cache, KiB (log scale)", y="KiB from memory (log scale)")
    fig.update_xaxes(type="log", tickvals=[s / 1024 for s in next(iter(moved.values()))])
    ticks = [512, 1024, 2048, 4096]
    fig.update_yaxes(type="log", tickvals=ticks)
    fig.add_hline(once / 1024, line_dash="dot", line_color=COLORS["decay"])
    return legend_below(fig)


def choices(rows: Sequence[tuple[str, int, int, int, float, str]], title: str) -> go.Figure:
    """Configurations: registers, spilled bytes, shared bytes, occupancy, why it is ruled out."""
    head = ["BM × BN × BK, warps, stages", "registers", "spilled B", "shared KiB", "occupancy", ""]
    shown = [(*row[:3], f"{row[3] / 1024:.0f}", f"{row[4]:.0%}", row[5]) for row in rows]
    ground = [MARKED if row[5] else UNTOUCHED for row in rows]
    table = go.Table(
        header={"values": head, "align": "left", "fill_color": OTHER_PROGRAMS},
        cells={
            "values": list(zip(*shown, strict=True)),
            "align": "left",
            "fill_color": [ground],
            "height": 26,
        },
        columnwidth=[2.4, 1, 1, 1, 1, 1.8],
    )
    return figure(table, title=title, height=170 + 27 * len(rows), margin={"l": 8, "r": 8, "b": 8})


def group_bars(
    rows: int, cols: int, groups: Sequence[int], concurrent: int, room: int
) -> go.Figure:
    """Strips fetched for each group size, `concurrent` programs at a time, `room` strips cached."""
    from seqlab.gpu.l2 import misses

    fetched = []
    for group in groups:
        tiles = [tile_of(i, rows, cols, group) for i in range(rows * cols)]
        strips: list[int] = []
        for first in range(0, len(tiles), concurrent):
            wave = tiles[first : first + concurrent]
            strips += dict.fromkeys(i for i, _ in wave)
            strips += dict.fromkeys(rows + j for _, j in wave)
        fetched.append(misses(strips, room))
    best = groups[fetched.index(min(fetched))]
    bar = go.Bar(x=[str(g) for g in groups], y=fetched, marker_color=ON, texttemplate="%{y}")
    title = f"Groups of {best} fetch {min(fetched)} strips; there are {rows + cols}"
    fig = figure(bar, title=title, x="tile rows in a group", y="strips fetched", height=320)
    fig.update_traces(textangle=0, textposition="outside", cliponaxis=False)
    return fig.update_xaxes(type="category")
