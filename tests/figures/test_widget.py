"""The live microscope opens on the last token and follows its controls."""

import torch

from seqlab.figures import microscope as still
from seqlab.microscope import observe
from seqlab.mixers import Attention, RetNet
from seqlab.widgets import microscope

x = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))


def parts(box):
    play, panel = box.children
    *controls, out = panel.children
    assert len(out.outputs) == 1
    return (
        play,
        controls,
        lambda: out.outputs[0]["data"]["application/vnd.plotly.v1+json"]["layout"]["title"]["text"],
    )


def test_first_frame_is_the_last_token():
    mixer = RetNet(16, 2)
    _, (t, head, row), title = parts(microscope(mixer, x))
    assert (t.value, head.value, row.value) == (5, 0, 0)
    assert title() == still(observe(mixer, x)).layout.title.text


def test_controls_are_followed():
    mixer = RetNet(16, 2)
    _, (t, head, row), title = parts(microscope(mixer, x))
    t.value, head.value, row.value = 2, 1, 1
    assert title() == still(observe(mixer, x, head=1, row=1), 2).layout.title.text


def test_a_choice_of_one_is_not_shown():
    play, controls, _ = parts(microscope(Attention(16, 1), x[:1]))
    assert len(controls) == 1
    assert (play.min, play.max) == (0, 5)
