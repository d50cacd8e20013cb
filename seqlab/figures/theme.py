"""The look of every figure: one template, one colour per idea, titles that fit the page.

    from seqlab.figures.theme import COLORS, figure

    line = go.Scatter(x=t, y=y, line_color=COLORS["q"])
    fig = figure(line, title="The read fades", x="token", y="weight")

The colours are Okabe and Ito's: readers with any colour vision can tell them apart. Figures are
white cards, so they look the same in JupyterLab's light and dark themes.
"""

import textwrap

import plotly.graph_objects as go
import plotly.io as pio

COLORS = {
    "q": "#0072B2",  # blue
    "k": "#E69F00",  # orange
    "v": "#009E73",  # green
    "state": "#56B4E9",  # sky blue
    "decay": "#8C8C8C",  # grey
    "write": "#D55E00",  # vermilion
    "attention": "#CC79A7",  # purple
    "softmax": "#222222",  # near black
}
_ORDER = ("q", "write", "v", "k", "attention", "state", "softmax", "decay")
LINES = tuple(COLORS[name] for name in _ORDER)
"""The order in which lines and bars of a comparison take their colours."""

INK = "#2B2B2B"
PAPER = "white"
OUTLINE = "black"

# What is there but is not the subject, from dark to light.
CONTOUR = "#7A7A7A"  # lines on a surface
EDGE = "#B5B5B5"  # the frame of a box
OTHER_HEADS = "#D0D0D0"  # bars of the heads that are not shown
LIMIT = "#D9D9D9"  # a computed bound, behind the curves of models
OTHER_PROGRAMS = "#DADADA"  # cells that only other programs touch
GRID = "#DDDDDD"  # grid lines of a surface
EMPTY = "#EDEDED"  # the ground that shows through empty cells
WALL = "#F7F7F7"  # the sides of a surface's box

LOST = "#A9D9C9"  # a value that no longer comes back: COLORS["v"], pale
UNTOUCHED = "#FFFFFF"
MASKED_OFF = "#F7E3A1"  # cells that a program's mask keeps it from touching
OUTSIDE = "#B00020"  # places that a program touches beyond the end of a tensor
MARKED = "#FCE4C8"  # the ground of a marked line: COLORS["write"], pale

SIGNED = [
    [0.0, "#00456E"],
    [0.25, "#5AA5D2"],
    [0.5, "#FFFFFF"],
    [0.75, "#EE9A62"],
    [1.0, "#8F3A00"],
]
"""For signed numbers, such as a state: blue below 0, white at 0, orange above; use zmid=0."""

WEIGHTS = [[0.0, "#FFFFFF"], [0.35, "#E3B5CF"], [0.7, "#A84A82"], [1.0, "#3F0F2D"]]
"""For numbers from 0 up, such as attention weights: white at 0, then purple."""

HEIGHTS = [[0, "#FFFFFF"], [0.5, COLORS["state"]], [1, "#00456E"]]
"""For the height of a surface: white at the foot, then blue."""


def figure(
    *traces, title: str = "", x: str = "", y: str = "", height: int = 380, **layout
) -> go.Figure:
    """A figure in the course's look: `title` says the finding, `x` and `y` name axes and units."""
    title = wrap(title)
    top = 42 + 19 * title.count("<br>") if title else 24
    look = {"template": "seqlab", "height": height, "title": {"text": title}}
    fig = go.Figure(list(traces), look | layout)
    if "margin" not in layout:
        fig.update_layout(margin_t=top)
    if x:
        fig.update_xaxes(title_text=x)
    if y:
        fig.update_yaxes(title_text=y)
    return fig


def wrap(text: str, width: int = 80) -> str:
    """Break a long title into lines, so that it fits 700 px."""
    parts = (textwrap.wrap(part, width) or [""] for part in text.split("<br>"))
    return "<br>".join(line for part in parts for line in part)


def _template() -> go.layout.Template:
    axis = {
        "automargin": True,
        "gridcolor": "#ECECEC",
        "linecolor": "#9A9A9A",
        "showline": True,
        "ticks": "outside",
        "tickcolor": "#9A9A9A",
        "ticklen": 4,
        "zerolinecolor": "#BDBDBD",
        "title": {"standoff": 8, "font": {"size": 13}},
    }
    return go.layout.Template(
        layout={
            "font": {"family": "DejaVu Sans, Verdana, Arial, sans-serif", "size": 12, "color": INK},
            "title": {
                "x": 0,
                "xref": "paper",
                "xanchor": "left",
                "y": 1,
                "yref": "container",
                "yanchor": "top",
                "pad": {"t": 22},
                "font": {"size": 15},
            },
            "margin": {"l": 60, "r": 24, "t": 76, "b": 52},  # two lines of title
            "modebar": {"orientation": "v"},
            "paper_bgcolor": PAPER,
            "plot_bgcolor": PAPER,
            "colorway": LINES,
            "hoverlabel": {"font": {"size": 12}},
            "legend": {"bgcolor": "rgba(255,255,255,0.8)"},
            "xaxis": axis,
            "yaxis": axis,
            "bargap": 0.25,
        },
        data={
            "heatmap": [{"xgap": 1, "ygap": 1, "colorbar": {"thickness": 12, "outlinewidth": 0}}]
        },
    )


pio.templates["seqlab"] = _template()
