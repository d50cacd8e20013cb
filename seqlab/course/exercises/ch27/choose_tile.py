"""Project: choose the tile

*Find a tile for any load, by counting. · 25 minutes · ●●● · 4 points*

A library knows, or guesses, how many rows each expert has, and must choose BM, the rows of a tile. `choose_tile(load, processors)` returns `torch.tensor([BM, tiles])`: the tile and the number of tiles that it needs, as two whole numbers (int64). `load` is a list of rows, one for each expert, with at least one row in all; `processors` is a whole number. They must be so that

- BM is a power of two, 16 ≤ BM ≤ 128, and `tiles` is the number of tiles that have rows, each of one expert;
- there are at least `processors` tiles, if any BM gives so many; if none does, as many as possible;
- among those BM, the cost is at most 2 per cent above the lowest. Tiles are taken in turns by the processors, so that the last one ends after ⌈tiles / processors⌉ turns; a turn costs 48 (it loads a tile of a matrix) and BM (for the rows).
"""

from math import ceil

import torch

from seqlab.course.exercise import Case, Requirement


def choose_tile(load, processors):
    """BM and tiles as a tensor (2,) of int64."""
    ### BEGIN SOLUTION
    sizes = (16, 32, 64, 128)
    tiles = {BM: sum(-(-rows // BM) for rows in load) for BM in sizes}
    enough = min(processors, max(tiles.values()))
    busy = [BM for BM in sizes if tiles[BM] >= enough]

    def cost(BM):
        return -(-tiles[BM] // processors) * (48 + BM)

    best = min(busy, key=cost)
    return torch.tensor([best, tiles[best]])
    ### END SOLUTION


WHY = """
**Solution.** There are four tiles to try: count for each, drop those that leave processors idle, and take the cheapest. The counting is the point: ⌈rows / BM⌉ for each expert, so that an empty expert costs nothing, and turns are whole.

**What decides?** For few rows an expert, small tiles: larger ones have as many tiles, and more rows in each. For long groups large ones, because each turn pays for a matrix. In between it depends on whether a turn is just filled, and no rule of thumb sees that.

**What is missing** for a real choice: the columns of the tile, stages of a pipeline, the cache, which may serve a matrix to several tiles of one expert, and the time itself. And the load changes with each batch, so a library chooses by the average, or compiles several and lets the device choose.
"""

HINTS = (
    "Four tiles are possible. What must you count for each?",
    "tiles = Σ ⌈rows / BM⌉; keep those with tiles ≥ min(processors, the most); cost = ⌈tiles / processors⌉ · (48 + BM).",
    "best = min(busy, key=cost); return torch.tensor([best, tiles[best]]).",
)

SIZES = (16, 32, 64, 128)


def cases(rng):
    given = {
        "long groups": ([4000] * 8, 132),
        "decoding": ([2] * 60 + [0] * 4, 8),
        "one expert": ([700, 0, 0, 0], 8),
        "skewed": ([970, 470, 310, 250, 190, 150, 120, 100], 16),
        "few rows": ([9, 1, 0], 20),
        "just one turn more": ([129] * 16, 16),
    }
    return [Case(n, {"load": load, "processors": p}) for n, (load, p) in given.items()]


def tiles_of(i, BM):
    return sum(ceil(rows / BM) for rows in i["load"])


def enough(i, BM):
    most = max(tiles_of(i, size) for size in SIZES)
    return tiles_of(i, BM) >= min(i["processors"], most)


def cost_of(i, BM):
    return ceil(tiles_of(i, BM) / i["processors"]) * (48 + BM)


def cheap(i, BM, tiles):
    best = min(cost_of(i, size) for size in SIZES if enough(i, size))
    return cost_of(i, BM) <= 1.02 * best


def each(test):
    """Whether test(inputs, BM, tiles) holds in each case, and the first in which it does not."""

    def measure(inputs, values):
        for i, (BM, tiles) in zip(inputs, (x.tolist() for x in values), strict=True):
            if not test(i, BM, tiles):
                n = i["processors"]
                return False, f"not for {sum(i['load']):,} rows, {n} processors"
        return True, "in each case"

    return measure


def shapes(inputs, values):
    for x in values:
        if not isinstance(x, torch.Tensor) or x.shape != (2,) or x.dtype != torch.int64:
            return False, "not a tensor (2,) of int64"
    return True, "as asked"


REQUIREMENTS = (
    Requirement(
        "two whole numbers",
        shapes,
        "The answer must be torch.tensor([BM, tiles]), two whole numbers.",
    ),
    Requirement(
        "a power of two, 16 ≤ BM ≤ 128",
        each(lambda i, BM, tiles: BM in SIZES),
        "The first number must be BM, a power of two from 16 to 128.",
    ),
    Requirement(
        "the number of tiles",
        each(lambda i, BM, tiles: tiles == tiles_of(i, BM)),
        "The number of tiles is not Σ ⌈rows / BM⌉: each expert's last tile counts, even if it is not full, and an empty expert has none.",
    ),
    Requirement(
        "enough tiles for the processors",
        each(lambda i, BM, tiles: enough(i, BM)),
        "There are fewer tiles than processors, though a smaller BM would give more.",
    ),
    Requirement(
        "at most 2 per cent above the lowest cost",
        each(cheap),
        "Another BM that keeps the processors busy costs less.",
    ),
)


def by_hand(load, processors):
    """Walk from the largest tile to the smallest, and keep the best."""
    counts = [(BM, sum(ceil(n / BM) for n in load)) for BM in (128, 64, 32, 16)]
    most = max(t for _, t in counts)
    best = None
    for BM, t in counts:
        turns = ceil(t / processors)
        if t < processors and t < most:
            continue
        if best is None or turns * (48 + BM) < best[0]:
            best = turns * (48 + BM), BM, t
    return torch.tensor(best[1:])


ALTERNATIVES = (by_hand,)

MISTAKES = """
return torch.tensor([best, tiles[best]]) → return torch.tensor([best, tiles[best]]) / 1
    The answer must be torch.tensor([BM, tiles]), two whole numbers.
return torch.tensor([best, tiles[best]]) → return torch.tensor([tiles[best], best])
    The first number must be BM, a power of two from 16 to 128.
sum(-(-rows // BM) for rows in load) → -(-sum(load) // BM)
    The number of tiles is not Σ ⌈rows / BM⌉: each expert's last tile counts, even if it is not full, and an empty expert has none.
if tiles[BM] >= enough → if BM > 0
    There are fewer tiles than processors, though a smaller BM would give more.
best = min(busy, key=cost) → best = max(busy)
    Another BM that keeps the processors busy costs less.
"""
