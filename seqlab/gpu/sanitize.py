"""`sanitize`: what a GPU would punish and the interpreter forgives, each finding one sentence.

    sanitize(add, (4,), x, y, out, 100, BT=32)      # empty if nothing is wrong

The programs run on copies, three times: in order, reversed and shuffled. The caller's tensors never
change. Lanes that are out of bounds are switched off before they touch memory, and the run goes on.

An element counts as unwritten in two cases. It is NaN when the kernel starts: so fill outputs with
NaN. Or its tensor is only ever stored into: such a tensor is an output, and all of it must be
written. List in `outputs` the arguments to treat as unwritten whatever they hold, and in
`initialised` those already valid on entry (a cache that gets one new row, an input with a NaN in
it, a pointer that is not used).
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from seqlab.gpu.events import Access, Argument, Dot, LabError, Line, Watcher, program_name
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
    """One fault at one line; `str(finding)` is its sentence.

    kind: one of KINDS. program, index: of the first occurrence. index counts elements in row-major
    order; out of bounds, it is the offset from the tensor's first element.
    """

    kind: str
    program: tuple[int, ...] | None
    tensor: str | None
    index: int | None
    line: Line | None
    sentence: str

    def __str__(self):
        return self.sentence

    __repr__ = __str__


class Findings(list):
    """A list of findings, printed one a line."""

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
    """The faults of `kernel[grid](*args, **constexprs)`: a finding for each tensor and source line.

    Changes nothing. Raises ValueError if `outputs` or `initialised` has an unknown name.
    """
    launch = Launch(kernel, grid, args, constexprs)
    if unknown := {*outputs, *initialised} - set(launch.arguments):
        name = launch.function.__name__
        said, has = ", ".join(sorted(unknown)), ", ".join(launch.arguments)
        raise ValueError(f"{name} has no tensor {said}: it has {has}")
    inspector = _Inspector(launch, outputs, initialised)
    launch.run(inspector)
    findings = Findings(inspector.findings())
    if int(np.prod(launch.grid)) > 1:
        for name, order in (("reversed", reversed), ("shuffled", _shuffled)):
            again = Launch(kernel, grid, args, constexprs)
            if finding := _of_another_order(again, inspector, name, order):
                findings.append(finding)
                break
    return findings


def _of_another_order(again: Launch, inspector: "_Inspector", name: str, order) -> Finding | None:
    """The finding that the programs depend on the order in which they ran."""
    try:
        again.run(_Counter(limit=1000 + 10 * inspector.accesses), order)
    except _Endless as stop:
        return _waits(name, stop.access)
    return inspector.compare(again, name)


def _shuffled(programs: Sequence) -> list:
    return random.Random(0).sample(programs, len(programs))


class _Endless(LabError):
    """A run that waits for a program that has not started yet."""

    def __init__(self, access: Access):
        super().__init__()
        self.access = access


class _Counter(Watcher):
    """Lets every access pass, up to a limit."""

    def __init__(self, limit: int):
        self.left = limit

    def access(self, access):
        self.left -= 1
        if self.left < 0:
            raise _Endless(access)


def _waits(order: str, access: Access) -> Finding:
    tensor = access.argument.name
    sentence = (
        f"{program_name(access.program)} waits for ever when programs run {order}: "
        f"it polls {tensor} until another program has run ({access.line}), "
        "and a GPU promises no order"
    )
    return Finding("order", access.program, tensor, None, access.line, sentence)


@dataclass
class _Fault:
    """The first occurrence of a fault, and all the elements and programs that have it."""

    program: tuple[int, ...]
    index: int | None
    says: str
    elements: set = field(default_factory=set)
    programs: set = field(default_factory=set)


class _Memory:
    """What the run did to one storage: an entry per byte, used at the first byte of an element."""

    def __init__(self, size: int):
        self.unwritten = np.zeros(size, dtype=bool)  # holds no value yet
        self.stored = np.zeros(size, dtype=bool)
        self.writer = np.full(size, -1)  # number of the last access that wrote
        self.by_atomic = np.zeros(size, dtype=bool)
        self.read = False
        self.touched = False

    def store(self, cells: np.ndarray, writer: int, atomic: bool) -> None:
        self.unwritten[cells] = False
        self.stored[cells] = True
        self.writer[cells] = writer
        self.by_atomic[cells] = atomic


class _Inspector(Watcher):
    """Watches one run in order and keeps the faults it sees."""

    def __init__(self, launch: Launch, outputs: Collection[str], initialised: Collection[str]):
        self.launch = launch
        self.outputs = outputs
        self.initialised = initialised
        self.accesses = 0
        self.atomics = False
        self.writes: list[tuple[tuple[int, ...], Line]] = []
        self.lockers: set[tuple[int, ...]] = set()  # programs that may hold a lock
        self.faults: dict[tuple[str, str | None, Line], _Fault] = {}
        self.memories: dict[int, _Memory] = {}
        for argument in launch.arguments.values():
            size = argument.copy.untyped_storage().nbytes()
            memory = self.memories.setdefault(argument.memory, _Memory(size))
            memory.unwritten[argument.cells(self._blank(argument))] = True

    def _blank(self, argument: Argument) -> np.ndarray:
        """The elements that hold no value when the kernel starts."""
        if argument.name in self.outputs:
            return np.arange(len(argument.offsets))
        if argument.name in self.initialised or not argument.dtype.is_floating_point:
            return np.arange(0)
        return argument.copy.float().isnan().flatten().nonzero()[:, 0].numpy()

    def access(self, access):
        self.accesses += 1
        memory = self.memories[access.argument.memory]
        cells = access.argument.cells(access.elements)
        memory.touched |= len(cells) > 0
        self._check_bounds(access)
        if access.kind != "store":
            memory.read |= len(cells) > 0
            self._check_read(access, memory, cells)
        if access.kind != "load" and len(cells):
            self._check_writers(access, memory, cells)
            memory.store(cells, len(self.writes), access.kind == "atomic")
            self.writes.append((access.program, access.line))
        if access.kind == "atomic":
            self.atomics = True
        if access.exchanges:
            self.lockers.add(access.program)

    def dot(self, dot: Dot):
        sizes = zip("mnk", (dot.m, dot.n, dot.k), dot.minimum, strict=True)
        small = [f"{name} = {size}" for name, size, least in sizes if size < least]
        if small:
            m, n, k = dot.minimum
            says = (
                f"multiplies ({dot.m}, {dot.k}) by ({dot.k}, {dot.n}) in {dot.dtype}, "
                f"with {' and '.join(small)}: "
                f"a GPU takes no tl.dot below m = {m}, n = {n}, k = {k}"
            )
            self._note("small dot", None, dot.line, dot.program, None, says)

    def wrong_bf16(self, operation, program, line):
        says = (
            f"computes {operation} on bfloat16 numbers: "
            "right on a GPU and in the lab, but Triton's own interpreter takes their bit patterns "
            "for integers; convert to float32 right after the load, or test with float16"
        )
        self._note("bf16", None, line, program, operation, says)

    def _check_bounds(self, access: Access):
        argument = access.argument
        for offset in access.outside.tolist():
            says = (
                f"{access.kind}s {argument.beyond(offset)}, "
                f"outside {argument.name} of shape {argument.shape}"
            )
            self._note_access("out of bounds", access, offset, says)

    def _check_read(self, access: Access, memory: _Memory, cells: np.ndarray):
        blank = memory.unwritten[cells]
        for element in access.elements[blank].tolist():
            says = f"reads {access.argument.place(element)}, which nothing has written"
            self._note_access("unwritten read", access, element, says)

    def _check_writers(self, access: Access, memory: _Memory, cells: np.ndarray):
        """A second program writes an element that another wrote, not both by atomics.

        A program that exchanges atomically may hold a lock: only the other orders can tell.
        """
        if access.program in self.lockers:
            return
        earlier = memory.writer[cells]
        both_atomic = memory.by_atomic[cells] & (access.kind == "atomic")
        for i in np.flatnonzero((earlier >= 0) & ~both_atomic):
            program, line = self.writes[earlier[i]]
            if program != access.program:
                element = int(access.elements[i])
                where = "at the same line" if line == access.line else f"at {line}"
                says = (
                    f"writes {access.argument.place(element)}, "
                    f"which {program_name(program)} wrote too {where}: "
                    "which of the two values remains is chance"
                )
                self._note_access("two writers", access, element, says)

    def _note_access(self, kind: str, access: Access, index: int, says: str):
        self._note(kind, access.argument.name, access.line, access.program, index, says)

    def _note(self, kind, tensor, line, program, index, says):
        fault = self.faults.setdefault((kind, tensor, line), _Fault(program, index, says))
        fault.elements.add(index)
        fault.programs.add(program)

    def findings(self) -> list[Finding]:
        found = [self._finding(*key, fault) for key, fault in self.faults.items()]
        blank = map(self._left_blank, self.launch.arguments.values())
        return found + [finding for finding in blank if finding]

    def _finding(self, kind: str, tensor: str | None, line: Line, fault: _Fault) -> Finding:
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
        blank = self._never_written(argument)
        if not blank.any():
            return None
        first = int(np.flatnonzero(blank)[0])
        cells = argument.cells(np.arange(len(blank)))
        last_write = self.memories[argument.memory].writer[cells].max()
        if last_write < 0:
            sentence = self._says_no_store(argument, first)
            return Finding("never written", None, argument.name, first, None, sentence)
        program, line = self.writes[last_write]
        sentence = (
            f"no program writes {argument.place(first)}, "
            f"in all {int(blank.sum())} of {len(blank)} elements of {argument.name}; "
            f"the last program that wrote to it is {program_name(program)} ({line})"
        )
        return Finding("never written", program, argument.name, first, line, sentence)

    def _never_written(self, argument: Argument) -> np.ndarray:
        """Of each element, whether it should have been written and was not."""
        memory = self.memories[argument.memory]
        cells = argument.cells(np.arange(len(argument.offsets)))
        missing = ~memory.stored[cells]
        if argument.name in self.initialised:
            return np.zeros_like(missing)
        if not memory.touched:
            return missing
        if missing.all() and argument.name not in self.outputs:  # an input: read, never stored into
            return np.zeros_like(missing)
        if memory.read:  # what had a value on entry may keep it
            return missing & memory.unwritten[cells]
        return missing

    def _says_no_store(self, argument: Argument, first: int) -> str:
        does = "writes" if self.memories[argument.memory].touched else "reads or writes"
        return (
            f"no program {does} {argument.name}: "
            f"if it is an output, {argument.place(first)} and the rest lack a store"
        )

    def compare(self, other: Launch, order: str) -> Finding | None:
        """The finding that another order of the programs gave other numbers."""
        for name, argument in self.launch.arguments.items():
            ours, theirs = argument.copy, other.arguments[name].copy
            apart = self._apart(ours, theirs)
            if len(apart):
                return self._depends_on_order(argument, apart, ours, theirs, order)
        return None

    def _depends_on_order(self, argument, apart, ours, theirs, order) -> Finding:
        first = int(apart[0])
        (cell,) = argument.cells(np.array([first]))
        last_write = self.memories[argument.memory].writer[cell]
        program, line = self.writes[last_write] if last_write >= 0 else (None, None)
        who = "no program writes" if program is None else f"{program_name(program)} leaves"
        a, b = (x.flatten()[first].item() for x in (ours, theirs))
        sentence = (
            f"{who} {argument.place(first)} = {a:.6g}, "
            f"but it is {b:.6g} when programs run {order}: "
            f"a GPU promises no order ({line or argument.name}; in all {len(apart)} elements)"
        )
        return Finding("order", program, argument.name, first, line, sentence)

    def _apart(self, ours: torch.Tensor, theirs: torch.Tensor) -> np.ndarray:
        """Elements that differ. Sums by atomics may differ by rounding; all else must be equal."""
        if not ours.is_floating_point():
            return np.flatnonzero((ours != theirs).flatten().numpy())
        a, b = ours.double(), theirs.double()
        same = (a == b) | a.isnan() & b.isnan()
        if self.atomics and a.numel():
            largest = torch.nan_to_num(a.abs(), nan=0, posinf=0, neginf=0).max()
            same |= (a - b).abs() <= 64 * torch.finfo(ours.dtype).eps * largest
        return np.flatnonzero(~same.flatten().numpy())
