"""The map of the course: a tile a chapter, filled where the chapter is written."""

from collections.abc import Iterable

import plotly.graph_objects as go

from seqlab.figures.theme import COLORS, INK, figure, wrap

COLUMNS = 5
PART_COLORS = tuple(COLORS[name] for name in ("q", "attention", "k", "v", "write", "softmax"))


def course_map(
    chapters: Iterable[tuple], parts: tuple[str, ...], written: set[str], title: str = ""
) -> go.Figure:
    """Tiles in reading order. chapters: (number, name, title, part index, what it opens with);
    written: their numbers.

    A filled tile is a chapter to open now; an empty one is to come. Hover over a tile for what it
    opens with.
    """
    chapters = list(chapters)
    fig = figure(
        title=title, height=40 + 82 * -(-len(chapters) // COLUMNS), margin={"l": 8, "r": 8, "b": 8}
    )
    for i, (number, _, name, part, _) in enumerate(chapters):
        row, column, color, here = i // COLUMNS, i % COLUMNS, PART_COLORS[part], number in written
        box = {"x0": column + 0.03, "x1": column + 0.97, "y0": row + 0.06, "y1": row + 0.94}
        fig.add_shape(
            type="rect",
            fillcolor=color if here else "white",
            line={"color": color, "width": 2},
            **box,
        )
        ink = "white" if here else INK
        text = f"<b>{number}</b><br>{wrap(name, 18)}"
        fig.add_annotation(
            x=column + 0.5, y=row + 0.5, text=text, showarrow=False, font={"color": ink, "size": 12}
        )
    hover = [f"<b>{c[0]} {c[2]}</b> ({parts[c[3]]})<br>{wrap(c[4], 45)}" for c in chapters]
    fig.add_scatter(
        x=[i % COLUMNS + 0.5 for i in range(len(chapters))],
        y=[i // COLUMNS + 0.5 for i in range(len(chapters))],
        mode="markers",
        marker={"size": 50, "opacity": 0},
        hovertext=hover,
        hoverinfo="text",
        showlegend=False,
    )
    for part, name in enumerate(parts):
        marker = {"symbol": "square", "size": 12, "color": PART_COLORS[part]}
        fig.add_scatter(x=[None], y=[None], mode="markers", marker=marker, name=name)
    fig.update_layout(legend={"orientation": "h", "y": 0, "yanchor": "top"}, margin_b=50)
    fig.update_xaxes(visible=False, range=[0, COLUMNS], fixedrange=True)
    fig.update_yaxes(visible=False, range=[-(-len(chapters) // COLUMNS), 0], fixedrange=True)
    return fig
