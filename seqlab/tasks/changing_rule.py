"""Pairs that follow a rule, and the rule changes halfway."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from seqlab.tasks.regression import RegressionBatch


class Pairs(NamedTuple):
    """k of length 1; v = A k + noise; clean = A k; rules: A before the change, and after it."""

    k: Float[Tensor, "B n K"]
    v: Float[Tensor, "B n V"]
    clean: Float[Tensor, "B n V"]
    rules: Float[Tensor, "2 B V K"]


@dataclass(frozen=True)
class ChangingRule:
    """Guess v_i = A k_i from the pairs before it; from the pair n_pairs // 2 on, A is another one.

    Each sequence has two rules of its own. Keys point in all directions alike, and each number of A
    is drawn from N(0, 1), so that each number of v has the variance 1. `noise` is the standard
    deviation added to v.

    `pairs` draws k and v. `batch` makes them tokens for a `seqlab.model.VectorModel` with one
    output: token 2i shows the key and asks for the first number of v; token 2i + 1 shows the key
    again, with v and a 1 behind it. tokens (B, 2 n_pairs, d_key + d_value + 1). Keys are shown √K
    times as long, so that their numbers have size 1. Guessing 0 explains nothing: chance is 0.
    """

    n_pairs: int = 32
    d_key: int = 4
    d_value: int = 1
    noise: float = 0.0

    chance = 0.0

    def pairs(self, batch_size: int, generator: torch.Generator) -> Pairs:
        B, n, K, V = batch_size, self.n_pairs, self.d_key, self.d_value
        k = torch.randn(B, n, K, generator=generator)
        k = k / k.norm(dim=-1, keepdim=True)
        rules = torch.randn(2, B, V, K, generator=generator)
        late = (torch.arange(n) >= n // 2).long()
        clean = torch.einsum("nbvk, bnk -> bnv", rules[late], k)
        noise = self.noise * torch.randn(B, n, V, generator=generator)
        return Pairs(k, clean + noise, clean, rules)

    def batch(self, batch_size: int, generator: torch.Generator) -> RegressionBatch:
        k, v, _, _ = self.pairs(batch_size, generator)
        B, n, K = k.shape
        tokens = torch.zeros(B, 2 * n, K + self.d_value + 1)
        tokens[:, :, :K] = K**0.5 * k.repeat_interleave(2, dim=1)
        tokens[:, 1::2, K:-1] = v
        tokens[:, 1::2, -1] = 1.0
        targets = torch.full((B, 2 * n), torch.nan)
        targets[:, 0::2] = v[..., 0]
        return RegressionBatch(tokens, targets)
