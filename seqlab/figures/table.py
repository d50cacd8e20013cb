"""Small helpers for drawing tables of numbers: rounding, ticks, outlines."""

import html
import math
from typing import Any

from torch import Tensor


def rounded(x: Tensor, digits: int = 3) -> Any:
    """x as nested lists with so many significant digits, None for NaN: short, reproducible JSON."""
    if x.ndim:
        return [rounded(row, digits) for row in x]
    number = float(x)
    if math.isnan(number):
        return None
    return float(f"{number:.{digits}g}") + 0.0  # + 0.0 turns -0.0 into 0.0


def thinned(length: int, room: int) -> list[int]:
    """Every index if `room` is enough, else every second, third …"""
    return list(range(0, length, math.ceil(length / room)))


def ticks(labels, room: int = 16) -> dict:
    """tickvals and ticktext that fit: all labels if there is room, else some; long ones are cut."""
    shown = thinned(len(labels), room)
    labels = ["␣" if str(label) == " " else str(label) for label in labels]
    cut = [label if len(label) <= 7 else label[:6] + "…" for label in labels]
    return {"tickvals": shown, "ticktext": [html.escape(cut[i]) for i in shown]}


def outline(left: float, right: float, top: float, bottom: float) -> tuple[list, list]:
    """x and y of a rectangle, to draw as a line."""
    return [left, right, right, left, left, None], [top, top, bottom, bottom, top, None]


def largest(x: Tensor) -> float:
    """The largest absolute value but NaN; 1 for a table of zeros, as a colour scale needs."""
    return float(x.nan_to_num().abs().max()) or 1.0


def colour_range(x: Tensor) -> dict[str, float]:
    """zmin and zmax, symmetric about 0. The largest 2 % of nonzero cells may saturate."""
    sizes = x[x.isfinite() & (x != 0)].abs()
    top = sizes.sort().values[round(0.98 * (len(sizes) - 1))].item() if len(sizes) else 1.0
    return {"zmin": -top, "zmax": top}
