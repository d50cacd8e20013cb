"""The floor under a kernel's time: its bytes at the device's bandwidth, or its flops at the
device's peak.

    time ≥ max(bytes / bandwidth, flops / peak)

Whichever is larger is what the kernel is bound by. A floor is no forecast: a real kernel takes
longer.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from seqlab.gpu.devices import DEVICES, Device


@dataclass(frozen=True)
class Floor:
    """What `roofline` predicts for one device. bytes and flops are the kernel's, counted; seconds
    are never below 0.
    """

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
        """Flops a byte of this kernel."""
        return self.flops / self.bytes if self.bytes else float("inf")

    @property
    def ridge(self) -> float:
        """The intensity from which the device computes longer than it moves."""
        return self.device.flops[self.dtype] / self.device.bytes_per_second

    @property
    def flops_per_second(self) -> float:
        """The most that this kernel can reach: the roof above its intensity."""
        return self.flops / self.seconds if self.seconds else 0.0

    def fraction(self, measured: float) -> float:
        """Share of the roof that a run of so many seconds reached. 1 is the floor itself; more is a
        wrong count.
        """
        return self.seconds / measured

    def __repr__(self) -> str:
        return (
            f"{self.device.name}, {self.dtype}: at least {_time(self.seconds)} ({self.bound}-bound: "
            f"{_time(self.memory_seconds)} to move, {_time(self.compute_seconds)} to compute)"
        )


class Floors(tuple):
    """Floors of one kernel on several devices; printed, one a line."""

    def __repr__(self) -> str:
        head = f"{self[0].bytes:.3g} bytes, {self[0].flops:.3g} flops, {self[0].intensity:.3g} flops a byte"
        return "\n".join((head, *map(repr, self)))


def roofline(
    bytes: float, flops: float, device: str | Iterable[str] = "H100", dtype: str = "bf16"
) -> Floor | Floors:
    """The least time a kernel of so many bytes and flops can take, on a device of `DEVICES` or on
    each of several.

    bytes: read and written in the device's memory. dtype: of the multiplications: "bf16", "fp16",
    "tf32" or "fp32".
    """
    if bytes < 0 or flops < 0:
        raise ValueError(f"bytes is {bytes}, flops is {flops}: neither can be negative")
    if not isinstance(device, str):
        return Floors(roofline(bytes, flops, name, dtype) for name in device)
    if device not in DEVICES:
        raise ValueError(f"device is {device!r}: choose one of {', '.join(DEVICES)}")
    if dtype not in DEVICES[device].flops:
        raise ValueError(
            f"dtype is {dtype!r}: {device} has a published peak for {', '.join(DEVICES[device].flops)}"
        )
    return Floor(bytes, flops, DEVICES[device], dtype)


def _time(seconds: float) -> str:
    scale, unit = next(((s, u) for s, u in ((1, "s"), (1e-3, "ms")) if seconds >= s), (1e-6, "µs"))
    return f"{seconds / scale:.3g} {unit}"
