"""What `sanitize` sees while a kernel runs in order: the faults, each at its line."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np
import torch

from seqlab.gpu.bounds import Survey, covered
from seqlab.gpu.events import Access, Argument, Dot, Line, Watcher, program_name
from seqlab.gpu.findings import Finding
from seqlab.gpu.footprint import Footprint
from seqlab.gpu.interpreter import Launch
from seqlab.gpu.lanes import LaneOrder

Program = tuple[int, ...]


@dataclass
class _Fault:
    """The first occurrence of a fault, and all the elements and programs that have it."""

    program: Program
    index: int | None
    says: str
    lanes: tuple[int, ...]
    element: tuple[int, ...] | None
    elements: set = field(default_factory=set)
    programs: set = field(default_factory=set)


class Inspector(Watcher):
    """Watches one run in order and keeps the faults it sees.

    survey: how the accesses depend on the program's id; asked for only where that is needed.

    undefined: for each line of a load without `other=`, the programs where its mask is off.
    """

    def __init__(
        self,
        launch: Launch,
        outputs: Collection[str],
        initialised: Collection[str],
        survey: Callable[[], Survey],
        whole: bool,
    ):
        self.launch = launch
        self.outputs = outputs
        self.initialised = initialised
        self.survey = survey
        self.whole = whole
        self.accesses = 0
        self.atomics = False
        self.writes: list[tuple[Program, Line]] = []
        self.lockers: set[Program] = set()  # programs that may hold a lock
        self.faults: dict[tuple[str, str | None, Line], _Fault] = {}
        self.undefined_at: dict[Line, list[Program]] = {}
        self.lane_order = LaneOrder()
        self.program: Program | None = None
        self.number = 0  # of the program, in the order of the run
        self.memories = _footprints(launch)
        for argument in launch.arguments.values():
            self._held(argument).unwritten[self._cells(argument, self._blank(argument))] = True

    def _held(self, argument: Argument) -> Footprint:
        return self.memories[argument.memory]

    def _cells(self, argument: Argument, elements: np.ndarray) -> np.ndarray:
        return self._held(argument).at(argument.cells(elements))

    def _every_cell(self, argument: Argument) -> np.ndarray | slice:
        if not argument.contiguous:
            return self._cells(argument, np.arange(argument.numel))
        size = self._held(argument).cell
        first, step = argument.start // size, argument.dtype.itemsize // size
        return slice(first, first + argument.numel * step, step)

    def _blank(self, argument: Argument) -> np.ndarray:
        """The elements that hold no value when the kernel starts."""
        if argument.name in self.outputs:
            return np.arange(argument.numel)
        if argument.name in self.initialised or not argument.dtype.is_floating_point:
            return np.arange(0)
        given = argument.copy
        given = given.float() if given.element_size() == 1 else given
        return given.isnan().flatten().nonzero()[:, 0].numpy()

    def access(self, access):
        self.accesses += 1
        if access.program != self.program:
            self.program = access.program
            self.number += 1
            self.lane_order.start()
        held = self._held(access.argument)
        cells = self._cells(access.argument, access.elements)
        held.touched |= len(cells) > 0
        held.touch(cells, self.number, writes=access.kind != "load")
        self._check_bounds(access)
        for fault in self.lane_order.access(access, held, cells):
            for place in fault.places.tolist():
                element, lanes = int(access.elements[place]), fault.lanes(place)
                self._note_access(fault.kind, access, element, fault.says(place), lanes)
        if access.kind != "store" and len(cells):
            held.ever_read = True
            self._check_read(access, held, cells)
        if access.kind != "load" and len(cells):
            self._write(access, held, cells)
        if access.kind == "load":
            held.read[cells] = True

    @property
    def any_order(self) -> bool:
        """Whether no program touched what another wrote: each then reads the same in any order, so
        all orders give the same numbers.

        Elements of unequal sizes in one storage overlap in ways that are not followed: False.
        """
        sizes: dict[int, set[int]] = {}
        for argument in self.launch.arguments.values():
            sizes.setdefault(argument.memory, set()).add(argument.dtype.itemsize)
        mixed = any(len(found) > 1 for found in sizes.values())
        return not mixed and not any(held.shared for held in self.memories.values())

    def _write(self, access: Access, held: Footprint, cells: np.ndarray):
        self._check_writers(access, held, cells)
        self.writes.append((access.program, access.line))
        atomic = access.kind == "atomic"
        held.only_atomics &= atomic
        held.in_place &= not atomic and bool(held.read[cells].all())
        held.exchanged |= access.exchanges
        held.write(cells, len(self.writes), atomic)
        self.atomics |= atomic
        if access.exchanges:
            self.lockers.add(access.program)

    def undefined(self, program, line):
        programs = self.undefined_at.setdefault(line, [])
        if program not in programs[-1:]:
            programs.append(program)

    def barrier(self, named):
        self.lane_order.barrier(named)

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

    def scan(self, says, program, line):
        self._note("scan order", None, line, program, None, says)

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
            self._note("out of bounds", argument.name, access.line, access.program, offset, says)

    def _check_read(self, access: Access, held: Footprint, cells: np.ndarray):
        blank = held.unwritten[cells]
        for element in access.elements[blank].tolist():
            says = f"reads {access.argument.place(element)}, which nothing has written"
            self._note_access("unwritten read", access, element, says)

    def _check_writers(self, access: Access, held: Footprint, cells: np.ndarray):
        """A second program writes an element that another wrote, not both by atomics.

        A program that exchanges atomically may hold a lock: only the other orders can tell.
        """
        if access.program in self.lockers:
            return
        earlier = held.writer[cells]
        both_atomic = held.by_atomic[cells] & (access.kind == "atomic")
        for i in np.flatnonzero((earlier > 0) & ~both_atomic):
            program, line = self.writes[earlier[i] - 1]
            if program != access.program:
                element = int(access.elements[i])
                where = "at the same line" if line == access.line else f"at {line}"
                says = (
                    f"writes {access.argument.place(element)}, "
                    f"which {program_name(program)} wrote too {where}: "
                    "which of the two values remains is chance"
                )
                self._note_access("two writers", access, element, says)

    def _note_access(
        self, kind: str, access: Access, index: int, says: str, lanes: tuple[int, ...] | None = None
    ):
        argument = access.argument
        if lanes is None:
            lanes = tuple(access.lanes[access.elements == index][:1].tolist())
        element = tuple(int(i) for i in np.unravel_index(index, argument.shape))
        self._note(kind, argument.name, access.line, access.program, index, says, lanes, element)

    def _note(self, kind, tensor, line, program, index, says, lanes=(), element=None):
        fault = self.faults.get((kind, tensor, line))
        if fault is None:
            fault = _Fault(program, index, says, lanes, element)
            self.faults[kind, tensor, line] = fault
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
        return Finding(
            kind, fault.program, tensor, index, line, sentence, fault.lanes, fault.element
        )

    def _left_blank(self, argument: Argument) -> Finding | None:
        """The finding that elements of an output were never written."""
        blank = self._never_written(argument)
        if not blank.any():
            return None
        first = int(np.flatnonzero(blank)[0])
        element = tuple(int(i) for i in np.unravel_index(first, argument.shape))
        last_write = int(self._held(argument).writer[self._every_cell(argument)].max())
        program, line = self.writes[last_write - 1] if last_write else (None, None)
        if program is None:
            sentence = self._says_no_store(argument, first)
        else:
            sentence = (
                f"no program writes {argument.place(first)}, "
                f"in all {int(blank.sum())} of {len(blank)} elements of {argument.name}; "
                f"the last program that wrote to it is {program_name(program)} ({line})"
            )
        return Finding("never written", program, argument.name, first, line, sentence, (), element)

    def _never_written(self, argument: Argument) -> np.ndarray:
        """Of each element, whether it should have been written and was not."""
        held = self._held(argument)
        cells = self._every_cell(argument)
        missing = held.writer[cells] == 0
        none = np.zeros_like(missing)
        if argument.name in self.initialised or not missing.any():
            return none
        blank = missing & held.unwritten[cells]
        if not held.touched:
            return blank
        if missing.all() and argument.name not in self.outputs:  # an input: read, never stored into
            return none
        if not self.whole:
            stored = covered(self.survey(), argument)
            if stored is None:
                return none
            missing, blank = missing & ~stored, blank & ~stored
        whole_update = (held.only_atomics or held.in_place) and not held.exchanged
        if whole_update:
            whole_update = all(name != argument.name for name, _ in self.survey().by_data)
        if held.ever_read and not whole_update:  # what had a value on entry may keep it
            return blank
        return missing

    def _says_no_store(self, argument: Argument, first: int) -> str:
        does = "writes" if self._held(argument).touched else "reads or writes"
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
        (last_write,) = self._held(argument).writer[self._cells(argument, np.array([first]))]
        program, line = self.writes[last_write - 1] if last_write else (None, None)
        who = "no program writes" if program is None else f"{program_name(program)} leaves"
        a, b = (x.flatten()[first].item() for x in (ours, theirs))
        sentence = (
            f"{who} {argument.place(first)} = {a:.6g}, "
            f"but it is {b:.6g} when programs run {order}: "
            f"a GPU promises no order ({line or argument.name}; in all {len(apart)} elements)"
        )
        element = tuple(int(i) for i in np.unravel_index(first, argument.shape))
        return Finding("order", program, argument.name, first, line, sentence, (), element)

    def _apart(self, ours: torch.Tensor, theirs: torch.Tensor) -> np.ndarray:
        """Elements that differ. Sums by atomics may differ by rounding; all else must be equal."""
        if torch.equal(ours, theirs):
            return np.arange(0)
        if not ours.is_floating_point():
            return np.flatnonzero((ours != theirs).flatten().numpy())
        a, b = ours.double(), theirs.double()
        same = (a == b) | a.isnan() & b.isnan()
        if self.atomics and a.numel():
            largest = torch.nan_to_num(a.abs(), nan=0, posinf=0, neginf=0).max()
            same |= (a - b).abs() <= 64 * torch.finfo(ours.dtype).eps * largest
        return np.flatnonzero(~same.flatten().numpy())


def _footprints(launch: Launch) -> dict[int, Footprint]:
    """One for each storage."""
    found = {}
    arguments = list(launch.arguments.values())
    for memory in {argument.memory for argument in arguments}:
        mine = [argument for argument in arguments if argument.memory == memory]
        cell = min(argument.dtype.itemsize for argument in mine)
        found[memory] = Footprint(mine[0].copy.untyped_storage().nbytes(), cell)
    return found
