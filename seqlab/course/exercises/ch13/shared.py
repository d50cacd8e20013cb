"""What several exercises of chapter 13 draw."""

import torch


def randn(rng, *shape):
    return torch.randn(*shape, generator=rng)


def rand(rng, *shape):
    return torch.rand(*shape, generator=rng)


def unit(rng, *shape):
    k = randn(rng, *shape)
    return k / k.norm(dim=-1, keepdim=True)
