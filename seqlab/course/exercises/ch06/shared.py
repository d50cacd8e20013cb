"""What several exercises of chapter 06 draw and compare."""

import torch


def _randn(rng, *shape):
    return torch.randn(*shape, generator=rng)


def _rand(rng, *shape, low=0.0, high=1.0):
    return low + (high - low) * torch.rand(*shape, generator=rng)


def _close(a, b, tolerance=1e-3):
    return a.shape == b.shape and torch.allclose(a, b, atol=tolerance, rtol=tolerance)


def no_walk(name):
    """The `effort` of a parallel form: fewer torch operations than tokens, at 64 tokens or more."""

    def effort(inputs, cost):
        T = inputs["T"] if "T" in inputs else inputs[name].shape[1]
        if T < 64 or cost.calls < T:
            return None
        return (
            f"The values are right, but this walks step by step: {cost.calls:,} torch operations for T = {T}. "
            "Double what is done at each step, so that about log₂ T steps are enough."
        )

    return effort
