"""How well the lanes of each access share what the memory moves.

A GPU moves memory in sectors of 32 bytes. Lanes next to each other that ask for elements next to
each other share sectors; lanes that are a row apart each bring a sector of their own, most of which
nobody asked for.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from seqlab.gpu.events import Access

SECTOR = 32
"""Bytes."""


@dataclass(frozen=True)
class LineOfAccesses:
    """What one source line asks of one tensor, over all programs.

    asked: bytes of distinct elements, summed over its accesses. moved: bytes of the sectors that
    hold them. (An atomic counts once.)
    """

    tensor: str
    kind: str
    line: str
    accesses: int
    asked: int
    moved: int

    @property
    def share(self) -> float:
        """asked / moved: 1 if every byte of each sector was asked for."""
        return self.asked / self.moved if self.moved else 1.0


class Coalescing(tuple):
    """A LineOfAccesses for each line and tensor, in the order of the run; printed as a table."""

    def __repr__(self) -> str:
        lines = []
        for row in self:
            share = f"{row.share:4.0%} of {row.moved:,} bytes in sectors"
            lines.append(f"{share}: {row.kind} {row.tensor}, {row.line}")
        return "\n".join(lines) or "no accesses"


def coalescing(accesses: Iterable[Access]) -> Coalescing:
    """Bytes asked for against bytes of the sectors touched, for each line and tensor."""
    found: dict[tuple, list[int]] = {}
    for access in accesses:
        key = access.argument.name, access.kind, str(access.line)
        count = found.setdefault(key, [0, 0, 0])
        elements = np.unique(access.elements)
        count[0] += 1
        count[1] += len(elements) * access.width
        count[2] += SECTOR * len(sectors(access, elements))
    return Coalescing(LineOfAccesses(*key, *count) for key, count in found.items())


def sectors(access: Access, elements: np.ndarray) -> np.ndarray:
    """The numbers of the sectors that hold these elements, counted from the storage's start."""
    first = access.argument.cells(elements)
    last = first + access.argument.dtype.itemsize - 1
    return np.unique(np.concatenate([first // SECTOR, last // SECTOR]))
