"""What a real GPU would run: a kernel compiled for named GPUs on a machine that has none.

    # the arguments of a launch; tensors may be on "meta"
    report = compile_report(kernel, x, y, n, BLOCK=1024)
    report                               # a table of registers, spills, shared memory, occupancy
    print(report.text("sm_90", "ptx"))   # each line beside the source line that it came from

Everything is read from the compiler's output; nothing is run and nothing is timed.
"""

import linecache
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple

from seqlab.gpu import triton_private
from seqlab.gpu.devices import MULTIPROCESSORS
from seqlab.gpu.events import LabError
from seqlab.gpu.refusals import Refused, overheard, words
from seqlab.gpu.show import shown
from seqlab.gpu.signature import Specialised, specialise
from seqlab.gpu.stages import Line, assembly_of, lines_of

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
TENSOR_CORES = re.compile(
    r"^\s*(?:@!?%\w+ )?(wgmma\.mma_async|tcgen05\.mma|mma\.sync|v_mfma)(?=[._ ])", re.M
)
HEAD = (
    "target",
    "warps",
    "registers",
    "spilled B",
    "shared B",
    "occupancy",
    "limited by",
    "tensor cores",
)


class Occupancy(NamedTuple):
    """How many blocks fit on one multiprocessor at a time.

    share: the part of its warps that they fill. limit: the resource that leaves no room for another
    block. limits: the number of blocks that each resource alone would allow.
    """

    blocks: int
    share: float
    limit: str
    limits: dict[str, int]


@dataclass(frozen=True)
class Compiled:
    """One kernel compiled for one target.

    spills: bytes of stack that a thread needs. shared: bytes that a block needs.
    """

    target: str
    warps: int
    registers: int
    spills: int
    shared: int
    occupancy: Occupancy
    tensor_cores: dict[str, int]
    stages: dict[str, list[Line]] = field(repr=False)


@dataclass(frozen=True)
class Report:
    """What `compile_report` found for each target, printed as a table.

    failed: why the kernel does not compile, for each target that refused it. configuration: that of
    an autotuner. `data()` gives the same numbers as plain dicts.
    """

    kernel: str
    source: dict[int, str] = field(repr=False)
    targets: dict[str, Compiled]
    failed: dict[str, str] = field(default_factory=dict)
    configuration: str = ""

    def __getitem__(self, target: str) -> Compiled:
        if target in self.failed:
            raise LabError(f"{self.kernel} does not compile for {target}: {self.failed[target]}")
        return self.targets[target]

    @property
    def title(self) -> str:
        tuned = f", with {self.configuration}" if self.configuration else ""
        return f"compiled, not run{tuned}"

    def data(self) -> list[dict]:
        return [
            {
                "kernel": self.kernel,
                "target": c.target,
                "warps": c.warps,
                "registers": c.registers,
                "spills": c.spills,
                "shared": c.shared,
                "blocks": c.occupancy.blocks,
                "occupancy": c.occupancy.share,
                "limit": c.occupancy.limit,
                "tensor_cores": c.tensor_cores,
            }
            for c in self.targets.values()
        ] + [
            {"kernel": self.kernel, "target": target, "error": said}
            for target, said in self.failed.items()
        ]

    def rows(self) -> list[tuple[str, ...]]:
        """The table: its head, and a row for each target that compiled."""
        return [HEAD, *map(_row, self.targets.values())]

    def __repr__(self) -> str:
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"{self.kernel}, {self.title}:"]
        for row in rows:
            cells = (cell.ljust(n) for cell, n in zip(row, widths, strict=True))
            lines.append("  ".join(cells).rstrip())
        for target, said in self.failed.items():
            lines.append(f"{target.ljust(widths[0])}  does not compile: {said}")
        return "\n".join(lines)

    def _repr_html_(self) -> str | None:
        """In a notebook: the table, and source, TTIR, TTGIR and assembly side by side."""
        page = shown("widgets.compiled", "compiled", self) if self.targets else None
        return page and page.data

    def text(self, target: str, stage: str) -> str:
        """The text of a stage, each line after the number of the source line it came from.

        Stages: "ttir", "ttgir", then "ptx" or AMD's "amdgcn".
        """
        stages = self[target].stages
        if stage not in stages:
            raise ValueError(f"{target} has no stage {stage!r}: choose one of {', '.join(stages)}")
        return "\n".join(f"{line.source or '':>5} | {line.text}" for line in stages[stage])

    def made_by(self, source: int, target: str, stage: str) -> list[str]:
        """The lines of a stage that came from line `source` of the kernel's file."""
        return [line.text for line in self[target].stages[stage] if line.source == source]


def compile_report(
    kernel,
    *args,
    targets: Sequence[str] = TARGETS,
    num_warps: int | None = None,
    num_stages: int | None = None,
    **named,
) -> Report:
    """Compile a `@triton.jit` kernel for GPUs that this machine need not have.

    args and named: those of a launch, the constants (tl.constexpr) by name. A tensor may be on the
    "meta" device, where it has a shape and a type and takes no memory; "*bf16" is an aligned
    pointer. As in a launch, the value 1, and the fact that a whole number is divisible by 16, are
    compiled into the kernel. An autotuned kernel gets its first configuration, and heuristics their
    values. A target that refuses the kernel is a row that says why. Raises RuntimeError, with one
    sentence, if Triton or its tools are missing.
    """
    if unknown := [t for t in targets if t not in MULTIPROCESSORS]:
        said, known = ", ".join(map(repr, unknown)), ", ".join(MULTIPROCESSORS)
        raise ValueError(f"targets has {said}: choose from {known}")
    tuned = kernel
    kernel, function, parameters = triton_private.compilable(kernel)
    wrapped = triton_private.unwrapped(tuned)
    named = wrapped.completed(args, named)
    names = [parameter.name for parameter in parameters]
    given = dict(zip(names, args, strict=False)) | named
    specialised = specialise(function.__name__, parameters, given)
    chosen = {"num_warps": num_warps, "num_stages": num_stages}
    options = {"num_warps": 4, "num_stages": 3, "enable_fp_fusion": True}
    options |= wrapped.configuration.options if wrapped.configuration else {}
    options |= {name: value for name, value in chosen.items() if value is not None}
    options |= {name: value for name, value in named.items() if name not in names}
    done, failed = _for_all(targets, lambda t: _compiled(kernel, t, specialised, options))
    tuned = str(wrapped.configuration or "")
    return Report(function.__name__, _source(function), done, failed, tuned)


def _for_all(
    targets: Sequence[str], compiled: Callable[[str], Compiled]
) -> tuple[dict[str, Compiled], dict[str, str]]:
    """What came out for each target, and why nothing came out for the others."""

    def attempt(target: str) -> Compiled | Exception:
        try:
            return compiled(target)
        except triton_private.NotCompiled as error:
            return error

    with overheard() as said, ThreadPoolExecutor(os.cpu_count()) as threads:
        found = dict(zip(targets, threads.map(attempt, targets), strict=True))
    done = {target: c for target, c in found.items() if isinstance(c, Compiled)}
    failed = {}
    for target, error in found.items():
        if isinstance(error, triton_private.NotCompiled):
            failed[target] = _why(error, partial(attempt, target))
    if not failed:
        print(said.text, end="")
    return done, failed


def _why(error: Exception, again: Callable[[], Any]) -> str:
    """What the compiler said; it is run once more alone, to know what it printed."""
    if isinstance(error.__cause__, Refused):
        return str(error.__cause__)
    with overheard() as said:
        again()
    return words(error, said.text)


def _source(function: FunctionType) -> dict[int, str]:
    """The lines of the kernel's file, or notebook cell, by their numbers."""
    file = function.__code__.co_filename
    return {n: line.rstrip() for n, line in enumerate(linecache.getlines(file), 1)}


def _compiled(kernel: Any, target: str, specialised: Specialised, options: dict) -> Compiled:
    binary = triton_private.compiled(kernel, target, *specialised, options)
    return Compiled(
        target=target,
        warps=binary.warps,
        registers=binary.registers,
        spills=binary.spills,
        shared=binary.shared,
        occupancy=occupancy(
            target, binary.warps, binary.registers, binary.shared, binary.tensor_memory
        ),
        tensor_cores=dict(Counter(TENSOR_CORES.findall(binary.stages[assembly_of(target)]))),
        stages=lines_of(binary.stages),
    )


def occupancy(
    target: str, warps: int, registers: int, shared: int, tensor_memory: int = 0
) -> Occupancy:
    """The blocks of `warps` warps that fit together on one multiprocessor of `target`.

    registers: of a thread. shared: bytes of a block. tensor_memory: columns of a block (sm_100).
    """
    sm = MULTIPROCESSORS[target]
    schedulers = 4  # of an SM, and of a compute unit; each has registers of its own
    if sm.warp_size == 32:
        warp_registers = _up(registers * sm.warp_size, sm.registers_unit)
        warps_each = sm.registers // schedulers // warp_registers
    else:
        warps_each = sm.registers // _up(registers, sm.registers_unit)
    limits = {
        "registers": warps_each * schedulers // warps,
        "shared memory": sm.shared // max(1, _up(shared + sm.shared_reserved, sm.shared_unit)),
        "warps": sm.warps // warps,
        "blocks": sm.blocks,
    }
    if shared > sm.shared_per_block:
        limits["shared memory"] = 0
    if tensor_memory:
        limits["tensor memory"] = sm.tensor_memory // tensor_memory
    blocks = min(limits.values())
    # A full multiprocessor is limited by its warps, whatever else is also used up.
    reached = min(("warps", *limits), key=lambda name: limits[name])
    limit = reached if blocks else f"{reached}: does not fit"
    return Occupancy(blocks, blocks * warps / sm.warps, limit, limits)


def _row(c: Compiled) -> tuple[str, ...]:
    numbers = c.target, c.warps, c.registers, c.spills, c.shared
    cores = ", ".join(f"{n} {name}" for name, n in c.tensor_cores.items()) or "none"
    return (*map(str, numbers), f"{c.occupancy.share:.0%}", c.occupancy.limit, cores)


def _up(n: int, unit: int) -> int:
    return max(1, -(-n // unit)) * unit
