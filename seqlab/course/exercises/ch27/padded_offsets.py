"""Offsets by a prefix sum

*Count, round up, and sum what came before. · 12 minutes · ●●○ · 2 points*

Some libraries leave gaps between groups, so that every group begins at a multiple of the tile: then a tile never has rows of two experts, and needs no mask for its end. `padded_offsets(experts, E)` returns where each group begins, (E + 1,) in float32 (whole numbers, for the check), for groups that are rounded up to a multiple of 16; the last number is the end of the last group, rounded up as well. An expert without pairs takes no room. experts is (P,), int32, with 1 ≤ E ≤ 15.

One program does it: it goes through the pairs 32 at a time. Write the kernel; the launch is given. Its 16 lanes hold one count for each expert, with E and later lanes to spare.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "padded_offsets"


@triton.jit
def padded_offsets_kernel(p_experts, p_offsets, P, E, TILE: tl.constexpr,
                          BE: tl.constexpr, BP: tl.constexpr):  # fmt: skip
    """Where each group begins, in a single program."""
    o_e, o_p = tl.arange(0, BE), tl.arange(0, BP)
    b_n = tl.zeros((BE,), tl.int32)
    ### BEGIN SOLUTION
    for first in range(0, P, BP):
        there = first + o_p < P
        b_e = tl.load(p_experts + first + o_p, mask=there, other=E)
        b_n += tl.histogram(b_e, BE)
    b_n = tl.cdiv(b_n, TILE) * TILE
    b_offset = tl.cumsum(b_n, 0) - b_n
    tl.store(p_offsets + o_e, b_offset, mask=o_e <= E)
    ### END SOLUTION


def padded_offsets(experts, E):
    """offsets (E + 1,)."""
    offsets = experts.new_empty(E + 1)
    sizes = {"TILE": 16, "BE": 16, "BP": 32}
    padded_offsets_kernel[(1,)](experts, offsets, len(experts), E, **sizes)
    return offsets.float()


WHY = """
**Solution.** Add up histograms, round each *count* up, then take an exclusive prefix sum. Missing pairs are counted in lane E: nothing that is stored has it in its sum, because a prefix sum that leaves out its own element ends before it.

**Rounding the sums** instead of the counts gives something else: offsets that are multiples of 16, but groups with too little room between them.

**What does it cost?** At most 15 empty rows for each expert with pairs. Mind that the total is now known on the device alone: the buffer must have room for P + 15 E rows.
"""

HINTS = (
    "Which comes first, rounding or summing? And in which lane may a missing pair be counted?",
    "tl.histogram(b_e, BE) adds to b_n for each block; then tl.cdiv(b_n, TILE) * TILE; a cumsum minus its own element is what came before.",
    "for first in range(0, P, BP): b_n += tl.histogram(tl.load(p_experts + first + o_p, mask=first + o_p < P, other=E), BE); then round, cumsum - own, store where o_e <= E.",
)


def reference(experts, E):
    offsets = [0]
    for e in range(E):
        n = experts.tolist().count(e)
        offsets.append(offsets[-1] + -(-n // 16) * 16)
    return torch.tensor(offsets, dtype=torch.float32)


def cases(rng):
    def draw(load):
        experts = torch.arange(len(load)).repeat_interleave(torch.tensor(load)).int()
        order = torch.randperm(len(experts) - 1, generator=rng) + 1
        return torch.cat([experts[:1], experts[order]])

    loads = {
        "ragged": [17, 16, 0, 1, 33],
        "one block": [0, 3, 4],
        "many": [17, *torch.randint(9, (14,), generator=rng).tolist()],
    }
    return [
        Case(name, {"experts": draw(load), "E": len(load)})
        for name, load in loads.items()
    ]


OUTPUTS = ("offsets",)


@triton.jit
def triangle_kernel(p_experts, p_offsets, P, E, BE: tl.constexpr):
    o_e, b_n = tl.arange(0, BE), tl.zeros((BE,), tl.int32)
    for p in range(0, P):
        b_n += (tl.load(p_experts + p) == o_e).to(tl.int32)
    b_n = (b_n + 15) // 16 * 16
    lower = o_e[None, :] < o_e[:, None]
    b_sum = tl.sum(tl.where(lower, b_n[None, :], 0), 1)
    tl.store(p_offsets + o_e, b_sum, mask=o_e <= E)


def by_a_triangle(experts, E):
    offsets = experts.new_empty(E + 1)
    triangle_kernel[(1,)](experts, offsets, len(experts), E, BE=16)
    return offsets.float()


ALTERNATIVES = (by_a_triangle,)

MISTAKES = """
b_offset = tl.cumsum(b_n, 0) - b_n → b_offset = tl.cumsum(b_n, 0)
    These are the ends of the groups: leave out the group's own room.
b_n = tl.cdiv(b_n, TILE) * TILE → b_n = b_n * 1
    The groups are not rounded up to a multiple of 16.
b_n = tl.cdiv(b_n, TILE) * TILE → b_n = b_n // TILE * TILE
    The groups are rounded down: their last pairs have no room.
b_n = tl.cdiv(b_n, TILE) * TILE → b_n = (b_n // TILE + 1) * TILE
    Every group has a tile more than its full ones, also one without pairs: round up, and 0 stays 0.
mask=there, other=E → mask=there, other=0
    Missing pairs behind the end are counted as those of expert 0.
b_n = tl.cdiv(b_n, TILE) * TILE⏎b_offset = tl.cumsum(b_n, 0) - b_n → b_offset = tl.cdiv(tl.cumsum(b_n, 0) - b_n, TILE) * TILE
    The sums are rounded, not the counts: each group needs whole tiles of its own.
b_n += tl.histogram(b_e, BE) → b_n = tl.histogram(b_e, BE)
    Only the last block of pairs is counted: add the histograms up.
"""
