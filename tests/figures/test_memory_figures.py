"""The calculator of memories draws what the zoo computes."""

import functools
import operator

import pytest

from seqlab.figures.memory import CONTEXTS, MODELS, PRESETS, memory_of
from seqlab.zoo import recipe
from seqlab.zoo.memory import kept


def test_lines_are_bytes_times_texts():
    fig = memory_of("Griffin 7B", bytes_per_number=1, texts=3)
    expected = [3 * kept("Griffin", "7B").bytes(n, cache=1) / 1e9 for n in CONTEXTS]
    assert fig.data[0].y == pytest.approx(expected, rel=0.01)
    assert fig.layout.title.text == f"At 1M tokens Griffin 7B keeps {expected[-1]:.3g} GB"


def test_the_title_compares_the_first_two():
    fig = memory_of("70B: Llama 3.1 70B, Jamba 1.5 Large")
    ratio = fig.data[0].y[-1] / fig.data[1].y[-1]
    assert f"{ratio:.0f} times as much as Jamba 1.5 Large" in fig.layout.title.text.replace(
        "<br>", " "
    )


def test_every_preset_is_published():
    for name, model in functools.reduce(operator.iadd, PRESETS.values(), []):
        assert model in recipe(name).published and f"{name} {model}" in MODELS
