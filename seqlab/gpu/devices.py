"""Named GPUs as data: what their makers publish, nothing measured.

`DEVICES` holds peaks, for a roofline. `MULTIPROCESSORS` holds what the blocks that run on one SM
(AMD: compute unit) share, for occupancy. Peaks are dense: data sheets print tensor-core numbers
"with sparsity", which are twice as large.

`source` names the maker's document, which was not at hand. `checked` says which numbers were found
in November 2026 on public pages that quote it. If it says that a number was not found, look that
number up before you rely on it.
"""

from typing import NamedTuple


class Device(NamedTuple):
    """Published peaks. flops: dense operations a second by type, on matrix units except "fp32"."""

    name: str
    target: str
    bytes_per_second: float
    flops: dict[str, float]
    source: str
    checked: str


CHECKED = {
    "T4": "peaks at geektopia.es (the announcement), bandwidth at sysrqmts.com",
    "L4": (
        "bandwidth and tf32 (120 with sparsity) at store.sourcecode.com, fp32 at fpsbench.com; "
        "half not found"
    ),
    "RTX 4090": "all at waredb.com",
    "A100": (
        "peaks at glennklockwood.com, which cites the data sheet, bandwidth at thundercompute.com"
    ),
    "H100": (
        "peaks at glennklockwood.com; all, rounded and with sparsity, at archive-lib.hpctech.co.jp"
    ),
    "H200": "bandwidth, and that it computes as the H100 does, at aiwiki.ai",
    "B200": (
        "peaks (tensor cores with sparsity) at zdszero.github.io, "
        "64 TB/s for 8 at brent-newsom-nvidia.github.io"
    ),
    "MI300X": (
        "bandwidth at fridayswithfaraday.com, half (2615 with sparsity) at codesota.com; "
        "tf32, fp32 not found"
    ),
}


def _device(
    name: str,
    target: str,
    gigabytes: float | int,
    *,
    half: float | int,
    fp32: float | int,
    source: str,
    tf32: float | int | None = None,
    bf16: bool = True,
) -> Device:
    """gigabytes: a second. half (bf16 and fp16), fp32, tf32: teraflops."""
    teraflops = {"fp16": half, "bf16": half if bf16 else None, "tf32": tf32, "fp32": fp32}
    flops = {dtype: peak * 1e12 for dtype, peak in teraflops.items() if peak is not None}
    return Device(name, target, gigabytes * 1e9, flops, source, CHECKED[name])


_ALL = (
    _device(
        "T4", "sm_75", 320, half=65, fp32=8.1, bf16=False,
        source="NVIDIA T4 product page; Turing white paper",
    ),
    _device(
        "L4", "sm_89", 300, half=121, tf32=60, fp32=30.3,
        source="NVIDIA L4 data sheet (tensor peaks halved)",
    ),
    _device(
        "RTX 4090", "sm_89", 1008, half=165.2, tf32=82.6, fp32=82.6,
        source="NVIDIA Ada white paper, table 2",
    ),
    _device(
        "A100", "sm_80", 2039, half=312, tf32=156, fp32=19.5,
        source="NVIDIA A100 80GB SXM data sheet",
    ),
    _device(
        "H100", "sm_90", 3350, half=989.4, tf32=494.7, fp32=66.9,
        source="NVIDIA H100 SXM5 white paper",
    ),
    _device(
        "H200", "sm_90", 4800, half=989.4, tf32=494.7, fp32=66.9,
        source="NVIDIA H200 SXM data sheet",
    ),
    _device(
        "B200", "sm_100", 8000, half=2250, tf32=1100, fp32=75,
        source="NVIDIA HGX B200 and (bandwidth) DGX B200",
    ),
    _device(
        "MI300X", "gfx942", 5300, half=1307.4, tf32=653.7, fp32=163.4,
        source="AMD MI300X data sheet",
    ),
)  # fmt: skip
DEVICES = {device.name: device for device in _ALL}


class Multiprocessor(NamedTuple):
    """What the blocks on one SM share, in bytes; `*_unit` is the step in which it is allocated.

    registers: 32-bit registers of an SM on NVIDIA; on AMD, per lane of each of a compute unit's
    four SIMDs.
    """

    warp_size: int
    warps: int
    blocks: int
    registers: int
    registers_unit: int
    shared: int
    shared_per_block: int
    shared_reserved: int
    shared_unit: int
    tensor_memory: int = 0


def _nvidia(
    kilobytes: int, tensor_memory: int = 0, warps: int = 64, blocks: int = 32
) -> Multiprocessor:
    """CUDA Programming Guide, compute capabilities: "technical specifications" and "memory"."""
    return Multiprocessor(
        warp_size=32,
        warps=warps,
        blocks=blocks,
        registers=65536,
        registers_unit=256,
        shared=kilobytes * 1024,
        shared_per_block=(kilobytes - 1) * 1024,
        shared_reserved=1024,
        shared_unit=128,
        tensor_memory=tensor_memory,
    )


MULTIPROCESSORS = {
    "sm_80": _nvidia(164),
    "sm_86": _nvidia(100, warps=48, blocks=16),
    "sm_89": _nvidia(100, warps=48, blocks=24),
    "sm_90": _nvidia(228),
    "sm_100": _nvidia(228, tensor_memory=512),
    # LLVM, "User Guide for AMDGPU Backend" (gfx942: 512 vector registers in steps of 8, 8 waves on
    # each of 4 SIMDs, 16 barriers), and AMD's "CDNA 3 Instruction Set Architecture" (64 KiB of
    # local data share in steps of 512 bytes)
    "gfx942": Multiprocessor(
        warp_size=64,
        warps=32,
        blocks=16,
        registers=512,
        registers_unit=8,
        shared=65536,
        shared_per_block=65536,
        shared_reserved=0,
        shared_unit=512,
    ),
}
