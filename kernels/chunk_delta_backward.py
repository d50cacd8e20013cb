"""The backward of the gated delta rule in chunks. Letters as in `chunk_delta.py`.

DX is the gradient of X.

`delta_backward_states` walks back along the chunks with DS in registers, DS that of the state after
the chunk:

    DU = Pᵀ DY + f K DSᵀ        DR = Aᵀ DU        DS ← e_C DS + DYᵀ (e Q) - (e β DR)ᵀ K

The others take all chunks in parallel. (I + L) U = R gives DL = -DR Uᵀ, and DP = DY Uᵀ.
`delta_backward_pairs` computes whatever is (C, C), and DV; `delta_backward_inputs` computes the
rest. It reads the (C, V) inputs a second time, because one kernel with all four sums, (C, C) and
(C, K), would not fit into registers.

    M = d DP        E_ij = β_i d_ij DL_ij, j < i        DV = β DR
    DQ = e DY S + M K        DK = f U DS - e β DR S + Mᵀ Q + (E + Eᵀ) K
    Dβ_i = DR_i·(v_i - e_i S k_i) + Σ_j DL_ij d_ij k_i·k_j

log a_m is part of every decay whose span contains m: d_ij for j < m ≤ i, e_i for m ≤ i, f_j for
j < m, and e_C. Its gradient is the sum over these of decay · the decay's gradient; no difference of
large sums is taken. Each kernel, and each of the n_k blocks of K, writes its part of D log a and Dβ
once, and PyTorch adds these parts: no atomics.

Numbers to move per token and head, without gates: (2K + 2C) n + 2V + KV/C in n = V / BV programs a
head, then K + 5V + 3C, then 4K + 2KV/C + (3V + 2C) n_k.
"""

import torch
import triton
import triton.language as tl

from seqlab.kernels.launch import configurations, launch
from seqlab.kernels.tiles import decay_between, decay_ends, head, load_gate, load_tile, store_tile

KEY = ("T", "H", "K")
WALKS = {
    128: ((32, 4, 1), (32, 4, 2), (64, 4, 2), (32, 4, 3), (64, 8, 2)),
    256: ((16, 8, 1), (16, 4, 2), (32, 4, 2)),
}
PAIRS = {256: ((64, 8, 1), (32, 4, 1), (64, 8, 2))}
INPUTS = {256: ((32, 8, 1), (32, 4, 1), (64, 8, 1), (64, 4, 2))}
"""BV, warps and stages by the width of a key. The first spills on no target; a GPU tries all."""


def of_width(configs, k):
    """The configurations for keys of this width, as `launch` takes them.

    On Blackwell only those of one stage: Triton's pipeliner (3.6 to 3.8, issue 10821; pull request
    10993 was open when this was written) could start a product before another product of the loop
    had updated the state that both use.
    """
    sizes = next(sizes for width, sizes in configs.items() if width >= k.shape[-1])
    if k.is_cuda and torch.cuda.get_device_capability(k.device)[0] >= 10:
        sizes = [(*size, stages) for *size, stages in sizes if stages == 1]
    return configurations("BV", sizes)


@triton.jit
def delta_backward_states(p_q, p_k, p_a, p_beta, p_A, p_P, p_dy, p_dlast, p_dS, p_dr, p_dfirst,
                          T, H, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr,
                          C: tl.constexpr, PRECISION: tl.constexpr,
                          BV: tl.constexpr):  # fmt: skip
    """BV columns of DSᵀ (K, V) after every chunk and before the first, and of DR, of one head."""
    column = tl.program_id(0) * BV
    i_bh = tl.program_id(1)
    i_head = head(i_bh, T, T, H, H)[0]
    i_state = i_bh.to(tl.int64) * K * V
    n = tl.cdiv(T, C)
    p_q += i_head * K
    p_k += i_head * K
    p_dy += i_head * V
    p_dr += i_head * V
    p_A += i_head * C
    p_P += i_head * C
    p_dS += i_state * n
    b_dlast = load_tile(p_dlast + i_state, row=column, N=BV, rows=V, stride=K, column=0, W=K, BW=BK)
    b_dS = tl.trans(b_dlast)
    for i in range(0, n):
        i_t = n - 1 - i
        start = i_t * C
        p_c = p_dS + tl.cast(i_t, tl.int64) * K * V
        store_tile(p_c, b_dS, row=0, N=BK, rows=K, stride=V, column=column, W=V, BW=BV)
        b_beta = load_gate(p_beta, i_head, start, C, T, H)
        b_e, b_f, whole = decay_ends(p_a, i_head, start, C, T, H)
        b_k = load_tile(p_k, row=start, N=C, rows=T, stride=H * K, column=0, W=K, BW=BK)
        b_du = tl.dot(b_k, b_dS.to(b_k.dtype), input_precision=PRECISION) * b_f[:, None]
        b_P = load_tile(p_P, row=start, N=C, rows=T, stride=H * C, column=0, W=C, BW=C)
        b_dy = load_tile(p_dy, row=start, N=C, rows=T, stride=H * V, column=column, W=V, BW=BV)
        b_du = tl.dot(tl.trans(b_P), b_dy, b_du, input_precision=PRECISION)
        b_A = load_tile(p_A, row=start, N=C, rows=T, stride=H * C, column=0, W=C, BW=C)
        b_dr = tl.dot(tl.trans(b_A), b_du.to(b_A.dtype), input_precision=PRECISION)
        store_tile(p_dr, b_dr, row=start, N=C, rows=T, stride=H * V, column=column, W=V, BW=BV)
        b_dr = (b_dr * -(b_e * b_beta)[:, None]).to(b_k.dtype)
        b_dS = tl.dot(tl.trans(b_k), b_dr, b_dS * whole, input_precision=PRECISION)
        b_q = load_tile(p_q, row=start, N=C, rows=T, stride=H * K, column=0, W=K, BW=BK)
        b_dy = (b_dy.to(tl.float32) * b_e[:, None]).to(b_q.dtype)
        b_dS = tl.dot(tl.trans(b_q), b_dy, b_dS, input_precision=PRECISION)
    if p_dfirst is not None:
        b_dS = tl.trans(b_dS)
        p_dfirst += i_state
        store_tile(p_dfirst, b_dS, row=column, N=BV, rows=V, stride=K, column=0, W=K, BW=BK)


@triton.jit
def delta_backward_pairs(p_k, p_v, p_a, p_beta, p_P, p_u, p_dy, p_dr, p_dv, p_M, p_E, p_da,
                         p_dbeta, T, H, columns, K: tl.constexpr, V: tl.constexpr,
                         BK: tl.constexpr, C: tl.constexpr, PRECISION: tl.constexpr,
                         BV: tl.constexpr):  # fmt: skip
    """DV, M and E + Eᵀ of one chunk, and the parts of D log a and Dβ that come from P, L and v."""
    start = tl.program_id(0) * C
    i_head = head(tl.program_id(1), T, T, H, H)[0]
    o_i, o_j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    o_t = start + tl.arange(0, C)
    p_u += i_head * V
    p_dy += i_head * V
    p_dr += i_head * V
    p_v += i_head * V
    p_dv += i_head * V
    b_beta = load_gate(p_beta, i_head, start, C, T, H)
    b_dbeta = tl.zeros((C,), tl.float32)
    b_dP, b_dL = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
    for o_v in range(0, columns, BV):
        b_u = load_tile(p_u, row=start, N=C, rows=T, stride=H * V, column=o_v, W=V, BW=BV)
        b_dy = load_tile(p_dy, row=start, N=C, rows=T, stride=H * V, column=o_v, W=V, BW=BV)
        b_dr = load_tile(p_dr, row=start, N=C, rows=T, stride=H * V, column=o_v, W=V, BW=BV)
        b_dP = tl.dot(b_dy, tl.trans(b_u), b_dP, input_precision=PRECISION)
        b_dL = tl.dot(b_dr, tl.trans(b_u), b_dL, input_precision=PRECISION)
        b_v = load_tile(p_v, row=start, N=C, rows=T, stride=H * V, column=o_v, W=V, BW=BV)
        b_dr = b_dr.to(tl.float32)
        b_dbeta += tl.sum(b_dr * b_v.to(tl.float32), 1)
        b_dv = b_dr * b_beta[:, None]
        store_tile(p_dv, b_dv, row=start, N=C, rows=T, stride=H * V, column=o_v, W=V, BW=BV)
    b_d = decay_between(p_a, i_head, start, C, T, H)
    p_M += i_head * C
    store_tile(p_M, b_dP * b_d, row=start, N=C, rows=T, stride=H * C, column=0, W=C, BW=C)
    b_dL = tl.where(o_i > o_j, -b_dL * b_d, 0.0)
    b_E = b_dL * b_beta[:, None]
    p_E += i_head * C
    store_tile(p_E, b_E + tl.trans(b_E), row=start, N=C, rows=T, stride=H * C, column=0, W=C, BW=C)
    b_k = load_tile(p_k + i_head * K, row=start, N=C, rows=T, stride=H * K, column=0, W=K, BW=BK)
    b_dL *= tl.dot(b_k, tl.trans(b_k), input_precision=PRECISION)
    tl.store(p_dbeta + i_head + o_t * H, b_dbeta + tl.sum(b_dL, 1), mask=o_t < T)
    if p_a is not None:
        b_P = load_tile(p_P + i_head * C, row=start, N=C, rows=T, stride=H * C, column=0, W=C, BW=C)
        b_da = b_dP * b_P.to(tl.float32) + b_dL * b_beta[:, None]
        b_span = tl.cumsum(b_da, 0, reverse=True)  # (m, j): the sum over i ≥ m
        tl.store(p_da + i_head + o_t * H, tl.sum(tl.where(o_i > o_j, b_span, 0.0), 1), mask=o_t < T)


@triton.jit
def delta_backward_inputs(p_q, p_k, p_a, p_beta, p_S, p_u, p_dy, p_dS, p_dr, p_M, p_E, p_dq,
                          p_dk, p_da, p_dbeta, B, T, H, columns, K: tl.constexpr,
                          V: tl.constexpr, BK: tl.constexpr, C: tl.constexpr,
                          PRECISION: tl.constexpr, BV: tl.constexpr):  # fmt: skip
    """BK columns of DQ and DK of one chunk, and the parts of D log a and Dβ from these of S."""
    i_k = tl.program_id(0)
    i_t = tl.program_id(1)
    i_bh = tl.program_id(2)
    o_k = i_k * BK
    start = i_t * C
    i_head = head(i_bh, T, T, H, H)[0]
    i_state = (i_bh.to(tl.int64) * tl.cdiv(T, C) + i_t) * K * V
    p_q += i_head * K
    p_k += i_head * K
    p_u += i_head * V
    p_dy += i_head * V
    p_dr += i_head * V
    b_beta = load_gate(p_beta, i_head, start, C, T, H)
    b_e, b_f, whole = decay_ends(p_a, i_head, start, C, T, H)
    b_k = load_tile(p_k, row=start, N=C, rows=T, stride=H * K, column=o_k, W=K, BW=BK)
    b_dq, b_dk = tl.zeros((C, BK), tl.float32), tl.zeros((C, BK), tl.float32)
    b_old, b_to = tl.zeros((C,), tl.float32), tl.zeros((C,), tl.float32)
    d_whole = 0.0
    for o_v in range(0, columns, BV):
        b_S = load_tile(p_S + i_state, row=o_k, N=BK, rows=K, stride=V, column=o_v, W=V, BW=BV)
        b_dy = load_tile(p_dy, row=start, N=C, rows=T, stride=H * V, column=o_v, W=V, BW=BV)
        b_dq = tl.dot(b_dy, tl.trans(b_S), b_dq, input_precision=PRECISION)
        b_dr = load_tile(p_dr, row=start, N=C, rows=T, stride=H * V, column=o_v, W=V, BW=BV)
        b_dr = b_dr.to(tl.float32) * b_e[:, None]
        b_old += tl.sum(b_dr * tl.dot(b_k, b_S, input_precision=PRECISION), 1)
        b_dr = (b_dr * -b_beta[:, None]).to(b_k.dtype)
        b_dk = tl.dot(b_dr, tl.trans(b_S), b_dk, input_precision=PRECISION)
        b_dS = load_tile(p_dS + i_state, row=o_k, N=BK, rows=K, stride=V, column=o_v, W=V, BW=BV)
        b_u = load_tile(p_u, row=start, N=C, rows=T, stride=H * V, column=o_v, W=V, BW=BV)
        b_u = b_u.to(tl.float32) * b_f[:, None]
        b_dk = tl.dot(b_u.to(b_k.dtype), tl.trans(b_dS), b_dk, input_precision=PRECISION)
        if p_a is not None:
            b_to += tl.sum(b_u * tl.dot(b_k, b_dS, input_precision=PRECISION), 1)
            d_whole += tl.sum(b_S.to(tl.float32) * b_dS.to(tl.float32))
    o_t = start + tl.arange(0, C)
    part = i_k.to(tl.int64) * B * T * H + i_head + o_t * H
    tl.store(p_dbeta + part, -b_old, mask=o_t < T)
    b_q = load_tile(p_q, row=start, N=C, rows=T, stride=H * K, column=o_k, W=K, BW=BK)
    b_dq *= b_e[:, None]
    if p_a is not None:
        b_da = tl.cumsum(tl.sum(b_q.to(tl.float32) * b_dq, 1) - b_old * b_beta, 0, reverse=True)
        tl.store(p_da + part, b_da + tl.cumsum(b_to, 0) - b_to + d_whole * whole, mask=o_t < T)
    b_M = load_tile(p_M + i_head * C, row=start, N=C, rows=T, stride=H * C, column=0, W=C, BW=C)
    b_dq = tl.dot(b_M, b_k, b_dq, input_precision=PRECISION)
    p_dq += i_head * K
    store_tile(p_dq, b_dq, row=start, N=C, rows=T, stride=H * K, column=o_k, W=K, BW=BK)
    b_dk = tl.dot(tl.trans(b_M), b_q, b_dk, input_precision=PRECISION)
    b_E = load_tile(p_E + i_head * C, row=start, N=C, rows=T, stride=H * C, column=0, W=C, BW=C)
    b_dk = tl.dot(b_E, b_k, b_dk, input_precision=PRECISION)
    p_dk += i_head * K
    store_tile(p_dk, b_dk, row=start, N=C, rows=T, stride=H * K, column=o_k, W=K, BW=BK)


def delta_backward(dy, dlast, q, k, v, a, beta, A, P, S, u, first, sizes):
    """The gradients of q, k, v, a, beta and, if `first`, of the state before the first chunk."""
    B, T, H, K = q.shape
    V = v.shape[-1]
    n = S.shape[2]
    dq, dk, dv, dr, dS, M, E = (torch.empty_like(x) for x in (q, k, v, u, S, P, P))
    dfirst = torch.empty_like(dlast) if first else None
    BK = min(64, sizes["BK"])
    n_k = triton.cdiv(K, BK)
    dbeta = beta.new_empty(1 + n_k, B, T, H)
    da = None if a is None else torch.empty_like(dbeta)

    def walks(meta):
        return triton.cdiv(V, meta["BV"]), B * H

    args = q, k, a, beta, A, P, dy, dlast, dS, dr, dfirst, T, H
    launch(delta_backward_states, walks, *args, **sizes, configs=of_width(WALKS, k), key=KEY)
    da_pairs, da_inputs = (None, None) if a is None else (da[0], da[1:])
    args = k, v, a, beta, P, u, dy, dr, dv, M, E, da_pairs, dbeta[0], T, H, V
    launch(delta_backward_pairs, (n, B * H), *args, **sizes, configs=of_width(PAIRS, k), key=KEY)
    args = q, k, a, beta, S, u, dy, dS, dr, M, E, dq, dk, da_inputs, dbeta[1:], B, T, H, V
    sizes = sizes | {"BK": BK}
    grid = n_k, n, B * H
    launch(delta_backward_inputs, grid, *args, **sizes, configs=of_width(INPUTS, k), key=KEY)
    return dq, dk, dv, None if a is None else da.sum(0)[..., None], dbeta.sum(0), dfirst
