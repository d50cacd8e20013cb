"""State tracking in a group: the order of a few items that each token permutes."""

from dataclasses import dataclass
from itertools import permutations

import torch
from jaxtyping import Int
from torch import Tensor

from seqlab.tasks.base import LETTERS, Batch


@dataclass(frozen=True)
class Permutations:
    """Each token permutes n_items items; the target is the order in which they then are.

    Tokens and targets (B, T): 0 … n! - 1, permutations in the order of itertools, 0 changes
    nothing. Token p puts at place i what was at place p[i]. With 2 items this is parity. With 3 a
    token may swap two items, which a reflection does, or move all three round, which takes two.
    From 3 items on the order of the tokens counts. Chance: 1 / n!.
    """

    n_items: int = 3
    n_tokens: int = 16

    @property
    def orders(self) -> list[tuple[int, ...]]:
        """What each token does, and what each target means."""
        return list(permutations(range(self.n_items)))

    @property
    def vocab(self) -> int:
        return len(self.orders)

    @property
    def chance(self) -> float:
        """What guessing gets right."""
        return 1 / self.vocab

    def word(self, token: int) -> str:
        """The order that the token makes of abc…: bac swaps the first two."""
        return "".join(LETTERS[i] for i in self.orders[token])

    def table(self) -> Int[Tensor, "n n"]:
        """[order before, token] -> order after."""
        number = {order: i for i, order in enumerate(self.orders)}
        after = [
            [number[tuple(before[i] for i in token)] for token in self.orders]
            for before in self.orders
        ]
        return torch.tensor(after)

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        shape = (batch_size, self.n_tokens)
        tokens = torch.randint(self.vocab, shape, generator=generator)
        table, order = self.table(), torch.zeros(batch_size, dtype=torch.long)
        orders = []
        for token in tokens.unbind(1):
            order = table[order, token]
            orders.append(order)
        return Batch(tokens, torch.stack(orders, dim=1))
