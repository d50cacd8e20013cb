"""Lanes that a load leaves undefined: do they reach the result?

A lane that the mask of a load switches off holds `other`, and without `other=` it holds anything.
The programs that have such lanes run with two poisons in them. What they write must not change.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from seqlab.gpu.events import Line, Watcher, program_name
from seqlab.gpu.findings import Finding
from seqlab.gpu.interpreter import Launch

MOST_PROGRAMS = 32
Program = tuple[int, ...]
Values = dict[str, torch.Tensor]


class _Outside(Watcher):
    """Counts the lanes that leave their tensor, and lets them pass."""

    def __init__(self):
        self.lanes = 0

    def access(self, access):
        self.lanes += len(access.outside)


def reached(make: Callable[[], Launch], undefined: dict[Line, list[Program]]) -> list[Finding]:
    """A finding for each line whose undefined lanes reach the result.

    undefined: for each line with such lanes, the programs that have them.
    """
    programs = sorted({program for found in undefined.values() for program in found})
    programs = (
        programs[: MOST_PROGRAMS // 2] + programs[MOST_PROGRAMS // 2 :][-MOST_PROGRAMS // 2 :]
    )
    clean = _run(make(), programs, None, None)
    if not any(_differs(clean, _run(make(), programs, None, poison)) for poison in _POISONS):
        return []
    findings = []
    for line, mine in undefined.items():
        for poison in _POISONS:
            different = _differs(clean, _run(make(), programs, line, poison))
            if different:
                findings.append(_finding(line, mine[0], *different))
                break
    return findings or [_together(undefined)]


def _nan(dtype: np.dtype) -> Any:
    return np.nan if dtype.kind == "f" or (dtype.itemsize <= 2 and dtype.kind == "u") else 1


def _large(dtype: np.dtype) -> Any:
    if dtype.kind == "f":
        return float(np.finfo(dtype).max) / 4
    return {"b": True, "u": 113}.get(dtype.kind, 113)


_POISONS = (_nan, _large)


def _run(
    launch: Launch, programs: Sequence[Program], only: Line | None, poison: Callable | None
) -> tuple[Values, int]:
    """What the programs leave in memory, and how many lanes left their tensor."""
    outside = _Outside()

    def chosen(line: Line, dtype: np.dtype):
        return poison(dtype) if poison and only in (None, line) else None

    launch.run_poisoned(outside, programs, chosen)
    return {name: x.copy for name, x in launch.arguments.items()}, outside.lanes


def _differs(a: tuple[Values, int], b: tuple[Values, int]) -> tuple[str, tuple[int, ...]] | None:
    """A tensor and an element that differ, or an empty one if only more lanes went astray."""
    for name, x in a[0].items():
        wide, poisoned = x.double(), b[0][name].double()
        apart = (wide != poisoned) & ~(wide.isnan() & poisoned.isnan())
        if apart.any():
            return name, tuple(apart.nonzero()[0].tolist())
    return ("", ()) if a[1] != b[1] else None


def _finding(line: Line, program: Program, tensor: str, element: tuple[int, ...]) -> Finding:
    where = f"{tensor}[{', '.join(map(str, element))}]" if tensor else "an address"
    sentence = (
        f"{program_name(program)} loads without other=, and lanes that the mask switches off "
        f"reach {where} ({line}): on a GPU they hold anything; say other=, "
        "or keep them out of what is computed"
    )
    return Finding("undefined", program, tensor or None, None, line, sentence, (), element or None)


def _together(undefined: dict[Line, list[Program]]) -> Finding:
    line, programs = next(iter(undefined.items()))
    return _finding(line, programs[0], "", ())
