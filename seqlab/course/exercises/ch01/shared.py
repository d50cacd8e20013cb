"""What several exercises of chapter 01 draw and compare."""

import torch


def _randn(rng, *shape):
    return torch.randn(*shape, generator=rng)


def _close(a, b, tolerance=1e-3):
    return a.shape == b.shape and torch.allclose(a, b, atol=tolerance, rtol=tolerance)
