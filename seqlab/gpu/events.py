"""What a kernel does, as it is told to whoever watches it run: each access to memory, each dot, and
what goes wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch


class LabError(RuntimeError):
    """What the lab has to say about a kernel it cannot run."""


class OutOfBounds(LabError, IndexError):
    """An access outside its argument, stopped before it touched memory."""


class Line(NamedTuple):
    """A line of a kernel's source."""

    file: str
    number: int
    text: str

    def __str__(self):
        in_notebook = "ipykernel_" in self.file or self.file.startswith("<ipython")
        where = (
            f"line {self.number} of the cell"
            if in_notebook
            else f"{Path(self.file).name}:{self.number}"
        )
        return f"{where} `{self.text}`"


@dataclass(frozen=True, eq=False)
class Argument:
    """A tensor as the kernel got it. `memory` numbers its storage: arguments that share one share
    the number.
    """

    name: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    memory: int
    start: int  # bytes from the start of the memory to the first element
    copy: torch.Tensor

    @cached_property
    def offsets(self) -> np.ndarray:
        """Of every element, in the order of its index: how many elements it lies from the first."""
        offsets = np.zeros(self.shape, dtype=np.int64)
        for axis, (n, stride) in enumerate(zip(self.shape, self.stride, strict=True)):
            offsets += (np.arange(n) * stride).reshape(
                [-1 if a == axis else 1 for a in range(len(self.shape))]
            )
        return offsets.reshape(-1)

    @cached_property
    def _table(self) -> np.ndarray:
        table = np.full(self.offsets.max(initial=-1) + 1, -1, dtype=np.int64)
        table[self.offsets[::-1]] = np.arange(len(self.offsets))[::-1]
        return table

    def find(self, offset: np.ndarray) -> np.ndarray:
        """The element that lies `offset` elements from the first: its number in row-major order, or
        -1.
        """
        inside = (offset >= 0) & (offset < len(self._table))
        found = np.full(offset.shape, -1, dtype=np.int64)
        found[inside] = self._table[offset[inside]]
        return found

    def cells(self, elements: np.ndarray) -> np.ndarray:
        """Where the elements lie in their memory, in bytes."""
        return self.start + self.offsets[elements] * self.dtype.itemsize

    def place(self, element: int) -> str:
        """`x[2, 3]`."""
        return f"{self.name}[{', '.join(str(i) for i in np.unravel_index(element, self.shape))}]"

    def beyond(self, offset: int) -> str:
        """`x[8, 3]` for an offset outside x, if x is contiguous; the first index takes what is too
        much.
        """
        if not self.copy.is_contiguous() or not self.shape:
            return f"{self.name} {offset:+} elements from its start"
        index = []
        for n in reversed(self.shape[1:]):
            offset, i = divmod(offset, max(n, 1))
            index.insert(0, i)
        return f"{self.name}[{', '.join(map(str, [offset, *index]))}]"


class Access(NamedTuple):
    """What one load, store or atomic operation of one program touches in one argument, lane by
    lane.
    """

    kind: str  # "load", "store" or "atomic"
    program: tuple[int, ...]
    argument: Argument
    elements: np.ndarray  # row-major numbers of the elements
    outside: (
        np.ndarray
    )  # offsets, in elements from the first, that are no element: these lanes were switched off
    width: int  # bytes per element
    line: Line
    exchanges: bool = False  # an atomic exchange or compare-and-swap, of which locks are made


class Dot(NamedTuple):
    """One `tl.dot` of one program: (m, k) times (k, n), `batch` of them."""

    program: tuple[int, ...]
    m: int
    n: int
    k: int
    batch: int
    dtype: str
    minimum: tuple[
        int, int, int
    ]  # the smallest m, n and k that Triton's compiler takes for an NVIDIA GPU
    line: Line

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.m * self.n * self.k


class Watcher:
    """Told of everything a kernel does, in order. This one only stops at an access out of
    bounds.
    """

    def access(self, access: Access) -> None:
        if len(access.outside):
            raise OutOfBounds(
                f"{program_name(access.program)} {access.kind}s {access.argument.beyond(int(access.outside[0]))}, but "
                f"{access.argument.name} has shape {access.argument.shape} ({access.line}): mask the access"
            )

    def dot(self, dot: Dot) -> None:
        """A tl.dot is about to run."""

    def wrong_bf16(self, operation: str, program: tuple[int, ...], line: Line) -> None:
        """The interpreter is about to compute with the bit patterns of bfloat16 numbers."""


def program_name(program: Sequence[int]) -> str:
    return (
        f"program {program[0]}"
        if len(program) == 1
        else f"program ({', '.join(map(str, program))})"
    )
