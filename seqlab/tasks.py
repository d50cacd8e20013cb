"""Synthetic tasks: batches of (tokens, targets) that need one ability, and nothing else."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

IGNORE = -100  # a target that does not count, as in torch's cross_entropy


@runtime_checkable
class Task(Protocol):
    """What `seqlab.train` trains on: its batches have tokens and targets, both (B, T)."""

    def batch(self, batch_size: int, generator: torch.Generator) -> Any: ...


class RecallBatch(NamedTuple):
    """tokens, targets, and two facts about each question; IGNORE where nothing is asked.

    age: tokens since the asked-for pair was written. overwrites: how many older values were written
    under the same key.
    """

    tokens: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    age: Int[Tensor, "B T"]
    overwrites: Int[Tensor, "B T"]


@dataclass(frozen=True)
class Recall:
    """Associative recall: the *latest* value of a key counts.

    Each of n_pairs tokens writes one (key, value) pair, drawn at random, so keys are written again
    (with `overwrite=False` each key at most once; that needs n_pairs ≤ n_keys).
    Then every key is asked for once, in random order; the target is the value written last (IGNORE
    for a key that never occurred). One token holds the whole pair, so one layer of memory is enough
    and nothing but the memory is tested. Chance: 1 / n_values.
    """

    n_keys: int = 8
    n_values: int = 8
    n_pairs: int = 32
    overwrite: bool = True

    def __post_init__(self):
        if not self.overwrite and self.n_pairs > self.n_keys:
            raise ValueError(
                f"{self.n_pairs} pairs under {self.n_keys} keys: "
                "without overwriting, n_pairs must be at most n_keys"
            )

    @property
    def vocab(self) -> int:
        """Tokens: first the pairs, then the questions, one per key, then the answers."""
        return self.n_keys * self.n_values + self.n_keys + self.n_values

    def batch(self, batch_size: int, generator: torch.Generator) -> RecallBatch:
        B, P, K = batch_size, self.n_pairs, self.n_keys
        keys = torch.randint(K, (B, P), generator=generator)
        if not self.overwrite:
            keys = torch.rand(B, K, generator=generator).argsort(-1)[:, :P]
        values = torch.randint(self.n_values, (B, P), generator=generator)
        asked = torch.rand(B, K, generator=generator).argsort(-1)  # each row permutes the keys
        same = keys[:, None, :] == asked[:, :, None]  # (B, K, P)
        latest = (same * torch.arange(1, P + 1)).amax(-1) - 1  # -1: never written
        first_question = K * self.n_values
        targets = values.gather(1, latest.clamp(min=0)) + first_question + K
        age = P + torch.arange(K) - latest
        overwrites = same.sum(-1) - 1
        no_answer = torch.full((B, P), IGNORE)
        answers = (x.masked_fill(latest < 0, IGNORE) for x in (targets, age, overwrites))
        tokens = torch.cat([keys * self.n_values + values, first_question + asked], dim=1)
        return RecallBatch(tokens, *(torch.cat([no_answer, x], dim=1) for x in answers))
