"""The floor under a kernel's time, from its bytes, its flops and the device's published peaks.

    time ≥ max(bytes / bandwidth, flops / peak)

The larger of the two bounds the kernel. A floor is not a forecast: real kernels take longer.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import overload

from seqlab.gpu.devices import DEVICES, Device


@dataclass(frozen=True)
class Floor:
    """The floor on one device for a kernel with these bytes and flops."""

    bytes: float
    flops: float
    device: Device
    dtype: str

    @property
    def memory_seconds(self) -> float:
        return self.bytes / self.device.bytes_per_second

    @property
    def compute_seconds(self) -> float:
        return self.flops / self.device.flops[self.dtype]

    @property
    def seconds(self) -> float:
        return max(self.memory_seconds, self.compute_seconds)

    @property
    def bound(self) -> str:
        """What sets the floor: "memory" or "compute"."""
        return "memory" if self.memory_seconds >= self.compute_seconds else "compute"

    @property
    def intensity(self) -> float:
        """This kernel's flops for each byte it moves."""
        return self.flops / self.bytes if self.bytes else float("inf")

    @property
    def ridge(self) -> float:
        """The intensity above which the device is bound by compute."""
        return self.device.flops[self.dtype] / self.device.bytes_per_second

    @property
    def flops_per_second(self) -> float:
        """The highest rate that this kernel can reach: the roof at its intensity."""
        return self.flops / self.seconds if self.seconds else 0.0

    def fraction(self, measured: float) -> float:
        """The share of the roof reached in `measured` seconds. Above 1, a count is wrong."""
        return self.seconds / measured

    def __repr__(self) -> str:
        return (
            f"{self.device.name}, {self.dtype}: at least {_time(self.seconds)} "
            f"({self.bound}-bound: {_time(self.memory_seconds)} to move, "
            f"{_time(self.compute_seconds)} to compute)"
        )


class Floors(tuple):
    """Floors of one kernel on several devices, printed one a line."""

    def __repr__(self) -> str:
        kernel = self[0]
        head = (
            f"{kernel.bytes:.3g} bytes, {kernel.flops:.3g} flops, "
            f"{kernel.intensity:.3g} flops a byte"
        )
        return "\n".join((head, *map(repr, self)))


@overload
def roofline(bytes: float, flops: float, device: str = "H100", dtype: str = "bf16") -> Floor: ...
@overload
def roofline(bytes: float, flops: float, device: Iterable[str], dtype: str = "bf16") -> Floors: ...
def roofline(
    bytes: float, flops: float, device: str | Iterable[str] = "H100", dtype: str = "bf16"
) -> Floor | Floors:
    """The least time a kernel can take on a device of `DEVICES`, or on each of several.

    bytes: read from and written to the device's memory. dtype: that of the multiplications, "bf16",
    "fp16", "tf32" or "fp32". Raises ValueError for an unknown device and for a type whose peak is
    not published.
    """
    if bytes < 0 or flops < 0:
        raise ValueError(f"bytes is {bytes}, flops is {flops}: neither can be negative")
    if not isinstance(device, str):
        return Floors(roofline(bytes, flops, name, dtype) for name in device)
    if device not in DEVICES:
        raise ValueError(f"device is {device!r}: choose one of {', '.join(DEVICES)}")
    if dtype not in DEVICES[device].flops:
        known = ", ".join(DEVICES[device].flops)
        raise ValueError(f"dtype is {dtype!r}: {device} has a published peak for {known}")
    return Floor(bytes, flops, DEVICES[device], dtype)


def _time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.3g} s"
    if seconds >= 1e-3:
        return f"{1e3 * seconds:.3g} ms"
    return f"{1e6 * seconds:.3g} µs"
