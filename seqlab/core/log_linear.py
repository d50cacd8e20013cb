"""Linear attention with one table for each power of two: log-linear attention.

    y_t = Σ_l λ_t[l] S_t^(l) q_t

The tokens before t are cut where the binary digits of t say: t = 13 = 8 + 4 + 1 has tokens 0 to 7
in one table, 8 to 11 in the next and 12 in the last; token t itself is level 0, and a table of
2^(l-1) tokens has level l. So recent tokens have tables of their own, old ones share, and log2 T
tables are kept. All fade by a_t. The level of token s at t is one more than the highest binary
digit in which t and s differ.

q and k (B, T, H, K), v (B, T, H, V), log_a (B, T, H, 1) ≤ 0, scales λ (B, T, H, L); levels beyond
the last share its λ. All forms return y and the tables.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from seqlab.core.inputs import at_least_one, check_inputs, full_precision, wide
from seqlab.core.recurrence import decays

Keys = Float[Tensor, "B T H K"]
Values = Float[Tensor, "B T H V"]
LogDecay = Float[Tensor, "B T H 1"]
Scales = Float[Tensor, "B T H L"]


class Tables(NamedTuple):
    """S: a table for each binary digit 1 of `position`, the largest first."""

    S: Float[Tensor, "B n H V K"]
    position: int


def buckets(t: int) -> list[tuple[int, int]]:
    """The first token of each table of the tokens before t, and the one after its last."""
    digits = [1 << b for b in reversed(range(t.bit_length())) if t >> b & 1]
    ends = torch.tensor([0, *digits]).cumsum(0).tolist()
    return list(pairwise(ends))


def level(t: Int[Tensor, "T 1"], s: Int[Tensor, " S"]) -> Int[Tensor, "T S"]:
    """The level of token s at token t: the length of t xor s in binary, 0 for s = t."""
    differ = t ^ s
    powers = 2 ** torch.arange(63, device=differ.device)
    return (differ[..., None] >= powers).sum(-1)


@full_precision
def recurrent(
    q: Keys, k: Keys, v: Values, log_a: LogDecay, scales: Scales, *, state: Tables | None = None
) -> tuple[Values, Tables]:
    """Token by token, as one counts in binary: two tables of one size become one."""
    xs, (S, position) = _prepare(q, k, v, log_a, scales, state)
    tables, ys = list(S.unbind(1)), []
    for q_t, k_t, v_t, log_a_t, scales_t in zip(*(x.unbind(2) for x in xs), strict=True):
        sizes = [end - first for first, end in buckets(position)]
        tables = [log_a_t.exp()[..., None] * table for table in tables]
        tables, sizes = [*tables, v_t[..., None] * k_t[..., None, :]], [*sizes, 0]
        seen = [scales_t[..., min(n.bit_length(), scales.shape[-1] - 1), None] for n in sizes]
        parts = [(table @ q_t[..., None])[..., 0] for table in tables]
        ys.append(sum(λ * part for λ, part in zip(seen, parts, strict=True)))
        position += 1
        while len(tables) > len(buckets(position)):
            tables[-2:] = [tables[-2] + tables[-1]]
    return torch.stack(ys, dim=1).to(v.dtype), Tables(torch.stack(tables, dim=1), position)


@full_precision
def parallel(
    q: Keys, k: Keys, v: Values, log_a: LogDecay, scales: Scales, *, state: Tables | None = None
) -> tuple[Values, Tables]:
    """All pairs at once: masked attention, whose mask is a decay times the λ of each level."""
    xs, tables = _prepare(q, k, v, log_a, scales, state)
    y, tables = _parallel(tables, *xs)
    return rearrange(y, "b h t v -> b t h v").to(v.dtype), tables


@full_precision
def chunkwise(
    q: Keys,
    k: Keys,
    v: Values,
    log_a: LogDecay,
    scales: Scales,
    *,
    state: Tables | None = None,
    chunk_size: int = 64,
) -> tuple[Values, Tables]:
    """Fold `parallel` over chunks of C tokens: O(T (C + log T)) work."""
    at_least_one(chunk_size=chunk_size)
    xs, tables = _prepare(q, k, v, log_a, scales, state)
    ys = []
    for chunk in zip(*(x.split(chunk_size, dim=2) for x in xs), strict=True):
        y, tables = _parallel(tables, *chunk)
        ys.append(y)
    return rearrange(torch.cat(ys, dim=2), "b h t v -> b t h v").to(v.dtype), tables


def _parallel(tables, q, k, v, log_a, scales):
    """`parallel` on (B, H, T, ·)."""
    S, start = tables
    T, old = q.shape[2], buckets(start)
    between, since_start, to_end = decays(log_a)
    t = torch.arange(start, start + T, device=q.device)
    firsts = torch.tensor([first for first, _ in old], dtype=t.dtype, device=q.device)
    at = level(t[:, None], torch.cat([firsts, t])).clamp(max=scales.shape[-1] - 1)
    λ = scales.gather(-1, at.expand(*scales.shape[:2], *at.shape))  # (B, H, T, n + T)
    of_old, of_new = λ.split([len(old), T], dim=-1)
    y = torch.einsum("bhtn, bnhvk, bhtk -> bhtv", of_old * since_start, S, q)
    y = y + ((q @ k.mT) * between[:, :, 0] * of_new) @ v
    ends = buckets(start + T)
    into = [[low <= s < high for s in (*firsts.tolist(), *t.tolist())] for low, high in ends]
    into = torch.tensor(into, dtype=q.dtype, device=q.device)
    from_old, from_new = into.split([len(old), T], dim=-1)
    S = torch.einsum("mn, bnhvk -> bmhvk", from_old, S) * since_start[:, None, :, -1:]
    writes = torch.einsum("mt, bhtv, bhtk -> bmhvk", from_new, v, k * to_end)
    return y, Tables(S + writes, start + T)


def _prepare(q, k, v, log_a, scales, state) -> tuple[list[Tensor], Tables]:
    """The inputs as (B, H, T, ·) in float32 or wider, and the first tables."""
    check_inputs(q, k, v, log_a)
    q = wide(q)
    xs = [x.to(q.dtype).transpose(1, 2) for x in (q, k, v, log_a, scales)]
    B, _, H, K = q.shape
    if state is None:
        return xs, Tables(q.new_zeros(B, 0, H, v.shape[-1], K), 0)
    return xs, Tables(state.S.to(q.dtype), state.position)


FORMS = {"recurrent": recurrent, "parallel": parallel, "chunkwise": chunkwise}
