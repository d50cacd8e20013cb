"""A title far back and pairs close by: what a state keeps, and what a window keeps."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from seqlab.tasks.base import IGNORE, LETTERS


class RangesBatch(NamedTuple):
    """tokens, targets, and which questions are about the title; IGNORE where nothing is asked."""

    tokens: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    far: Bool[Tensor, "B T"]

    def only(self, far: bool) -> "RangesBatch":
        """The same texts with one kind of question: the title (far), or the pairs close by."""
        kept = self.far if far else ~self.far
        return self._replace(targets=self.targets.masked_fill(~kept, IGNORE))


@dataclass(frozen=True)
class TwoRanges:
    """A title, filler, n_keys pairs (key, value), then every key is asked for, and the title.

    Pairs are one token each, all keys different, in random order; the questions come in another
    random order. So a near question is about one of many facts less than 2 · n_keys tokens old; the
    far one is about a single fact, 2 · n_keys + n_filler + 1 tokens old.
    Tokens: titles, pairs, a question for each key, the question for the title, the values of the
    answers, filler. Chance: 1 / n_values for a near question, 1 / n_titles for the far one.
    """

    n_titles: int = 8
    n_keys: int = 16
    n_values: int = 8
    n_filler: int = 32

    @property
    def vocab(self) -> int:
        return self.title_question + 2 + self.n_values

    @property
    def length(self) -> int:
        """Tokens of a text."""
        return 2 + self.n_filler + 2 * self.n_keys

    @property
    def first_question(self) -> int:
        return self.n_titles + self.n_keys * self.n_values

    @property
    def title_question(self) -> int:
        return self.first_question + self.n_keys

    def batch(self, batch_size: int, generator: torch.Generator) -> RangesBatch:
        B, K = batch_size, self.n_keys
        shuffled = lambda: torch.rand(B, K, generator=generator).argsort(-1)  # noqa: E731
        title = torch.randint(self.n_titles, (B, 1), generator=generator)
        keys, order = shuffled(), shuffled()
        values = torch.randint(self.n_values, (B, K), generator=generator)
        asked, answers = keys.gather(1, order), values.gather(1, order)
        filler = torch.full((B, self.n_filler), self.vocab - 1)
        pairs = self.n_titles + keys * self.n_values + values
        last = torch.full((B, 1), self.title_question)
        tokens = torch.cat([title, filler, pairs, self.first_question + asked, last], dim=1)
        targets = torch.full_like(tokens, IGNORE)
        targets[:, -K - 1 : -1] = self.title_question + 1 + answers
        targets[:, -1:] = title
        far = torch.zeros_like(tokens, dtype=torch.bool)
        far[:, -1] = True
        return RangesBatch(tokens, targets, far)

    def word(self, token: int) -> str:
        """T3 a title, a7 a pair, a? asks for key a, T? for the title, =7 a value, · filler."""
        if token < self.n_titles:
            return f"T{token}"
        if token < self.first_question:
            key, value = divmod(token - self.n_titles, self.n_values)
            return f"{LETTERS[key]}{value}"
        if token < self.title_question:
            return f"{LETTERS[token - self.first_question]}?"
        if token == self.vocab - 1:
            return "·"
        return "T?" if token == self.title_question else f"={token - self.title_question - 1}"
