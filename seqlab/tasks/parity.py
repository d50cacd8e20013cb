"""Parity: the smallest task of state tracking."""

from dataclasses import dataclass

import torch

from seqlab.tasks.base import Batch


@dataclass(frozen=True)
class Parity:
    """Bits, one a token; the target at each token says whether the ones so far are odd in number.

    The smallest task of state tracking: each 1 must turn the state over, and a single missed bit
    makes everything after it wrong. Chance: 1/2.
    """

    n_tokens: int = 16
    vocab: int = 2

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        bits = torch.randint(2, (batch_size, self.n_tokens), generator=generator)
        return Batch(bits, bits.cumsum(1) % 2)
