"""`trace`: what each program of a kernel reads and writes, counted element by element on CPU.

    seen = trace(add, (4,), x, y, out, 100, BT=32)
    seen                      # a table: bytes in and out of every tensor, bytes read again, flops of the dots
    seen.touched("x", 2)      # where program 2 read x, and where it wrote it

What is counted is what the kernel asks for. A cache may serve what is read again; `bytes_in_once`
is the least that has to come from memory.
"""

import json
import math
from dataclasses import dataclass, field

import numpy as np

from seqlab.gpu.events import Access, Argument, Dot, Watcher, program_name
from seqlab.gpu.interpreter import Launch
from seqlab.gpu.show import shown

READ, WRITTEN = 1, 2
PLOTLY = "application/vnd.plotly.v1+json"


def trace(kernel, grid, *args, **constexprs) -> "Trace":
    """Run `kernel[grid](*args, **constexprs)` on CPU, outputs included, and return all it touched.

    An access out of bounds raises OutOfBounds, with the caller's tensors unchanged; `sanitize`
    lists them all.
    """
    launch = Launch(kernel, grid, args, constexprs)
    recorder = _Recorder()
    launch.run(recorder)
    launch.write_back()
    return Trace(
        launch.function.__name__, launch.grid, launch.arguments, recorder.accesses, recorder.dots
    )


def table(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which dimensions of a tensor are rows and which are columns: the last; of (B, T, H, K) the
    heads too.
    """
    split = -2 if len(shape) > 3 else -1
    return shape[:split], shape[split:]


class _Recorder(Watcher):
    def __init__(self):
        self.accesses, self.dots = [], []

    def access(self, access):
        super().access(access)
        self.accesses.append(access)

    def dot(self, dot):
        self.dots.append(dot)


@dataclass(frozen=True)
class Traffic:
    """Bytes one tensor gives and takes. An element in many lanes of an access moves once, in an
    atomic both ways.
    """

    tensor: str
    bytes_in: int = 0
    bytes_out: int = 0
    bytes_in_once: int = 0  # each element once, however many accesses read it
    bytes_out_once: int = 0

    @property
    def bytes_read_again(self) -> int:
        return self.bytes_in - self.bytes_in_once


@dataclass(frozen=True, repr=False)
class Trace:
    """One run of a kernel: every access and every dot, in order, and the counts that follow from
    them.
    """

    kernel: str
    grid: tuple[int, ...]
    arguments: dict[str, Argument]
    accesses: list[Access]
    dots: list[Dot]
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
    def bytes(self) -> int:
        return self.bytes_in + self.bytes_out

    @property
    def flops(self) -> int:
        """Of the dots alone: two for each multiply-add. Other arithmetic is not counted."""
        return sum(dot.flops for dot in self.dots)

    @property
    def intensity(self) -> float:
        """Flops of the dots for each byte moved."""
        return self.flops / self.bytes if self.bytes else 0.0

    def touched(self, tensor: str, program: tuple[int, ...] | int) -> tuple[np.ndarray, np.ndarray]:
        """Where one program reads the tensor and where it writes it: two boolean arrays of the
        tensor's shape.
        """
        program = (program,) if isinstance(program, int) else tuple(program)
        if program not in self.programs:
            raise ValueError(f"{program_name(program)} is not in the grid {self.grid}")
        marks = self._marks(self._argument(tensor))[self.programs.index(program)]
        marks = marks.reshape(self.arguments[tensor].shape)
        return (marks & READ) > 0, (marks & WRITTEN) > 0

    def tiles(self, tensor: str, limit: int = 64) -> np.ndarray:
        """(programs, rows, columns): 0, READ, WRITTEN or both, of the tensor laid out as a `table`.

        A table with more than `limit` rows or columns is thinned: a cell then stands for several
        elements.
        """
        rows, columns = (math.prod(part) for part in table(self._argument(tensor).shape))
        marks = self._marks(self._argument(tensor)).reshape(len(self.programs), rows, columns)
        for axis in (1, 2):
            step = -(-marks.shape[axis] // limit) or 1
            starts = np.arange(0, marks.shape[axis], step)
            marks = np.bitwise_or.reduceat(marks, starts, axis=axis) if len(starts) else marks
        return marks

    def of(self, program: tuple[int, ...] | int) -> "Trace":
        """The part of the trace that is one program's."""
        program = (program,) if isinstance(program, int) else tuple(program)
        accesses = [a for a in self.accesses if a.program == program]
        dots = [d for d in self.dots if d.program == program]
        return Trace(self.kernel, self.grid, self.arguments, accesses, dots)

    def _argument(self, tensor) -> Argument:
        if tensor not in self.arguments:
            raise ValueError(
                f"{self.kernel} has no tensor {tensor!r}: it has {', '.join(self.arguments)}"
            )
        return self.arguments[tensor]

    def _marks(self, argument) -> np.ndarray:
        number = {program: i for i, program in enumerate(self.programs)}
        marks = np.zeros((len(number), len(argument.offsets)), dtype=np.uint8)
        for access in self.accesses:
            if access.argument is argument:
                marks[number[access.program], access.elements] |= _MARKS[access.kind]
        return marks

    def _traffic(self, name) -> Traffic:
        """Counted lane by lane without repeats in an access, then element by element over all."""
        size = self.arguments[name].dtype.itemsize
        moved, once = {READ: 0, WRITTEN: 0}, {}
        for mark in moved:
            seen = np.zeros(len(self.arguments[name].offsets), dtype=bool)
            for access in self.accesses:
                if access.argument.name == name and _MARKS[access.kind] & mark:
                    moved[mark] += len(np.unique(access.elements)) * access.width
                    seen[access.elements] = True
            once[mark] = int(seen.sum()) * size
        return Traffic(name, moved[READ], moved[WRITTEN], once[READ], once[WRITTEN])

    def _repr_mimebundle_(self, **_) -> dict:
        """In a notebook: which program touches which tile, to be stepped or played. As text the
        table.
        """
        drawn = shown("figures.kernel_trace", "kernel_trace", self) if self.accesses else None
        bundle = (
            {}
            if drawn is None
            else {PLOTLY: json.loads(drawn.to_json()) | {"config": {"displayModeBar": False}}}
        )
        return bundle | {"text/plain": repr(self)}

    def __repr__(self) -> str:
        head = ("tensor", "shape", "dtype", "bytes in", "read again", "bytes out")
        rows = [head]
        for name, argument in self.arguments.items():
            t = self.traffic[name]
            shape, dtype = (
                "×".join(map(str, argument.shape)),
                str(argument.dtype).removeprefix("torch."),
            )
            rows.append(
                (
                    name,
                    shape,
                    dtype,
                    *(f"{n:,}" for n in (t.bytes_in, t.bytes_read_again, t.bytes_out)),
                )
            )
        rows.append(
            (
                "all",
                "",
                "",
                *(f"{n:,}" for n in (self.bytes_in, self.bytes_read_again, self.bytes_out)),
            )
        )
        width = [max(len(row[i]) for row in rows) for i in range(len(head))]
        table = [
            "  ".join(
                c.ljust(w) if i < 3 else c.rjust(w)
                for i, (c, w) in enumerate(zip(r, width, strict=True))
            )
            for r in rows
        ]
        count = int(np.prod(self.grid))
        programs = f"{count} program{'s' * (count != 1)}, grid {self.grid}"
        dots = f"{self.flops:,} flops in {len(self.dots)} dots: {self.intensity:.3g} flops a byte"
        return "\n".join([f"{self.kernel}: {programs}", *table, dots if self.dots else "no dots"])


_MARKS = {"load": READ, "store": WRITTEN, "atomic": READ | WRITTEN}
