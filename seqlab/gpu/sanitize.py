"""`sanitize`: what a GPU would punish and the interpreter forgives, each finding one sentence.

    sanitize(add, (4,), x, y, out, 100, BT=32)      # empty where nothing is wrong

The kernel runs on copies, in order, reversed and shuffled; the caller's tensors are never changed.
An access out of bounds is switched off before it touches memory, and the run goes on.

What nothing has written is known in two ways. Elements that are NaN when the kernel starts count as
never written, so fill outputs with NaN. And a tensor that the kernel only stores into counts as an
output: all of it must be written. Name arguments in `outputs` that come unwritten whatever is in
them, and in `initialised` those that are whole as they come (a cache into which one row is put, an
input with a NaN in it, a pointer that is not used).
"""

import random
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import torch

from seqlab.gpu.events import Argument, LabError, Line, Watcher, program_name
from seqlab.gpu.interpreter import Launch

KINDS = (
    "out of bounds",
    "never written",
    "two writers",
    "order",
    "small dot",
    "bf16",
    "unwritten read",
)


@dataclass(frozen=True)
class Finding:
    """One fault at one line. program and index are those of its first occurrence; `str(finding)` is
    the sentence.
    """

    kind: str  # one of KINDS
    program: tuple[int, ...] | None
    tensor: str | None
    index: int | None  # row-major; out of bounds: in elements from the tensor's first
    line: Line | None
    sentence: str

    def __str__(self):
        return self.sentence

    __repr__ = __str__


class Findings(list):
    """A list of findings that prints one a line."""

    def __repr__(self):
        return "\n".join(map(str, self)) or "nothing found"


def sanitize(
    kernel,
    grid,
    *args,
    outputs: Collection[str] = (),
    initialised: Collection[str] = (),
    **constexprs,
) -> Findings:
    """The faults of `kernel[grid](*args, **constexprs)`, a finding for each tensor and source line.
    Changes nothing.
    """
    launch = Launch(kernel, grid, args, constexprs)
    if unknown := {*outputs, *initialised} - set(launch.arguments):
        has = ", ".join(launch.arguments)
        raise ValueError(
            f"{launch.function.__name__} has no tensor {', '.join(sorted(unknown))}: it has {has}"
        )
    inspector = _Inspector(launch, outputs, initialised)
    launch.run(inspector)
    findings = Findings(inspector.findings())
    if int(np.prod(launch.grid)) > 1:
        for name, order in (("reversed", reversed), ("shuffled", _shuffled)):
            again = Launch(kernel, grid, args, constexprs)
            counter = _Counter(limit=1000 + 10 * inspector.accesses)
            try:
                again.run(counter, order)
            except _Endless as stop:
                findings.append(_waits(name, *stop.args))
                break
            if finding := inspector.compare(again, name):
                findings.append(finding)
                break
    return findings


def _shuffled(programs):
    return random.Random(0).sample(programs, len(programs))


class _Endless(LabError):
    """A run that waits for a program that has not had its turn."""


class _Counter(Watcher):
    """Lets everything pass, but not for ever."""

    def __init__(self, limit):
        self.left = limit

    def access(self, access):
        self.left -= 1
        if self.left < 0:
            raise _Endless(access.program, access.argument.name, access.line)


def _waits(order, program, tensor, line) -> Finding:
    sentence = (
        f"{program_name(program)} waits for ever when programs run {order}: it polls {tensor} until another "
        f"program has run ({line}), and a GPU promises no order"
    )
    return Finding("order", program, tensor, None, line, sentence)


@dataclass
class _Fault:
    """The first occurrence of a fault, and how many elements and programs follow it."""

    program: tuple[int, ...] | None
    index: int | None
    says: str
    elements: set = field(default_factory=set)
    programs: set = field(default_factory=set)


class _Memory:
    """One storage, a number per byte, kept at the first byte of each element."""

    def __init__(self, size):
        self.unwritten = np.zeros(size, dtype=bool)  # nothing has put a number there
        self.stored = np.zeros(size, dtype=bool)
        self.writer = np.full(size, -1)  # number of the last access that wrote
        self.by_atomic = np.zeros(size, dtype=bool)
        self.read = self.touched = False


class _Inspector(Watcher):
    """Watches one run in order and keeps the faults it sees."""

    def __init__(self, launch: Launch, outputs, initialised):
        self.launch, self.outputs, self.initialised = launch, outputs, initialised
        self.accesses, self.writes, self.lockers, self.atomics = 0, [], set(), False
        self.faults: dict[tuple, _Fault] = {}
        self.memories: dict[int, _Memory] = {}
        for argument in launch.arguments.values():
            size = argument.copy.untyped_storage().nbytes()
            memory = self.memories.setdefault(argument.memory, _Memory(size))
            memory.unwritten[argument.cells(self._blank(argument))] = True

    def _blank(self, argument: Argument) -> np.ndarray:
        """The elements that hold nothing when the kernel starts."""
        if argument.name in self.outputs:
            return np.arange(len(argument.offsets))
        if argument.name in self.initialised or not argument.dtype.is_floating_point:
            return np.arange(0)
        return argument.copy.float().isnan().flatten().nonzero()[:, 0].numpy()

    def access(self, access):
        self.accesses += 1
        memory, cells = (
            self.memories[access.argument.memory],
            access.argument.cells(access.elements),
        )
        memory.touched |= len(access.elements) > 0
        self._check_bounds(access)
        if access.kind != "store":
            memory.read |= len(cells) > 0
            self._check_read(access, memory, cells)
        if access.kind != "load" and len(cells):
            self._check_writers(access, memory, cells)
            memory.unwritten[cells], memory.stored[cells] = False, True
            memory.writer[cells], memory.by_atomic[cells] = (
                len(self.writes),
                access.kind == "atomic",
            )
            self.writes.append((access.program, access.line))
        if access.kind == "atomic":
            self.atomics = True
        if access.exchanges:
            self.lockers.add(access.program)

    def dot(self, dot):
        small = [
            f"{n} = {s}"
            for n, s, least in zip("mnk", (dot.m, dot.n, dot.k), dot.minimum, strict=True)
            if s < least
        ]
        if small:
            m, n, k = dot.minimum
            says = (
                f"multiplies ({dot.m}, {dot.k}) by ({dot.k}, {dot.n}) in {dot.dtype}, with {' and '.join(small)}: "
                f"a GPU takes no tl.dot below m = {m}, n = {n}, k = {k}"
            )
            self._note("small dot", None, dot.line, dot.program, None, says)

    def wrong_bf16(self, operation, program, line):
        says = (
            f"computes {operation} on bfloat16 numbers: right on a GPU and in the lab, but Triton's own interpreter "
            "takes their bit patterns for integers; convert to float32 right after the load, or test with float16"
        )
        self._note("bf16", None, line, program, operation, says)

    def _check_bounds(self, access):
        for offset in access.outside.tolist():
            argument = access.argument
            says = f"{access.kind}s {argument.beyond(offset)}, outside {argument.name} of shape {argument.shape}"
            self._note("out of bounds", argument.name, access.line, access.program, offset, says)

    def _check_read(self, access, memory, cells):
        blank = memory.unwritten[cells]
        for element in access.elements[blank].tolist():
            says = f"reads {access.argument.place(element)}, which nothing has written"
            self._note(
                "unwritten read", access.argument.name, access.line, access.program, element, says
            )

    def _check_writers(self, access, memory, cells):
        """A second program on the same element. One that exchanges atomically may hold a lock: only
        order tells.
        """
        earlier = memory.writer[cells]
        atomic = memory.by_atomic[cells] & (access.kind == "atomic")
        for i in np.flatnonzero((earlier >= 0) & ~atomic):
            other, line = self.writes[earlier[i]]
            if other != access.program and access.program not in self.lockers:
                element = int(access.elements[i])
                says = (
                    f"writes {access.argument.place(element)}, which {program_name(other)} wrote too "
                    f"{'at the same line' if line == access.line else f'at {line}'}: which write stays is chance"
                )
                self._note(
                    "two writers", access.argument.name, access.line, access.program, element, says
                )

    def _note(self, kind, tensor, line, program, index, says):
        fault = self.faults.setdefault((kind, tensor, line), _Fault(program, index, says))
        fault.elements.add(index)
        fault.programs.add(program)

    def findings(self) -> list[Finding]:
        found = [self._finding(*key, fault) for key, fault in self.faults.items()]
        return found + [
            f for argument in self.launch.arguments.values() if (f := self._left_blank(argument))
        ]

    def _finding(self, kind, tensor, line, fault) -> Finding:
        more = []
        if len(fault.elements) > 1 and kind != "bf16":
            more.append(f"{len(fault.elements)} elements")
        if len(fault.programs) > 1:
            more.append(f"{len(fault.programs)} programs")
        tail = f"; in all {' and '.join(more)}" if more else ""
        index = fault.index if tensor else None
        sentence = f"{program_name(fault.program)} {fault.says} ({line}{tail})"
        return Finding(kind, fault.program, tensor, index, line, sentence)

    def _left_blank(self, argument: Argument) -> Finding | None:
        """The finding that elements of an output were never written."""
        memory, name = self.memories[argument.memory], argument.name
        if name in self.initialised or not len(argument.offsets):
            return None
        cells = argument.cells(np.arange(len(argument.offsets)))
        stored = memory.stored[cells]
        if not memory.touched:
            blank = ~stored
        elif not stored.any() and name not in self.outputs:
            return None
        else:
            blank = ~stored & (memory.unwritten[cells] | (not memory.read))
        if not blank.any():
            return None
        first = int(np.flatnonzero(blank)[0])
        writer = memory.writer[cells].max()
        program, line = self.writes[writer] if writer >= 0 else (None, None)
        if line is None:
            how = "writes" if memory.touched else "reads or writes"
            sentence = f"no program {how} {name}: if it is an output, {argument.place(first)} and the rest lack a store"
        else:
            sentence = (
                f"no program writes {argument.place(first)}, in all {int(blank.sum())} of {len(blank)} elements of "
                f"{name}; the last that wrote to it is {program_name(program)} ({line})"
            )
        return Finding("never written", program, name, first, line, sentence)

    def compare(self, other: Launch, order: str) -> Finding | None:
        """The finding that another order of the programs gave other numbers."""
        for name, argument in self.launch.arguments.items():
            apart = self._apart(argument.copy, other.arguments[name].copy)
            if len(apart):
                first = int(apart[0])
                writer = self.memories[argument.memory].writer[argument.cells(np.array([first]))[0]]
                program, line = self.writes[writer] if writer >= 0 else (None, None)
                ours, theirs = (
                    x.flatten()[first].item() for x in (argument.copy, other.arguments[name].copy)
                )
                who = f"{program_name(program)} leaves" if program else "no program writes"
                sentence = (
                    f"{who} {argument.place(first)} = {ours:.6g}, but it is {theirs:.6g} when programs run {order}: "
                    f"a GPU promises no order ({line or name}; in all {len(apart)} elements)"
                )
                return Finding("order", program, name, first, line, sentence)
        return None

    def _apart(self, ours, theirs) -> np.ndarray:
        """Elements that differ. Sums by atomics may differ by rounding; all else must be equal."""
        if not ours.is_floating_point():
            return np.flatnonzero((ours != theirs).flatten().numpy())
        a, b = ours.double(), theirs.double()
        same = (a == b) | a.isnan() & b.isnan()
        if self.atomics and a.numel():
            scale = torch.nan_to_num(a.abs(), 0, 0, 0).max()
            same |= (a - b).abs() <= 64 * torch.finfo(ours.dtype).eps * scale
        return np.flatnonzero(~same.flatten().numpy())
