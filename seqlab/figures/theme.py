"""The look of every figure: one template, one colour per idea, titles that never run out of the
page.

    from seqlab.figures.theme import COLORS, figure fig = figure(go.Scatter(x=t, y=y,
    line_color=COLORS["q"]), title="The read fades", x="token", y="weight")

The colours are Okabe and Ito's, told apart with any colour vision. Figures are white cards, so they
read the same in JupyterLab's light and dark themes.
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
LINES = tuple(
    COLORS[name] for name in ("q", "write", "v", "k", "attention", "state", "softmax", "decay")
)
"""The order in which lines and bars of a comparison take their colours."""

INK = "#2B2B2B"

SIGNED = [
    [0.0, "#00456E"],
    [0.25, "#5AA5D2"],
    [0.5, "#FFFFFF"],
    [0.75, "#EE9A62"],
    [1.0, "#8F3A00"],
]
"""For numbers with a sign, such as a state: blue below 0, white at 0, orange above. Use with zmid=0."""

WEIGHTS = [[0.0, "#FFFFFF"], [0.35, "#E3B5CF"], [0.7, "#A84A82"], [1.0, "#3F0F2D"]]
"""For numbers from 0 up, such as attention weights: white at 0, then purple."""


def figure(
    *traces, title: str = "", x: str = "", y: str = "", height: int = 380, **layout
) -> go.Figure:
    """A figure in the course's look. `title` says the finding; `x` and `y` name the axes, with
    units.
    """
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
    """Break a long title over lines, so that it fits 700 px."""
    return "<br>".join(
        line for part in text.split("<br>") for line in (textwrap.wrap(part, width) or [""])
    )


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
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
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
