"""Synthetic tasks: each makes batches of (tokens, targets) that one ability solves and nothing else
does.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

IGNORE = -100  # a target that does not count, as in torch's cross_entropy


class RecallBatch(NamedTuple):
    tokens: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    age: Int[
        Tensor, "B T"
    ]  # tokens since the asked-for pair was written; IGNORE where nothing is asked
    overwrites: Int[
        Tensor, "B T"
    ]  # older values written under the same key; IGNORE where nothing is asked


@dataclass(frozen=True)
class Recall:
    """Associative recall with overwriting: the *latest* value of a key counts.

    n_pairs tokens each write one (key, value) pair, keys and values drawn at random, so keys are
    written again. Then every key is asked for once, in random order; the target is the value
    written last (IGNORE for a key that never occurred). One token holds the whole pair, so one
    layer of memory is enough and nothing but the memory is tested. Chance: 1 / n_values.
    """

    n_keys: int = 8
    n_values: int = 8
    n_pairs: int = 32

    @property
    def vocab(self) -> int:
        return self.n_keys * self.n_values + self.n_keys + self.n_values

    def batch(self, batch_size: int, generator: torch.Generator) -> RecallBatch:
        B, P, K = batch_size, self.n_pairs, self.n_keys
        keys = torch.randint(K, (B, P), generator=generator)
        values = torch.randint(self.n_values, (B, P), generator=generator)
        asked = torch.rand(B, K, generator=generator).argsort(
            -1
        )  # (B, K): a permutation of the keys
        same = keys[:, None, :] == asked[:, :, None]  # (B, K, P)
        latest = (same * torch.arange(1, P + 1)).amax(-1) - 1  # -1: never written
        targets = values.gather(1, latest.clamp(min=0)) + K * self.n_values + K
        age = P + torch.arange(K) - latest
        no_answer = torch.full((B, P), IGNORE)
        answers = (x.masked_fill(latest < 0, IGNORE) for x in (targets, age, same.sum(-1) - 1))
        tokens = torch.cat([keys * self.n_values + values, K * self.n_values + asked], dim=1)
        return RecallBatch(tokens, *(torch.cat([no_answer, x], dim=1) for x in answers))
