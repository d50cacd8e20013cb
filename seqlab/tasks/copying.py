"""Copying: a list, one symbol over a delay, symbols among blanks."""

from dataclasses import dataclass

import torch

from seqlab.tasks.base import IGNORE, LETTERS, Batch


@dataclass(frozen=True)
class Copy:
    """`length` symbols, then as many questions: say the symbols again, in their order.

    The questions are all the same token, so where in the list one is has to be remembered too.
    Tokens: the symbols, then the question. Chance: 1 / n_symbols.
    """

    n_symbols: int = 4
    length: int = 5

    @property
    def vocab(self) -> int:
        return self.n_symbols + 1

    @property
    def chance(self) -> float:
        """What guessing gets right."""
        return 1 / self.n_symbols

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        symbols = torch.randint(self.n_symbols, (batch_size, self.length), generator=generator)
        tokens = torch.cat([symbols, torch.full_like(symbols, self.n_symbols)], dim=1)
        return Batch(tokens, torch.cat([torch.full_like(symbols, IGNORE), symbols], dim=1))

    def word(self, token: int) -> str:
        """A letter for a symbol, ? for the question."""
        return LETTERS[token] if token < self.n_symbols else "?"


@dataclass(frozen=True)
class DelayedCopy:
    """One symbol, then `delay` blanks, then a question: which symbol was it? Chance: 1 / n_symbols.

    Each symbol is in a batch as often as the others, up to one. Tokens: the symbols, the blank, the
    question.
    """

    n_symbols: int = 4
    delay: int = 1000

    @property
    def vocab(self) -> int:
        return self.n_symbols + 2

    @property
    def chance(self) -> float:
        """What guessing gets right."""
        return 1 / self.n_symbols

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        tokens = torch.full((batch_size, self.delay + 2), self.n_symbols)
        order = torch.randperm(batch_size, generator=generator)
        tokens[:, 0] = (order + torch.randint(self.n_symbols, (1,), generator=generator)) % (
            self.n_symbols
        )
        tokens[:, -1] = self.n_symbols + 1
        targets = torch.full_like(tokens, IGNORE)
        targets[:, -1] = tokens[:, 0]
        return Batch(tokens, targets)

    @property
    def blank(self) -> int:
        """The token that says nothing."""
        return self.n_symbols

    def word(self, token: int) -> str:
        """A letter for a symbol, · for a blank, ? for the question."""
        if token < self.n_symbols:
            return LETTERS[token]
        return "·" if token == self.blank else "?"


@dataclass(frozen=True)
class SelectiveCopy:
    """A few symbols at random places among blanks; then each is asked for, the latest one first.

    The gaps say nothing, so a memory must count symbols, not tokens. With `at_random=False` the
    symbols come first, and the blanks after them: then all ages are known in advance. Tokens: the
    symbols, the blank, one question for each place in the order. Chance: 1 / n_symbols.
    """

    n_symbols: int = 8
    n_marked: int = 3
    length: int = 32
    at_random: bool = True

    @property
    def vocab(self) -> int:
        return self.n_symbols + 1 + self.n_marked

    @property
    def chance(self) -> float:
        """What guessing gets right."""
        return 1 / self.n_symbols

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        B, n, L = batch_size, self.n_marked, self.length
        symbols = torch.randint(self.n_symbols, (B, n), generator=generator)
        places = torch.arange(n).expand(B, n)
        if self.at_random:
            places = torch.rand(B, L, generator=generator).argsort(-1)[:, :n].sort(-1).values
        story = torch.full((B, L), self.n_symbols).scatter(1, places, symbols)
        questions = (self.n_symbols + 1 + torch.arange(n)).expand(B, n)
        nothing = torch.full_like(story, IGNORE)
        return Batch(
            torch.cat([story, questions], dim=1), torch.cat([nothing, symbols.flip(1)], dim=1)
        )

    def word(self, token: int) -> str:
        """A letter for a symbol, · for a blank, ?1 for the latest symbol, ?2 for the one before."""
        if token < self.n_symbols:
            return LETTERS[token]
        return "·" if token == self.n_symbols else f"?{token - self.n_symbols}"
