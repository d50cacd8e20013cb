"""How a number inside a kernel depends on the program's id, followed while one program runs.

A number is affine if it is its value in this program plus, for each axis of the grid, a slope times
the distance to another program. Then it is known for all programs. `i = pid * 64 + arange` is
affine, with slope 64; so are pointers made of it, and a mask `i < n` is a condition on it. What is
read from memory is data, and anything else varies.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Affine(NamedTuple):
    """slopes: for each axis of the grid that the number depends on, its change from id to id."""

    slopes: dict[int, np.ndarray]


class Condition(NamedTuple):
    """Holds where `at`, which is affine, is at most 0. at: its value in the program that ran."""

    at: np.ndarray
    slopes: dict[int, np.ndarray]


class Mask(NamedTuple):
    """True where all conditions hold. exact: False if some that are not affine were left out."""

    conditions: tuple[Condition, ...]
    exact: bool = True


DATA, VARIES = "data", "varies"
CONSTANT = Affine({})
Shadow = Affine | Mask | str


def joined(shadows: Sequence[Shadow]) -> Shadow:
    """What any function of these is."""
    if all(shadow == CONSTANT for shadow in shadows):
        return CONSTANT
    return DATA if DATA in shadows else VARIES


def total(a: Shadow, b: Shadow, sign: int = 1) -> Shadow:
    """Of a + b, or of a - b."""
    if not (isinstance(a, Affine) and isinstance(b, Affine)):
        return joined([a, b])
    slopes = dict(a.slopes)
    for axis, slope in b.slopes.items():
        slopes[axis] = slopes.get(axis, 0) + sign * slope
    return Affine(slopes)


def scaled(a: Shadow, factor: np.ndarray) -> Shadow:
    """Of a times a constant."""
    if not isinstance(a, Affine):
        return a
    factor = factor.astype(np.int64)
    return Affine({axis: slope * factor for axis, slope in a.slopes.items()})


def product(a: Shadow, b: Shadow, a_data: np.ndarray, b_data: np.ndarray) -> Shadow:
    if isinstance(a, Affine) and b == CONSTANT:
        return scaled(a, b_data)
    if isinstance(b, Affine) and a == CONSTANT:
        return scaled(b, a_data)
    return joined([a, b])


def compared(name: str, a: Shadow, b: Shadow, a_data: np.ndarray, b_data: np.ndarray) -> Shadow:
    """Of a < b and the like; name is `SLT`, `UGE`, `EQ`…"""
    if not (isinstance(a, Affine) and isinstance(b, Affine)) or name == "NE":
        return joined([a, b])
    difference = a_data.astype(np.int64) - b_data.astype(np.int64)
    slopes = total(a, b, -1)
    assert isinstance(slopes, Affine)
    below = Condition(difference, slopes.slopes)
    above = Condition(-difference, {axis: -slope for axis, slope in slopes.slopes.items()})
    if name == "EQ":
        return Mask((below, above))
    chosen = below if name[1] == "L" else above
    return Mask((chosen._replace(at=chosen.at + (name[2] == "T")),))


def both(a: Shadow, b: Shadow, a_data: np.ndarray, b_data: np.ndarray) -> Shadow:
    """Of a & b."""
    if a == CONSTANT and b == CONSTANT:
        return CONSTANT
    first, second = as_mask(a, a_data), as_mask(b, b_data)
    if not (first.exact or second.exact) and not (first.conditions or second.conditions):
        return joined([a, b])
    return Mask(first.conditions + second.conditions, first.exact and second.exact)


def as_mask(shadow: Shadow, data: np.ndarray) -> Mask:
    """The conditions of a mask; of one that is not affine, none."""
    if isinstance(shadow, Mask):
        return shadow
    if shadow == CONSTANT:
        return Mask((Condition(np.where(data, 0, 1), {}),))
    return Mask((), exact=False)


def moved(shadow: Shadow, shape: tuple[int, ...], move: Callable) -> Shadow:
    """After a change of shape, which `move` makes to each array of `shape`."""
    if isinstance(shadow, Affine):
        return Affine(_moved(shadow.slopes, shape, move))
    if isinstance(shadow, Mask):
        conditions = (
            Condition(move(np.broadcast_to(at, shape)), _moved(slopes, shape, move))
            for at, slopes in shadow.conditions
        )
        return Mask(tuple(conditions), shadow.exact)
    return shadow


def _moved(slopes: dict[int, np.ndarray], shape: tuple[int, ...], move: Callable) -> dict:
    return {axis: move(np.broadcast_to(slope, shape)) for axis, slope in slopes.items()}
