"""The (token, slot) pairs of a mixture of experts in the order of their experts: a counting sort.

Three kernels, and the CPU never waits to learn a count:

    count    a program takes BP pairs and counts how many go to each expert
    scan     for each expert, down the programs: how many of its pairs came before
    place    a pair's place = the pairs of lower experts + those of its expert in earlier programs
             + those before it in its own program

The order is stable: within an expert the pairs keep their order, in every run. Pairs that a router
dropped count as those of one more expert, E, so they come last. A radix sort is this, digit by
digit (Blelloch 1990, "Prefix Sums and Their Applications").

The least bytes: the experts are read twice, pairs and places are written once. The counts,
(E + 1) / BP numbers a pair, are written and read twice.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Int
from torch import Tensor

from seqlab.kernels.launch import launch

BP = 128
"""The pairs of a program."""


class Permutation(NamedTuple):
    """Pair token · k + slot has the place places[token, slot], and pairs[place] is that pair.

    Expert e has the places offsets[e] … offsets[e + 1]; dropped pairs begin at offsets[E].
    """

    pairs: Int[Tensor, " P"]
    places: Int[Tensor, "N k"]
    offsets: Int[Tensor, " E+1"]


@triton.jit
def load_experts(p_e, p_kept, o_p, P, E: tl.constexpr):
    """Each pair's expert: E if it was dropped, E + 1 if there is no such pair."""
    b_e = tl.load(p_e + o_p, mask=o_p < P, other=E + 1).to(tl.int32)
    if p_kept is not None:
        b_kept = tl.load(p_kept + o_p, mask=o_p < P, other=1)
        b_e = tl.where(b_kept != 0, b_e, E)
    return b_e


@triton.jit
def count(p_e, p_kept, p_counts, P, E: tl.constexpr, BE: tl.constexpr, BP: tl.constexpr):
    """counts[i, e]: how many of program i's pairs go to expert e."""
    i, o_e = tl.program_id(0), tl.arange(0, BE)
    b_e = load_experts(p_e, p_kept, i * BP + tl.arange(0, BP), P, E)
    b_count = tl.histogram(b_e, BE)
    tl.store(p_counts + i.to(tl.int64) * (E + 1) + o_e, b_count, mask=o_e <= E)


@triton.jit
def scan(
    p_counts, p_earlier, p_total, PROGRAMS, E: tl.constexpr, BB: tl.constexpr, BE: tl.constexpr
):
    """earlier[i, e] = Σ_{i' < i} counts[i', e], and the total, for BE experts.

    It reads the counts of BB programs at a time.
    """
    o_e = tl.program_id(0) * BE + tl.arange(0, BE)
    b_total = tl.zeros((BE,), tl.int32)
    for start in range(0, PROGRAMS, BB):
        o_i = start + tl.arange(0, BB)
        there = (o_i[:, None] < PROGRAMS) & (o_e[None, :] <= E)
        at = o_i[:, None].to(tl.int64) * (E + 1) + o_e[None, :]
        b_count = tl.load(p_counts + at, mask=there, other=0)
        tl.store(p_earlier + at, b_total[None, :] + tl.cumsum(b_count, 0) - b_count, mask=there)
        b_total += tl.sum(b_count, 0)
    tl.store(p_total + o_e, b_total, mask=o_e <= E)


@triton.jit
def place(p_e, p_kept, p_earlier, p_total, p_pairs, p_places, p_offsets, P, E: tl.constexpr,
          BE: tl.constexpr, BP: tl.constexpr):  # fmt: skip
    """pairs and places of BP pairs; the first program also writes the offsets."""
    i, o_e, o = tl.program_id(0), tl.arange(0, BE), tl.arange(0, BP)
    o_p = i * BP + o
    b_e = load_experts(p_e, p_kept, o_p, P, E)
    b_total = tl.load(p_total + o_e, mask=o_e <= E, other=0)
    b_start = tl.cumsum(b_total, 0) - b_total
    if i == 0:
        tl.store(p_offsets + o_e, b_start, mask=o_e <= E)
    b_start += tl.load(p_earlier + i.to(tl.int64) * (E + 1) + o_e, mask=o_e <= E, other=0)
    before = (b_e[:, None] == b_e[None, :]) & (o[None, :] < o[:, None])
    b_place = tl.gather(b_start, b_e, 0) + tl.sum(before.to(tl.int32), 1)
    tl.store(p_places + o_p, b_place, mask=o_p < P)
    tl.store(p_pairs + b_place, o_p, mask=o_p < P)


def permute(
    experts: Int[Tensor, "N k"], n_experts: int, kept: Bool[Tensor, "N k"] | None = None
) -> Permutation:
    """The pairs in the order of a stable `argsort` of the experts, with its inverse and offsets.

    kept: False for the pairs that the router dropped.
    """
    if kept is not None and kept.shape != experts.shape:
        raise ValueError(
            f"kept has shape {tuple(kept.shape)}, experts {tuple(experts.shape)}: they must match"
        )
    P, E = experts.numel(), n_experts
    BE = triton.next_power_of_2(E + 2)
    programs = triton.cdiv(P, BP)

    def empty(*shape):
        return experts.new_empty(shape, dtype=torch.int32)

    pairs, places, offsets = empty(P), empty(*experts.shape), empty(E + 1)
    total, counts, earlier = empty(E + 1), empty(programs, E + 1), empty(programs, E + 1)
    if P == 0:
        return Permutation(pairs, places, offsets.zero_())
    given = experts.contiguous(), None if kept is None else kept.contiguous()
    launch(count, (programs,), *given, counts, P, E, BE, BP)
    launch(scan, (triton.cdiv(E + 1, 16),), counts, earlier, total, programs, E, BB=128, BE=16)
    launch(place, (programs,), *given, earlier, total, pairs, places, offsets, P, E, BE, BP)
    return Permutation(pairs, places, offsets)
