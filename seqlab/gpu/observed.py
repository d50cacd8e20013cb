"""What `compare` writes down of a run: who wrote and read what, and the variables of its loops."""

from collections.abc import Sequence
from types import FrameType
from typing import NamedTuple

import numpy as np

from seqlab.gpu.events import Access, Argument, Line, Watcher
from seqlab.gpu.formats import NARROW, widened

MOST_NUMBERS = 2_000_000
"""Variables are written down until this many numbers are kept."""


Program = tuple[int, ...]

NUMBERS = ("fp", "bf", "int", "uint")


class Value(NamedTuple):
    """A variable of the kernel. kind: Triton's name of its type, "fp32"."""

    numbers: np.ndarray
    kind: str


class Step(NamedTuple):
    """The variables of one program as a loop is about to begin a step.

    loop: its number, in the order in which the program came to its loops. step: from 0; after the
    last, how many there were. last: the loop has ended.
    """

    loop: int
    line: Line
    step: int
    last: bool
    values: dict[str, Value]


class Observed(Watcher):
    """steps: of each program. writers: of each tensor stored into, the program of each element.

    Programs are numbered as in `programs`; -1 is none.
    """

    def __init__(self, programs: Sequence[Program]):
        self.steps: dict[Program, list[Step]] = {}
        self.writers: dict[str, np.ndarray] = {}
        self.read: dict[str, np.ndarray] = {}
        self.tiles: dict[tuple[str, Program], Access] = {}
        self.number = {program: i for i, program in enumerate(programs)}
        self.arguments: dict[str, Argument] = {}
        self._lines: list[Line] = []
        self._line_of: dict[str, np.ndarray] = {}
        self._open: list[tuple[int, Line, int]] = []  # the loops that have begun
        self._loops = 0
        self._room = MOST_NUMBERS
        self._program: Program | None = None

    def access(self, access: Access) -> None:
        super().access(access)
        self._at(access.program)
        name, argument = access.argument.name, access.argument
        self.arguments[name] = argument
        if access.kind != "store":
            self._array(self.read, argument, False)[access.elements] = True
        if access.kind != "load":
            self._array(self.writers, argument, -1)[access.elements] = self.number[access.program]
            self._array(self._line_of, argument, -1)[access.elements] = len(self._lines)
            self._lines.append(access.line)
            self.tiles[name, access.program] = access

    def _at(self, program: Program) -> None:
        if program != self._program:
            self._program, self._open, self._loops = program, [], 0

    @staticmethod
    def _array(kept: dict, argument: Argument, blank) -> np.ndarray:
        return kept.setdefault(argument.name, np.full(argument.numel, blank))

    def writers_of(self, argument: Argument) -> tuple[np.ndarray, list[Line | None]]:
        """Of each element, the number of the last program that wrote it (-1: none) and its line."""
        nobody = np.full(argument.numel, -1)
        lines = self._line_of.get(argument.name, nobody)
        said = [self._lines[i] if i >= 0 else None for i in lines.tolist()]
        return self.writers.get(argument.name, nobody), said

    def steps_of(self, program: Program) -> list[Step]:
        return self.steps.get(program, [])

    def step(self, program: Program, line: Line, step: int, frame: FrameType) -> None:
        self._at(program)
        if step == 0:
            self._open.append((self._loops, line, 0))
            self._loops += 1
        if step < 0 and not (self._open and self._open[-1][1] == line):  # a loop without a step
            return
        loop, line, before = self._open[-1]
        last = step < 0
        if last:
            self._open.pop()
        else:
            self._open[-1] = loop, line, step
        at = before + 1 if last else step
        values = self._values(frame)
        self.steps.setdefault(program, []).append(Step(loop, line, at, last, values))

    def _values(self, frame: FrameType) -> dict[str, Value]:
        found = {}
        for name, value in frame.f_locals.items():
            data = getattr(getattr(value, "handle", None), "data", None)
            kind = str(getattr(value, "dtype", ""))
            if not isinstance(data, np.ndarray) or not kind.startswith(NUMBERS):
                continue
            self._room -= data.size
            if self._room < 0:
                break
            numbers = widened(data, kind) if kind in NARROW else data
            found[name] = Value(numbers.astype(np.float64), kind)
        return found
