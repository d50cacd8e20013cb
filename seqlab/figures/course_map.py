"""The map of the course: a tile a chapter, filled where the chapter is written."""

from collections.abc import Iterable

import plotly.graph_objects as go

from seqlab.figures.theme import COLORS, INK, PAPER, figure, wrap

COLUMNS = 5
PART_COLORS = tuple(COLORS[name] for name in ("q", "attention", "k", "v", "write", "softmax"))


def course_map(
    chapters: Iterable[tuple], parts: tuple[str, ...], written: set[str], title: str = ""
) -> go.Figure:
    """A tile per chapter, in reading order; hover over a tile for what the chapter opens with.

    chapters: (number, name, title, part index, what it opens with); written: numbers of those that
    can be opened now. Their tiles are filled.
    """
    chapters = list(chapters)
    n_rows = -(-len(chapters) // COLUMNS)
    fig = figure(title=title, height=40 + 82 * n_rows, margin={"l": 8, "r": 8, "b": 8})
    centres = [(i % COLUMNS + 0.5, i // COLUMNS + 0.5) for i in range(len(chapters))]
    for (x, y), (number, _, name, part, _) in zip(centres, chapters, strict=True):
        color = PART_COLORS[part]
        fill, ink = (color, PAPER) if number in written else (PAPER, INK)
        box = {"x0": x - 0.47, "x1": x + 0.47, "y0": y - 0.44, "y1": y + 0.44}
        fig.add_shape(type="rect", fillcolor=fill, line={"color": color, "width": 2}, **box)
        text = f"<b>{number}</b><br>{wrap(name, 18)}"
        font = {"color": ink, "size": 12}
        fig.add_annotation(x=x, y=y, text=text, showarrow=False, font=font)
    hover = [f"<b>{c[0]} {c[2]}</b> ({parts[c[3]]})<br>{wrap(c[4], 45)}" for c in chapters]
    fig.add_scatter(
        x=[x for x, _ in centres],
        y=[y for _, y in centres],
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
    fig.update_yaxes(visible=False, range=[n_rows, 0], fixedrange=True)
    return fig
