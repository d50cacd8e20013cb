"""The RMSNorm kernel against `seqlab.layers.norm.rms_norm`."""

from importlib import import_module

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton (Linux only)")

from seqlab.kernels import rms_norm
from seqlab.layers import norm


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 3, 64), (9, 33)])
def test_it_is_the_reference_with_the_gradients_of_x_and_weight(shape, agree, poisoned):
    agree(rms_norm, norm.rms_norm, torch.randn(shape), torch.randn(shape[-1]))


def test_without_a_weight(agree, poisoned):
    agree(rms_norm, norm.rms_norm, torch.randn(4, 17))


@pytest.mark.parametrize("rows", [7, 8, 9])
def test_every_row_counts_once_in_the_gradient_of_the_weight(rows, agree, monkeypatch, poisoned):
    for name in ("FORWARD", "BACKWARD"):  # two or three rows a program, the last has fewer
        monkeypatch.setattr(import_module("seqlab.kernels.rmsnorm"), name, 4)
    agree(rms_norm, norm.rms_norm, torch.randn(rows, 6), torch.randn(6))


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e3])
def test_small_and_large_rows(scale, agree):
    agree(rms_norm, norm.rms_norm, scale * torch.randn(3, 8), torch.randn(8))


def test_eps_is_inside_the_root(agree):
    agree(lambda x: rms_norm(x, eps=0.5), lambda x: norm.rms_norm(x, eps=0.5), torch.randn(3, 8))
    x = torch.full((1, 4), 3.0)
    torch.testing.assert_close(rms_norm(x, eps=16.0), x / 5)  # sqrt(9 + 16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype, agree):
    agree(rms_norm, norm.rms_norm, torch.randn(4, 33).to(dtype), torch.randn(33).to(dtype))


def test_half_precision_rows_with_a_float32_weight(agree):
    agree(rms_norm, norm.rms_norm, torch.randn(4, 33).half(), torch.randn(33))


def test_it_is_compiled_for_four_targets_without_spills(compiled):
    for width in (128, 4096, 16384):
        reports = compiled(rms_norm, (4096, width), (width,))
        assert set(reports) == {"rms_norm_forward", "rms_norm_backward"}
        assert all(c.spills == 0 for report in reports.values() for c in report.targets.values()), (
            reports
        )


def test_wrong_arguments_get_a_sentence():
    with pytest.raises(
        ValueError, match=r"weight has shape \(3,\), x has width 4: weight must be \(4,\)"
    ):
        rms_norm(torch.ones(2, 4), torch.ones(3))
    with pytest.raises(ValueError, match="x has rows of 70000"):
        rms_norm(torch.ones(1, 70000))
    with pytest.raises(TypeError, match=r"x is torch.float64"):
        rms_norm(torch.ones(2, 4).double())
