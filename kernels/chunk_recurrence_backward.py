"""The gradients of the chunked linear recurrence, and its pairs under a decay per channel.

S is the state before a chunk, dS the gradient of the one after it, both kept by `walk_states`. b_i
is the decay from the chunk's start up to i, f_j the one after j to its end, d_ij the one after j up
to i, and dP = dY Vᵀ for j ≤ i:

    dq_i = Σ_j dP_ij d_ij k_j + b_i dy_i S
    dk_j = Σ_i dP_ij d_ij q_i + f_j v_j dS
    dv_j = Σ_i P_ij dy_i + dS (f_j k_j)

A decay a_t is part of four kinds of paths: from before the chunk to a read in it, from a write in
it to after it, from before to after, and from j to i. The gradient of log a_t is the sum of the
paths that pass t, each with its decay. With W = d P dP,

    dlog a_t = Σ_{i ≥ t} b_i q_i · dy_i S + Σ_{j < t} f_j k_j · v_j dS
             + b_C ⟨S, dS⟩ + Σ_{i ≥ t > j} W_ij

The usual form, Σ_{i ≥ t} (q_i · dq_i - k_i · dk_i) over everything that follows, cancels large
numbers, and under a strong decay it cancels all of them. Here one such difference remains, for a
decay per channel: W is never held for each channel, so its sum is that of rows less that of
columns, within one chunk and off its diagonal.

A chunk is read from memory once: q, k, v, dy, log a, S and dS. Parts of it are read again for other
tiles while they are still in a cache, so that a program needs no more registers than it has. dq,
dk, dv and dlog a are written once.
"""

import torch
import triton
import triton.language as tl

from seqlab.kernels.launch import configurations, launch
from seqlab.kernels.tiles import decay_between, decay_ends, head, load_tile, padded, store_tile

KEY = ("T", "H", "K", "V", "A")
BY_HEAD = (
    (32, 64, 8, 2),
    (64, 64, 8, 1),
    (64, 64, 8, 2),
    (64, 64, 4, 1),
    (32, 64, 4, 2),
    (128, 64, 8, 1),
)
BY_CHANNEL = ((16, 64, 8, 1), (32, 64, 8, 1), (32, 64, 4, 1), (64, 64, 8, 1))
"""BK, BV, warps and stages by the kind of decay.

The first does not spill on any target; a GPU tries them all.
"""


@triton.jit
def doubled(b_in, b_out, SIZE, N: tl.constexpr):
    """Sums of logs within blocks of rows, for blocks of 2 SIZE rows from those of SIZE.

    b_in: from the block's start up to each row. b_out: from after each row to the block's end.
    """
    o_t = tl.arange(0, N)[:, None]
    second = (o_t & SIZE) != 0  # of the two blocks
    b_other = tl.gather(b_in + b_out, tl.broadcast_to(o_t ^ SIZE, b_in.shape), 0)  # its whole sum
    return b_in + tl.where(second, b_other, 0.0), b_out + tl.where(second, 0.0, b_other)


@triton.jit
def meeting(b_in, b_out, SIZE, N: tl.constexpr):
    """The decay of each row from or to the border of two blocks, and which pairs use it (N, N).

    A pair i > j with i in the second block of SIZE rows and j in the first has d_ij = the decay
    from j to the border times the decay from the border to i. For each pair of a chunk there is
    exactly one such SIZE in 1, 2, 4, …: the highest bit in which i and j differ. So a decay per
    channel takes log₂ C products on the tensor cores, and no exponent is positive.
    """
    o_i, o_j = tl.arange(0, N)[:, None], tl.arange(0, N)[None, :]
    second = (o_i & SIZE) != 0
    return tl.exp(tl.where(second, b_in, b_out)), second & (((o_i ^ o_j) & -SIZE) == SIZE)


@triton.jit
def pairs_by_channel(b_P, b_q, b_k, b_a, N: tl.constexpr, PRECISION: tl.constexpr):
    """b_P + Σ_k q_ik k_jk d_ijk for j ≤ i (N, N)."""
    o_i, o_j = tl.arange(0, N)[:, None], tl.arange(0, N)[None, :]
    b_P += tl.where(o_i == o_j, tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION), 0.0)
    b_in, b_out = b_a, tl.zeros_like(b_a)
    SIZE = 1
    while SIZE < N:
        b_e, meet = meeting(b_in, b_out, SIZE, N)
        b_qe = (b_q * b_e).to(b_q.dtype)
        b_ke = (b_k * b_e).to(b_k.dtype)
        b_P += tl.where(meet, tl.dot(b_qe, tl.trans(b_ke), input_precision=PRECISION), 0.0)
        b_in, b_out = doubled(b_in, b_out, SIZE, N)
        SIZE *= 2
    return b_P


@triton.jit
def pair_gradients_by_channel(b_dp, b_q, b_k, b_a, N: tl.constexpr, PRECISION: tl.constexpr):
    """The part of dq and dk that comes through P from other rows, given dP (N, N).

    Also returns the decay from the chunk's start up to each row, and from after it to the end.
    """
    b_dq, b_dk = tl.zeros_like(b_a), tl.zeros_like(b_a)
    b_in, b_out = b_a, tl.zeros_like(b_a)
    SIZE = 1
    while SIZE < N:
        b_e, meet = meeting(b_in, b_out, SIZE, N)
        b_d = tl.where(meet, b_dp, 0.0).to(b_q.dtype)
        b_qe = (b_q * b_e).to(b_q.dtype)
        b_ke = (b_k * b_e).to(b_k.dtype)
        b_dq += b_e * tl.dot(b_d, b_ke, input_precision=PRECISION)
        b_dk += b_e * tl.dot(tl.trans(b_d), b_qe, input_precision=PRECISION)
        b_in, b_out = doubled(b_in, b_out, SIZE, N)
        SIZE *= 2
    return b_dq, b_dk, tl.exp(b_in), tl.exp(b_out)


@triton.jit
def chunk_pairs(p_q, p_k, p_a, i_head, start, T, H,
                K: tl.constexpr, A: tl.constexpr, C: tl.constexpr,
                PRECISION: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """P of a chunk (C, C). A decay per head, 0 for j > i, is left for the caller to multiply in.

    p_q and p_k point to the head, p_a to the first of all heads.
    """
    b_P = tl.zeros((C, C), tl.float32)
    for i_k in range(0, K, BK):
        b_q = load_tile(p_q, row=start, N=C, rows=T, stride=H * K, column=i_k, W=K, BW=BK)
        b_k = load_tile(p_k, row=start, N=C, rows=T, stride=H * K, column=i_k, W=K, BW=BK)
        if A == 1:
            b_P += tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
        else:
            p_ah = p_a + i_head * K
            b_a = load_tile(p_ah, row=start, N=C, rows=T, stride=H * K, column=i_k, W=K, BW=BK)
            b_P = pairs_by_channel(b_P, b_q, b_k, b_a, C, PRECISION)
    return b_P


@triton.jit
def chunk_gradients(p_q, p_k, p_v, p_a, p_dy, p_S, p_dS, p_dq, p_dk, p_dv, p_da, T, H,
                    K: tl.constexpr, V: tl.constexpr, A: tl.constexpr, C: tl.constexpr,
                    PRECISION: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):  # fmt: skip
    """All gradients of one chunk of one head: first dP, then dv by tiles of V, dq and dk by K."""
    start = tl.program_id(0) * C
    i_bh = tl.program_id(1)
    i_head = head(i_bh, T, T, H, H)[0]
    i_state = (i_bh.to(tl.int64) * tl.cdiv(T, C) + tl.program_id(0)) * V * K
    p_q, p_k, p_dq, p_dk = p_q + i_head * K, p_k + i_head * K, p_dq + i_head * K, p_dk + i_head * K
    p_v, p_dy, p_dv = p_v + i_head * V, p_dy + i_head * V, p_dv + i_head * V
    p_S, p_dS = p_S + i_state, p_dS + i_state
    b_P = chunk_pairs(p_q, p_k, p_a, i_head, start, T, H, K, A, C, PRECISION, BK)
    o_i, o_j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    b_dP = tl.zeros((C, C), tl.float32)
    for i_v in range(0, V, BV):
        b_v = load_tile(p_v, row=start, N=C, rows=T, stride=H * V, column=i_v, W=V, BW=BV)
        b_dy = load_tile(p_dy, row=start, N=C, rows=T, stride=H * V, column=i_v, W=V, BW=BV)
        b_dP += tl.dot(b_dy, tl.trans(b_v), input_precision=PRECISION)
    b_da, b_kept = tl.zeros((C,), tl.float32), tl.zeros((C,), tl.float32)
    through = 0.0
    if A == 1:
        b_since, b_until, whole = decay_ends(p_a, i_head, start, C, T, H)
        b_d = decay_between(p_a, i_head, start, C, T, H)
        b_P *= b_d
        if p_da is not None:
            b_W = tl.where(o_i > o_j, b_P * b_dP, 0.0)
            b_W = tl.cumsum(b_W, 0, reverse=True)  # Σ_{i ≥ t} W_ij, at (t, j)
            b_da = tl.sum(tl.where(o_i > o_j, b_W, 0.0), 1)
        b_dP *= b_d
    else:
        b_dP = tl.where(o_i >= o_j, b_dP, 0.0)
    b_p, b_dp = b_P.to(p_q.dtype.element_ty), b_dP.to(p_q.dtype.element_ty)

    for i_v in range(0, V, BV):
        b_dv = tl.zeros((C, BV), tl.float32)
        for i_k in range(0, K, BK):
            b_k = load_tile(p_k, row=start, N=C, rows=T, stride=H * K, column=i_k, W=K, BW=BK)
            b_dS = load_tile(p_dS, row=i_v, N=BV, rows=V, stride=K, column=i_k, W=K, BW=BK)
            if A > 1:
                p_ah, end = p_a + i_head * K, tl.minimum(start + C, T)
                b_next = load_tile(
                    p_ah, row=start + 1, N=C, rows=end, stride=H * K, column=i_k, W=K, BW=BK
                )
                b_k = (b_k * tl.exp(tl.cumsum(b_next, 0, reverse=True))).to(b_k.dtype)
            b_dv = tl.dot(b_k, tl.trans(b_dS), b_dv, input_precision=PRECISION)
        if A == 1:
            b_dv *= b_until[:, None]
        b_dy = load_tile(p_dy, row=start, N=C, rows=T, stride=H * V, column=i_v, W=V, BW=BV)
        b_dv = tl.dot(tl.trans(b_p), b_dy, b_dv, input_precision=PRECISION)
        store_tile(p_dv, b_dv, row=start, N=C, rows=T, stride=H * V, column=i_v, W=V, BW=BV)

    for i_k in range(0, K, BK):
        b_q = load_tile(p_q, row=start, N=C, rows=T, stride=H * K, column=i_k, W=K, BW=BK)
        b_k = load_tile(p_k, row=start, N=C, rows=T, stride=H * K, column=i_k, W=K, BW=BK)
        if A > 1:
            p_ah = p_a + i_head * K
            b_a = load_tile(p_ah, row=start, N=C, rows=T, stride=H * K, column=i_k, W=K, BW=BK)
            b_near_q, b_near_k, b_since, b_until = pair_gradients_by_channel(
                b_dp, b_q, b_k, b_a, C, PRECISION
            )
        b_dq, b_dk = tl.zeros((C, BK), tl.float32), tl.zeros((C, BK), tl.float32)
        b_through = tl.zeros((BK,), tl.float32)
        for i_v in range(0, V, BV):
            b_v = load_tile(p_v, row=start, N=C, rows=T, stride=H * V, column=i_v, W=V, BW=BV)
            b_dy = load_tile(p_dy, row=start, N=C, rows=T, stride=H * V, column=i_v, W=V, BW=BV)
            b_S = load_tile(p_S, row=i_v, N=BV, rows=V, stride=K, column=i_k, W=K, BW=BK)
            b_dS = load_tile(p_dS, row=i_v, N=BV, rows=V, stride=K, column=i_k, W=K, BW=BK)
            b_dq = tl.dot(b_dy, b_S, b_dq, input_precision=PRECISION)
            b_dk = tl.dot(b_v, b_dS, b_dk, input_precision=PRECISION)
            if p_da is not None:
                b_through += tl.sum(b_S.to(tl.float32) * b_dS.to(tl.float32), 0)
        if A == 1:
            b_dq, b_dk = b_dq * b_since[:, None], b_dk * b_until[:, None]
            if p_da is not None:
                b_da += tl.cumsum(tl.sum(b_q * b_dq, 1), 0, reverse=True)
                b_kept += tl.sum(b_k * b_dk, 1)
                through += tl.sum(b_through, 0)
            b_dq = tl.dot(b_dp, b_k, b_dq, input_precision=PRECISION)
            b_dk = tl.dot(tl.trans(b_dp), b_q, b_dk, input_precision=PRECISION)
        else:
            b_dq, b_dk = b_dq * b_since, b_dk * b_until
            b_near_q += b_dq
            if p_da is not None:
                # Writes before t, then the pairs that pass t: those read from t on, less those
                # also written from t on.
                o_last = tl.broadcast_to(tl.maximum(o_i - 1, 0), (C, BK))
                b_before = tl.gather(tl.cumsum(b_k * b_dk, 0), o_last, 0)
                b_dak = tl.where(o_i > 0, b_before, 0.0)
                b_dak += tl.cumsum(b_q * b_near_q - b_k * b_near_k, 0, reverse=True)
                b_dak += (tl.exp(tl.sum(b_a, 0)) * b_through)[None, :]
                p_dah = p_da + i_head * K
                store_tile(
                    p_dah, b_dak, row=start, N=C, rows=T, stride=H * K, column=i_k, W=K, BW=BK
                )
            b_self = tl.sum(tl.where(o_i == o_j, b_dp.to(tl.float32), 0.0), 1)[:, None]
            b_dq, b_dk = b_near_q + b_self * b_k, b_dk + b_near_k + b_self * b_q
        store_tile(p_dq, b_dq, row=start, N=C, rows=T, stride=H * K, column=i_k, W=K, BW=BK)
        store_tile(p_dk, b_dk, row=start, N=C, rows=T, stride=H * K, column=i_k, W=K, BW=BK)

    if A == 1 and p_da is not None:
        b_da += tl.sum(tl.where(o_j < o_i, b_kept[None, :], 0.0), 1) + whole * through
        o_t = start + tl.arange(0, C)
        tl.store(p_da + i_head + o_t * H, b_da, mask=o_t < T)


def gradients(q, k, v, log_a, dy, S, dS, wants_decay, sizes):
    """dq, dk, dv, and dlog_a or None.

    S: the states before every chunk. dS: the gradients of the states after every chunk.
    """
    B, T, H, _ = q.shape
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    da = torch.empty_like(log_a) if wants_decay else None
    tensors = q, k, v, log_a, dy, S, dS, dq, dk, dv, da
    grid = triton.cdiv(T, sizes["C"]), B * H
    configs = tiles(BY_HEAD if sizes["A"] == 1 else BY_CHANNEL, q, v)
    launch(chunk_gradients, grid, *tensors, T, H, **sizes, configs=configs, key=KEY)
    return dq, dk, dv, da


def tiles(sizes, q, v):
    """The configurations from sizes ((BK, BV, num_warps, num_stages), …).

    No tile is wider than q or v, and none appears twice.
    """
    K, V = (padded(x.shape[-1]) for x in (q, v))
    fitting = [(min(K, BK), min(V, BV), *launched) for BK, BV, *launched in sizes]
    return configurations("BK BV", dict.fromkeys(fitting))
