"""What a real GPU would run: a kernel compiled for named GPUs on a machine that has none.

    report = compile_report(kernel, x, y, n, BLOCK=1024)      # the arguments of a launch; tensors may be on "meta"
    report                                                    # registers, spills, shared memory, occupancy: a table
    print(report.text("sm_90", "ptx"))                        # each line beside the source line that made it

Everything is read from the compiler's output; nothing is run and nothing is timed.
"""

import inspect
import linecache
import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

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


class Occupancy(NamedTuple):
    """How many blocks fit on one multiprocessor at a time, the share of its warps they fill, and
    what stops the next.

    limits: the blocks that each resource alone would allow.
    """

    blocks: int
    share: float
    limit: str
    limits: dict[str, int]


@dataclass(frozen=True)
class Compiled:
    """One kernel compiled for one target. spills: bytes of stack a thread needs; shared: bytes of a
    block.
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
    """What `compile_report` found, by target; printed, it is a table. `data()`: the same numbers as
    plain dicts.
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
        head = (
            "target",
            "warps",
            "registers",
            "spilled B",
            "shared B",
            "occupancy",
            "limited by",
            "tensor cores",
        )
        rows = [head]
        for c in self.targets.values():
            cores = ", ".join(f"{n} {name}" for name, n in c.tensor_cores.items()) or "none"
            numbers = (
                c.target,
                c.warps,
                c.registers,
                c.spills,
                c.shared,
                f"{c.occupancy.share:.0%}",
            )
            rows.append((*map(str, numbers), c.occupancy.limit, cores))
        return rows

    def __repr__(self) -> str:
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = (
            "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )
        return "\n".join((f"{self.kernel}, compiled, not run:", *lines))

    def _repr_html_(self) -> str | None:
        """In a notebook: the table, and source, TTIR, TTGIR and assembly side by side."""
        page = shown("widgets.compiled", "compiled", self)
        return page and page.data

    def text(self, target: str, stage: str) -> str:
        """A stage's text ("ttir", "ttgir", then "ptx" or AMD's "amdgcn"), each line after its
        source line's number.
        """
        stages = self[target].stages
        if stage not in stages:
            raise ValueError(f"{target} has no stage {stage!r}: choose one of {', '.join(stages)}")
        return "\n".join(f"{line.source or '':>5} | {line.text}" for line in stages[stage])

    def made_by(self, source: int, target: str, stage: str) -> list[str]:
        """The lines of a stage that line `source` of the kernel's file became."""
        return [line.text for line in self[target].stages[stage] if line.source == source]


def compile_report(kernel, *args, targets=TARGETS, num_warps=4, num_stages=3, **named) -> Report:
    """Compile a `@triton.jit` kernel for GPUs that need not be here.

    args and named: those of a launch, the constants (tl.constexpr) by name. A tensor may be on the
    "meta" device, where it has a shape and a type and takes no memory; "*bf16" stands for an
    aligned pointer. As in a launch, whole numbers divisible by 16, and 1, are compiled into the
    kernel. RuntimeError, in one sentence, without Triton or its tools.
    """
    unknown = [t for t in targets if t not in MULTIPROCESSORS]
    if unknown:
        raise ValueError(
            f"targets has {', '.join(map(repr, unknown))}: choose from {', '.join(MULTIPROCESSORS)}"
        )
    kernel, function, parameters = triton_private.compilable(kernel)
    specialised = _specialise(function.__name__, parameters, args, named)
    options = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": True}
    options |= {
        name: value for name, value in named.items() if name not in {p.name for p in parameters}
    }
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        done = threads.map(lambda target: _compiled(kernel, target, specialised, options), targets)
        return Report(function.__name__, _source(function), dict(zip(targets, done, strict=True)))


def _source(function) -> dict[int, str]:
    """The lines of the kernel's file, or notebook cell, by their numbers."""
    file = function.__code__.co_filename
    return {n: line.rstrip() for n, line in enumerate(linecache.getlines(file), 1)}


def _specialise(kernel: str, parameters, args, named):
    """Types, constants and what is known to be divisible by 16, as a launch with these arguments
    would see them.
    """
    given = dict(zip((p.name for p in parameters), args, strict=False)) | named
    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(parameters):
        value = given.get(parameter.name, parameter.default)
        if value is inspect.Parameter.empty:
            raise ValueError(f"{kernel} needs {parameter.name}: pass it as in a launch")
        if (
            parameter.constant
            or value is None
            or (parameter.specialised and type(value) is int and value == 1)
        ):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        signature[parameter.name], aligned = _type(value)
        if aligned and parameter.specialised:
            attributes[(i,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


def _type(value) -> tuple[str, bool]:
    """Triton's name for the type of an argument, and whether it is divisible by 16."""
    if isinstance(value, torch.Tensor):
        address = (
            value.storage_offset() * value.element_size() if value.is_meta else value.data_ptr()
        )
        return "*" + TYPES[value.dtype], address % 16 == 0
    if isinstance(value, str):
        return value, value.startswith("*")
    if isinstance(value, bool):
        return "i1", False
    if isinstance(value, int):
        return ("i32" if -(2**31) <= value < 2**31 else "i64"), value % 16 == 0
    return "fp32", False


def _compiled(kernel, target, specialised, options) -> Compiled:
    binary = triton_private.compiled(kernel, target, *specialised, options)
    held = occupancy(target, binary.warps, binary.registers, binary.shared, binary.tensor_memory)
    cores = dict(Counter(TENSOR_CORES.findall(binary.stages[assembly_of(target)])))
    numbers = binary.warps, binary.registers, binary.spills, binary.shared
    return Compiled(target, *numbers, held, cores, lines_of(binary.stages))


def occupancy(
    target: str, warps: int, registers: int, shared: int, tensor_memory: int = 0
) -> Occupancy:
    """Blocks of `warps` warps that fit on one multiprocessor of `target` together.

    registers: of a thread. shared: bytes of a block. tensor_memory: columns of a block (sm_100).
    """
    sm, quarter = (
        MULTIPROCESSORS[target],
        4,
    )  # an SM and a compute unit have four schedulers, each with its registers
    if sm.warp_size == 32:
        by_registers = sm.registers // quarter // _up(registers * sm.warp_size, sm.registers_unit)
    else:
        by_registers = sm.registers // _up(registers, sm.registers_unit)
    limits = {
        "registers": by_registers * quarter // warps,
        "shared memory": sm.shared // max(1, _up(shared + sm.shared_reserved, sm.shared_unit)),
        "warps": sm.warps // warps,
        "blocks": sm.blocks,
    }
    if shared > sm.shared_per_block:
        limits["shared memory"] = 0
    if tensor_memory:
        limits["tensor memory"] = sm.tensor_memory // tensor_memory
    blocks = min(limits.values())
    reached = min(
        ("warps", *limits), key=lambda name: limits[name]
    )  # full: say warps before the others
    limit = reached if blocks else f"{reached}: does not fit"
    return Occupancy(blocks, blocks * warps / sm.warps, limit, limits)


def _up(n: int, unit: int) -> int:
    return max(1, -(-n // unit)) * unit
