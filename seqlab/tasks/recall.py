"""Recall: values under keys, written and asked for."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from seqlab.tasks.base import IGNORE, LETTERS


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

    @property
    def chance(self) -> float:
        """What guessing gets right."""
        return 1 / self.n_values

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

    def word(self, token: int) -> str:
        """What a token says. a7 writes value 7 under key a, a? asks for key a, =7 answers 7."""
        n_writes = self.n_keys * self.n_values
        if token < n_writes:
            return LETTERS[token // self.n_values] + str(token % self.n_values)
        asked = token - n_writes
        return f"{LETTERS[asked]}?" if asked < self.n_keys else f"={asked - self.n_keys}"

    def token(self, word: str) -> int:
        """The token that says `word`. Raises ValueError if none does."""
        words = [self.word(token) for token in range(self.vocab)]
        if word not in words:
            raise ValueError(f"no token says {word!r}: there are {words[0]} … {words[-1]}")
        return words.index(word)

    def vote(self, batch: RecallBatch) -> Float[Tensor, "B T"]:
        """For each question, the share of the most frequent value among all written under its key.

        A memory blind to order can do no better on average. NaN where nothing was written.
        """
        n_writes = self.n_keys * self.n_values
        writes, questions = batch.tokens.split([self.n_pairs, self.n_keys], dim=1)
        counts = F.one_hot(writes, n_writes).sum(1).unflatten(1, (self.n_keys, self.n_values))
        share = (counts.amax(-1) / counts.sum(-1)).gather(1, questions - n_writes)
        return F.pad(share, (self.n_pairs, 0))

    def probe(self, between: int, *, older: bool = False, n: int = 250, seed: int = 1):
        """n sequences with one question, about key a: a value is written under it, then `between`
        pairs of other keys, then it is asked for. With `older`, another value is written under a
        first, and the pairs lie between the two: does the newer value win?
        """
        rng = torch.Generator().manual_seed(seed)
        value = torch.randint(self.n_values, (n, 1), generator=rng)
        other = (value + torch.randint(1, self.n_values, (n, 1), generator=rng)) % self.n_values
        n_writes = self.n_keys * self.n_values
        pairs = torch.randint(self.n_values, n_writes, (n, between), generator=rng)
        question = torch.full_like(value, n_writes)
        parts = [other, pairs, value, question] if older else [value, pairs, question]
        tokens = torch.cat(parts, dim=1)
        targets = torch.full_like(tokens, IGNORE)
        targets[:, -1:] = n_writes + self.n_keys + value
        age = torch.full_like(tokens, 1 if older else between + 1)
        return RecallBatch(tokens, targets, age, torch.full_like(tokens, int(older)))
