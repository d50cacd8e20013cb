"""Real text, byte by byte, and what an n-gram makes of it."""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass

import torch

from seqlab.tasks.base import Batch


@dataclass(frozen=True)
class Text:
    """Excerpts of n_tokens bytes from random places of a text; the target is the next byte."""

    data: bytes
    n_tokens: int = 64
    vocab: int = 256

    @property
    def chance(self) -> float:
        """What guessing gets right."""
        return 1 / self.vocab

    def word(self, token: int) -> str:
        """The byte as a character, ␣ for a space, · if it has none."""
        if token == ord(" "):
            return "␣"
        return chr(token) if 32 < token < 127 else "·"

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        starts = len(self.data) - self.n_tokens
        if starts < 1:
            raise ValueError(
                f"the text has {len(self.data)} bytes: more than n_tokens = {self.n_tokens} are "
                "needed, since each byte but the last is followed by its target"
            )
        text = torch.frombuffer(bytearray(self.data), dtype=torch.uint8).long()
        start = torch.randint(starts, (batch_size, 1), generator=generator)
        excerpt = text[start + torch.arange(self.n_tokens + 1)]
        return Batch(excerpt[:, :-1], excerpt[:, 1:])


def python_help() -> bytes:
    """The help texts that ship with Python, one after the other: half a megabyte of English."""
    from pydoc_data.topics import topics

    return "".join(topics[name] for name in sorted(topics)).encode()


def ngram_bits(train: bytes, held_out: bytes, order: int = 5) -> float:
    """Bits per byte on `held_out` of an n-gram model counted on `train`.

    Each byte is guessed from the order - 1 before it. A context with N followers, D of them
    different, trusts its counts by N / (N + D), and the next shorter context for the rest (Witten
    and Bell 1991); behind the shortest stands 1/256.
    """
    counts = [defaultdict(Counter) for _ in range(order)]
    for n, by_context in enumerate(counts):
        for i in range(n, len(train)):
            by_context[train[i - n : i]][train[i]] += 1
    bits = 0.0
    for i in range(order - 1, len(held_out)):
        p = 1 / 256
        for n, by_context in enumerate(counts):
            followers = by_context.get(held_out[i - n : i])
            if followers is None:
                break
            N, D = followers.total(), len(followers)
            p = (followers[held_out[i]] + D * p) / (N + D)
        bits -= math.log2(p)
    return bits / (len(held_out) - order + 1)
