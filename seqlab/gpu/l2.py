"""How many bytes a cache would leave to fetch from memory, simulated from a trace.

    seen = trace(matmul, (256,), a, b, c, …)
    from_memory(seen, capacity=128 * 1024, concurrent=16)

The model: one cache of whole lines, the least recently used line leaves first, `concurrent`
programs run in step with one another, and the next ones start when these have ended. What replaces
what in a GPU's L2 is not published, and programs do not run in step: trust differences between two
orders of one kernel, not the numbers.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

import numpy as np

from seqlab.gpu.events import Access
from seqlab.gpu.trace import Trace

LINE = 128
"""Bytes of a cache line."""


def from_memory(trace: Trace, capacity: int, concurrent: int, line: int = LINE) -> int:
    """Bytes that the loads of a trace fetch past a cache of `capacity` bytes."""
    return line * misses(_in_step(trace, concurrent, line), capacity // line)


def misses(lines: Iterable[int], room: int) -> int:
    """How many of these lines are not among the `room` that were used last."""
    kept: OrderedDict[int, None] = OrderedDict()
    missed = 0
    for line in lines:
        if line in kept:
            kept.move_to_end(line)
            continue
        missed += 1
        kept[line] = None
        if len(kept) > room:
            kept.popitem(last=False)
    return missed


def sectors(trace: Trace, tensor: str) -> tuple[int, int]:
    """Bytes that the accesses to one tensor ask for, and bytes of the sectors that they touch.

    What one access asks for twice, or two accesses of one sector, counts once for each access.
    """
    lines = [line for line in trace.coalescing if line.tensor == tensor]
    return sum(line.asked for line in lines), sum(line.moved for line in lines)


def _in_step(trace: Trace, concurrent: int, line: int) -> Iterator[int]:
    """The lines in the order in which they are asked for."""
    loads: dict[tuple[int, ...], list[Sequence[int]]] = {p: [] for p in trace.programs}
    for access in trace.accesses:
        if access.kind == "load":
            loads[access.program].append(_lines(access, line).tolist())
    programs = list(loads.values())
    for first in range(0, len(programs), concurrent):
        for step in zip_longest(*programs[first : first + concurrent], fillvalue=()):
            for asked in step:
                yield from asked


def _lines(access: Access, line: int) -> np.ndarray:
    """The lines that an access touches, numbered through all memory."""
    cells = access.argument.cells(np.asarray(access.elements))
    return np.unique(cells // line) + (access.argument.memory << 40)
