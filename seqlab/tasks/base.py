"""What every task shares."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

LETTERS = "abcdefghijklmnopqrstuvwxyz"
IGNORE = -100  # a target that does not count, as in torch's cross_entropy


@runtime_checkable
class Task(Protocol):
    """What `seqlab.train` trains on: its batches have tokens and targets, both (B, T)."""

    def batch(self, batch_size: int, generator: torch.Generator) -> Any: ...


@dataclass(frozen=True)
class Mixed:
    """Several tasks of one vocabulary in turn at random: each batch is one of them, whole."""

    tasks: tuple[Any, ...]

    @property
    def vocab(self) -> int:
        return max(task.vocab for task in self.tasks)

    def batch(self, batch_size: int, generator: torch.Generator) -> Any:
        drawn = int(torch.randint(len(self.tasks), (1,), generator=generator))
        return self.tasks[drawn].batch(batch_size, generator)


class Batch(NamedTuple):
    """tokens and targets; IGNORE where nothing is asked."""

    tokens: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
