"""Synthetic tasks: batches of (tokens, targets) that need one ability, and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

LETTERS = "abcdefghijklmnopqrstuvwxyz"
IGNORE = -100  # a target that does not count, as in torch's cross_entropy


@runtime_checkable
class Task(Protocol):
    """What `seqlab.train` trains on: its batches have tokens and targets, both (B, T)."""

    def batch(self, batch_size: int, generator: torch.Generator) -> Any: ...


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

    def batch(self, batch_size: int, generator: torch.Generator) -> "CopyBatch":
        symbols = torch.randint(self.n_symbols, (batch_size, self.length), generator=generator)
        tokens = torch.cat([symbols, torch.full_like(symbols, self.n_symbols)], dim=1)
        return CopyBatch(tokens, torch.cat([torch.full_like(symbols, IGNORE), symbols], dim=1))

    def word(self, token: int) -> str:
        """A letter for a symbol, ? for the question."""
        return LETTERS[token] if token < self.n_symbols else "?"


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


class StoryBatch(NamedTuple):
    """Three words for each token, the answer at the last one, and the two facts that it needs: the
    tokens that say who took the thing, and where that person went last.
    """

    tokens: Int[Tensor, "B T 3"]
    targets: Int[Tensor, "B T"]
    support: Int[Tensor, "B 2"]


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


class CopyBatch(NamedTuple):
    """tokens and targets; IGNORE where nothing is asked."""

    tokens: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]


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

    def batch(self, batch_size: int, generator: torch.Generator) -> CopyBatch:
        tokens = torch.full((batch_size, self.delay + 2), self.n_symbols)
        order = torch.randperm(batch_size, generator=generator)
        tokens[:, 0] = (order + torch.randint(self.n_symbols, (1,), generator=generator)) % (
            self.n_symbols
        )
        tokens[:, -1] = self.n_symbols + 1
        targets = torch.full_like(tokens, IGNORE)
        targets[:, -1] = tokens[:, 0]
        return CopyBatch(tokens, targets)

    @property
    def blank(self) -> int:
        """The token that says nothing."""
        return self.n_symbols


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

    def batch(self, batch_size: int, generator: torch.Generator) -> CopyBatch:
        B, n, L = batch_size, self.n_marked, self.length
        symbols = torch.randint(self.n_symbols, (B, n), generator=generator)
        places = torch.arange(n).expand(B, n)
        if self.at_random:
            places = torch.rand(B, L, generator=generator).argsort(-1)[:, :n].sort(-1).values
        story = torch.full((B, L), self.n_symbols).scatter(1, places, symbols)
        questions = (self.n_symbols + 1 + torch.arange(n)).expand(B, n)
        nothing = torch.full_like(story, IGNORE)
        return CopyBatch(
            torch.cat([story, questions], dim=1), torch.cat([nothing, symbols.flip(1)], dim=1)
        )

    def word(self, token: int) -> str:
        """A letter for a symbol, · for a blank, ?1 for the latest symbol, ?2 for the one before."""
        if token < self.n_symbols:
            return LETTERS[token]
        return "·" if token == self.n_symbols else f"?{token - self.n_symbols}"


class NamesBatch(NamedTuple):
    """tokens, targets, and two facts about each question; IGNORE where nothing is asked.

    age: tokens since the latest name. gap: tokens from the name before it to the latest one, 0 if
    there was none.
    """

    tokens: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    age: Int[Tensor, "B T"]
    gap: Int[Tensor, "B T"]


@dataclass(frozen=True)
class Names:
    """Names among filler: at each question, the latest name counts.

    A token is a name at the rate `names`, a question at the rate `questions`, else one of n_fillers
    words that mean nothing. The first token is a name, so every question has an answer. Whether a
    token matters can be seen from the token, but not when the next one comes. Chance: 1 / n_names.
    """

    n_names: int = 8
    n_fillers: int = 8
    length: int = 64
    names: float = 1 / 8
    questions: float = 1 / 8

    @property
    def vocab(self) -> int:
        """Tokens: first the names, then the fillers, then the question."""
        return self.n_names + self.n_fillers + 1

    def word(self, token: int) -> str:
        """A letter for a name, · for any filler, ? for the question."""
        if token < self.n_names:
            return LETTERS[token]
        return "?" if token == self.vocab - 1 else "·"

    def batch(self, batch_size: int, generator: torch.Generator) -> NamesBatch:
        shape = batch_size, self.length
        kind = torch.rand(shape, generator=generator)
        named = torch.randint(self.n_names, shape, generator=generator)
        filler = torch.randint(self.n_fillers, shape, generator=generator) + self.n_names
        is_name, asked = kind < self.names, kind > 1 - self.questions
        is_name[:, 0], asked[:, 0] = True, False
        tokens = torch.where(is_name, named, filler).masked_fill(asked, self.vocab - 1)
        t = torch.arange(self.length)
        latest = (is_name * t).cummax(-1).values
        # The latest name before this token, looked up where the latest name stands.
        before = torch.where(is_name, t, -1).cummax(-1).values.roll(1, -1)
        before[:, 0] = -1
        before = before.gather(1, latest)
        gap = torch.where(before < 0, 0, latest - before)
        facts = (tokens.gather(1, latest), t - latest, gap)
        return NamesBatch(tokens, *(x.masked_fill(~asked, IGNORE) for x in facts))
