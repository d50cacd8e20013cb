"""What several exercises of chapter 12 draw."""

import torch


def randn(rng, *shape):
    return torch.randn(*shape, generator=rng)


def rand(rng, *shape):
    return torch.rand(*shape, generator=rng)
