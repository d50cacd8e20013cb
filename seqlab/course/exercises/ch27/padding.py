"""Padding at tile 64

*Count the rows that a grouped product computes for nothing. · 6 minutes · ●○○ · 1 point*

A layer has 8 experts. A router has sent 130, 64, 1, 0, 63, 200, 22 and 32 rows to them. The grouped product of the page computes them in tiles of BM = 64 rows. Which share of all computed rows is padding? Programs that end at once compute nothing.

Give the share between 0 and 1, to within 0.001.
"""

### BEGIN SOLUTION
load = [130, 64, 1, 0, 63, 200, 22, 32]
tiles = sum(-(-rows // 64) for rows in load)
share = 1 - sum(load) / (64 * tiles)
### END SOLUTION

WHY = """
**Solution.** The experts have 3, 1, 1, 0, 1, 4, 1 and 1 tiles, which is 12 tiles or 768 rows. There are 512 rows, so 256 of 768 are padding: a third.

**Half a tile for each expert** would be a guess of 8 · 32 = 256 rows of padding. Here it happens to be exact; for seven experts with rows it is a little low.

**The matrices** are read once for each tile: 12 times, where 7 would do.
"""

HINTS = (
    "How many tiles does an expert with 130 rows have? And one with none?",
    "⌈rows / 64⌉ for each expert, summed; each tile has 64 rows, whether they exist or not.",
    "share = 1 - 512 / (64 · tiles).",
)

reference = 1 - 512 / 768

OUTPUTS = ("share",)

TOLERANCE = 0.003

ALTERNATIVES = (0.3335, 256 / 768)

MISTAKES = """
-(-rows // 64) for rows in load → max(1, -(-rows // 64)) for rows in load
    An expert without rows was given a tile: its ⌈0 / 64⌉ is 0.
-(-rows // 64) for rows in load → rows // 64 + 1 for rows in load
    Full tiles were counted with one more, and so was the expert without rows: 64 rows fill one tile, and 0 rows none.
-(-rows // 64) for rows in load → -(-max(load) // 64) for rows in load
    Every expert was given as many tiles as the longest: that is the batched product with padding, not the ragged one.
1 - sum(load) / (64 * tiles) → 64 * tiles / sum(load) - 1
    Either padding was divided by the rows that exist, or all 16 programs of the grid were counted: divide by all computed rows, and programs without rows compute none.
1 - sum(load) / (64 * tiles) → sum(load) / (64 * tiles)
    This is the share of the rows that exist: padding is the rest.
"""
