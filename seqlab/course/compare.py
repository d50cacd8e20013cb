"""Compare two outputs, and say in a few words how they differ."""

import math
from typing import Any

import torch
from torch import Tensor


def outputs_of(value: Any) -> tuple[Any, ...]:
    """The outputs of a call that returned `value`."""
    return value if type(value) is tuple else (value,)


def close(a: Any, b: Any, tolerance: float, scale: float = 1.0) -> bool:
    """Whether two outputs are the same within the tolerance, NaN where NaN.

    scale: what counts as large if `a` has no finite number but 0.
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or family_of(a) != family_of(b):
            return False
        return not wrong_at(a, b, tolerance, nan=True, scale=scale).any()
    if type(a) in (int, float) and type(b) in (int, float):
        return a == b or abs(a - b) <= tolerance * (abs(a) or 1.0)
    return type(a) is type(b) and not isinstance(a, Tensor) and a == b


def wrong_at(
    right: Tensor, got: Tensor, tolerance: float, nan: bool = False, scale: float = 1.0
) -> Tensor:
    """Where got is further from right than the tolerance times right's largest finite value.

    With `nan`, two NaN are equal. scale: in the place of that value if there is none above 0.
    """
    right, got = (x.to(torch.complex128 if x.is_complex() else torch.float64) for x in (right, got))
    same = (got == right) | ((got - right).abs() <= tolerance * scale_of(right, scale))
    if nan:
        same |= got.isnan() & right.isnan()
    return ~same


def scale_of(x: Tensor, default: float = 1.0) -> float:
    """The largest finite size in x; the default if there is none above 0."""
    finite = x[x.isfinite()].abs()
    return (finite.max().item() if finite.numel() else 0.0) or default


def gap_of(right: Tensor, got: Tensor) -> float:
    """The largest finite difference."""
    gap = (got.double() - right.double()).abs()
    return gap[gap.isfinite()].max().item() if gap.isfinite().any() else math.inf


def first_along(off: Tensor, axis: int) -> int:
    """The first index along `axis` at which anything is True."""
    steps = off.movedim(axis, 0).flatten(1).any(1) if off.ndim > 1 else off
    return int(steps.nonzero()[0])


def first_at(bad: Tensor, axis: int | None) -> str:
    if axis is None or bad.ndim <= axis:
        return ""
    return f", first at t = {first_along(bad, axis)}"


def not_finite(x: Tensor) -> str:
    if x.isnan().any():
        return "NaN"
    return "inf" if (x > 0).any() else "-inf"


def family_of(x: Tensor) -> str:
    """The kind of number: an answer may have another precision, but not another kind."""
    if x.is_complex() or x.is_floating_point():
        return "complex" if x.is_complex() else "float"
    return "bool" if x.dtype == torch.bool else "int"


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def swapped_axes(got: torch.Size, right: torch.Size) -> str:
    """A remark if one swap of axes would give the right shape; otherwise ""."""
    for i in range(len(got)):
        for j in range(i + 1, len(got)):
            axes = list(got)
            axes[i], axes[j] = axes[j], axes[i]
            if len(got) == len(right) and axes == list(right):
                last = " (the last two)" if i == len(got) - 2 else ""
                return f"; axes {i} and {j}{last} are swapped"
    return ""


def kind_of(x: Any) -> str:
    """What x is, with its article; a str is the name of a type (see `answer.plain`)."""
    if isinstance(x, str):
        return f"an {x}" if x[:1].lower() in "aeiou" else f"a {x}"
    known = {
        Tensor: "a tensor",
        tuple: "a tuple or list",
        type(None): "None",
        bool: "True or False",
    }
    return known.get(type(x), f"a number ({type(x).__name__})")
