"""What a real GPU would run: a kernel compiled for named GPUs on a machine that has none.

    # the arguments of a launch; tensors may be on "meta"
    report = compile_report(kernel, x, y, n, BLOCK=1024)
    report                               # a table of registers, spills, shared memory, occupancy
    print(report.text("sm_90", "ptx"))   # each line beside the source line that it came from

Everything is read from the compiler's output; nothing is run and nothing is timed.
"""

import inspect
import linecache
import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, NamedTuple

import torch

from seqlab.gpu import triton_private
from seqlab.gpu.devices import MULTIPROCESSORS
from seqlab.gpu.show import shown
from seqlab.gpu.stages import Line, assembly_of, lines_of

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
TENSOR_CORES = re.compile(
    r"^\s*(?:@!?%\w+ )?(wgmma\.mma_async|tcgen05\.mma|mma\.sync|v_mfma)(?=[._ ])", re.M
)
TYPES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.float8_e4m3fn: "fp8e4nv",
    torch.float8_e5m2: "fp8e5",
    torch.bool: "i1",
    torch.uint8: "u8",
    torch.int8: "i8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
}
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

    `data()` gives the same numbers as plain dicts.
    """

    kernel: str
    source: dict[int, str] = field(repr=False)
    targets: dict[str, Compiled]

    def __getitem__(self, target: str) -> Compiled:
        return self.targets[target]

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
        ]

    def rows(self) -> list[tuple[str, ...]]:
        """The table: its head, and a row for each target."""
        return [HEAD, *map(_row, self.targets.values())]

    def __repr__(self) -> str:
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"{self.kernel}, compiled, not run:"]
        for row in rows:
            cells = (cell.ljust(n) for cell, n in zip(row, widths, strict=True))
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str | None:
        """In a notebook: the table, and source, TTIR, TTGIR and assembly side by side."""
        page = shown("widgets.compiled", "compiled", self)
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
    num_warps: int = 4,
    num_stages: int = 3,
    **named,
) -> Report:
    """Compile a `@triton.jit` kernel for GPUs that this machine need not have.

    args and named: those of a launch, the constants (tl.constexpr) by name. A tensor may be on the
    "meta" device, where it has a shape and a type and takes no memory; "*bf16" is an aligned
    pointer. As in a launch, the value 1, and the fact that a whole number is divisible by 16, are
    compiled into the kernel. Raises RuntimeError, with one sentence, if Triton or its tools are
    missing.
    """
    if unknown := [t for t in targets if t not in MULTIPROCESSORS]:
        said, known = ", ".join(map(repr, unknown)), ", ".join(MULTIPROCESSORS)
        raise ValueError(f"targets has {said}: choose from {known}")
    kernel, function, parameters = triton_private.compilable(kernel)
    specialised = _specialise(function.__name__, parameters, args, named)
    known = {parameter.name for parameter in parameters}
    options = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": True}
    options |= {name: value for name, value in named.items() if name not in known}

    def compiled(target: str) -> Compiled:
        return _compiled(kernel, target, specialised, options)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        done = dict(zip(targets, threads.map(compiled, targets), strict=True))
    return Report(function.__name__, _source(function), done)


def _source(function: FunctionType) -> dict[int, str]:
    """The lines of the kernel's file, or notebook cell, by their numbers."""
    file = function.__code__.co_filename
    return {n: line.rstrip() for n, line in enumerate(linecache.getlines(file), 1)}


class _Specialised(NamedTuple):
    """What a launch tells the compiler about its arguments, in Triton's own terms."""

    signature: dict[str, str]
    constants: dict[str, Any]
    attributes: dict[tuple[int], list]


def _specialise(
    kernel: str, parameters: list[triton_private.Parameter], args: tuple, named: dict
) -> _Specialised:
    """Types, constants, and which values are divisible by 16, as a launch would see them."""
    given = dict(zip((p.name for p in parameters), args, strict=False)) | named
    found = _Specialised({}, {}, {})
    for i, parameter in enumerate(parameters):
        value = given.get(parameter.name, parameter.default)
        if value is inspect.Parameter.empty:
            raise ValueError(f"{kernel} needs {parameter.name}: pass it as in a launch")
        is_one = parameter.specialised and type(value) is int and value == 1
        if parameter.constant or value is None or is_one:
            found.signature[parameter.name] = "constexpr"
            found.constants[parameter.name] = value
            continue
        found.signature[parameter.name], aligned = _type(value)
        if aligned and parameter.specialised:
            found.attributes[(i,)] = [["tt.divisibility", 16]]
    return found


def _type(value: Any) -> tuple[str, bool]:
    """Triton's name for the type of an argument, and whether its value is divisible by 16."""
    if isinstance(value, torch.Tensor):
        if value.is_meta:
            address = int(value.storage_offset()) * value.element_size()
        else:
            address = value.data_ptr()
        return "*" + TYPES[value.dtype], address % 16 == 0
    if isinstance(value, str):
        return value, value.startswith("*")
    if isinstance(value, bool):
        return "i1", False
    if isinstance(value, int):
        return ("i32" if -(2**31) <= value < 2**31 else "i64"), value % 16 == 0
    return "fp32", False


def _compiled(kernel: Any, target: str, specialised: _Specialised, options: dict) -> Compiled:
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
