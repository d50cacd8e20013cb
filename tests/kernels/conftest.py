"""What the tests of the kernels share. On CPU a kernel runs in the interpreter, so sizes are
tiny.
"""

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton (Linux only)")

from seqlab.gpu.accuracy import errors
from seqlab.gpu.compile import compile_report
from seqlab.kernels.launch import recorded


@pytest.fixture
def agree():
    """The accuracy rule of the kernels, for a function and its reference on the same
    inputs.
    """

    def check(function, reference, *inputs):
        wrong = [str(error) for error in errors(function, reference, inputs) if not error.ok]
        assert not wrong, "; ".join(wrong)

    return check


@pytest.fixture
def poisoned(monkeypatch):
    """Every `torch.empty` holds NaN, so that what a kernel forgets to write is seen."""

    def nan(make):
        def made(*args, **kwargs):
            x = make(*args, **kwargs)
            return x.fill_(torch.nan) if x.is_floating_point() and not x.is_meta else x

        return made

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, nan(getattr(owner, name)))


@pytest.fixture
def compiled():
    """Every launch that a function makes on tensors of real sizes, compiled for the four
    targets.
    """

    def compile_all(function, *shapes, dtype=torch.bfloat16, backward=True):
        inputs = [
            torch.empty(*s, dtype=dtype, device="meta", requires_grad=backward) for s in shapes
        ]
        with recorded() as launches:
            out = function(*inputs)
            if backward:
                out.sum().backward()
        return {
            run.kernel.fn.__name__: compile_report(run.kernel, *run.args, **run.named)
            for run in launches
        }

    return compile_all


@pytest.fixture
def launches_of():
    """Every launch that a function and its backward make on random tensors: for `sanitize` and
    `trace` to run again.
    """

    def launches(function, *shapes, dtype=torch.float32, backward=True):
        inputs = [torch.randn(shape).to(dtype).requires_grad_(backward) for shape in shapes]
        with recorded() as runs:
            out = function(*inputs)
            if backward:
                out.backward(torch.randn_like(out))
        return runs

    return launches
