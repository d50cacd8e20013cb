"""The backward of attention without the matrix of scores (FlashAttention-2, arXiv:2307.08691).

lse, kept by the forward, gives back the weights of any tile, P = exp(scores - lse):

    dV = Pᵀ dY       dP = dY Vᵀ          dS = P (dP - D)
    dQ = scale dS K  dK = scale dSᵀ Q    D = Σ_v dY Y - dlse

One kernel walks along the keys for dQ, another along the queries for dK and dV, so that nothing is
added atomically: two runs give the same bits. `flash_attention.py` says what a query sees, and what
MASKED means.
"""

import torch
import triton
import triton.language as tl

from seqlab.kernels.launch import launch
from seqlab.kernels.tiles import (
    LOG2E,
    configs,
    head,
    load_rows,
    padded,
    precision,
    store_rows,
    visible,
)

TILES_Q = {
    64: ((128, 32, 8, 2), (64, 64, 4, 2), (128, 64, 8, 2)),
    128: ((64, 32, 8, 2), (64, 64, 4, 2), (64, 64, 8, 2), (128, 64, 8, 2), (32, 32, 4, 1)),
    256: ((32, 32, 4, 1), (64, 32, 8, 2), (64, 32, 8, 1), (32, 16, 4, 1)),
}
TILES_KV = {
    64: ((32, 64, 4, 1), (64, 64, 4, 2), (64, 128, 8, 2), (32, 128, 8, 2)),
    128: ((32, 32, 4, 1), (64, 64, 8, 2), (64, 128, 8, 2), (32, 128, 8, 2), (32, 64, 4, 2)),
    256: ((16, 32, 8, 1), (32, 64, 8, 1), (32, 32, 8, 2)),
}
"""BT, BS, warps and stages, chosen as in the forward.

The first of `TILES_KV` is small enough to fit everywhere.
"""
KEY = ("T_q", "T_k", "K", "V")


@triton.jit
def attend_delta(
    p_y, p_dy, p_dlse, p_d, T_q, H, V: tl.constexpr, BV: tl.constexpr, BT: tl.constexpr
):
    """D = Σ_v dy y - dlse, one number for each query."""
    start, i_bh = tl.program_id(0) * BT, tl.program_id(1)
    i_q, _ = head(i_bh, T_q, T_q, H, H)
    b_y = load_rows(p_y + i_q * V, start, BT, T_q, H * V, V, BV, MASKED=True).to(tl.float32)
    b_dy = load_rows(p_dy + i_q * V, start, BT, T_q, H * V, V, BV, MASKED=True).to(tl.float32)
    o_t = start + tl.arange(0, BT)
    row = i_bh.to(tl.int64) * T_q
    b_dlse = tl.load(p_dlse + row + o_t, mask=o_t < T_q, other=0.0)
    tl.store(p_d + row + o_t, tl.sum(b_y * b_dy, 1) - b_dlse, mask=o_t < T_q)


@triton.jit
def load_lse(p_lse, p_d, start, BT: tl.constexpr, T_q):
    """lse in units of log 2, and D, of BT queries."""
    o_t = start + tl.arange(0, BT)
    b_lse = tl.load(p_lse + o_t, mask=o_t < T_q, other=0.0) * LOG2E
    return b_lse, tl.load(p_d + o_t, mask=o_t < T_q, other=0.0)


@triton.jit
def attend_backward_q(p_q, p_k, p_v, p_dy, p_lse, p_d, p_dq,
                      T_q, T_k, H, h, lo, hi, scale, scale_2,
                      K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
                      PRECISION: tl.constexpr, BT: tl.constexpr, BS: tl.constexpr):  # fmt: skip
    """dQ of BT queries of one head, along the keys."""
    start, i_bh = (tl.num_programs(0) - 1 - tl.program_id(0)) * BT, tl.program_id(1)
    i_q, i_k = head(i_bh, T_q, T_k, H, h)
    row = i_bh.to(tl.int64) * T_q
    b_q = load_rows(p_q + i_q * K, start, BT, T_q, H * K, K, BK, MASKED=True)
    b_dy = load_rows(p_dy + i_q * V, start, BT, T_q, H * V, V, BV, MASKED=True)
    b_lse, b_d = load_lse(p_lse + row, p_d + row, start, BT, T_q)
    b_dq = tl.zeros((BT, BK), tl.float32)
    begin, _, _, end = visible(start, BT, lo, hi, T_k, BS)
    for j in range(begin, end, BS):
        b_k = load_rows(p_k + i_k * K, j, BS, T_k, h * K, K, BK, MASKED=True)
        b_v = load_rows(p_v + i_k * V, j, BS, T_k, h * V, V, BV, MASKED=True)
        away = j + tl.arange(0, BS)[None, :] - (start + tl.arange(0, BT)[:, None])
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * scale_2
        # The mask comes after 2ˣ: a query that sees no key has lse = -inf.
        b_p = tl.where((away >= lo) & (away < hi), tl.exp2(b_s - b_lse[:, None]), 0.0)
        b_dp = tl.dot(b_dy, tl.trans(b_v), input_precision=PRECISION)
        b_ds = b_p * (b_dp - b_d[:, None])
        # A key past the end adds nothing: its b_k is 0.
        b_dq = tl.dot(b_ds.to(b_k.dtype), b_k, b_dq, input_precision=PRECISION)
    store_rows(p_dq + i_q * K, b_dq * scale, start, BT, T_q, H * K, K, BK)


@triton.jit
def attend_backward_kv(p_q, p_k, p_v, p_dy, p_lse, p_d, p_dk, p_dv,
                       T_q, T_k, H, h, lo, hi, scale, scale_2,
                       K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
                       PRECISION: tl.constexpr, BT: tl.constexpr, BS: tl.constexpr):  # fmt: skip
    """dK and dV of BS keys of one head, along the queries of all heads that share it.

    Everything is transposed, (BS, BT), so that Pᵀ and dSᵀ come out of their dots in the layout that
    the next dots need.
    """
    start, i_bh = tl.program_id(0) * BS, tl.program_id(1)
    i_k = (i_bh // h).to(tl.int64) * T_k * h + i_bh % h
    b_k = load_rows(p_k + i_k * K, start, BS, T_k, h * K, K, BK, MASKED=True)
    b_v = load_rows(p_v + i_k * V, start, BS, T_k, h * V, V, BV, MASKED=True)
    b_dk, b_dv = tl.zeros((BS, BK), tl.float32), tl.zeros((BS, BV), tl.float32)
    begin, _, _, end = visible(start, BS, 1 - hi, 1 - lo, T_q, BT)
    for g in range(0, H // h):
        i_head = i_bh * (H // h) + g  # batch and head of q in one number, as in the forward
        i_q = head(i_head, T_q, T_k, H, h)[0]
        row = tl.cast(i_head, tl.int64) * T_q
        for i in range(begin, end, BT):
            b_q = load_rows(p_q + i_q * K, i, BT, T_q, H * K, K, BK, MASKED=True)
            b_dy = load_rows(p_dy + i_q * V, i, BT, T_q, H * V, V, BV, MASKED=True)
            b_lse, b_d = load_lse(p_lse + row, p_d + row, i, BT, T_q)
            away = start + tl.arange(0, BS)[:, None] - (i + tl.arange(0, BT)[None, :])
            b_s = tl.dot(b_k, tl.trans(b_q), input_precision=PRECISION) * scale_2
            b_p = tl.where((away >= lo) & (away < hi), tl.exp2(b_s - b_lse[None, :]), 0.0)
            # A query past the end adds nothing: its b_q and b_dy are 0.
            b_dv = tl.dot(b_p.to(b_dy.dtype), b_dy, b_dv, input_precision=PRECISION)
            b_dp = tl.dot(b_v, tl.trans(b_dy), input_precision=PRECISION)
            b_ds = b_p * (b_dp - b_d[None, :])
            b_dk = tl.dot(b_ds.to(b_q.dtype), b_q, b_dk, input_precision=PRECISION)
    store_rows(p_dk + i_k * K, b_dk * scale, start, BS, T_k, h * K, K, BK)
    store_rows(p_dv + i_k * V, b_dv, start, BS, T_k, h * V, V, BV)


def attend_backward(dy, dlse, q, k, v, y, lse, lo, hi, scale):
    """dq, dk, dv. lse is (B, H, T_q), the rest is as `flash_attention` takes and returns it."""
    dy, dlse = dy.contiguous(), dlse.transpose(1, 2).float().contiguous()
    B, T_q, H, K = q.shape
    _, T_k, h, V = v.shape
    BK, BV = padded(K), padded(V)
    dq, dk, dv, D = (torch.empty_like(x) for x in (q, k, v, lse))
    launch(attend_delta, (triton.cdiv(T_q, 64), B * H), y, dy, dlse, D, T_q, H, V, BV, BT=64)
    given = q, k, v, dy, lse, D
    seen = T_q, T_k, H, h, lo, hi, scale, scale * LOG2E.value
    sizes = {"K": K, "V": V, "BK": BK, "BV": BV, "PRECISION": precision(q)}

    def queries(meta):
        return triton.cdiv(T_q, meta["BT"]), B * H

    def keys(meta):
        return triton.cdiv(T_k, meta["BS"]), B * h

    tuned = {"configs": configs(TILES_Q, K, V), "key": KEY}
    launch(attend_backward_q, queries, *given, dq, *seen, **sizes, **tuned)
    tuned = {"configs": configs(TILES_KV, K, V), "key": KEY}
    launch(attend_backward_kv, keys, *given, dk, dv, *seen, **sizes, **tuned)
    return dq, dk, dv
