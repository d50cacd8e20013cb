"""Which tiles?

*Say of each tile whether it is skipped, masked or whole. · 12 minutes · ●●○ · 2 points*

A kernel decides for each tile before it touches a number. T_q queries and T_k keys are cut into tiles of `rows` × `cols` pairs; the last tiles may be smaller.
Attention is causal, and the **last query is at the last key**: query i is at position i + T_k - T_q among the keys. With a `window`, a query sees only the newest `window` keys, itself included;
without one (None) it sees all keys up to itself.

Return a float32 tensor with one number for each tile: **0.** if no query of the tile may see any key of it, **1.** if every query may see every key (no mask needed), and **2.**
otherwise. The check allows no tensor of T_q × T_k pairs: a tile is known from its corners.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch14.shared import may_see
from seqlab.course.exercises.vocabulary import transposed

LARGE = 1200  # T of the case that is counted


def kinds(T_q, T_k, rows, cols, window):
    """0., 1. or 2. for each tile: (blocks of queries, blocks of keys). window: a number or None."""
    ### BEGIN SOLUTION
    i, j = torch.arange(0, T_q, rows)[:, None], torch.arange(0, T_k, cols)
    first = i + T_k - T_q
    last = (i + rows).clamp(max=T_q) - 1 + T_k - T_q
    left, right = j, (j + cols).clamp(max=T_k) - 1
    reach = T_q + T_k if window is None else window
    some = (left <= last) & (right > first - reach)
    every = (right <= first) & (left > last - reach)
    return torch.where(every, 1.0, torch.where(some, 2.0, 0.0))
    ### END SOLUTION


WHY = r"""
**Solution.** In a tile the distance from query to key takes every value between that of two corners: the first query to the last key, and the last query to the first key. The pair is
visible if the distance lies in 0 … window - 1. So some pair is visible if the two ranges overlap, and every pair is if the one range lies in the other. Four comparisons.

*Common mistakes:* the wrong corner, which throws away a tile whose first rows still needed it; the position of the first query forgotten where T_q and T_k differ; a ragged last tile
treated as if it were whole, which asks for a mask that is not needed.
"""

HINTS = (
    "Draw one tile and the diagonal. Which corner decides whether the tile is skipped, and which whether it is whole?",
    "Positions: first and last query of the block (plus T_k - T_q), left and right key. Some: left ≤ last and right > first - window.",
    "Every: right ≤ first and left > last - window. Clamp the ends at T_q and T_k: the last tiles may be smaller.",
)


def reference(T_q, T_k, rows, cols, window):
    """From all pairs, tile by tile."""
    seen = may_see(T_q, T_k, window)
    table = [
        [
            2.0 * bool(tile.any()) - 1.0 * bool(tile.all())
            for tile in block.split(cols, dim=1)
        ]
        for block in seen.split(rows, dim=0)
    ]
    return torch.tensor(table)


def cases(rng):
    def case(name, *numbers):
        names = ("T_q", "T_k", "rows", "cols", "window")
        return Case(name, dict(zip(names, numbers, strict=True)))

    return [
        case("T = 1", 1, 1, 4, 4, None),
        case("square", 16, 16, 4, 4, None),
        case("tiles that are not square", 24, 24, 8, 4, None),
        case("ragged ends", 13, 13, 4, 5, None),
        case("fewer queries than keys", 5, 18, 4, 4, None),
        case("more queries than keys", 18, 7, 4, 3, None),
        case("a window", 24, 24, 4, 4, 9),
        case("a window of 11", 24, 24, 4, 4, 11),
        case("a window of 1", 12, 12, 4, 4, 1),
        case("a window, fewer queries, ragged", 10, 23, 4, 5, 8),
        case("a window as wide as a tile", 32, 32, 8, 8, 8),
        case(f"T = {LARGE}", LARGE, LARGE, 64, 64, 200),
    ]


def effort(inputs, effort):
    T_q, T_k = inputs["T_q"], inputs["T_k"]
    if T_q * T_k >= LARGE**2 and effort.largest >= T_q * T_k:
        return (
            f"The values are right, but a tensor of {effort.largest:,} numbers was made for {T_q} × {T_k} pairs. A kernel must "
            "know before it looks at pairs: compare the corners of the tiles."
        )
    return None


OUTPUTS = ("kinds",)

TIME_AXIS = None


def _by_distances(T_q, T_k, rows, cols, window):
    table = []
    for i in range(0, T_q, rows):
        line = []
        for j in range(0, T_k, cols):
            least = i + T_k - T_q - (min(j + cols, T_k) - 1)
            most = min(i + rows, T_q) - 1 + T_k - T_q - j
            far = float("inf") if window is None else window - 1
            kind = 0.0 if most < 0 or least > far else 2.0
            line.append(1.0 if least >= 0 and most <= far else kind)
        table.append(line)
    return torch.tensor(table)


def _by_counting(T_q, T_k, rows, cols, window):
    """For each query the range of keys it sees; a tile asks how many of its rows reach it."""
    at = torch.arange(T_q) + T_k - T_q
    begin = torch.zeros_like(at) if window is None else (at - window + 1).clamp(min=0)
    j = torch.arange(0, T_k, cols)
    stop = (j + cols).clamp(max=T_k)
    overlap = torch.minimum(at[:, None] + 1, stop) - torch.maximum(begin[:, None], j)
    counts = torch.stack([x.clamp(min=0).sum(0) for x in overlap.split(rows)])
    sizes = torch.tensor([len(x) for x in at.split(rows)])[:, None] * (stop - j)
    return 2.0 * (counts > 0) - 1.0 * (counts == sizes)


ALTERNATIVES = (_by_distances, _by_counting)

MISTAKES = """
first = i + T_k - T_q → first = i ; - 1 + T_k - T_q → - 1
    The first query is at the first key: with T_q and T_k different, query i is at position i + T_k -
    T_q.
(left <= last) → (left <= first)
    Tiles are skipped as soon as the first query of the block sees nothing in them. Its later queries may
    still see their first keys.
(right > first - reach) → (right > last - reach)
    At the old end of the window, tiles are skipped as soon as the last query of the block has left them. Its first
    queries may still see them.
(right <= first) → (right <= last)
    Tiles on the diagonal count as whole: the first query of the block must see the last key too.
(left > last - reach) → (left > first - reach)
    Tiles at the old end of the window count as whole: the last query of the block no longer sees their
    first keys.
torch.where(every, 1.0, torch.where(some, 2.0, 0.0)) → torch.where(some, 2.0, 0.0)
    Every tile that is not skipped gets a mask: those far from both edges need none.
torch.where(every, 1.0, torch.where(some, 2.0, 0.0)) → torch.where(every, 2.0, torch.where(some, 1.0, 0.0))
    1 and 2 have changed places: 1 means that no mask is needed.
some = (left <= last) & (right > first - reach) → some = (left <= last)
    The window does not skip anything: tiles too old for all their queries are 0.
every = (right <= first) & (left > last - reach) → every = (right <= first)
    The window asks for no mask: a tile in which some keys are too old for some queries is 2.
reach = T_q + T_k if window is None else window → reach = T_q + T_k if window is None else window + 1
    The window is one too wide: it counts the query's own position.
(j + cols).clamp(max=T_k) → (j + cols)
    The last block of keys is treated as if it were whole: its right end is at T_k - 1.
(i + rows).clamp(max=T_q) → (i + rows)
    The last block of queries is treated as if it were whole: its last query is T_q - 1.
"""

ALSO = (transposed("kinds"),)
