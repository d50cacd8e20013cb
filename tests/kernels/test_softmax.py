"""The softmax kernel against `torch.softmax`."""

from importlib import import_module

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton (Linux only)")

from seqlab.kernels import softmax


def reference(x):
    return torch.softmax(x, -1)


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (2, 7), (3, 2, 65), (1, 300)])
def test_it_is_pytorchs_softmax_with_its_gradient(shape, agree, poisoned):
    agree(softmax, reference, 3 * torch.randn(shape))


def test_a_row_too_long_for_the_registers_is_read_in_pieces(agree, poisoned, monkeypatch):
    monkeypatch.setattr(import_module("seqlab.kernels.softmax"), "LONGEST", 16)
    agree(softmax, reference, 3 * torch.randn(3, 75))
    x = torch.full((2, 40), -torch.inf)
    x[:, 33] = 2.0  # two pieces of nothing but -inf before the first number
    assert torch.equal(softmax(x), torch.softmax(x, -1))


@pytest.mark.parametrize("longest", [16, 64])
def test_hard_rows_are_pytorchs(longest, monkeypatch):
    monkeypatch.setattr(import_module("seqlab.kernels.softmax"), "LONGEST", longest)
    x = torch.randn(6, 40)
    x[5] -= 1e5
    x[0, 3:] = -torch.inf
    x[1] = 1e30
    x[2, 5] = 1e38
    x[3] = -torch.inf  # a row that is nothing but -inf: NaN, as in PyTorch
    x[4, 0] = torch.nan
    torch.testing.assert_close(softmax(x), torch.softmax(x, -1), equal_nan=True)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_any_axis_and_any_strides(dim):
    x = torch.randn(4, 6, 5).transpose(0, 2)
    torch.testing.assert_close(softmax(x, dim), torch.softmax(x, dim))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loses_nothing_but_the_last_rounding(dtype, agree):
    agree(softmax, reference, torch.randn(3, 33).to(dtype))


def test_adding_a_number_to_a_row_changes_nothing():
    x = torch.randn(2, 33).round(decimals=2)
    torch.testing.assert_close(softmax(x + 4096), softmax(x), rtol=0, atol=1e-3)
    assert (softmax(x).sum(-1) - 1).abs().max() < 1e-6


def test_nothing_is_nothing():
    assert softmax(torch.empty(0, 3)).shape == (0, 3)


def test_it_is_compiled_for_four_targets_without_spills(compiled):
    reports = (
        compiled(softmax, (4096, 4096))
        | compiled(softmax, (64, 128256))
        | compiled(softmax, (8, 16384))
    )
    assert set(reports) == {
        "softmax_row",
        "softmax_backward_row",
        "softmax_pieces",
        "softmax_backward_pieces",
    }
    assert all(c.spills == 0 for report in reports.values() for c in report.targets.values())


def test_a_wrong_type_gets_a_sentence():
    with pytest.raises(
        TypeError, match=r"x is torch.float64: the kernels take float32, float16 and bfloat16"
    ):
        softmax(torch.ones(2, 2).double())


def test_a_second_derivative_is_refused():
    x = torch.randn(2, 3, requires_grad=True)
    (dx,) = torch.autograd.grad(softmax(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        dx.sum().backward()
