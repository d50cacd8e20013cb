import html
import inspect
import json
from collections.abc import Callable
from typing import Any

import ipywidgets as w
import plotly.graph_objects as go

PLOTLY = "application/vnd.plotly.v1+json"


def explore(draw: Callable[..., go.Figure], **controls: Any) -> w.VBox:
    """Sliders above, the figure `draw(**values)` below; each move redraws it.

    A control is (low, high) or (low, high, step) for a slider, a list of choices, True or False, or
    an ipywidget: `explore(draw, half_life=(1, 64))`. It starts at the default of draw's argument,
    if there is one. The last frame stays until the next one is ready. An error in `draw` is shown
    as one sentence, and the sliders keep working.
    """
    defaults = {name: p.default for name, p in inspect.signature(draw).parameters.items()}
    controls = {name: _control(name, spec, defaults.get(name)) for name, spec in controls.items()}
    out = w.Output(layout=w.Layout(min_height="320px"))

    def redraw(_=None):
        try:
            shown = shown_figure(
                draw(**{name: control.value for name, control in controls.items()})
            )
            # So that the page does not jump.
            out.layout.min_height = f"{shown[PLOTLY]['layout'].get('height', 320)}px"
        except Exception as error:
            shown = _sentence(error)
        # Assigned, not printed: the frame is replaced in one message, whoever moved the control.
        out.outputs = ({"output_type": "display_data", "data": shown, "metadata": {}},)

    for control in controls.values():
        control.observe(redraw, "value")
    redraw()
    return w.VBox([*controls.values(), out])


def _control(name: str, spec: Any, default: Any) -> Any:
    """The widget for one control, with its label."""
    look = {
        "description": name.replace("_", " "),
        "style": {"description_width": "initial"},
        "layout": w.Layout(width="min(520px, 95%)"),
    }
    start = {} if default in (None, inspect.Parameter.empty) else {"value": default}
    if isinstance(spec, w.Widget):
        return _labelled(spec, look)
    if isinstance(spec, bool):
        return w.Checkbox(value=spec, indent=False, **look)
    if isinstance(spec, list):
        return w.Dropdown(options=spec, **start, **look)
    if isinstance(spec, tuple) and len(spec) in (2, 3):
        whole = all(isinstance(bound, int) for bound in spec)
        bounds = {"step": 1 if whole else 0.01}
        bounds |= dict(zip(("min", "max", "step"), spec, strict=False))
        slider = w.IntSlider if whole else w.FloatSlider
        return slider(**bounds, **(start or {"value": spec[0]}), **look)
    needed = "pass (low, high), (low, high, step), a list, True or False, or a widget"
    raise TypeError(f"control {name} is {spec!r}: {needed}")


def _labelled(widget: w.Widget, look: dict[str, Any]) -> Any:
    """`widget`, with the control's name as its label if it has none."""
    labelled: Any = widget
    if isinstance(widget, w.ValueWidget) and not getattr(widget, "description", "x"):
        labelled.description = look["description"]
        labelled.style = look["style"]
    return labelled


def shown_figure(fig: Any) -> dict[str, Any]:
    """What an Output holds to show the figure."""
    if not isinstance(fig, go.Figure):
        raise TypeError(f"draw returned a {type(fig).__name__}: return a plotly go.Figure")
    data: Any = fig.to_json()
    return {PLOTLY: json.loads(data) | {"config": {"displayModeBar": False}}}


def _sentence(error: Exception) -> dict[str, str]:
    text = f"This setting cannot be drawn. {type(error).__name__}: {error}".split("\n")[0]
    return {"text/plain": text, "text/html": f"<p><b>✗</b> {html.escape(text)}</p>"}
