"""The forward of the gated delta rule in chunks (Yang et al. 2024, arXiv:2406.06484, 2412.06464).

    S_t = a_t S_{t-1} + u_t k_tᵀ        u_t = β_t (v_t - a_t S_{t-1} k_t)        y_t = S_t q_t

u_t depends on every earlier u of its chunk whose key overlaps with k_t. Let d_ij be the decay after
token j up to i, e_i that from the start of the chunk up to i, f_j that after j to the end, and S
the state before the chunk. Then all u of the chunk solve one triangular system:

    (I + L) U = R        L_ij = β_i d_ij k_i·k_j, j < i        P_ij = d_ij q_i·k_j, j ≤ i
    R = β (V - e K Sᵀ)        Y = e Q Sᵀ + P U        S ← e_C S + Uᵀ (f K)

`delta_pairs` computes A = (I + L)⁻¹ and P of all chunks in parallel. `delta_states` walks along the
chunks with S in registers, U = A R. `delta_outputs` reads all chunks in parallel. The papers first
multiply A into β V and e β K, which takes one product out of the walk. Here A stays separate: it
has C columns, the two products have K + V, and each must be written, read, and kept or recomputed
for the backward.

Numbers to move per token and head, without gates and rounding: 2K + 2C, then (K + C) n + 2V + KV/C
in n = V / BV programs a head, then K + C + 2V + KV/C. S is stored transposed, (K, V), as the
products use it.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from seqlab.core.inputs import check_inputs
from seqlab.kernels.chunk_delta_backward import KEY, delta_backward, of_width
from seqlab.kernels.launch import check_types, configurations, launch, under_autocast
from seqlab.kernels.tiles import (
    decay_between,
    decay_ends,
    head,
    load_gate,
    load_tile,
    padded,
    precision,
    store_tile,
)

STATES = {
    128: ((32, 4, 1), (32, 4, 2), (64, 4, 2), (32, 4, 3), (64, 8, 2)),
    256: ((16, 8, 1), (16, 4, 2), (32, 4, 2)),
}
OUTPUTS = {128: ((64, 4, 1), (128, 4, 1), (128, 8, 1)), 256: ((32, 4, 1), (64, 4, 1), (128, 8, 1))}
"""BV, warps and stages by the width of a key. The first spills on no target; a GPU tries all."""
# These do not spill either, except 8 bytes on sm_80 with keys wider than 128: there every warp
# holds all of a right operand.
PAIRS = configurations("", ((4, 1), (8, 1), (4, 2)))


@triton.jit
def merge(b_x, b_l, o_i, o_j, log, PRECISION: tl.constexpr):
    """The inverses of the tiles of 2^(log+1) along the diagonal of I + L, from those of 2^log.

    [[X, 0], [N, Y]]⁻¹ = [[X⁻¹, 0], [-Y⁻¹ N X⁻¹, Y⁻¹]]
    """
    # i and j are in the same larger tile, but not in the same smaller one
    b_n = tl.where((o_i ^ o_j) >> log == 1, -b_l, 0.0)
    b_xn = tl.dot(b_x, b_n, input_precision=PRECISION)
    return tl.dot(b_xn, b_x, b_x, input_precision=PRECISION)


@triton.jit
def leading(b):
    """b rounded to multiples of 1/256 to 1/128 of its largest number: at most 9 bits an entry.

    So a sum of 64 products of two such numbers fits into float32's 24 bits and is exact.
    """
    big = tl.max(tl.abs(b)) * 65536.0
    return (b + big) - big


@triton.jit
def inverse(b_l, C: tl.constexpr, EXACT: tl.constexpr, MERGE: tl.constexpr):
    """(I + L)⁻¹ of a strictly lower triangular L (C, C): all tiles of 16 at once, then larger ones.

    No power of L is formed, as it is in (I - L)(I + L²)…: powers grow even if the inverse does not.
    If a key is repeated with β near 2, the terms of these products cancel: so each has 16 bits or
    more, where tf32 has 11.
    """
    N: tl.constexpr = C // 16
    o_n = tl.arange(0, N)
    o_16 = tl.arange(0, 16)
    o_c = tl.arange(0, C)
    diagonal = o_n[:, None, None, None] == o_n[None, None, :, None]
    b_16 = tl.sum(tl.where(diagonal, tl.reshape(b_l, (N, 16, N, 16)), 0.0), 2)  # (N, 16, 16)
    o_i, o_j = o_16[None, :, None], o_16[None, None, :]
    b_x = tl.where(o_i == o_j, 1.0, tl.where(o_i // 2 == o_j // 2, -b_16, 0.0))
    for log in range(1, 4):
        b_x = merge(b_x, b_16, o_i, o_j, log, MERGE)
    b_x = tl.reshape(tl.where(diagonal, b_x[:, :, None, :], 0.0), (C, C))
    o_i, o_j = o_c[:, None], o_c[None, :]
    for log in tl.static_range(4, 4 + N // 2):  # N = 1, 2, 4: none, 16 to 32, 32 to 64
        b_x = merge(b_x, b_l, o_i, o_j, log, MERGE)
    if EXACT:
        # A step of Newton's method restores what merging lost, if I - (I + L) X is accurate. Its
        # large terms cancel, so they are added exactly; small ones round little, in any order.
        b_high, b_top = leading(b_l), leading(b_x)
        b_rest = tl.where(o_i == o_j, 1.0, 0.0) - b_x
        b_rest -= tl.dot(b_high, b_top, input_precision="ieee")
        b_rest -= tl.dot(b_high, b_x - b_top, input_precision="ieee")
        b_rest -= tl.dot(b_l - b_high, b_x, input_precision="ieee")
        b_x = tl.dot(b_x, b_rest, b_x, input_precision="ieee")
    return b_x


@triton.jit
def delta_pairs(p_q, p_k, p_a, p_beta, p_A, p_P, T, H,
                K: tl.constexpr, BK: tl.constexpr, C: tl.constexpr, PRECISION: tl.constexpr,
                EXACT: tl.constexpr, MERGE: tl.constexpr):  # fmt: skip
    """A and P of one chunk of one head."""
    start = tl.program_id(0) * C
    i_head = head(tl.program_id(1), T, T, H, H)[0]
    p_q += i_head * K
    p_k += i_head * K
    o_i, o_j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    b_P, b_kk = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
    for o_k in range(0, K, BK):
        b_q = load_tile(p_q, row=start, N=C, rows=T, stride=H * K, column=o_k, W=K, BW=BK)
        b_k = load_tile(p_k, row=start, N=C, rows=T, stride=H * K, column=o_k, W=K, BW=BK)
        b_P = tl.dot(b_q, tl.trans(b_k), b_P, input_precision=PRECISION)
        b_kk = tl.dot(b_k, tl.trans(b_k), b_kk, input_precision=PRECISION)
    b_d = decay_between(p_a, i_head, start, C, T, H)
    p_P += i_head * C
    p_A += i_head * C
    store_tile(p_P, b_P * b_d, row=start, N=C, rows=T, stride=H * C, column=0, W=C, BW=C)
    b_l = b_kk * b_d * load_gate(p_beta, i_head, start, C, T, H)[:, None]
    b_A = inverse(tl.where(o_i > o_j, b_l, 0.0), C, EXACT, MERGE)
    store_tile(p_A, b_A, row=start, N=C, rows=T, stride=H * C, column=0, W=C, BW=C)


@triton.jit
def delta_states(p_k, p_v, p_a, p_beta, p_A, p_first, p_S, p_u, p_last, T, H,
                 K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, C: tl.constexpr,
                 PRECISION: tl.constexpr, BV: tl.constexpr):  # fmt: skip
    """BV columns of Sᵀ (K, V) before every chunk and after the last, and of U, of one head."""
    column = tl.program_id(0) * BV
    i_bh = tl.program_id(1)
    i_head = head(i_bh, T, T, H, H)[0]
    i_state = i_bh.to(tl.int64) * K * V
    p_k += i_head * K
    p_v += i_head * V
    p_u += i_head * V
    p_A += i_head * C
    p_S += i_state * tl.cdiv(T, C)
    if p_first is None:
        b_S = tl.zeros((BK, BV), tl.float32)
    else:
        p_first += i_state
        b_first = load_tile(p_first, row=column, N=BV, rows=V, stride=K, column=0, W=K, BW=BK)
        b_S = tl.trans(b_first)
    for i_t in range(0, tl.cdiv(T, C)):
        start = i_t * C
        p_c = p_S + tl.cast(i_t, tl.int64) * K * V
        store_tile(p_c, b_S, row=0, N=BK, rows=K, stride=V, column=column, W=V, BW=BV)
        b_k = load_tile(p_k, row=start, N=C, rows=T, stride=H * K, column=0, W=K, BW=BK)
        b_v = load_tile(p_v, row=start, N=C, rows=T, stride=H * V, column=column, W=V, BW=BV)
        b_A = load_tile(p_A, row=start, N=C, rows=T, stride=H * C, column=0, W=C, BW=C)
        b_beta = load_gate(p_beta, i_head, start, C, T, H)
        b_e, b_f, whole = decay_ends(p_a, i_head, start, C, T, H)
        b_old = tl.dot(b_k, b_S.to(b_k.dtype), input_precision=PRECISION)
        b_r = (b_v.to(tl.float32) - b_old * b_e[:, None]) * b_beta[:, None]
        b_u = tl.dot(b_A, b_r.to(b_A.dtype), input_precision=PRECISION)
        store_tile(p_u, b_u, row=start, N=C, rows=T, stride=H * V, column=column, W=V, BW=BV)
        b_u = (b_u * b_f[:, None]).to(b_k.dtype)
        b_S = tl.dot(tl.trans(b_k), b_u, b_S * whole, input_precision=PRECISION)
    b_S = tl.trans(b_S)
    store_tile(p_last + i_state, b_S, row=column, N=BV, rows=V, stride=K, column=0, W=K, BW=BK)


@triton.jit
def delta_outputs(p_q, p_a, p_P, p_S, p_u, p_y, T, H,
                  K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, C: tl.constexpr,
                  PRECISION: tl.constexpr, BV: tl.constexpr):  # fmt: skip
    """BV columns of Y of one chunk of one head."""
    i_t = tl.program_id(0)
    column = tl.program_id(1) * BV
    i_bh = tl.program_id(2)
    start = i_t * C
    i_head = head(i_bh, T, T, H, H)[0]
    p_q += i_head * K
    p_u += i_head * V
    p_y += i_head * V
    p_P += i_head * C
    p_S += (i_bh.to(tl.int64) * tl.cdiv(T, C) + i_t) * K * V
    b_q = load_tile(p_q, row=start, N=C, rows=T, stride=H * K, column=0, W=K, BW=BK)
    b_S = load_tile(p_S, row=0, N=BK, rows=K, stride=V, column=column, W=V, BW=BV)
    b_e, _, _ = decay_ends(p_a, i_head, start, C, T, H)
    b_y = tl.dot(b_q, b_S, input_precision=PRECISION) * b_e[:, None]
    b_P = load_tile(p_P, row=start, N=C, rows=T, stride=H * C, column=0, W=C, BW=C)
    b_u = load_tile(p_u, row=start, N=C, rows=T, stride=H * V, column=column, W=V, BW=BV)
    b_y = tl.dot(b_P, b_u, b_y, input_precision=PRECISION)
    store_tile(p_y, b_y, row=start, N=C, rows=T, stride=H * V, column=column, W=V, BW=BV)


class _ChunkDelta(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, a, beta, first, C):
        B, T, H, K = q.shape
        V = v.shape[-1]
        n = triton.cdiv(T, C)
        A, P = (q.new_empty(B, T, H, C) for _ in "AP")
        S = q.new_empty(B, H, n, K, V)
        last = q.new_empty(B, H, V, K, dtype=torch.float32)
        u, y = (torch.empty_like(v) for _ in "uy")
        BK = padded(K)
        exact = q.dtype == torch.float32 and precision(q) == "ieee"
        # The interpreter does not know bf16x3.
        merging = "ieee" if exact or q.device.type == "cpu" else "bf16x3"
        sizes = {"K": K, "BK": BK, "C": C, "PRECISION": precision(q)}

        def walks(meta):
            return triton.cdiv(V, meta["BV"]), B * H

        def tiles(meta):
            return n, triton.cdiv(V, meta["BV"]), B * H

        blocks = sizes | {"BK": min(64, BK), "EXACT": exact, "MERGE": merging}
        args = q, k, a, beta, A, P, T, H
        launch(delta_pairs, (n, B * H), *args, **blocks, configs=PAIRS, key=KEY)
        sizes["V"] = V
        args = k, v, a, beta, A, first, S, u, last, T, H
        launch(delta_states, walks, *args, **sizes, configs=of_width(STATES, k), key=KEY)
        args = q, a, P, S, u, y, T, H
        launch(delta_outputs, tiles, *args, **sizes, configs=of_width(OUTPUTS, k), key=KEY)
        ctx.save_for_backward(q, k, v, a, beta, A, P, S, u)
        ctx.first, ctx.sizes = first is not None, sizes
        return y, last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy, dlast):
        dy, dlast = dy.contiguous(), dlast.contiguous()
        return *delta_backward(dy, dlast, *ctx.saved_tensors, ctx.first, ctx.sizes), None


def chunk_delta(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    *,
    log_a: Float[Tensor, "B T H 1"] | None = None,
    beta: Float[Tensor, "B T H"] | None = None,
    state: Float[Tensor, "B H V K"] | None = None,
    chunk_size: int = 64,
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H V K"]]:
    """`seqlab.core.recurrence.chunkwise` with beta, and its gradients.

    Gates, sums and the state are float32. float32 inputs are multiplied as `torch.matmul` would
    multiply them: without tf32 that is exact and slow. Under autocast q, k and v are cast to its
    type.
    """
    if beta is None:
        raise ValueError(
            "beta is missing: without the delta rule, use seqlab.kernels.chunk_recurrence"
        )
    q, k, v, beta = under_autocast(q, k, v, beta)
    check_inputs(q, k, v, log_a, beta, state)
    check_types(q=q, k=k, v=v)
    if log_a is not None and log_a.shape != (*q.shape[:3], 1):
        raise ValueError(
            f"log_a has shape {tuple(log_a.shape)}: "
            f"this kernel takes one decay per head, (B, T, H, 1) = {(*q.shape[:3], 1)}; "
            "for one per key channel use seqlab.core.recurrence.chunkwise"
        )
    if chunk_size not in (16, 32, 64):
        raise ValueError(f"chunk_size is {chunk_size}: this kernel takes 16, 32 or 64")
    if max(q.shape[-1], v.shape[-1]) > 256:
        raise ValueError(
            f"q and v are {q.shape[-1]} and {v.shape[-1]} wide: this kernel takes 256 at most"
        )
    q, k, v = (x.contiguous() for x in (q, k, v))
    log_a, beta, state = (
        None if x is None else x.float().contiguous() for x in (log_a, beta, state)
    )
    return _ChunkDelta.apply(q, k, v, log_a, beta, state, chunk_size)
