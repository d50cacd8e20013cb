"""Stories of persons, places and things, told in sentences."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from seqlab.tasks.base import IGNORE


class StoryBatch(NamedTuple):
    """Three words for each token, the answer at the last one, and the two facts that it needs: the
    tokens that say who took the thing, and where that person went last.
    """

    tokens: Int[Tensor, "B T 3"]
    targets: Int[Tensor, "B T"]
    support: Int[Tensor, "B 2"]


@dataclass(frozen=True)
class Stories:
    """Persons go to places and take things; where is a thing? Wherever the one who took it went.

    A sentence is three words, and one token of the sequence: "mary went garden", "john took milk".
    Persons go on after they took something, so an answer needs two facts: who took the thing, and
    where that person went last. Every thing is taken once, and the last token asks for one of them.
    Chance: 1 / n_places.
    """

    n_persons: int = 3
    n_places: int = 4
    n_things: int = 2
    n_moves: int = 6

    PERSONS = ("mary", "john", "ann", "paul")
    PLACES = ("garden", "kitchen", "office", "hall", "attic", "cellar")
    THINGS = ("milk", "ball", "book", "lamp")

    @property
    def words(self) -> tuple[str, ...]:
        """All words, by their numbers; the answers are places."""
        persons, things = self.PERSONS[: self.n_persons], self.THINGS[: self.n_things]
        return (*self.PLACES[: self.n_places], *persons, *things, "went", "took", "where", "is")

    @property
    def vocab(self) -> int:
        return len(self.words)

    def batch(self, batch_size: int, generator: torch.Generator) -> "StoryBatch":
        B, n, m = batch_size, self.n_moves, self.n_things
        person, thing = self.n_places, self.n_places + self.n_persons
        went = torch.tensor(self.words.index("went"))
        of = lambda high, *shape: torch.randint(high, shape, generator=generator)  # noqa: E731
        movers, places = of(self.n_persons, B, n), of(self.n_places, B, n)
        movers[:, : self.n_persons] = torch.rand(B, self.n_persons, generator=generator).argsort(
            -1
        )  # everybody is somewhere
        moves = torch.stack([movers + person, went.expand(B, n), places], dim=-1)
        takers, things = of(self.n_persons, B, m), torch.arange(m).expand(B, m)
        takes = torch.stack([takers + person, (went + 1).expand(B, m), things + thing], dim=-1)
        facts = torch.cat([moves, takes], dim=1)
        order = torch.rand(B, n + m, generator=generator)
        order[:, :n] = order[:, :n].sort(-1).values  # moves keep their order
        order = order.argsort(-1)
        asked = of(m, B)
        question = torch.stack([(went + 2).expand(B), (went + 3).expand(B), asked + thing], dim=-1)
        taker = takers.gather(1, asked[:, None])
        last = ((movers == taker) * torch.arange(1, n + 1)).argmax(-1, keepdim=True)
        tokens = facts.gather(1, order[..., None].expand_as(facts))
        targets = torch.full((B, n + m + 1), IGNORE)
        targets[:, -1:] = places.gather(1, last)
        place = order.argsort(-1)  # where each fact is told
        support = torch.stack([place.gather(1, n + asked[:, None]), place.gather(1, last)])
        return StoryBatch(
            torch.cat([tokens, question[:, None]], dim=1), targets, support[..., 0].mT
        )

    def sentence(self, words: Sequence[int]) -> str:
        return " ".join(self.words[word] for word in words)
