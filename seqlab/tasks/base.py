"""What every task shares."""

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


class Batch(NamedTuple):
    """tokens and targets; IGNORE where nothing is asked."""

    tokens: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
