"""The forward of the chunked linear recurrence, S_t = S_{t-1} A_t + v_t k_tᵀ and y_t = S_t q_t.

Linear attention (no decay), RetNet (arXiv:2307.08621), gated retention and Mamba-2 (a decay per
head, arXiv:2405.21060), GLA (a decay per key channel, arXiv:2312.06635). Two kernels, over chunks
of C = 64 tokens:

    walk_states    S' = S diag(a_1 … a_C) + Σ_j v_j (k_j a_{j+1} … a_C)ᵀ
                   one chunk after the other; S is kept before each
    read_chunks    y_i = S (q_i a_1 … a_i) + Σ_{j ≤ i} P_ij v_j
                   all chunks at once

P_ij = Σ_k q_ik k_jk a_{j+1} … a_i. Each sum of logs runs over its own span, so no exponent is
positive and a gate of 0 is allowed. A decay per head factors out of the sum over k. For a decay per
channel see `pairs_by_channel`.

The least to move, in numbers a token: walk_states reads K + V and writes the states, K V / C;
read_chunks reads 2 K + V + K V / C and writes V; both read the log decays. The backward walks
twice, for S again and for dS, and then computes all gradients of a chunk in one program.

The states have the type of q: in half precision the tensor cores would round them anyway. The sum
from which they are stored, the first state and the last are float32. In float16 a state must stay
below 65504.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from seqlab.core.inputs import check_inputs
from seqlab.kernels.chunk_recurrence_backward import KEY, chunk_pairs, gradients, tiles
from seqlab.kernels.launch import check_types, launch, under_autocast
from seqlab.kernels.tiles import (
    decay_between,
    decay_ends,
    head,
    load_tile,
    padded,
    precision,
    store_tile,
)

CHUNK = 64
WALK = (
    (32, 64, 4, 3),
    (64, 64, 4, 3),
    (64, 64, 4, 4),
    (64, 32, 4, 3),
    (32, 32, 2, 3),
    (64, 128, 8, 3),
)
READ = ((32, 64, 4, 2), (64, 64, 4, 2), (64, 64, 8, 2), (64, 128, 8, 2), (128, 64, 4, 2))
"""BK, BV, warps and stages. The first does not spill on any target; a GPU tries them all."""


@triton.jit
def walk_states(p_k, p_v, p_a, p_first, p_S, p_last, T, H,
                K: tl.constexpr, V: tl.constexpr, A: tl.constexpr, C: tl.constexpr,
                BACK: tl.constexpr, PRECISION: tl.constexpr,
                BK: tl.constexpr, BV: tl.constexpr):  # fmt: skip
    """The state before each chunk and after the last; each program has a (BV, BK) tile of it.

    BACK walks from the last chunk to the first, over q and dy, which give dS. A write decays from
    its token to the end of the chunk; with BACK, to the chunk's start, its own decay included.
    """
    i_k = tl.program_id(0) * BK
    i_v = tl.program_id(1) * BV
    i_bh = tl.program_id(2)
    i_head = head(i_bh, T, T, H, H)[0]
    i_state = i_bh.to(tl.int64) * V * K
    chunks = tl.cdiv(T, C)
    BA: tl.constexpr = BK if A > 1 else 1
    p_k += i_head * K
    p_v += i_head * V
    p_S += i_state * chunks
    b_S = tl.zeros((BV, BK), tl.float32)
    if p_first is not None:
        b_S += load_tile(p_first + i_state, row=i_v, N=BV, rows=V, stride=K, column=i_k, W=K, BW=BK)
    for n in range(0, chunks):
        c = chunks - 1 - n if BACK else n
        start = c * C
        p_c = p_S + tl.cast(c, tl.int64) * V * K
        store_tile(p_c, b_S, row=i_v, N=BV, rows=V, stride=K, column=i_k, W=K, BW=BK)
        b_k = load_tile(p_k, row=start, N=C, rows=T, stride=H * K, column=i_k, W=K, BW=BK)
        b_v = load_tile(p_v, row=start, N=C, rows=T, stride=H * V, column=i_v, W=V, BW=BV)
        if p_a is not None:
            p_ah = p_a + i_head * A
            i_a = i_k if A > 1 else 0
            first = start if BACK else start + 1
            end = tl.minimum(start + C, T)
            b_a = load_tile(p_ah, row=first, N=C, rows=end, stride=H * A, column=i_a, W=A, BW=BA)
            b_whole = tl.sum(b_a, 0)
            if not BACK:
                b_a0 = load_tile(p_ah, row=start, N=1, rows=T, stride=H * A, column=i_a, W=A, BW=BA)
                b_whole += tl.sum(b_a0, 0)
            b_k = (b_k * tl.exp(tl.cumsum(b_a, 0, reverse=not BACK))).to(b_v.dtype)
            b_S *= tl.exp(b_whole)[None, :]
        b_S = tl.dot(tl.trans(b_v), b_k, b_S, input_precision=PRECISION)
    store_tile(p_last + i_state, b_S, row=i_v, N=BV, rows=V, stride=K, column=i_k, W=K, BW=BK)


@triton.jit
def read_chunks(p_q, p_k, p_v, p_a, p_S, p_y, T, H,
                K: tl.constexpr, V: tl.constexpr, A: tl.constexpr, C: tl.constexpr,
                PRECISION: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):  # fmt: skip
    """y of one chunk of one head: earlier tokens through S, and the chunk itself by pairs."""
    start = tl.program_id(0) * C
    i_bh = tl.program_id(1)
    i_head = head(i_bh, T, T, H, H)[0]
    i_state = (i_bh.to(tl.int64) * tl.cdiv(T, C) + tl.program_id(0)) * V * K
    p_q += i_head * K
    p_k += i_head * K
    p_v += i_head * V
    p_y += i_head * V
    p_S += i_state
    b_P = chunk_pairs(p_q, p_k, p_a, i_head, start, T, H, K, A, C, PRECISION, BK)
    if A == 1:
        b_P *= decay_between(p_a, i_head, start, C, T, H)
    b_P = b_P.to(p_v.dtype.element_ty)
    for i_v in range(0, V, BV):
        b_y = tl.zeros((C, BV), tl.float32)
        for i_k in range(0, K, BK):
            b_q = load_tile(p_q, row=start, N=C, rows=T, stride=H * K, column=i_k, W=K, BW=BK)
            b_S = load_tile(p_S, row=i_v, N=BV, rows=V, stride=K, column=i_k, W=K, BW=BK)
            if A > 1:
                p_ah = p_a + i_head * K
                b_a = load_tile(p_ah, row=start, N=C, rows=T, stride=H * K, column=i_k, W=K, BW=BK)
                b_q = (b_q * tl.exp(tl.cumsum(b_a, 0))).to(b_q.dtype)
            b_y = tl.dot(b_q, tl.trans(b_S), b_y, input_precision=PRECISION)
        if A == 1:
            b_y *= decay_ends(p_a, i_head, start, C, T, H)[0][:, None]
        b_v = load_tile(p_v, row=start, N=C, rows=T, stride=H * V, column=i_v, W=V, BW=BV)
        b_y = tl.dot(b_P, b_v, b_y, input_precision=PRECISION)
        store_tile(p_y, b_y, row=start, N=C, rows=T, stride=H * V, column=i_v, W=V, BW=BV)


def states(k, v, log_a, first, sizes, BACK=False):
    """The states before every chunk (B, H, chunks, V, K), and the last (B, H, V, K).

    The former have the type of k, the last is float32.
    """
    B, T, H, K = k.shape
    V = v.shape[-1]
    S = k.new_empty(B, H, triton.cdiv(T, sizes["C"]), V, K)
    last = k.new_empty(B, H, V, K, dtype=torch.float32)

    def grid(meta):
        return triton.cdiv(K, meta["BK"]), triton.cdiv(V, meta["BV"]), B * H

    args = k, v, log_a, first, S, last, T, H
    launch(walk_states, grid, *args, **sizes, BACK=BACK, configs=tiles(WALK, k, v), key=KEY)
    return S, last


class _ChunkRecurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, log_a, state):
        B, T, H, K = q.shape
        C = min(CHUNK, padded(T))
        sizes = {
            "K": K,
            "V": v.shape[-1],
            "A": 1 if log_a is None else log_a.shape[-1],
            "C": C,
            "PRECISION": precision(q),
        }
        S, last = states(k, v, log_a, state, sizes)
        y = torch.empty_like(v)
        grid = triton.cdiv(T, C), B * H
        args = q, k, v, log_a, S, y, T, H
        launch(read_chunks, grid, *args, **sizes, configs=tiles(READ, q, v), key=KEY)
        ctx.save_for_backward(q, k, v, log_a, state)
        ctx.sizes = sizes
        return y, last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy, dlast):
        q, k, v, log_a, state = ctx.saved_tensors
        dy = dy.contiguous()
        # Recomputed: saving them would take as much memory as q, k, v and y together.
        S, _ = states(k, v, log_a, state, ctx.sizes)
        dS, dstate = states(q, dy, log_a, dlast.contiguous(), ctx.sizes, BACK=True)
        dq, dk, dv, da = gradients(q, k, v, log_a, dy, S, dS, ctx.needs_input_grad[3], ctx.sizes)
        return dq, dk, dv, da, None if state is None else dstate


def chunk_recurrence(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    *,
    log_a: Float[Tensor, "B T H A"] | None = None,
    beta: None = None,
    state: Float[Tensor, "B H V K"] | None = None,
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H V K"]]:
    """`seqlab.core.recurrence.chunkwise` without beta, and its gradients. V is at most 256.

    Sums, decays and the last state are float32, y has q's type. Under autocast q, k and v are cast
    to its type. float32 inputs are multiplied as `torch.matmul` would multiply them.
    """
    if beta is not None:
        raise ValueError("beta makes this the delta rule: use seqlab.kernels.chunk_delta")
    q, k, v = under_autocast(q, k, v)
    check_inputs(q, k, v, log_a, None, state)
    check_types(q=q, k=k, v=v)
    if v.shape[-1] > 256:
        raise ValueError(
            f"v is {v.shape[-1]} wide: "
            "this kernel takes 256 at most, because one program holds a head's values"
        )
    log_a, state = (x if x is None else x.float().contiguous() for x in (log_a, state))
    return _ChunkRecurrence.apply(q.contiguous(), k.contiguous(), v.contiguous(), log_a, state)
