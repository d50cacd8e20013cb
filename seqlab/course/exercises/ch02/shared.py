"""What several exercises of chapter 02 draw."""

import torch


def _randn(rng, *shape):
    return torch.randn(*shape, generator=rng)


def _rand(rng, *shape, low=0.0, high=1.0):
    return low + (high - low) * torch.rand(*shape, generator=rng)


def _weights(rng, rows, D_in, D, scale=1.0):
    """W (rows D, D_in), R (rows D, D) and b (rows D,) of a recurrent layer."""
    return {
        "W": scale * _randn(rng, rows * D, D_in) / D_in**0.5,
        "R": scale * _randn(rng, rows * D, D) / D**0.5,
        "b": scale * _randn(rng, rows * D),
    }
