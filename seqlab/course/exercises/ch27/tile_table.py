"""Which group am I in?

*Let every program find its expert, its first row and its end. · 12 minutes · ●●○ · 2 points*

As on the page, expert e has the rows offsets[e] … offsets[e + 1] - 1, and tiles have 16 rows. But now each expert has a limited number of `places`: only the first `places` rows of a group are served, as in Switch, and rows behind them have no tile. `tile_table(offsets, places)` returns for each program of the grid (expert, first row, end) as (tiles, 3), in float32 (whole numbers, for the check), with `end` the first row that does *not* belong to the tile's group, or is not served; (-1, -1, -1) for a program without rows. Groups may be empty.

Write the kernel; the launch, whose grid is a bound, is given. offsets (E + 1,) is int32.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "tile_table"


@triton.jit
def tile_table_kernel(
    p_offsets, p_table, E, PLACES, BM: tl.constexpr, BE: tl.constexpr
):
    """expert, first and end of tile program_id(0)."""
    i, o_e = tl.program_id(0), tl.arange(0, BE)
    b_first = tl.load(p_offsets + o_e, mask=o_e < E, other=0)
    b_end = tl.load(p_offsets + o_e + 1, mask=o_e < E, other=0)
    expert, first, end = -1, -1, -1
    ### BEGIN SOLUTION
    b_end = tl.minimum(b_end, b_first + PLACES)
    b_tiles = tl.cumsum(tl.cdiv(b_end - b_first, BM), 0)
    done = b_tiles <= i
    e = tl.sum(done.to(tl.int32), 0)
    if e < E:
        expert, mine = e, o_e == e
        before = tl.max(tl.where(done, b_tiles, 0), 0)
        first = tl.sum(tl.where(mine, b_first, 0), 0) + (i - before) * BM
        end = tl.sum(tl.where(mine, b_end, 0), 0)
    ### END SOLUTION
    tl.store(p_table + i * 3, expert)
    tl.store(p_table + i * 3 + 1, first)
    tl.store(p_table + i * 3 + 2, end)


def tile_table(offsets, places):
    """(tiles, 3): expert, first row, end."""
    E = len(offsets) - 1
    tiles = triton.cdiv(offsets[-1].item(), 16) + E
    table, BE = offsets.new_empty(tiles, 3), triton.next_power_of_2(E)
    tile_table_kernel[(tiles,)](offsets, table, E, places, BM=16, BE=BE)
    return table.float()


WHY = """
**Solution.** Shorten every group first; then all is as on the page. An expert's tiles all come before mine if their running sum is at most i, and the number of such experts *is* my expert. The largest of these sums is how many tiles came before my group.

**Empty groups** need no case: their running sum equals the one before, so they are done as soon as that is.

**Another way** is a loop over experts that subtracts tiles until i falls into a group: E steps, one after the other, where the sum is one step of all lanes.
"""

HINTS = (
    "What changes in a group if only its first rows are served? Change that, and nothing else.",
    "b_end = tl.minimum(b_end, b_first + PLACES); then the running sum of tl.cdiv(b_end - b_first, BM), and done = b_tiles <= i.",
    "e = tl.sum(done.to(tl.int32), 0); before = tl.max(tl.where(done, b_tiles, 0), 0); first = offset of e + (i - before) * BM; end = b_end of e.",
)


def reference(offsets, places):
    o = offsets.tolist()
    table = []
    for e in range(len(o) - 1):
        end = min(o[e + 1], o[e] + places)
        table += [(e, first, end) for first in range(o[e], end, 16)]
    tiles = -(-o[-1] // 16) + len(o) - 1
    table += [(-1, -1, -1)] * (tiles - len(table))
    return torch.tensor(table, dtype=torch.float32)


def cases(rng):
    loads = {
        "some are cut": ([20, 0, 35, 3], 24),
        "no limit matters": ([0, 17, 16, 0, 0], 64),
        "one group": ([33], 32),
    }
    return [
        Case(
            name,
            {
                "offsets": torch.tensor([0, *load]).cumsum(0).int(),
                "places": places,
            },
        )
        for name, (load, places) in loads.items()
    ]


OUTPUTS = ("table",)


@triton.jit
def walking_kernel(p_offsets, p_table, E, PLACES, BM: tl.constexpr):
    i = tl.program_id(0)
    left, expert, first, end = i, -1, -1, -1
    for e in range(0, E):
        begin = tl.load(p_offsets + e)
        stop = tl.minimum(tl.load(p_offsets + e + 1), begin + PLACES)
        tiles = tl.cdiv(stop - begin, BM)
        if (left >= 0) & (left < tiles):
            expert, first, end = e, begin + left * BM, stop
        left -= tiles
    tl.store(p_table + i * 3, expert)
    tl.store(p_table + i * 3 + 1, first)
    tl.store(p_table + i * 3 + 2, end)


def walking(offsets, places):
    E = len(offsets) - 1
    tiles = triton.cdiv(offsets[-1].item(), 16) + E
    table = offsets.new_empty(tiles, 3)
    walking_kernel[(tiles,)](offsets, table, E, places, BM=16)
    return table.float()


ALTERNATIVES = (walking,)

MISTAKES = """
done = b_tiles <= i → done = b_tiles < i
    A group has a tile too many: its tiles are all before program i as soon as their running sum is i, so compare with <=.
b_end = tl.minimum(b_end, b_first + PLACES) → b_end = b_end * 1
    The limit is left out: only the first `places` rows of a group are served.
b_end = tl.minimum(b_end, b_first + PLACES) → b_end = tl.minimum(b_end, PLACES)
    The limit is compared with a row's number, not with its distance from the group's first row.
+ (i - before) * BM → + i * BM
    first counts the tiles of earlier groups, too: it is the number of the tile inside its own group that counts.
tl.sum(tl.where(mine, b_first, 0), 0) + (i - before) * BM → i * BM
    first is i tiles from the start of all rows: groups do not begin at multiples of 16.
end = tl.sum(tl.where(mine, b_end, 0), 0) → end = first + BM
    end is that of a full tile: a group's last tile ends with the group, or with its places.
"""
