"""The largest so far: a decision that later tokens may revise."""

from dataclasses import dataclass

import torch

from seqlab.tasks.base import LETTERS, Batch


@dataclass(frozen=True)
class Largest:
    """A bid and a letter in each token; the target is the letter of the highest bid so far.

    A token is `letter + n_letters · bid`, bids are 0 … n_bids - 1, and of equal bids the latest
    counts. A memory has to keep an old letter against any number of lower bids, and to give it up
    at once for a higher one. Each bid is half as likely as the one below it. Tokens and targets (B,
    T), asked at every token. Chance: 1 / n_letters.
    """

    n_bids: int = 6
    n_letters: int = 4
    length: int = 32

    @property
    def vocab(self) -> int:
        return self.n_bids * self.n_letters

    @property
    def chance(self) -> float:
        """What guessing gets right."""
        return 1 / self.n_letters

    def word(self, token: int) -> str:
        """The letter with its bid: `c5`."""
        bid, letter = divmod(token, self.n_letters)
        return f"{LETTERS[letter]}{bid}"

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        shape = batch_size, self.length
        shares = 2.0 ** -torch.arange(self.n_bids)
        bids = torch.multinomial(shares, self.length * batch_size, True, generator=generator)
        bids = bids.view(shape)
        letters = torch.randint(self.n_letters, shape, generator=generator)
        # Unique and ordered by bid, then by time: the running maximum knows its own place.
        order = bids * self.length + torch.arange(self.length)
        best = order.cummax(dim=1).values % self.length
        return Batch(letters + self.n_letters * bids, letters.gather(1, best))
