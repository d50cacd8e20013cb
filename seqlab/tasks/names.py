"""Names among filler."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from seqlab.tasks.base import IGNORE, LETTERS


class NamesBatch(NamedTuple):
    """tokens, targets, and two facts about each question; IGNORE where nothing is asked.

    age: tokens since the latest name. gap: tokens from the name before it to the latest one, 0 if
    there was none.
    """

    tokens: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    age: Int[Tensor, "B T"]
    gap: Int[Tensor, "B T"]


@dataclass(frozen=True)
class Names:
    """Names among filler: at each question, the latest name counts.

    A token is a name at the rate `names`, a question at the rate `questions`, else one of n_fillers
    words that mean nothing. The first token is a name, so every question has an answer. Whether a
    token matters can be seen from the token, but not when the next one comes. Chance: 1 / n_names.
    """

    n_names: int = 8
    n_fillers: int = 8
    length: int = 64
    names: float = 1 / 8
    questions: float = 1 / 8

    @property
    def vocab(self) -> int:
        """Tokens: first the names, then the fillers, then the question."""
        return self.n_names + self.n_fillers + 1

    @property
    def chance(self) -> float:
        """What guessing gets right."""
        return 1 / self.n_names

    def word(self, token: int) -> str:
        """A letter for a name, · for any filler, ? for the question."""
        if token < self.n_names:
            return LETTERS[token]
        return "?" if token == self.vocab - 1 else "·"

    def batch(self, batch_size: int, generator: torch.Generator) -> NamesBatch:
        shape = batch_size, self.length
        kind = torch.rand(shape, generator=generator)
        named = torch.randint(self.n_names, shape, generator=generator)
        filler = torch.randint(self.n_fillers, shape, generator=generator) + self.n_names
        is_name, asked = kind < self.names, kind > 1 - self.questions
        is_name[:, 0], asked[:, 0] = True, False
        tokens = torch.where(is_name, named, filler).masked_fill(asked, self.vocab - 1)
        t = torch.arange(self.length)
        latest = (is_name * t).cummax(-1).values
        # The latest name before this token, looked up where the latest name stands.
        before = torch.where(is_name, t, -1).cummax(-1).values.roll(1, -1)
        before[:, 0] = -1
        before = before.gather(1, latest)
        gap = torch.where(before < 0, 0, latest - before)
        facts = (tokens.gather(1, latest), t - latest, gap)
        return NamesBatch(tokens, *(x.masked_fill(~asked, IGNORE) for x in facts))
