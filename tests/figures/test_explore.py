"""`explore`: a first frame without a click, the last state kept, one sentence for an error."""

import plotly.graph_objects as go
import pytest

from seqlab.widgets import explore

PLOTLY = "application/vnd.plotly.v1+json"


def draw(height=3, name="a", share=0.5, upside_down=False):
    if height == 4:
        raise ValueError("height is 4: <choose> another\nsecond line")
    return go.Figure(go.Scatter(y=[share, -height if upside_down else height], name=name))


def panel(**controls):
    box = explore(draw, **controls)
    return *box.children[:-1], box.children[-1]


def shown(out):
    (frame,) = out.outputs
    return frame["data"]


def test_first_frame_needs_no_click():
    slider, out = panel(height=(1, 8))
    assert slider.value == 3  # draw's own default
    assert shown(out)[PLOTLY]["data"][0]["y"] == [0.5, 3]


def test_moving_a_control_redraws():
    slider, tick, out = panel(height=(1, 8), upside_down=True)
    slider.value = 6
    assert shown(out)[PLOTLY]["data"][0]["y"] == [0.5, -6]
    tick.value = False
    assert shown(out)[PLOTLY]["data"][0]["y"] == [0.5, 6]


def test_an_error_is_one_sentence_and_the_next_frame_is_drawn():
    slider, out = panel(height=(1, 8))
    slider.value = 4
    assert shown(out)["text/plain"].endswith("ValueError: height is 4: <choose> another")
    assert "&lt;choose&gt;" in shown(out)["text/html"]
    slider.value = 5
    assert PLOTLY in shown(out)


def test_labels_stand_beside_the_controls():
    *controls, _ = panel(height=(1, 8), name=["a", "b"], share=(0.0, 1.0), upside_down=False)
    assert [control.description for control in controls] == [
        "height",
        "name",
        "share",
        "upside down",
    ]


def test_a_control_that_is_none_of_these_is_refused():
    with pytest.raises(TypeError, match="pass \\(low, high\\)"):
        explore(draw, height="high")


def test_draw_must_return_a_figure():
    out = explore(lambda t: "not a figure", t=(0, 3)).children[-1]
    assert "draw returned a str" in shown(out)["text/plain"]
