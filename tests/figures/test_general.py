"""The shared figures: pure, readable, and right about what they compute."""

import subprocess
import sys

import pytest
import torch

from seqlab.figures import (
    attention_matrix,
    bars,
    loss_curves,
    state_pair,
    state_table,
    timing_lines,
)
from seqlab.figures.theme import COLORS, figure, wrap
from seqlab.figures.training import scaling_lines, slope

S = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
TIMES = {"quadratic": {64: 0.1, 128: 0.4, 256: 1.6}, "linear": {64: 0.2, 256: 0.8}}

FIGURES = {
    "state": lambda: state_table(S[0], ["a", "b", "c"], title="a finding"),
    "weights": lambda: attention_matrix(torch.eye(4), title="a finding"),
    "signed weights": lambda: attention_matrix(-torch.eye(4), title="a finding"),
    "losses": lambda: loss_curves({"a": [3.0, 2.0], "b": [2.0, 1.0]}, title="a finding"),
    "times": lambda: timing_lines(TIMES, title="a finding"),
    "bars": lambda: bars({"a": 0.3, "b": 0.9}, chance=0.125, title="a finding"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_pure_and_in_the_courses_look(name):
    fig = FIGURES[name]()
    assert fig.to_json() == FIGURES[name]().to_json()
    assert fig.layout.title.text == "a finding"
    assert fig.layout.template.layout.paper_bgcolor == "white"


def test_a_figure_keeps_its_tensor():
    before = S.clone()
    state_table(S[0]), attention_matrix(S[0, :3])
    assert S.equal(before)


def test_slope_is_the_exponent():
    assert slope({T: 3e-6 * T**1.7 for T in (100, 200, 800, 1600)}) == pytest.approx(1.7)
    assert [line.name for line in timing_lines(TIMES).data] == [
        "quadratic: T<sup>2.00</sup>",
        "linear: T<sup>1.00</sup>",
    ]


def test_scaling_lines_are_fitted_from_a_length_on_and_drawn_between_powers():
    times = {"one": {T: 5.0 if T < 512 else 5.0 * (T / 512) ** 2 for T in (64, 512, 1024, 2048)}}
    fig = scaling_lines(times, title="a finding", y="seconds", fitted_from=512)
    assert fig.data[0].name == "one: T<sup>2.00 ± 0.00</sup>"
    for line, power in zip(fig.data[1:], (1, 2), strict=True):
        low, high = line.x[0], line.x[-1]
        assert line.y[-1] / line.y[0] == pytest.approx((high / low) ** power, rel=1e-3)


def test_state_pair_stops_where_the_states_first_part():
    mine = S.clone()
    mine[2:, 1, 1] += 0.1
    assert state_pair(mine, S).layout.title.text == "The states part at token 2"
    assert (
        state_pair(mine, S, labels="abcd").layout.title.text == "The states part at token 2 (‘c’)"
    )
    assert state_pair(S, S).layout.title.text == "The states agree up to the last token, 3"
    mine[1, 0, 0] = torch.nan
    assert state_pair(mine, S).layout.title.text == "The states part at token 1"
    with pytest.raises(ValueError, match=r"your states have shape \(4, 5, 2\)"):
        state_pair(S[..., :2], S)


def test_long_titles_are_wrapped_and_get_their_room():
    long = "a finding that needs many words " * 4
    assert max(len(line) for line in wrap(long).split("<br>")) <= 80
    assert figure(title=long).layout.margin.t > figure(title="short").layout.margin.t


def test_colours_differ():
    assert set(COLORS) == {"q", "k", "v", "state", "decay", "write", "attention", "softmax"}
    assert len(set(COLORS.values())) == len(COLORS)


@pytest.mark.parametrize(
    "module, absent",
    [
        ("seqlab", "plotly ipywidgets"),
        ("seqlab.microscope", "plotly ipywidgets"),
        ("seqlab.figures", "ipywidgets IPython"),
    ],
)
def test_imports_only_what_it_needs(module, absent):
    code = f"import sys, {module}; print(*[m for m in '{absent}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
