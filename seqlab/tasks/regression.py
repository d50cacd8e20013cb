"""Linear regression in context: the examples are in the sequence."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class RegressionBatch(NamedTuple):
    """tokens: vectors, x_i and y_i in turn. targets: y_i at x_i; NaN where nothing is asked."""

    tokens: Float[Tensor, "B T D"]
    targets: Float[Tensor, "B T"]


@dataclass(frozen=True)
class LinearRegression:
    """Guess y_i = w·x_i from the examples before it (Garg et al. 2022, arXiv:2208.01066).

    Each sequence has its own w. w and all x_i are drawn from N(0, 1) in each of `dim` coordinates,
    so y has the mean square `dim`; `noise` is the standard deviation added to it. Token 2i is the
    vector x_i, token 2i + 1 has y_i as its first number, and the last number of a token says which
    of the two it is: tokens (B, 2 n_points, dim + 1). The target is y_i at token 2i. Without noise
    least squares makes no error from i = dim on. Guessing 0 explains nothing: chance is 0.

    The sequences are vectors: train a `seqlab.model.VectorModel`, with one output.
    """

    dim: int = 4
    n_points: int = 12
    noise: float = 0.0

    chance = 0.0

    def batch(self, batch_size: int, generator: torch.Generator) -> RegressionBatch:
        B, n, d = batch_size, self.n_points, self.dim
        w = torch.randn(B, d, 1, generator=generator)
        x = torch.randn(B, n, d, generator=generator)
        y = (x @ w)[..., 0] + self.noise * torch.randn(B, n, generator=generator)
        tokens = torch.zeros(B, 2 * n, d + 1)
        tokens[:, 0::2, :d] = x
        tokens[:, 1::2, 0] = y
        tokens[:, 1::2, d] = 1.0
        targets = torch.full((B, 2 * n), torch.nan)
        targets[:, 0::2] = y
        return RegressionBatch(tokens, targets)

    def least_squares(self, batch: RegressionBatch) -> Float[Tensor, "B n"]:
        """The guess of y_i by the shortest w that fits the examples before it; 0 for i = 0."""
        x, y = batch.tokens[:, 0::2, : self.dim].double(), batch.tokens[:, 1::2, 0].double()
        guesses = [torch.zeros(len(x), dtype=x.dtype)]
        for i in range(1, self.n_points):
            w = torch.linalg.pinv(x[:, :i]) @ y[:, :i, None]
            guesses.append((x[:, i, None] @ w)[:, 0, 0])
        return torch.stack(guesses, dim=1)

    def word(self, token: Float[Tensor, " D"]) -> str:
        """x and its first number, or y and its value."""
        return f"{'y' if token[-1] else 'x'} {token[0]:.1f}"
