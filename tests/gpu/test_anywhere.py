"""A launch on CPU goes to the lab or to whoever listens, and the kernel is Triton's own."""

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton (Linux only)")

import triton as real

from seqlab.gpu import anywhere
from seqlab.gpu.anywhere import launches_on_cpu, tl, triton
from seqlab.gpu.events import LabError, OutOfBounds


@triton.jit
def double(p_x, p_y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(p_y + i, 2 * tl.load(p_x + i, mask=i < n), mask=i < n)


def test_it_is_the_real_triton():
    assert triton is real and tl is real.language
    assert isinstance(double, real.JITFunction)


def test_a_launch_on_cpu_computes():
    x, y = torch.randn(50), torch.empty(50)
    double[(2,)](x, y, 50, BLOCK=32, num_warps=2)
    assert torch.equal(y, 2 * x)
    double[lambda named: (real.cdiv(50, named["BLOCK"]),)](y, x, 50, BLOCK=16)
    assert torch.equal(x, 2 * y)


def test_a_launch_out_of_bounds_raises_and_changes_nothing():
    x, y = torch.randn(50), torch.zeros(50)
    with pytest.raises(OutOfBounds):
        double[(2,)](x, y, 64, BLOCK=32)
    assert not y.any()


def test_the_last_listener_gets_the_launches_inside_its_block():
    outer, inner = [], []
    with launches_on_cpu(lambda *launch, **named: outer.append((launch, named))):
        with launches_on_cpu(lambda *launch, **named: inner.append(launch)):
            double[(1,)](torch.ones(3), torch.ones(3), 3, BLOCK=4)
        x = torch.ones(3)
        double[(1,)](x, x, 3, BLOCK=4)
    assert len(inner) == 1 and outer == [((double, (1,), x, x, 3), {"BLOCK": 4})]
    double[(1,)](x, x, 3, BLOCK=4)
    assert x[0] == 2 and len(outer) == 1


def test_a_stand_in_decorates_and_says_why_it_does_not_launch():
    absent = anywhere._Absent()

    def function(x):
        return x

    assert absent.jit(function).fn is function
    assert absent.autotune(configs=[absent.Config({})], key=["n"])(function).fn is function
    assert absent.cdiv(3, 4) is absent
    with pytest.raises(LabError, match="Linux only"):
        absent.jit(function)[(1,)]
