"""Project: an order that a cache likes

*Number the programs of a matmul so that few strips are fetched twice. · 30 minutes · ●●● · 3 points*

c has rows × cols tiles. The program for tile (i, j) reads strip i of a and strip j of b, whole. Programs
run one after the other; the cache holds `room` strips, and the one that was not used for the longest time leaves. How
many strips are fetched depends on the order of the tiles, and on nothing else.

Write `visit(rows, cols, room)`: the order as a tensor of int64 (rows · cols, 2), a row (i, j) for each tile.
room is at least 3. It must be so that

- each tile is there exactly once, also if nothing divides anything;
- on a grid of 12 × 12 tiles with room 6, and of 16 × 16 with room 8, at most 10 % more strips are fetched than
  with the page's groups of room - 2 rows; and then
- fewer still, by one strip for each group but the first;
- on long thin grids (40 × 4 and 4 × 40, room 6) each strip is fetched once.

How you do it is up to you.
"""

import torch

from seqlab.course.exercise import Case, Requirement
from seqlab.gpu.l2 import misses


def visit(rows, cols, room):
    """The order of the tiles: (rows * cols, 2) of int64, a row (i, j) for each tile."""
    ### BEGIN SOLUTION
    height = room - 2
    by_rows = rows + -(-rows // height) * cols
    by_cols = cols + -(-cols // height) * rows
    outer, inner = (rows, cols) if by_rows <= by_cols else (cols, rows)
    tiles = []
    for group, first in enumerate(range(0, outer, height)):
        along = range(inner) if group % 2 == 0 else range(inner - 1, -1, -1)
        tiles += [
            (i, j) for j in along for i in range(first, min(outer, first + height))
        ]
    order = torch.tensor(tiles)
    return order if by_rows <= by_cols else order.flip(1)
    ### END SOLUTION


WHY = """
**Solution.** Keep as many strips of a as fit beside two strips of b: the one in use, and the one that it
replaces, which is not the oldest until its successor has been used once. So room - 2. Walk along b with them:
rows + ⌈rows / height⌉ · cols fetches. The same with a and b exchanged costs cols + ⌈cols / height⌉ · rows, which is
less on a tall grid: take the smaller. And at the end of a group turn round: the last strip of b is still there.

**One row more** is a disaster: with room - 1 strips of a the least recently used strip is always the one that is
needed next. An LRU cache that is one line too small can be as bad as none.

**What is left out.** Real programs run many at a time and not in step, and a GPU's rule of replacement is not
published. A measured order beats a derived one; the derived one says what to measure.
"""

HINTS = (
    "With a group of h rows, how many strips are in use while the programs go down one column? Which one is the oldest "
    "when the next strip of b arrives?",
    "Groups of room - 2 rows fetch rows + ceil(rows / (room - 2)) · cols strips; groups of columns the same with rows "
    "and cols exchanged. At a group's end, go back the way you came.",
    "for group, first in enumerate(range(0, rows, room - 2)): columns forwards if group is even, else backwards; in each "
    "column the rows from first on. If cols + ceil(cols / h) · rows is smaller, do it with the axes exchanged.",
)


def cases(rng):
    grids = {
        "12 × 12, room 6": (12, 12, 6),
        "16 × 16, room 8": (16, 16, 8),
        "40 × 4, room 6": (40, 4, 6),
        "4 × 40, room 6": (4, 40, 6),
        "7 × 9, room 5": (7, 9, 5),
        "one tile": (1, 1, 3),
    }
    return [
        Case(name, {"rows": r, "cols": c, "room": room})
        for name, (r, c, room) in grids.items()
    ]


def fetched(rows, room, order):
    """Strips fetched in this order: those of a have the numbers up to rows, those of b the next."""
    return misses((s for i, j in order.tolist() for s in (i, rows + j)), room)


def _grouped(rows, room):
    """Strips fetched by the page's order on a square grid, and its number of groups."""
    groups = -(-rows // (room - 2))
    return rows + groups * rows, groups


def shapes(inputs, values):
    right = all(
        isinstance(x, torch.Tensor)
        and x.dtype == torch.int64
        and x.shape == (i["rows"] * i["cols"], 2)
        and bool((x >= 0).all())
        and bool((x < torch.tensor([i["rows"], i["cols"]])).all())
        for i, x in zip(inputs, values, strict=True)
    )
    return right, "as asked" if right else "not as asked"


def each_once(inputs, values):
    missing = 0
    for i, x in zip(inputs, values, strict=True):
        missing += i["rows"] * i["cols"] - len({tuple(tile) for tile in x.tolist()})
    return missing == 0, f"{missing} tiles are left out"


def _square(inputs, values, bound):
    """Whether the square grids stay below their bounds, and the strips that each fetches."""
    counts, good = [], True
    for i, x in zip(inputs, values, strict=True):
        if i["rows"] == i["cols"] > 1:
            n = fetched(i["rows"], i["room"], x)
            counts.append(f"{n} of at most {bound(i['rows'], i['room']):.0f}")
            good = good and n <= bound(i["rows"], i["room"])
    return good, " and ".join(counts) + " strips"


def grouped(inputs, values):
    return _square(
        inputs, values, lambda rows, room: int(1.1 * _grouped(rows, room)[0])
    )


def turned(inputs, values):
    return _square(
        inputs,
        values,
        lambda rows, room: _grouped(rows, room)[0] - _grouped(rows, room)[1] + 1,
    )


def _thin(inputs, values, tall):
    for i, x in zip(inputs, values, strict=True):
        if max(i["rows"], i["cols"]) == 40 and (i["rows"] == 40) == tall:
            n, least = fetched(i["rows"], i["room"], x), i["rows"] + i["cols"]
            return n == least, f"{n} strips, {least} would be the least"
    return True, "not asked"


def tall(inputs, values):
    return _thin(inputs, values, True)


def wide(inputs, values):
    return _thin(inputs, values, False)


REQUIREMENTS = (
    Requirement(
        "a tensor (rows · cols, 2) of int64 inside the grid",
        shapes,
        "The order must be a tensor (rows · cols, 2) of int64, with 0 ≤ i < rows and 0 ≤ j < cols.",
    ),
    Requirement(
        "each tile exactly once",
        each_once,
        "Some tile is left out, and another one is there twice: c would have a hole.",
    ),
    Requirement(
        "a tall grid fetches each strip once",
        tall,
        "On a tall grid all strips of b fit beside one of a: walk along the rows, then nothing is fetched twice.",
    ),
    Requirement(
        "a wide grid fetches each strip once",
        wide,
        "On a wide grid all strips of a fit beside one of b: walk along the columns, then nothing is fetched twice.",
    ),
    Requirement(
        "square grids: as good as groups of room - 2 rows",
        grouped,
        "Square grids fetch too many strips: keep a group of room - 2 strips of a while b passes by.",
    ),
    Requirement(
        "square grids: better by one strip a group",
        turned,
        "Nearly: at the end of a group the last strip of b is still in the cache, so begin the next group with it.",
    ),
)


def wholly_snaking(rows, cols, room):
    """Every column turns round, too."""
    h = room - 2
    flipped = cols + -(-cols // h) * rows < rows + -(-rows // h) * cols
    if flipped:
        return torch.stack([*wholly_snaking(cols, rows, room).unbind(1)][::-1], 1)
    tiles = []
    for group in range(-(-rows // h)):
        block = range(group * h, min(rows, group * h + h))
        columns = list(range(cols))[:: 1 if group % 2 == 0 else -1]
        for n, j in enumerate(columns):
            tiles += [(i, j) for i in (block if n % 2 == 0 else reversed(block))]
    return torch.tensor(tiles)


ALTERNATIVES = (wholly_snaking,)

MISTAKES = """
order = torch.tensor(tiles) → order = torch.tensor(tiles).float()
    The order must be a tensor (rows · cols, 2) of int64, with 0 ≤ i < rows and 0 ≤ j < cols.
order = torch.tensor(tiles) → order = torch.tensor([tiles[0], *tiles[:-1]])
    Some tile is left out, and another one is there twice: c would have a hole.
outer, inner = (rows, cols) if by_rows <= by_cols else (cols, rows) → outer, inner = rows, cols ; return order if by_rows <= by_cols else order.flip(1) → return order
    On a tall grid all strips of b fit beside one of a: walk along the rows, then nothing is fetched twice.
outer, inner = (rows, cols) if by_rows <= by_cols else (cols, rows) → outer, inner = cols, rows ; return order if by_rows <= by_cols else order.flip(1) → return order.flip(1)
    On a wide grid all strips of a fit beside one of b: walk along the columns, then nothing is fetched twice.
height = room - 2 → height = room - 1 - (rows != cols)
    Square grids fetch too many strips: keep a group of room - 2 strips of a while b passes by.
along = range(inner) if group % 2 == 0 else range(inner - 1, -1, -1) → along = range(inner)
    Nearly: at the end of a group the last strip of b is still in the cache, so begin the next group with it.
"""
