"""State tracking: parity, the smallest such task, and counting modulo a number."""

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

    @property
    def chance(self) -> float:
        """What guessing gets right."""
        return 1 / 2

    def word(self, token: int) -> str:
        """The bit."""
        return str(token)

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        bits = torch.randint(2, (batch_size, self.n_tokens), generator=generator)
        return Batch(bits, bits.cumsum(1) % 2)


@dataclass(frozen=True)
class ModularCount:
    """Numbers below `modulus`, one a token; the target is the sum of all so far modulo `modulus`.

    Each token turns a wheel with `modulus` places. With 2 places this is parity. A state that only
    decays (eigenvalues between 0 and 1) cannot turn a wheel; -1 suffices for two places, more need
    a rotation. Tokens and targets (B, T): 0 … modulus - 1. Chance: 1 / modulus.
    """

    modulus: int = 5
    n_tokens: int = 16

    @property
    def vocab(self) -> int:
        return self.modulus

    @property
    def chance(self) -> float:
        """What guessing gets right."""
        return 1 / self.modulus

    def word(self, token: int) -> str:
        """The number."""
        return str(token)

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        turns = torch.randint(self.modulus, (batch_size, self.n_tokens), generator=generator)
        return Batch(turns, turns.cumsum(1) % self.modulus)
