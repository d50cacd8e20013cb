"""The (token, slot) pairs of a mixture of experts in the order of their experts: a counting sort on
the device.

Three kernels, and the host never waits to learn a count:

    count    a program takes BP pairs and counts how many go to each expert
    scan     for each expert, down the programs: how many of its pairs came before
    place    place = pairs of lower experts + its expert's pairs in earlier programs + those before it in this one

The order is stable: within an expert the pairs stand as they came, on every run. Pairs that a
router dropped count as those of one more expert, E, and so stand last. A radix sort is this, digit
by digit (Blelloch 1990, "Prefix Sums and Their Applications").

Bytes, least: the experts are read twice, pairs and places written once; the counts, (E + 1) / BP a
pair, are written and read twice.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Int
from torch import Tensor

from seqlab.kernels.launch import launch

BP = 128
"""Pairs a program."""


class Permutation(NamedTuple):
    """Pair token · k + slot stands at places[token, slot], and pairs[place] is that pair.

    Expert e has the places offsets[e] … offsets[e + 1]; the dropped pairs stand from offsets[E] on.
    """

    pairs: Int[Tensor, " P"]
    places: Int[Tensor, "N k"]
    offsets: Int[Tensor, " E+1"]


@triton.jit
def load_experts(p_e, p_kept, o_p, P, E: tl.constexpr):
    """Each pair's expert: E if dropped, E + 1 if there is no such pair."""
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
    """earlier[i, e] = Σ_{i' < i} counts[i', e], and their total, for BE experts, BB programs at a
    time.
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
    """The pairs as a stable `argsort` of the experts would order them, its inverse, and where each
    expert begins.
    """
    if kept is not None and kept.shape != experts.shape:
        raise ValueError(
            f"kept has shape {tuple(kept.shape)}, experts {tuple(experts.shape)}: they must match"
        )
    P, E = experts.numel(), n_experts
    BE, programs = triton.next_power_of_2(E + 2), triton.cdiv(P, BP)
    pairs, places, offsets, total, counts, earlier = (
        experts.new_empty(shape, dtype=torch.int32)
        for shape in ((P,), experts.shape, (E + 1,), (E + 1,), (programs, E + 1), (programs, E + 1))
    )
    if P == 0:
        return Permutation(pairs, places, offsets.zero_())
    given = experts.contiguous(), None if kept is None else kept.contiguous()
    launch(count, (programs,), *given, counts, P, E, BE, BP)
    launch(scan, (triton.cdiv(E + 1, 16),), counts, earlier, total, programs, E, BB=128, BE=16)
    launch(place, (programs,), *given, earlier, total, pairs, places, offsets, P, E, BE, BP)
    return Permutation(pairs, places, offsets)
