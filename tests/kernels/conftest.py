"""What the tests of the kernels share. On CPU a kernel runs in the interpreter, so sizes are tiny."""

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton (Linux only)")

from seqlab.gpu.compile import compile_report
from seqlab.kernels.launch import recorded


@pytest.fixture
def agree():
    """The accuracy rule of the kernels (DESIGN §10), run for a function and its reference on the same inputs.

    The error against the reference in float64 is at most twice that of the reference in the inputs' type, three times
    for gradients; beside it a floor of a few roundings, for where the reference is exact by chance.
    """

    def check(function, reference, *inputs):
        inputs = [x.detach().requires_grad_() for x in inputs]
        exact = [x.detach().double().requires_grad_() for x in inputs]
        ys, rs, es = (_outputs(f, xs) for f, xs in ((function, inputs), (reference, inputs), (reference, exact)))
        seeds = [torch.randn_like(e) for e in es]
        seeds = [torch.where(e.isfinite(), s, 0) for s, e in zip(seeds, es, strict=True)]
        grads = [
            torch.autograd.grad(outs, xs, [s.to(o.dtype) for s, o in zip(seeds, outs, strict=True)])
            for outs, xs in ((ys, inputs), (rs, inputs), (es, exact))
        ]
        for times, (got, plain, truth) in ((2, (ys, rs, es)), (3, grads)):
            for y, r, e in zip(got, plain, truth, strict=True):
                assert y.dtype == r.dtype and y.shape == r.shape
                assert torch.equal(y.isfinite(), e.isfinite())
                floor = 4 * torch.finfo(y.dtype).eps * max(1.0, _largest(e))
                assert _largest(y.double() - e) <= times * _largest(r.double() - e) + floor

    def _outputs(function, xs):
        out = function(*xs)
        return out if isinstance(out, tuple) else (out,)

    def _largest(x):
        x = x.detach()[x.detach().isfinite()]
        return x.abs().max().item() if len(x) else 0.0

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
    """Every launch that a function makes on tensors of real sizes, compiled for the four targets."""

    def compile_all(function, *shapes, dtype=torch.bfloat16, backward=True):
        inputs = [torch.empty(*s, dtype=dtype, device="meta", requires_grad=backward) for s in shapes]
        with recorded() as launches:
            out = function(*inputs)
            if backward:
                out.sum().backward()
        return {run.kernel.fn.__name__: compile_report(run.kernel, *run.args, **run.named) for run in launches}

    return compile_all


@pytest.fixture
def launches_of():
    """Every launch that a function and its backward make on random tensors: for `sanitize` and `trace` to run again."""

    def launches(function, *shapes, dtype=torch.float32, backward=True):
        inputs = [torch.randn(shape).to(dtype).requires_grad_(backward) for shape in shapes]
        with recorded() as runs:
            out = function(*inputs)
            if backward:
                out.backward(torch.randn_like(out))
        return runs

    return launches
