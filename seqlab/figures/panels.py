"""Figures of several panels, and figures with a slider that needs no kernel."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from seqlab.figures.theme import wrap


def dressed(fig: go.Figure, title: str, height: int, **layout) -> go.Figure:
    """A figure of several panels in the course's look."""
    title = wrap(title)
    top = 66 + 19 * title.count("<br>")
    fig.update_annotations(font_size=13)
    return fig.update_layout(
        {"template": "seqlab", "title_text": title, "height": height, "margin_t": top} | layout
    )


def legend_below(fig: go.Figure) -> go.Figure:
    """The legend under the horizontal axis, and the room that it takes."""
    layout: Any = fig.layout
    legend = {"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0}
    fig.update_layout(legend=legend, showlegend=True)
    return fig.update_layout(margin_b=96, height=layout.height + 30)


def hline(fig: go.Figure, y: float, *, row: int, col: int, **look: Any) -> None:
    """A horizontal line across one panel."""
    fig.add_hline(y, row=row, col=col, **look)  # pyright: ignore[reportArgumentType]  plotly: str


def flip_book(pages: Mapping[str, go.Figure], name: str, start: int = 0) -> go.Figure:
    """One figure with plotly's own slider over `pages`, label -> figure, all with equal traces."""
    labels, figs = list(pages), list(pages.values())
    frames = [
        go.Frame(name=label, data=fig.data, layout=_changing(fig)) for label, fig in pages.items()
    ]
    steps = [{"label": label, "method": "animate", "args": [[label], _AT_ONCE]} for label in labels]
    book = go.Figure(figs[start].data, figs[start].layout, frames=frames)
    slider = {
        "active": start,
        "steps": steps,
        "currentvalue": {"prefix": f"{name}: "},
        "pad": {"t": 44},
        "len": 0.98,
    }
    layout: Any = book.layout
    bottom, height = layout.margin.b or 52, layout.height
    return book.update_layout(
        sliders=[slider | {"x": 0.01}], margin_b=bottom + 76, height=height + 80
    )


def playable(book: go.Figure) -> go.Figure:
    """A flip book with buttons that turn its pages."""
    play = {"mode": "immediate", "fromcurrent": True, "frame": {"duration": 400, "redraw": True}}
    stop = {"mode": "immediate", "frame": {"duration": 0, "redraw": False}}
    still = {"duration": 0}
    buttons = [
        {"label": "Play", "method": "animate", "args": [None, play | {"transition": still}]},
        {"label": "Pause", "method": "animate", "args": [[None], stop | {"transition": still}]},
    ]
    menu = {"type": "buttons", "direction": "left", "showactive": False, "buttons": buttons}
    layout: Any = book.layout
    slider = layout.sliders[0].update(x=0.27, len=0.73)
    at = {"x": 0, "y": 0, "xanchor": "left", "yanchor": "top", "pad": {"t": 58}}
    return book.update_layout(updatemenus=[menu | at], sliders=[slider])


_AT_ONCE = {
    "mode": "immediate",
    "frame": {"duration": 0, "redraw": True},
    "transition": {"duration": 0},
}


def _changing(fig: go.Figure) -> dict:
    """The part of a layout that may differ between pages: title, marks, notes, ranges of axes."""
    layout: Any = fig.layout
    changing = {
        "title": {"text": layout.title.text},
        "shapes": layout.shapes,
        "annotations": layout.annotations,
    }
    for name in layout:
        if name[1:5] == "axis" and layout[name].range is not None:
            changing[name] = {"range": layout[name].range}
    return changing
