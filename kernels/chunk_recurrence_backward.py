"""The chunked linear recurrence: how pairs meet under a decay per channel, and the gradients of a chunk.

With S the state before a chunk, dS the gradient of the one after it, both kept by `walk_states`, b_i the decay from the
chunk's start up to i, f_j the one after j to its end, d_ij the one after j up to i, and dP = dY Vᵀ for j ≤ i:

    dq_i = Σ_j dP_ij d_ij k_j + b_i dy_i S
    dk_j = Σ_i dP_ij d_ij q_i + f_j v_j dS
    dv_j = Σ_i P_ij dy_i + dS (f_j k_j)

A decay a_t stands in four kinds of paths: from before the chunk to a read in it, from a write in it to after it, from
before to after, and from j to i. The gradient of log a_t is the sum of those that pass t, each with its decay:

    dlog a_t = Σ_{i ≥ t} b_i q_i · dy_i S + Σ_{j < t} f_j k_j · v_j dS + b_C ⟨S, dS⟩ + Σ_{i ≥ t > j} W_ij,  W = d P dP

Not the usual Σ_{i ≥ t} (q_i · dq_i - k_i · dk_i) over all that follows: there large numbers cancel, all of them where
decays are strong. Read once: q, k, v, dy, S and dS; written once: dq, dk, dv and dlog a.
"""

import torch
import triton
import triton.language as tl

from seqlab.kernels.launch import launch
from seqlab.kernels.tiles import decay_between, decay_ends, head, load_tile, store_tile

TILES = ((32, 8, 1), (64, 8, 1), (64, 4, 1), (64, 8, 2), (32, 4, 2))
"""BK, warps and stages. The first needs no spills on any target; a GPU tries them all."""


@triton.jit
def doubled(b_in, b_out, SIZE: tl.constexpr, N: tl.constexpr):
    """Sums of logs in blocks of rows, up to each row and from after it to the block's end: from SIZE rows to 2 SIZE."""
    o_t = tl.arange(0, N)[:, None] + tl.zeros_like(b_in).to(tl.int32)
    late = (o_t & SIZE) != 0  # in the second block of the two
    b_other = tl.gather(b_in + b_out, o_t ^ SIZE, 0)  # what all of the other block sums up to
    return b_in + tl.where(late, b_other, 0.0), b_out + tl.where(late, 0.0, b_other)


@triton.jit
def meeting(b_in, b_out, SIZE: tl.constexpr, N: tl.constexpr):
    """Where pairs meet between blocks of SIZE: the decay of each row from or to the border, and which pairs do (N, N).

    Rows i > j meet where i is in the second and j in the first block of two: d_ij is the decay from j to the border
    times that from the border to i. Every pair of a chunk does so for one SIZE of 1, 2, 4, …: the highest bit in which
    i and j differ. So a decay per channel takes log₂ C products for the tensor cores, and no exponent is positive.
    """
    o_i, o_j = tl.arange(0, N)[:, None], tl.arange(0, N)[None, :]
    return tl.exp(tl.where((o_i & SIZE) != 0, b_in, b_out)), (o_i > o_j) & ((o_i ^ o_j) // SIZE == 1)


@triton.jit
def pairs_by_channel(b_q, b_k, b_g, N: tl.constexpr, LOG: tl.constexpr, PRECISION: tl.constexpr):
    """P_ij = Σ_k q_ik k_jk d_ijk for j ≤ i (N, N), and the sums of logs up to each row and from after it to the end."""
    o_i, o_j = tl.arange(0, N)[:, None], tl.arange(0, N)[None, :]
    b_P = tl.where(o_i == o_j, tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION), 0.0)
    b_in, b_out = b_g, tl.zeros_like(b_g)
    for log in tl.static_range(0, LOG):
        b_e, meet = meeting(b_in, b_out, 1 << log, N)
        b_qe, b_ke = (b_q * b_e).to(b_q.dtype), (b_k * b_e).to(b_k.dtype)
        b_P = tl.where(meet, tl.dot(b_qe, tl.trans(b_ke), input_precision=PRECISION), b_P)
        b_in, b_out = doubled(b_in, b_out, 1 << log, N)
    return b_P, b_in, b_out


@triton.jit
def pair_gradients_by_channel(b_dP, b_q, b_k, b_g, N: tl.constexpr, LOG: tl.constexpr, PRECISION: tl.constexpr):
    """What q and k of a chunk get through P from dP (N, N) between different rows."""
    b_dq, b_dk = tl.zeros_like(b_g), tl.zeros_like(b_g)
    b_in, b_out = b_g, tl.zeros_like(b_g)
    for log in tl.static_range(0, LOG):
        b_e, meet = meeting(b_in, b_out, 1 << log, N)
        b_d = tl.where(meet, b_dP, 0.0).to(b_q.dtype)
        b_qe, b_ke = (b_q * b_e).to(b_q.dtype), (b_k * b_e).to(b_k.dtype)
        b_dq += b_e * tl.dot(b_d, b_ke, input_precision=PRECISION)
        b_dk += b_e * tl.dot(tl.trans(b_d), b_qe, input_precision=PRECISION)
        b_in, b_out = doubled(b_in, b_out, 1 << log, N)
    return b_dq, b_dk


@triton.jit
def chunk_gradients(p_q, p_k, p_v, p_a, p_dy, p_S, p_dS, p_dq, p_dk, p_dv, p_da, T, H, K: tl.constexpr,
                    V: tl.constexpr, A: tl.constexpr, BV: tl.constexpr, C: tl.constexpr, LOG: tl.constexpr,
                    PRECISION: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """All gradients of one chunk of one head, BK key channels at a time."""
    start, i_bh = tl.program_id(0) * C, tl.program_id(1)
    i_head = head(i_bh, T, T, H, H)[0]
    i_state = (i_bh.to(tl.int64) * tl.cdiv(T, C) + tl.program_id(0)) * V * K
    o_i, o_j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    b_v = load_tile(p_v + i_head * V, start, C, T, H * V, 0, V, BV)
    b_dy = load_tile(p_dy + i_head * V, start, C, T, H * V, 0, V, BV)
    b_dP = tl.where(o_i >= o_j, tl.dot(b_dy, tl.trans(b_v), input_precision=PRECISION), 0.0)
    if A == 1:
        b_d = decay_between(p_a, i_head, start, C, T, H)
        b_since, b_until, whole = decay_ends(p_a, i_head, start, C, T, H)
        b_dP *= b_d
    b_dp = b_dP.to(b_v.dtype)
    b_P, b_dv = tl.zeros((C, C), tl.float32), tl.zeros((C, BV), tl.float32)
    b_read, b_kept, b_through = tl.zeros((C,), tl.float32), tl.zeros((C,), tl.float32), tl.zeros((BK,), tl.float32)
    for i_k in range(0, K, BK):
        b_q = load_tile(p_q + i_head * K, start, C, T, H * K, i_k, K, BK)
        b_k = load_tile(p_k + i_head * K, start, C, T, H * K, i_k, K, BK)
        b_S = load_tile(p_S + i_state, 0, BV, V, K, i_k, K, BK)
        b_dS = load_tile(p_dS + i_state, 0, BV, V, K, i_k, K, BK)
        b_dq = tl.dot(b_dy, b_S, input_precision=PRECISION)
        b_dk = tl.dot(b_v, b_dS, input_precision=PRECISION)
        b_SdS = tl.sum(b_S.to(tl.float32) * b_dS.to(tl.float32), 0)  # (BK,)
        if A == 1:
            b_dq, b_dk = b_dq * b_since[:, None], b_dk * b_until[:, None]
            b_P += tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
            b_dv = tl.dot(b_k, tl.trans(b_dS), b_dv, input_precision=PRECISION)
            if p_da is not None:
                b_read += tl.sum(b_q * b_dq, 1)
                b_kept += tl.sum(b_k * b_dk, 1)
                b_through += b_SdS
            b_dq = tl.dot(b_dp, b_k, b_dq, input_precision=PRECISION)
            b_dk = tl.dot(tl.trans(b_dp), b_q, b_dk, input_precision=PRECISION)
        else:
            b_g = load_tile(p_a + i_head * K, start, C, T, H * K, i_k, K, BK)
            b_pairs, b_in, b_out = pairs_by_channel(b_q, b_k, b_g, C, LOG, PRECISION)
            b_P += b_pairs
            b_dq, b_dk = b_dq * tl.exp(b_in), b_dk * tl.exp(b_out)
            b_ke = (b_k * tl.exp(b_out)).to(b_k.dtype)
            b_dv = tl.dot(b_ke, tl.trans(b_dS), b_dv, input_precision=PRECISION)
            b_near_q, b_near_k = pair_gradients_by_channel(b_dP, b_q, b_k, b_g, C, LOG, PRECISION)
            if p_da is not None:
                b_kept_k = tl.cumsum(b_k * b_dk, 0)
                o_t = o_i + tl.zeros_like(b_g).to(tl.int32)
                b_da = tl.where(o_t > 0, tl.gather(b_kept_k, tl.maximum(o_t - 1, 0), 0), 0.0)
                b_da += tl.cumsum(b_q * (b_dq + b_near_q) - b_k * b_near_k, 0, reverse=True)
                b_da += (tl.exp(tl.sum(b_g, 0)) * b_SdS)[None, :]
                store_tile(p_da + i_head * K, b_da, start, C, T, H * K, i_k, K, BK)
            b_self = tl.sum(tl.where(o_i == o_j, b_dP, 0.0), 1)[:, None]
            b_dq += b_near_q + b_self * b_k
            b_dk += b_near_k + b_self * b_q
        store_tile(p_dq + i_head * K, b_dq, start, C, T, H * K, i_k, K, BK)
        store_tile(p_dk + i_head * K, b_dk, start, C, T, H * K, i_k, K, BK)
    if A == 1:
        b_dv *= b_until[:, None]
        if p_da is not None:
            b_W = tl.cumsum(tl.where(o_i > o_j, b_P * b_dP, 0.0), 0, reverse=True)  # Σ_{i ≥ t} W_ij, at (t, j)
            b_da = tl.sum(tl.where(o_j < o_i, b_W + b_kept[None, :], 0.0), 1)
            b_da += tl.cumsum(b_read, 0, reverse=True) + whole * tl.sum(b_through, 0)
            o_t = start + tl.arange(0, C)
            tl.store(p_da + i_head + o_t * H, b_da, mask=o_t < T)
        b_P *= b_d
    b_dv = tl.dot(tl.trans(b_P.to(b_dy.dtype)), b_dy, b_dv, input_precision=PRECISION)
    store_tile(p_dv + i_head * V, b_dv, start, C, T, H * V, 0, V, BV)


def gradients(q, k, v, log_a, dy, S, dS, wants_decay, sizes):
    """dq, dk, dv and dlog_a, or None for it, from the states before every chunk and the gradients of those after."""
    (B, T, H, K), C = q.shape, sizes["C"]
    BV = max(16, triton.next_power_of_2(v.shape[-1]))
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    da = torch.empty_like(log_a) if wants_decay else None
    tensors = q, k, v, log_a, dy, S, dS, dq, dk, dv, da
    named = sizes | {"BV": BV, "LOG": C.bit_length() - 1, "configs": configs(TILES, K), "key": ("T", "H", "K", "V")}
    launch(chunk_gradients, (triton.cdiv(T, C), B * H), *tensors, T, H, **named)
    return dq, dk, dv, da


def configs(tiles, K, *names):
    """The configurations for `launch`, with tiles no wider than K."""
    widest = max(16, triton.next_power_of_2(K))
    names = ("BK", *names, "num_warps", "num_stages")
    found = [dict(zip(names, (min(BK, widest), *rest), strict=True)) for BK, *rest in tiles]
    return tuple({tuple(config.items()): config for config in found}.values())
