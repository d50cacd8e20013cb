"""Fuzzy recall: keys and values of several tokens."""

from dataclasses import dataclass

import torch

from seqlab.tasks.base import IGNORE, LETTERS, Batch


@dataclass(frozen=True)
class FuzzyRecall:
    """Recall with keys and values of one to `longest` tokens (MAD, Poli et al. 2024,
    arXiv:2403.17844).

    First n_pairs pairs, then all keys again in random order, each with its value behind it: every
    token of those values is asked for, at the token before it. A key is a whole word, so one must
    see where it ends before looking it up, and a key may be the start of another. As in MAD, each
    length is equally frequent, and no token comes twice in a word. (MAD draws pairs until the
    sequence is full and asks for one of them; here each pair is written once and asked once.)

    Tokens: the tokens of keys, those of values, then the blank that fills up on the left. Batches
    are (B, length). Chance: 1 / n_value_tokens.
    """

    n_key_tokens: int = 8
    n_value_tokens: int = 8
    n_pairs: int = 4
    longest: int = 3

    def __post_init__(self):
        if self.longest > min(self.n_key_tokens, self.n_value_tokens):
            raise ValueError(
                f"longest is {self.longest}: no token comes twice in a word, and there are "
                f"{self.n_key_tokens} for keys and {self.n_value_tokens} for values"
            )
        if self.n_pairs > self.n_key_tokens:
            raise ValueError(
                f"{self.n_pairs} different keys are drawn safely only from as many tokens: "
                f"n_key_tokens is {self.n_key_tokens}"
            )

    @property
    def vocab(self) -> int:
        return self.n_key_tokens + self.n_value_tokens + 1

    @property
    def length(self) -> int:
        """Tokens of the longest sequence, less the last one, after which nothing is asked."""
        return 4 * self.n_pairs * self.longest - 1

    @property
    def chance(self) -> float:
        """What guessing gets right."""
        return 1 / self.n_value_tokens

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        rows = [self._row(generator) for _ in range(batch_size)]
        tokens, targets = (torch.tensor(x) for x in zip(*rows, strict=True))
        return Batch(tokens, targets)

    def _row(self, generator: torch.Generator) -> tuple[list[int], list[int]]:
        keys: list[list[int]] = []
        while len(keys) < self.n_pairs:
            key = self._word(self.n_key_tokens, generator)
            keys += [key] if key not in keys else []
        first = self.n_key_tokens
        values = [
            [first + token for token in self._word(self.n_value_tokens, generator)] for _ in keys
        ]
        story = [token for key, value in zip(keys, values, strict=True) for token in key + value]
        asked = [False] * len(story)
        for i in torch.randperm(self.n_pairs, generator=generator).tolist():
            story += keys[i] + values[i]
            asked += [False] * len(keys[i]) + [True] * len(values[i])
        blanks = self.length + 1 - len(story)
        story = [self.vocab - 1] * blanks + story
        asked = [False] * blanks + asked
        pairs = zip(story[1:], asked[1:], strict=True)
        return story[:-1], [token if ask else IGNORE for token, ask in pairs]

    def _word(self, n: int, generator: torch.Generator) -> list[int]:
        length = int(torch.randint(1, self.longest + 1, (1,), generator=generator))
        return torch.randperm(n, generator=generator)[:length].tolist()

    def word(self, token: int) -> str:
        """A letter for a key's token, a digit for a value's, · for the blank."""
        if token < self.n_key_tokens:
            return LETTERS[token]
        return "·" if token == self.vocab - 1 else str(token - self.n_key_tokens)
