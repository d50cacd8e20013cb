"""What a real GPU would run: a kernel compiled for named GPUs on a machine that has none.

    report = compile_report(kernel, x, y, n, BLOCK=1024)      # the arguments of a launch; tensors may be on "meta"
    report                                                    # registers, spills, shared memory, occupancy: a table
    print(report.text("sm_90", "ptx"))                        # each line beside the source line that made it

Everything is read from the compiler's output; nothing is run and nothing is timed.
"""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

from seqlab.gpu.devices import MULTIPROCESSORS

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
STAGES = ("ttir", "ttgir", "ptx", "amdgcn")
TENSOR_CORES = re.compile(r"^\s*(?:@!?%\w+ )?(wgmma\.mma_async|tcgen05\.mma|mma\.sync|v_mfma)(?=[._ ])", re.M)
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


class Line(NamedTuple):
    """One line of a stage's text, and the line of the kernel's file that made it (None: none, or a library's)."""

    text: str
    source: int | None


class Occupancy(NamedTuple):
    """How many blocks fit on one multiprocessor at a time, the share of its warps they fill, and what stops the next.

    limits: the blocks that each resource alone would allow.
    """

    blocks: int
    share: float
    limit: str
    limits: dict[str, int]


@dataclass(frozen=True)
class Compiled:
    """One kernel compiled for one target. spills: bytes of stack a thread needs; shared: bytes of a block."""

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
    """What `compile_report` found, by target; printed, it is a table. `data()`: the same numbers as plain dicts."""

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

    def __repr__(self) -> str:
        head = ("target", "warps", "registers", "spilled B", "shared B", "occupancy", "limited by", "tensor cores")
        rows = [head]
        for c in self.targets.values():
            cores = ", ".join(f"{n} {name}" for name, n in c.tensor_cores.items()) or "none"
            numbers = (c.target, c.warps, c.registers, c.spills, c.shared, f"{c.occupancy.share:.0%}")
            rows.append((*map(str, numbers), c.occupancy.limit, cores))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in rows)
        return "\n".join((f"{self.kernel}, compiled, not run:", *lines))

    def text(self, target: str, stage: str) -> str:
        """A stage's text ("ttir", "ttgir", then "ptx" or AMD's "amdgcn"), each line after its source line's number."""
        stages = self[target].stages
        if stage not in stages:
            raise ValueError(f"{target} has no stage {stage!r}: choose one of {', '.join(stages)}")
        return "\n".join(f"{line.source or '':>5} | {line.text}" for line in stages[stage])

    def made_by(self, source: int, target: str, stage: str) -> list[str]:
        """The lines of a stage that line `source` of the kernel's file became."""
        return [line.text for line in self[target].stages[stage] if line.source == source]


def compile_report(kernel, *args, targets=TARGETS, num_warps=4, num_stages=3, **named) -> Report:
    """Compile a `@triton.jit` kernel for GPUs that need not be here.

    args and named: those of a launch, the constants (tl.constexpr) by name. A tensor may be on the "meta" device, where
    it has a shape and a type and takes no memory; "*bf16" stands for an aligned pointer. As in a launch, whole numbers
    divisible by 16, and 1, are compiled into the kernel. RuntimeError, in one sentence, without Triton or its tools.
    """
    unknown = [t for t in targets if t not in MULTIPROCESSORS]
    if unknown:
        raise ValueError(f"targets has {', '.join(map(repr, unknown))}: choose from {', '.join(MULTIPROCESSORS)}")
    kernel = _jit_function(kernel)
    specialised = _specialise(kernel, args, named)
    options = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": True}
    options |= {name: value for name, value in named.items() if name not in kernel.arg_names}
    done = {target: _compiled(kernel, target, specialised, options) for target in targets}
    source = dict(enumerate(Path(kernel.fn.__code__.co_filename).read_text().splitlines(), 1))
    return Report(kernel.fn.__name__, source, done)


def _jit_function(kernel):
    """The JITFunction inside autotuners and heuristics."""
    if find_spec("triton") is None:
        raise RuntimeError("compile_report needs Triton, which installs on Linux only: pip install triton")
    from triton.runtime.jit import JITFunction

    inner = kernel
    while not isinstance(inner, JITFunction) and hasattr(inner, "fn"):
        inner = inner.fn
    if not isinstance(inner, JITFunction):
        interpreted = "Interpreted" in type(kernel).__name__
        raise RuntimeError(
            "this kernel was decorated while TRITON_INTERPRET was set, so Triton cannot compile it: start without it"
            if interpreted
            else f"compile_report compiles a function decorated with @triton.jit, not a {type(kernel).__name__}"
        )
    return inner


def _specialise(kernel, args, named):
    """Types, constants and what is known to be divisible by 16, as a launch with these arguments would see them."""
    given = dict(zip(kernel.arg_names, args, strict=False)) | named
    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(kernel.params):
        if parameter.name not in given and not parameter.has_default:
            raise ValueError(f"{kernel.fn.__name__} needs {parameter.name}: pass it as in a launch")
        value = given.get(parameter.name, parameter.default)
        free = not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (free and type(value) is int and value == 1):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        signature[parameter.name], aligned = _type(value)
        if aligned and free:
            attributes[(i,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


def _type(value) -> tuple[str, bool]:
    """Triton's name for the type of an argument, and whether it is divisible by 16."""
    if isinstance(value, torch.Tensor):
        address = value.storage_offset() * value.element_size() if value.is_meta else value.data_ptr()
        return "*" + TYPES[value.dtype], address % 16 == 0
    if isinstance(value, str):
        return value, value.startswith("*")
    if isinstance(value, bool):
        return "i1", False
    if isinstance(value, int):
        return ("i32" if -(2**31) <= value < 2**31 else "i64"), value % 16 == 0
    return "fp32", False


def _compiled(kernel, target, specialised, options) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    cuda = target.startswith("sm_")
    chip = GPUTarget("cuda", int(target[3:]), 32) if cuda else GPUTarget("hip", target, 64)
    try:
        binary = triton.compile(ASTSource(kernel, *specialised), target=chip, options=options)
    except RuntimeError as error:
        if "ptxas" in str(error) and "find" in str(error).lower():
            raise RuntimeError(f"compiling for {target} needs ptxas, which Triton's Linux wheels contain") from error
        raise
    registers, spills = (_nvidia_usage if cuda else _amd_usage)(binary.asm)
    meta, assembly = binary.metadata, binary.asm["ptx" if cuda else "amdgcn"]
    held = occupancy(target, meta.num_warps, registers, meta.shared, getattr(meta, "tmem_size", 0) or 0)
    cores = dict(Counter(TENSOR_CORES.findall(assembly)))
    file = Path(kernel.fn.__code__.co_filename).name
    texts = {stage: binary.asm[stage] for stage in STAGES if stage in binary.asm}
    stages = {name: (_mlir_lines if name.startswith("tt") else _asm_lines)(text, file) for name, text in texts.items()}
    return Compiled(target, meta.num_warps, registers, spills, meta.shared, held, cores, stages)


def _nvidia_usage(asm) -> tuple[int, int]:
    """Registers and bytes of stack of a thread. A Triton kernel has no arrays of its own: what is there was spilled."""
    tool = Path(find_spec("triton").origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        raise RuntimeError("reading registers needs cuobjdump, which Triton's Linux wheels contain: reinstall triton")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return int(re.search(r"REG:(\d+)", said)[1]), int(re.search(r"STACK:(\d+)", said)[1])


def _amd_usage(asm) -> tuple[int, int]:
    text = asm["amdgcn"]
    return tuple(int(re.search(rf"^; {name}: (\d+)", text, re.M)[1]) for name in ("TotalNumVgprs", "ScratchSize"))


def occupancy(target: str, warps: int, registers: int, shared: int, tensor_memory: int = 0) -> Occupancy:
    """Blocks of `warps` warps that fit on one multiprocessor of `target` together.

    registers: of a thread. shared: bytes of a block. tensor_memory: columns of a block (sm_100).
    """
    sm, quarter = MULTIPROCESSORS[target], 4  # an SM and a compute unit have four schedulers, each with its registers
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
    reached = min(("warps", *limits), key=lambda name: limits[name])  # full: say warps before the others
    limit = reached if blocks else f"{reached}: does not fit"
    return Occupancy(blocks, blocks * warps / sm.warps, limit, limits)


def _up(n: int, unit: int) -> int:
    return max(1, -(-n // unit)) * unit


_LOCATION = re.compile(r"^(#loc\d*) = loc\((.*)\)$")
_MARK = re.compile(r" loc\((?:[^()]|\([^()]*\))*\)")
_PLACE = re.compile(r'"([^"]+)":(\d+):\d+')


def _mlir_lines(text: str, file: str) -> list[Line]:
    """TTIR and TTGIR: the locations stand at the end as a table, and refer to each other."""
    table = dict(m.groups() for m in map(_LOCATION.match, text.splitlines()) if m)

    def source(place: str) -> int | None:
        """The first line of our file in a location: of what was inlined the innermost, of names what they name."""
        for found in re.finditer(r'"[^"]+":\d+:\d+|#loc\d*', place):
            if (direct := _PLACE.fullmatch(found[0])) is None:
                if (line := source(table.get(found[0], ""))) is not None:
                    return line
            elif Path(direct[1]).name == file:
                return int(direct[2])
        return None

    lines = []
    for line in text.splitlines():
        if line.startswith("#loc"):
            continue
        places = _MARK.findall(line)
        lines.append(Line(_MARK.sub("", line), source(places[-1]) if places else None))
    return lines


def _asm_lines(text: str, file: str) -> list[Line]:
    """PTX and AMD's assembly: a directive .loc names the place of what follows, and where that was inlined."""
    lines, source, callers, inline = [], None, {}, False
    ours = {n for n, path in re.findall(r"\.file\s+(\d+)\s+(.*)", text) if path.rstrip('"').endswith(file)}
    for line in text.splitlines():
        if re.match(r"\s*\.section\s|\.Lfunc_end", line):
            break
        if place := _LOC.match(line):
            number, row, caller = place["file"], int(place["line"]), place["caller"]
            callers[number, row] = (caller, int(place["caller_line"])) if caller else _comment(line, ours, file)
            if not inline:  # inside inline assembly LLVM counts on, a line of the kernel for a line of assembly
                source = _ours((number, row), ours, callers)
        elif "inline asm" in line:
            inline = "begin" in line
        elif line.strip() and not re.match(r"\s*(\.file|\.cfi|//|;|\$L__tmp|\.Ltmp)", line):
            lines.append(Line(line.expandtabs(4).rstrip(), source))
    return lines


_LOC = re.compile(r"\s*\.loc\s+(?P<file>\d+)\s+(?P<line>\d+)(?:.*inlined_at (?P<caller>\d+) (?P<caller_line>\d+))?")


def _comment(line: str, ours: set[str], file: str) -> tuple[str, int] | None:
    """AMD's chain of callers, which stands in a comment: standard.py:314:12 @[ kernel.py:40:19 ]."""
    rows = re.findall(rf"@\[ {re.escape(file)}:(\d+):", line)
    return (next(iter(ours)), int(rows[0])) if rows and ours else None


def _ours(place, ours: set[str], callers: dict) -> int | None:
    """The line of our file at a place, or where the library function there was called from."""
    for _ in range(len(callers) + 1):
        if place is None:
            return None
        if place[0] in ours:
            return place[1] or None
        place = callers.get(place)
    return None
