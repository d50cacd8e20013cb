"""`trace`: what each program of a kernel reads and writes, counted element by element on CPU.

    seen = trace(add, (4,), x, y, out, 100, BT=32)
    seen                      # a table: bytes in and out of every tensor, bytes read again, flops
    seen.touched("x", 2)      # where program 2 read x, and where it wrote it
    seen.coalescing           # bytes asked against bytes of the 32-byte sectors, line by line
    seen.floor("H100")        # the least time this launch can take on a device

The counts are of what the kernel asks for. A cache may serve what is read again; `bytes_in_once`
is the least that has to come from memory.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from seqlab.gpu.coalescing import Coalescing, coalescing
from seqlab.gpu.events import Access, Argument, Dot, Watcher, program_name
from seqlab.gpu.interpreter import Launch
from seqlab.gpu.roofline import Floor, roofline
from seqlab.gpu.show import PLOTLY, shown

READ, WRITTEN = 1, 2
MOST_VALUES = 100_000
"""Values and masked lanes are kept of runs that touch at most so many elements."""


def trace(kernel, grid, *args, **constexprs) -> "Trace":
    """Run `kernel[grid](*args, **constexprs)` on CPU and return everything it touched.

    The caller's tensors get the results. An access out of bounds raises OutOfBounds and leaves them
    unchanged; `sanitize` lists all such accesses.
    """
    launch = Launch(kernel, grid, args, constexprs)
    seen = traced(launch, launch.programs)
    launch.write_back()
    return seen


def traced(launch: Launch, programs: Iterable[tuple[int, ...]], strict: bool = True) -> "Trace":
    """Run some programs of a launch. strict: raise OutOfBounds for an access out of bounds."""
    recorder = _Recorder(strict)
    launch.run_some(recorder, programs)
    name = launch.function.__name__
    tuned = str(launch.configuration or "")
    accesses, looks = recorder.accesses, tuple(recorder.looks)
    return Trace(name, launch.grid, launch.arguments, accesses, recorder.dots, tuned, looks)


def table(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The dimensions of a tensor split into those of rows and those of columns.

    Columns are the last dimension, and the heads too if there are four, (B, T, H, K).
    """
    split = -2 if len(shape) > 3 else -1
    return shape[:split], shape[split:]


class Look(NamedTuple):
    """What one access saw: the number of each of its elements, and the elements masked off."""

    access: Access
    numbers: np.ndarray
    masked: np.ndarray


class _Recorder(Watcher):
    def __init__(self, strict: bool):
        self.strict = strict
        self.looks: list[Look] = []
        self.room = MOST_VALUES
        self.accesses: list[Access] = []
        self.dots: list[Dot] = []

    def access(self, access):
        if self.strict:
            super().access(access)
        self.accesses.append(access)
        self.room -= len(access.elements)
        if self.room >= 0:
            self.looks.append(Look(access, access.numbers(), access.find_masked()))

    def dot(self, dot):
        self.dots.append(dot)


@dataclass(frozen=True)
class Traffic:
    """Bytes read from and written to one tensor; bytes_*_once counts each element once in the run.

    Within one access, an element named by many lanes moves once. An atomic moves it both ways.
    """

    tensor: str
    bytes_in: int = 0
    bytes_out: int = 0
    bytes_in_once: int = 0
    bytes_out_once: int = 0

    @property
    def bytes_read_again(self) -> int:
        return self.bytes_in - self.bytes_in_once


@dataclass(frozen=True, repr=False)
class Trace:
    """One run of a kernel: every access and every dot, in order, and what they add up to.

    looks: the values of the accesses, as far as MOST_VALUES elements reach.
    """

    kernel: str
    grid: tuple[int, ...]
    arguments: dict[str, Argument]
    accesses: list[Access]
    dots: list[Dot]
    configuration: str = ""
    looks: tuple[Look, ...] = ()
    traffic: dict[str, Traffic] = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "traffic", {name: self._traffic(name) for name in self.arguments})

    @property
    def programs(self) -> list[tuple[int, ...]]:
        return [tuple(int(i) for i in program) for program in np.ndindex(self.grid)]

    @property
    def bytes_in(self) -> int:
        return sum(t.bytes_in for t in self.traffic.values())

    @property
    def bytes_in_once(self) -> int:
        return sum(t.bytes_in_once for t in self.traffic.values())

    @property
    def bytes_read_again(self) -> int:
        return self.bytes_in - self.bytes_in_once

    @property
    def bytes_out(self) -> int:
        return sum(t.bytes_out for t in self.traffic.values())

    @property
    def bytes_out_once(self) -> int:
        return sum(t.bytes_out_once for t in self.traffic.values())

    @property
    def bytes(self) -> int:
        return self.bytes_in + self.bytes_out

    @property
    def flops(self) -> int:
        """Of the dots only, two for each multiply-add. Other arithmetic is not counted."""
        return sum(dot.flops for dot in self.dots)

    @property
    def intensity(self) -> float:
        """Flops of the dots for each byte moved."""
        return self.flops / self.bytes if self.bytes else 0.0

    @property
    def coalescing(self) -> Coalescing:
        """For each line: bytes asked for against bytes of the 32-byte sectors touched."""
        return coalescing(self.accesses)

    def floor(self, device: str = "H100", dtype: str = "bf16") -> Floor:
        """The least time of this launch: each element moved once, and the flops of its dots.

        dtype: that of the multiplications, as for `roofline`. Work outside dots is not counted.
        """
        return roofline(self.bytes_in_once + self.bytes_out_once, self.flops, device, dtype)

    def touched(self, tensor: str, program: tuple[int, ...] | int) -> tuple[np.ndarray, np.ndarray]:
        """Where one program reads the tensor and where it writes it: two boolean arrays."""
        program = self._program(program)
        marks = self._marks(self._argument(tensor))[self.programs.index(program)]
        marks = marks.reshape(self.arguments[tensor].shape)
        return (marks & READ) > 0, (marks & WRITTEN) > 0

    def values(
        self, tensor: str, program: tuple[int, ...] | int
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """What one program last read from each element and last wrote there; NaN where it did not.

        Of an atomic, the first is what was there before. None if the run was too large.
        """
        if len(self.looks) < len(self.accesses):
            return None
        shape, program = self._argument(tensor).shape, self._program(program)
        read, written = np.full((2, self.arguments[tensor].numel), np.nan)
        for access, numbers, _ in self._looks(tensor, program):
            where = written if access.kind == "store" else read
            where[access.elements] = numbers
        return read.reshape(shape), written.reshape(shape)

    def masked(self, tensor: str, program: tuple[int, ...] | int) -> np.ndarray | None:
        """The elements that one program's masks kept it from touching. None: too large a run."""
        if len(self.looks) < len(self.accesses):
            return None
        off = np.zeros(self._argument(tensor).numel, dtype=bool)
        for _, _, masked in self._looks(tensor, self._program(program)):
            off[masked] = True
        return off.reshape(self.arguments[tensor].shape)

    def _looks(self, tensor: str, program: tuple[int, ...]) -> Iterable[Look]:
        mine = (look for look in self.looks if look.access.argument.name == tensor)
        return (look for look in mine if look.access.program == program)

    def _program(self, program: tuple[int, ...] | int) -> tuple[int, ...]:
        program = _index(program)
        if program not in self.programs:
            raise ValueError(f"{program_name(program)} is not in the grid {self.grid}")
        return program

    def tiles(self, tensor: str, limit: int = 64) -> np.ndarray:
        """READ, WRITTEN, both or 0, as (programs, rows, columns), laid out as in `table`.

        A table with more than `limit` rows or columns is thinned: each cell then covers several
        elements, and no edge of a program's tile falls inside a cell, if that can be had.
        """
        rows, columns = (math.prod(part) for part in table(self._argument(tensor).shape))
        marks = self._marks(self._argument(tensor)).reshape(len(self.programs), rows, columns)
        for axis in (1, 2):
            step = _thinning(marks, axis, limit)
            starts = np.arange(0, marks.shape[axis], step)
            marks = np.bitwise_or.reduceat(marks, starts, axis=axis) if len(starts) else marks
        return marks

    def of(self, program: tuple[int, ...] | int) -> "Trace":
        """The part of the trace that belongs to one program."""
        program = _index(program)
        accesses = [a for a in self.accesses if a.program == program]
        dots = [d for d in self.dots if d.program == program]
        looks = tuple(look for look in self.looks if look.access.program == program)
        return replace(self, accesses=accesses, dots=dots, looks=looks)

    def _argument(self, tensor: str) -> Argument:
        if tensor not in self.arguments:
            known = ", ".join(self.arguments)
            raise ValueError(f"{self.kernel} has no tensor {tensor!r}: it has {known}")
        return self.arguments[tensor]

    def _marks(self, argument: Argument) -> np.ndarray:
        """What each program does to each element: (programs, elements)."""
        number = {program: i for i, program in enumerate(self.programs)}
        marks = np.zeros((len(number), argument.numel), dtype=np.uint8)
        for access in self.accesses:
            if access.argument is argument:
                marks[number[access.program], access.elements] |= _MARKS[access.kind]
        return marks

    def _traffic(self, name: str) -> Traffic:
        """Each access counts its distinct elements; then the whole run counts its own."""
        argument = self.arguments[name]
        moved, once = {READ: 0, WRITTEN: 0}, {}
        for mark in moved:
            seen = np.zeros(argument.numel, dtype=bool)
            for access in self.accesses:
                if access.argument.name == name and _MARKS[access.kind] & mark:
                    moved[mark] += len(np.unique(access.elements)) * access.width
                    seen[access.elements] = True
            once[mark] = int(seen.sum()) * argument.dtype.itemsize
        return Traffic(name, moved[READ], moved[WRITTEN], once[READ], once[WRITTEN])

    def _repr_mimebundle_(self, **_) -> dict:
        """In a notebook: which program touches which tile, to step through. As text, the table."""
        bundle = {"text/plain": repr(self)}
        drawn = shown("figures.kernel_trace", "kernel_trace", self) if self.accesses else None
        if drawn is not None:
            bundle[PLOTLY] = json.loads(drawn.to_json()) | {"config": {"displayModeBar": False}}
        return bundle

    def rows(self) -> list[tuple[str, ...]]:
        """The table: its head, a row for each tensor, and their sum."""
        rows = [("tensor", "shape", "dtype", "bytes in", "read again", "bytes out")]
        for name, argument in self.arguments.items():
            shape = "×".join(map(str, argument.shape))
            dtype = str(argument.dtype).removeprefix("torch.")
            rows.append((name, shape, dtype, *_counts(self.traffic[name])))
        return [*rows, ("all", "", "", *_counts(self))]

    def __repr__(self) -> str:
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            left = [cell.ljust(n) for cell, n in zip(row[:3], widths[:3], strict=True)]
            right = [cell.rjust(n) for cell, n in zip(row[3:], widths[3:], strict=True)]
            lines.append("  ".join(left + right))
        count = math.prod(self.grid)
        programs = f"{count} program{'s' * (count != 1)}, grid {self.grid}"
        dots = f"{self.flops:,} flops in {len(self.dots)} dots: {self.intensity:.3g} flops a byte"
        tuned = f", with {self.configuration}" if self.configuration else ""
        head = f"{self.kernel}: {programs}{tuned}"
        return "\n".join([head, *lines, dots if self.dots else "no dots"])


def _thinning(marks: np.ndarray, axis: int, limit: int) -> int:
    """Elements a cell, at least so many that `limit` cells are enough.

    If all tiles begin and end at multiples of some larger number, cells do, too.
    """
    n = marks.shape[axis]
    least = -(-n // limit) or 1
    if least == 1:
        return 1
    along = np.moveaxis(marks, axis, 0)
    edges = 1 + np.flatnonzero((along[1:] != along[:-1]).reshape(n - 1, -1).any(1))
    common = int(np.gcd.reduce(edges)) if len(edges) else 0
    fitting = (step for step in range(least, common + 1) if common % step == 0)
    return next(fitting, least)


def _index(program: tuple[int, ...] | int) -> tuple[int, ...]:
    return (program,) if isinstance(program, int) else tuple(program)


def _counts(moved: Traffic | Trace) -> tuple[str, str, str]:
    return f"{moved.bytes_in:,}", f"{moved.bytes_read_again:,}", f"{moved.bytes_out:,}"


_MARKS = {"load": READ, "store": WRITTEN, "atomic": READ | WRITTEN}
