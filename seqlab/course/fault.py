"""What is wrong with one outcome: its kind, and a few words. Pure: it calls no learner's code."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqlab.course.answer import Came, Outcome
from seqlab.course.compare import (
    family_of,
    first_at,
    gap_of,
    kind_of,
    not_finite,
    outputs_of,
    scale_of,
    short,
    swapped_axes,
    wrong_at,
)
from seqlab.course.exercise import Exercise
from seqlab.course.report import Kind

# A number with a smaller relative error than this may be right but for its digits.
NEARLY = 0.01


@dataclass(frozen=True)
class Fault:
    """What is wrong in one case, in a few words."""

    kind: Kind
    words: str
    # The number is right but for its digits.
    nearly: bool = False


# Of several outputs, the fault that comes first here is reported.
ORDER = (Kind.TYPE, Kind.SHAPE, Kind.DTYPE, Kind.SANITIZER, Kind.NAN, Kind.VALUE)

# Kind and words of an outcome that returned nothing; what was raised says its own words.
UNRETURNED = {
    Came.SLOW: (Kind.SLOW, "out of time"),
    Came.STUB: (Kind.NOT_STARTED, "not written yet"),
    Came.MISSING: (Kind.MISSING, "not defined"),
    Came.RAISED: (Kind.EXCEPTION, ""),
}


def fault_of(e: Exercise, right: tuple, outcome: Outcome) -> Fault | None:
    """What is wrong with one outcome; None if it is right."""
    if outcome.kind != Came.RETURNED:
        kind, words = UNRETURNED[outcome.kind]
        return Fault(kind, words or f"{outcome.type}: {outcome.message}")
    got = outcome.value
    if fault := _of_count(e, right, got):
        return fault
    pairs = zip(e.outputs, right, outputs_of(got), strict=True)
    faults = [fault for n, r, g in pairs if (fault := _of_output(e, n, r, g))]
    faults += [Fault(Kind.SANITIZER, says) for _, says in outcome.findings[:1]]
    return min(faults, key=lambda f: ORDER.index(f.kind), default=None)


def _of_count(e: Exercise, right: tuple, got: Any) -> Fault | None:
    """None if `got` has as many outputs as are needed."""
    names, several = e.outputs, type(got) is tuple
    if e.numeric and (got is None or several):
        return Fault(Kind.TYPE, f"{e.name} is {kind_of(got)}: a number is needed")
    needed = f"a tuple ({', '.join(names)})" if len(names) > 1 else kind_of(right[0])
    if got is None:
        return Fault(Kind.NONE, f"returned None: {needed} is needed (is a return missing?)")
    if len(names) == 1 and several:
        words = f"returned a tuple or list of {len(got)}: {names[0]} alone is needed"
        return Fault(Kind.COUNT, words)
    if len(names) > 1 and not several:
        return Fault(Kind.COUNT, f"returned {kind_of(got)}: {needed} is needed")
    if len(names) > 1 and len(got) != len(names):
        wanted = f"{len(names)} outputs are needed, ({', '.join(names)})"
        return Fault(Kind.COUNT, f"returned a tuple or list of {len(got)}: {wanted}")
    return None


def _of_output(e: Exercise, name: str, right: Any, got: Any) -> Fault | None:
    if not isinstance(right, Tensor):
        return _of_number(e, e.name if e.numeric else name, right, got)
    if isinstance(got, int | float) and right.ndim == 0:
        got = torch.as_tensor(got, dtype=right.dtype)
    if not isinstance(got, Tensor):
        return Fault(Kind.TYPE, f"{name} is {kind_of(got)}: a torch tensor is needed")
    if got.shape != right.shape:
        needed = f"{tuple(right.shape)} is needed{swapped_axes(got.shape, right.shape)}"
        return Fault(Kind.SHAPE, f"{name} has shape {tuple(got.shape)}: {needed}")
    if family_of(got) != family_of(right):
        words = f"{name} has dtype {short(got.dtype)}: {short(right.dtype)} is needed"
        return Fault(Kind.DTYPE, words)
    bad = ~got.isfinite() & ~(got == right)
    if bad.any():
        where = first_at(bad, e.time_axis_of(name))
        return Fault(Kind.NAN, f"{name} holds {not_finite(got[bad])}{where}")
    if wrong_at(right, got, e.tolerance).any():
        gap, scale = gap_of(right, got), scale_of(right)
        return Fault(Kind.VALUE, f"{name} is off by up to {gap:.2g} (values reach {scale:.2g})")
    return None


def _of_number(e: Exercise, name: str, right: float, got: Any) -> Fault | None:
    if isinstance(got, Tensor) and got.numel() == 1 and got.dtype != torch.bool:
        got = got.item()
    if isinstance(got, bool) or not isinstance(got, int | float):
        return Fault(Kind.TYPE, f"{name} is {kind_of(got)}: a number is needed")
    if isinstance(got, float) and not math.isfinite(got):
        return Fault(Kind.NAN, f"{name} is {got}")
    error = abs(got - right) / (abs(right) or 1.0)
    if error <= e.tolerance:
        return None
    if error < NEARLY and _rounded(right, got):
        words = f"{name} = {got:.6g} is nearly right: give more digits"
        return Fault(Kind.VALUE, words, nearly=True)
    return Fault(Kind.VALUE, f"{name} = {got:.6g} is not right")


def _rounded(right: float, got: float) -> bool:
    """Whether `got` is `right` with fewer digits, rounded or cut off; another formula's is not."""
    digits = len(f"{abs(got):.15g}".partition("e")[0].replace(".", "").strip("0"))
    exponent = math.floor(math.log10(abs(got))) if got else 0
    return abs(got - right) < 10.0 ** (exponent - digits + 1)
