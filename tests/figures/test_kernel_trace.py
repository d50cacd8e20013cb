# ruff: noqa: E402
"""The figure of a traced kernel shows what the trace holds."""

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton installs on Linux only")
import triton.language as tl

from seqlab.figures.kernel_trace import STATES, kernel_trace
from seqlab.gpu.trace import trace


@triton.jit
def add_bias(p_x, p_bias, p_unused, R, C, BC: tl.constexpr):
    """In place: a row per program."""
    c = tl.arange(0, BC)
    o = tl.program_id(0) * C + c
    tl.store(p_x + o, tl.load(p_x + o, mask=c < C) + tl.load(p_bias + c, mask=c < C), mask=c < C)


@pytest.fixture
def seen():
    return trace(add_bias, (4,), torch.randn(4, 5), torch.randn(5), torch.zeros(3), 4, 5, BC=8)


def test_a_page_per_program_shows_what_it_touches_and_what_others_do(seen):
    fig = kernel_trace(seen)
    assert [frame.name for frame in fig.frames] == ["0", "1", "2", "3"]
    for i, frame in enumerate(fig.frames):
        x, bias = (np.array([[STATES[s] for s in row] for row in table.z]) for table in frame.data)
        assert (x[i] == "both").all() and (np.delete(x, i, 0) == "by others").all()
        assert bias.shape == (1, 5) and (bias == "read").all()
        assert frame.layout.title.text == f"add_bias, program {i}: 40 bytes in, 20 out"


def test_a_tensor_nobody_touches_is_not_drawn_and_alone_is_an_error(seen):
    assert len(kernel_trace(seen).data) == 2
    with pytest.raises(ValueError, match="no program of add_bias touches p_unused: nothing to show"):
        kernel_trace(seen, ["p_unused"])


def test_the_figure_can_be_stepped_and_played(seen):
    fig = kernel_trace(seen)
    assert [step.label for step in fig.layout.sliders[0].steps] == ["0", "1", "2", "3"]
    assert [button.label for button in fig.layout.updatemenus[0].buttons] == ["Play", "Pause"]


def test_many_programs_and_large_tensors_are_thinned():
    x = torch.randn(300, 100)
    fig = kernel_trace(trace(add_bias, (300,), x, torch.randn(100), x, 300, 100, BC=128), ["p_x"], pages=20)
    assert len(fig.frames) == 20 and (fig.frames[0].name, fig.frames[-1].name) == ("0", "299")
    table = fig.data[0]
    assert np.array(table.z).shape == (43, 34)
    assert (table.dx, table.dy) == (3, 7)  # the axes count the tensor's rows and columns
    assert len(fig.to_json()) < 200_000
