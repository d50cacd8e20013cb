"""The events of a kernel's run, for whoever watches it: memory accesses, dots, and faults."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from types import FrameType
from typing import NamedTuple

import numpy as np
import torch

from seqlab.gpu.affine import Mask, Shadow
from seqlab.gpu.formats import FP8, widened


class LabError(RuntimeError):
    """Why the lab cannot run or compile a kernel, in one sentence."""


class OutOfBounds(LabError, IndexError):
    """An access outside its tensor, stopped before it touched memory."""


class Line(NamedTuple):
    """A line of a kernel's source."""

    file: str
    number: int
    text: str

    def __str__(self):
        in_notebook = "ipykernel_" in self.file or self.file.startswith("<ipython")
        if in_notebook:
            return f"line {self.number} of the cell `{self.text}`"
        return f"{PurePath(self.file).name}:{self.number} `{self.text}`"


@dataclass(frozen=True, eq=False)
class Argument:
    """A tensor argument of the kernel.

    memory: a number for its storage; tensors that share a storage have the same number. start:
    bytes from the start of that storage to the first element. copy: the tensor the kernel works on.
    """

    name: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    memory: int
    start: int
    copy: torch.Tensor

    @cached_property
    def numel(self) -> int:
        return self.copy.numel()

    @cached_property
    def contiguous(self) -> bool:
        return self.copy.is_contiguous()

    @cached_property
    def offsets(self) -> np.ndarray:
        """The distance of each element from the first, in elements, in row-major order."""
        offsets = np.zeros(self.shape, dtype=np.int64)
        for axis, (n, stride) in enumerate(zip(self.shape, self.stride, strict=True)):
            along_axis = [1] * len(self.shape)
            along_axis[axis] = n
            offsets += (np.arange(n) * stride).reshape(along_axis)
        return offsets.reshape(-1)

    @cached_property
    def _table(self) -> np.ndarray:
        """Of each offset, the first element there, or -1."""
        table = np.full(self.offsets.max(initial=-1) + 1, -1, dtype=np.int64)
        table[self.offsets[::-1]] = np.arange(len(self.offsets))[::-1]
        return table

    def find(self, offset: np.ndarray) -> np.ndarray:
        """The row-major number of the element at each offset from the first, or -1 for none."""
        if self.contiguous:
            return np.where((offset >= 0) & (offset < self.numel), offset, -1)
        inside = (offset >= 0) & (offset < len(self._table))
        found = np.full(offset.shape, -1, dtype=np.int64)
        found[inside] = self._table[offset[inside]]
        return found

    def cells(self, elements: np.ndarray) -> np.ndarray:
        """The positions of the elements in their storage, in bytes."""
        offsets = elements if self.contiguous else self.offsets[elements]
        return self.start + offsets * self.dtype.itemsize

    def values(self, elements: np.ndarray) -> np.ndarray:
        """What the elements hold now, as float64."""
        where = elements if self.contiguous else self.offsets[elements]
        storage = torch.empty(0, dtype=self.dtype)
        storage.set_(self.copy.untyped_storage())
        held = storage[torch.from_numpy(where + self.copy.storage_offset())]
        return held.double().numpy() if self.dtype.itemsize > 1 else held.float().numpy()

    def place(self, element: int) -> str:
        """`x[2, 3]`."""
        index = np.unravel_index(element, self.shape)
        return f"{self.name}[{', '.join(map(str, index))}]"

    def beyond(self, offset: int) -> str:
        """`x[8, 3]` for an offset outside a contiguous x; only the first index is out of range."""
        if not self.contiguous or not self.shape:
            return f"{self.name} {offset:+} elements from its start"
        index = []
        for n in reversed(self.shape[1:]):
            offset, i = divmod(offset, max(n, 1))
            index.insert(0, i)
        return f"{self.name}[{', '.join(map(str, [offset, *index]))}]"


class Access(NamedTuple):
    """What one load, store or atomic operation of one program touches in one tensor, lane by lane.

    kind: "load", "store" or "atomic". elements: their row-major numbers. outside: offsets from the
    first element that belong to no element; those lanes were switched off. width: bytes an element.
    exchanges: it is an atomic exchange or compare-and-swap, from which locks are made. lanes: which
    lane of the tile `shape` each element belongs to. stored: what is stored there, as it is in
    memory. find_masked: finds the elements of lanes that the mask switched off. steps: the step of
    each loop around it, from the outermost.
    """

    kind: str
    program: tuple[int, ...]
    argument: Argument
    elements: np.ndarray
    outside: np.ndarray
    width: int
    line: Line
    exchanges: bool
    lanes: np.ndarray
    shape: tuple[int, ...]
    stored: np.ndarray | None
    find_masked: Callable[[], np.ndarray]
    steps: tuple[int, ...]

    def numbers(self) -> np.ndarray:
        """The values that a load reads or a store stores, as float64. Ask while it happens."""
        if self.stored is None:
            return self.argument.values(self.elements)
        kind = self.argument.dtype
        narrow = {torch.bfloat16: "bf16"} | {kind: name for name, kind in FP8.items()}
        if kind in narrow:
            return widened(self.stored, narrow[kind]).astype(np.float64)
        return self.stored.astype(np.float64)


class Path(NamedTuple):
    """How one access depends on the program's id, as `affine.py` follows it.

    argument: None if its lanes are in several tensors. offset: of each lane from the first element,
    in bytes, in the program that ran. shadow: of the address. bounded: it is of a tensor
    descriptor, which masks itself. width: bytes a lane.
    """

    kind: str
    argument: Argument | None
    offset: np.ndarray
    shadow: Shadow
    mask: Mask
    bounded: bool
    line: Line
    width: int


class Dot(NamedTuple):
    """One `tl.dot` of one program: (m, k) times (k, n), `batch` of them.

    minimum: the smallest m, n and k that Triton's compiler accepts for an NVIDIA GPU.
    """

    program: tuple[int, ...]
    m: int
    n: int
    k: int
    batch: int
    dtype: str
    minimum: tuple[int, int, int]
    line: Line

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.m * self.n * self.k


class Watcher:
    """Gets every event of a run, in order. This one only stops at an access out of bounds."""

    def access(self, access: Access) -> None:
        if len(access.outside):
            name, shape = access.argument.name, access.argument.shape
            element = access.argument.beyond(int(access.outside[0]))
            raise OutOfBounds(
                f"{program_name(access.program)} {access.kind}s {element}, "
                f"but {name} has shape {shape} ({access.line}): mask the access"
            )

    def dot(self, dot: Dot) -> None:
        """A tl.dot is about to run."""

    def undefined(self, program: tuple[int, ...], line: Line) -> None:
        """A load without `other=` has lanes that its mask switches off: they hold anything."""

    def follow(self, path: Path) -> None:
        """How the access that comes next depends on the program's id."""

    def decide(self, shadow: Shadow) -> None:
        """Which way the program goes on depends on a number with this shadow."""

    def barrier(self, named: bool) -> None:
        """All lanes of the program wait for each other. named: it is a tl.debug_barrier()."""

    def step(self, program: tuple[int, ...], line: Line, step: int, frame: FrameType) -> None:
        """The loop at this line is about to begin a step, or, with step = -1, has ended."""

    def scan(self, says: str, program: tuple[int, ...], line: Line) -> None:
        """Joined in a tree, a tl.associative_scan gives other numbers than joined in turn."""

    def wrong_bf16(self, operation: str, program: tuple[int, ...], line: Line) -> None:
        """Triton's own interpreter would now compute with the bit patterns of bfloat16 numbers."""


def program_name(program: Sequence[int]) -> str:
    if len(program) == 1:
        return f"program {program[0]}"
    return f"program ({', '.join(map(str, program))})"
