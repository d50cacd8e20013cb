"""What several exercises of chapter 11 draw."""

import torch


def randn(rng, *shape):
    return torch.randn(*shape, generator=rng)


def rand(rng, *shape):
    return torch.rand(*shape, generator=rng)
