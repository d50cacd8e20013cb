"""A text of symbols, some of them marked by the token before: what must be selected in context."""

from dataclasses import dataclass

import torch

from seqlab.tasks.base import IGNORE, LETTERS, Batch


@dataclass(frozen=True)
class Marked:
    """Random symbols, n_marked of them behind a mark; then each is asked for, the latest first.

    The same symbols are everywhere, so only the token before says which of them matter. Marks are
    at even places, all different, at random. Tokens: the symbols, the mark, one question for each
    place in the order. Chance: 1 / n_symbols.
    """

    n_symbols: int = 4
    n_marked: int = 1
    length: int = 24

    def __post_init__(self):
        if self.length % 2 or self.length < 2 * self.n_marked:
            raise ValueError(
                f"length is {self.length}, n_marked is {self.n_marked}: the length must be even, "
                "and at least twice the marks (a mark and a symbol each)"
            )

    @property
    def vocab(self) -> int:
        return self.n_symbols + 1 + self.n_marked

    @property
    def chance(self) -> float:
        """What guessing gets right."""
        return 1 / self.n_symbols

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        B, n, L = batch_size, self.n_marked, self.length
        text = torch.randint(self.n_symbols, (B, L), generator=generator)
        pairs = torch.rand(B, L // 2, generator=generator).argsort(-1)[:, :n].sort(-1).values
        marked = text.gather(1, 2 * pairs + 1)
        text = text.scatter(1, 2 * pairs, self.n_symbols)
        questions = (self.n_symbols + 1 + torch.arange(n)).expand(B, n)
        nothing = torch.full_like(text, IGNORE)
        tokens = torch.cat([text, questions], dim=1)
        return Batch(tokens, torch.cat([nothing, marked.flip(1)], dim=1))

    def word(self, token: int) -> str:
        """A letter for a symbol, # for the mark, ?1 for the latest marked symbol, ?2 the next."""
        if token < self.n_symbols:
            return LETTERS[token]
        return "#" if token == self.n_symbols else f"?{token - self.n_symbols}"
