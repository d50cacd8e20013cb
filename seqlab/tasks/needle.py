"""A needle in a haystack."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from seqlab.tasks.base import IGNORE, LETTERS


class NeedleBatch(NamedTuple):
    """tokens, targets, and one fact about each question; IGNORE where nothing is asked.

    age: tokens since the value of the needle.
    """

    tokens: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    age: Int[Tensor, "B T"]


@dataclass(frozen=True)
class Needle:
    """One needle, a key and its value, among filler; at the end the key is asked for.

    depth says where the needle is: 0 at the start of the haystack, 1 right before the question,
    None anywhere. The difference from recall: there is only one thing to keep, but long. With
    `decoys`, further pairs under other keys are spread over the rest of the haystack.

    Tokens (B, length): first the keys, then the values, then the fillers; key and value of a needle
    are neighbours. Chance: 1 / n_values.
    """

    n_keys: int = 8
    n_values: int = 8
    n_fillers: int = 8
    length: int = 64
    depth: float | None = None
    decoys: int = 0

    def __post_init__(self):
        if self.depth is not None and not 0 <= self.depth <= 1:
            raise ValueError(f"depth is {self.depth}: 0 is the start of the haystack, 1 its end")
        room = (self.length - 1) // 2
        if self.decoys >= min(room, self.n_keys):
            raise ValueError(
                f"{self.decoys} decoys and the needle need as many keys ({self.n_keys}) and twice "
                f"the tokens (there are {self.length}, one of them the question)"
            )

    @property
    def vocab(self) -> int:
        return self.n_keys + self.n_values + self.n_fillers

    @property
    def chance(self) -> float:
        """What guessing gets right."""
        return 1 / self.n_values

    def batch(self, batch_size: int, generator: torch.Generator) -> NeedleBatch:
        B, n, room = batch_size, 1 + self.decoys, (self.length - 1) // 2
        of = lambda high, *shape: torch.randint(high, shape, generator=generator)  # noqa: E731
        tokens = of(self.n_fillers, B, self.length) + self.n_keys + self.n_values
        # Places in pairs of tokens; the first is the needle's.
        order = torch.rand(B, room, generator=generator)
        if self.depth is not None:
            order[:, round(self.depth * (room - 1))] = -1.0
        places = 2 * order.argsort(-1)[:, :n] + (self.length - 1) % 2
        keys = torch.rand(B, self.n_keys, generator=generator).argsort(-1)[:, :n]
        values = of(self.n_values, B, n) + self.n_keys
        tokens.scatter_(1, places, keys).scatter_(1, places + 1, values)
        tokens[:, -1:] = keys[:, :1]
        nothing = torch.full_like(tokens, IGNORE)
        targets, age = nothing.clone(), nothing
        targets[:, -1:] = values[:, :1]
        age[:, -1:] = self.length - 2 - places[:, :1]
        return NeedleBatch(tokens, targets, age)

    def word(self, token: int) -> str:
        """A letter for a key, =3 for a value, · for any filler."""
        if token < self.n_keys:
            return LETTERS[token]
        value = token - self.n_keys
        return f"={value}" if value < self.n_values else "·"
