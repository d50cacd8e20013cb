"""Multi-query associative recall, as published with Zoology."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from seqlab.tasks.base import IGNORE, Batch


class MQARBatch(NamedTuple):
    """tokens, targets, and one fact about each question; IGNORE where nothing is asked.

    pair: which of the pairs is asked for, counted from 0 in the order of writing.
    """

    tokens: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    pair: Int[Tensor, "B T"]


@dataclass(frozen=True)
class MQAR:
    """Multi-query associative recall (Arora et al. 2023, arXiv:2312.04927), as its authors draw it.

    First n_pairs pairs, key and value a token each, all keys and all values different. After them
    every key comes once more, and the target there is its value. A question is at one of the places
    0, 2, 4, … behind the pairs: place 2i is drawn with a probability ∝ (i + 1)^(power - 1), without
    a place twice, for one pair after the other. So most questions come early, as words in real text
    come back soon. The other places hold any token at all (with `filler=False` the token 0).

    Tokens: 0, the keys 1 … vocab/2 - 1, then the values. Both batches are (B, length).
    Chance: one of the values, 2 / vocab; a guess among the pairs written: 1 / n_pairs.
    """

    n_pairs: int = 8
    length: int = 64
    vocab: int = 8192
    power: float = 0.01
    filler: bool = True

    def __post_init__(self):
        if self.length % 2 or 4 * self.n_pairs > self.length:
            raise ValueError(
                f"length is {self.length}, n_pairs is {self.n_pairs}: the length must be even, and "
                "at least four times the pairs (two tokens a pair, and two places a question)"
            )
        if self.n_pairs > self.vocab // 2 - 1:
            raise ValueError(
                f"{self.n_pairs} pairs need as many keys: a vocabulary of {self.vocab} has "
                f"{self.vocab // 2 - 1}"
            )

    @property
    def chance(self) -> float:
        """What guessing among all values gets right."""
        return 1 / (self.vocab - self.vocab // 2)

    def places(self) -> Float[Tensor, " n"]:
        """The probability of each place to be the first that is drawn."""
        n = self.length // 2 - self.n_pairs
        p = torch.arange(1, n + 1, dtype=torch.float64) ** (self.power - 1)
        return p / p.sum()

    def batch(self, batch_size: int, generator: torch.Generator) -> MQARBatch:
        B, P, half = batch_size, self.n_pairs, self.vocab // 2
        some = lambda n: torch.rand(B, n, generator=generator).argsort(-1)[:, :P]  # noqa: E731
        keys, values = some(half - 1) + 1, some(self.vocab - half) + half
        asked = torch.multinomial(self.places().expand(B, -1), P, generator=generator)
        places = 2 * P + 2 * asked
        tokens = torch.zeros(B, self.length, dtype=torch.long)
        if self.filler:
            tokens = torch.randint(self.vocab, tokens.shape, generator=generator)
        tokens[:, : 2 * P] = torch.stack([keys, values], dim=-1).flatten(1)
        tokens.scatter_(1, places, keys)
        nothing = torch.full_like(tokens, IGNORE)
        pair = nothing.scatter(1, places, torch.arange(P).expand(B, P))
        return MQARBatch(tokens, nothing.scatter(1, places, values), pair)

    def word(self, token: int) -> str:
        """k3 for a key, v7 for a value, · for 0."""
        half = self.vocab // 2
        if token == 0:
            return "·"
        return f"k{token}" if token < half else f"v{token - half}"


@dataclass(frozen=True)
class Induction:
    """Induction heads (Fu et al. 2022, arXiv:2212.14052): what followed the mark before?

    A list of `length` random symbols; somewhere in it, and at its end, a mark. The target at the
    end is the symbol behind the first mark. One must find a place by what is there, and read the
    place after it: a copy one step back, and a search. Tokens (B, length): the symbols, then the
    mark. Chance: 1 / n_symbols.
    """

    n_symbols: int = 16
    length: int = 64

    def __post_init__(self):
        if self.length < 3:
            raise ValueError(f"length is {self.length}: mark, symbol and question need 3 tokens")

    @property
    def vocab(self) -> int:
        return self.n_symbols + 1

    @property
    def chance(self) -> float:
        """What guessing gets right."""
        return 1 / self.n_symbols

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        B, L = batch_size, self.length
        tokens = torch.randint(self.n_symbols, (B, L), generator=generator)
        place = torch.randint(L - 2, (B, 1), generator=generator)
        tokens = tokens.scatter(1, place, self.n_symbols)
        tokens[:, -1] = self.n_symbols
        targets = torch.full_like(tokens, IGNORE)
        targets[:, -1:] = tokens.gather(1, place + 1)
        return Batch(tokens, targets)

    def word(self, token: int) -> str:
        """s3 for a symbol, # for the mark."""
        return "#" if token == self.n_symbols else f"s{token}"
