"""Does a scan depend on the order in which its elements are joined?

Triton's interpreter joins from left to right. A GPU joins runs of neighbours first, which gives the
same only if the operator is associative.
"""

from collections.abc import Sequence

import numpy as np

ROUNDING = 1e-2
"""A share of an output's largest number. Two orders of joins differ by roundings, of 1e-7 or, in
half precision, 1e-3; an operator that is not associative changes the numbers themselves."""


def parted(in_turn: Sequence[np.ndarray], in_a_tree: Sequence[np.ndarray]) -> str:
    """Where the outputs of one scan first differ by more than rounding; "" if they do not."""
    for output, (a, b) in enumerate(zip(in_turn, in_a_tree, strict=True)):
        off = np.flatnonzero(_differ(a, b).reshape(-1))
        if len(off):
            place = tuple(int(i) for i in np.unravel_index(off[0], a.shape))
            x, y = (array.reshape(-1)[off[0]].item() for array in (a, b))
            return (
                "joins a scan by an operator that is not associative: element "
                f"{list(place)} of output {output} is {x:.6g} joined in turn and {y:.6g} in a "
                "tree, and a GPU joins in a tree"
            )
    return ""


def _differ(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind != "f":
        return a != b
    finite = np.isfinite(a) & np.isfinite(b)
    x, y = (np.where(finite, u, 0).astype(np.float64) for u in (a, b))
    scale = np.maximum(np.abs(x), np.abs(y)).max(initial=0)
    return np.abs(x - y) > ROUNDING * scale
