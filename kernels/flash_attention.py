"""Softmax attention without the matrix of scores (FlashAttention-2, Dao 2023): the forward.

arXiv:2307.08691. A program holds BT queries and walks along the keys, BS at a time. Whenever a
larger score appears, the sum and the read of a query shrink; they are divided once, at the end. The
backward needs one more number of each query, and that is kept: lse = log Σ exp(scores).

Query i sees the keys i + lo ≤ j < i + hi: this is all that a kernel knows of causality, window and
alignment. Tiles of which every query sees every key need no mask; those on an edge do: MASKED.
Inside, scores are in units of log 2, because GPUs compute 2ˣ: scale_2 = scale log₂ e. A product
q·k is scaled where it is used, by the multiplication that an FMA has for nothing.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from seqlab.core.inputs import check_attention
from seqlab.core.masks import first_query
from seqlab.kernels.flash_attention_backward import attend_backward
from seqlab.kernels.launch import check_types, launch, under_autocast
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

Read = Float[Tensor, "B T_q H V"] | tuple[Float[Tensor, "B T_q H V"], Float[Tensor, "B T_q H"]]
"""y, or (y, lse)."""
LEAST = tl.constexpr(-1e30)  # below every score, and not -inf: -inf - -inf would be NaN
ANYWHERE = 1 << 30
TILES = {
    64: ((64, 64, 4, 2), (128, 64, 4, 3), (128, 128, 8, 3), (128, 64, 8, 3)),
    128: ((128, 32, 8, 2), (128, 64, 8, 3), (128, 128, 8, 2), (64, 64, 4, 3), (64, 32, 8, 1)),
    256: ((64, 32, 8, 2), (128, 64, 8, 2), (128, 32, 8, 3), (32, 16, 4, 1)),
}
"""BT, BS, warps and stages by the width of a head.

The first does not spill on any target; a GPU tries them all. The last fits if the others do not:
float32, and less than 100 KB of shared memory.
"""


@triton.jit
def read_keys(b_y, b_top, b_sum, b_q, b_t, p_k, p_v, begin, end, lo, hi, T_k, h, scale_2,
              BS: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr,
              BV: tl.constexpr, PRECISION: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    """Add the keys begin … end to the reads of the queries at b_t.

    b_y = Σ_j 2^(score_j - b_top) v_j, and b_sum = Σ_j 2^(score_j - b_top). scale_2 > 0: the largest
    product has the largest score.
    """
    for j in range(begin, end, BS):
        b_k = load_rows(p_k, j, BS, T_k, h * K, K, BK, MASKED)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)  # (BT, BS)
        if MASKED:
            o_s = j + tl.arange(0, BS)[None, :]
            away = o_s - b_t[:, None]
            b_s = tl.where((away >= lo) & (away < hi) & (o_s < T_k), b_s, float("-inf"))
        new = tl.maximum(b_top, tl.max(b_s, 1) * scale_2)
        fade = tl.exp2(b_top - new)
        b_p = tl.exp2(b_s * scale_2 - new[:, None])  # one instruction: multiply and add
        b_sum = b_sum * fade + tl.sum(b_p, 1)
        b_v = load_rows(p_v, j, BS, T_k, h * V, V, BV, MASKED)
        b_y = tl.dot(b_p.to(b_v.dtype), b_v, b_y * fade[:, None], input_precision=PRECISION)
        b_top = new
    return b_y, b_top, b_sum


@triton.jit
def divided(b_y, b_top, b_sum):
    """The read, and lse in units of e. A query that sees no key reads 0, and its lse is -inf."""
    blind = b_sum == 0.0
    b_sum = tl.where(blind, 1.0, b_sum)
    return b_y / b_sum[:, None], tl.where(blind, float("-inf"), (b_top + tl.log2(b_sum)) / LOG2E)


@triton.jit
def attend_forward(p_q, p_k, p_v, p_y, p_lse, T_q, T_k, H, h, lo, hi, scale_2,
                   K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
                   PRECISION: tl.constexpr, WINDOW: tl.constexpr,
                   BT: tl.constexpr, BS: tl.constexpr):  # fmt: skip
    start = (tl.num_programs(0) - 1 - tl.program_id(0)) * BT  # the last queries see most: first
    i_bh = tl.program_id(1)
    i_q, i_k = head(i_bh, T_q, T_k, H, h)
    p_k, p_v = p_k + i_k * K, p_v + i_k * V
    b_t = start + tl.arange(0, BT)
    b_q = load_rows(p_q + i_q * K, start, BT, T_q, H * K, K, BK, MASKED=True)
    b_y = tl.zeros((BT, BV), tl.float32)
    b_top = tl.full((BT,), LEAST, tl.float32)
    b_sum = tl.zeros((BT,), tl.float32)
    begin, whole, whole_end, end = visible(start, BT, lo, hi, T_k, BS)
    if WINDOW:  # without one there is no edge on the left
        b_y, b_top, b_sum = read_keys(
            b_y, b_top, b_sum, b_q, b_t, p_k, p_v, begin, whole, lo, hi, T_k, h, scale_2,
            BS, K, V, BK, BV, PRECISION, MASKED=True,
        )  # fmt: skip
    b_y, b_top, b_sum = read_keys(
        b_y, b_top, b_sum, b_q, b_t, p_k, p_v, whole, whole_end, lo, hi, T_k, h, scale_2,
        BS, K, V, BK, BV, PRECISION, MASKED=False,
    )  # fmt: skip
    b_y, b_top, b_sum = read_keys(
        b_y, b_top, b_sum, b_q, b_t, p_k, p_v, whole_end, end, lo, hi, T_k, h, scale_2,
        BS, K, V, BK, BV, PRECISION, MASKED=True,
    )  # fmt: skip
    b_y, b_lse = divided(b_y, b_top, b_sum)
    store_rows(p_y + i_q * V, b_y, start, BT, T_q, H * V, V, BV)
    tl.store(p_lse + i_bh.to(tl.int64) * T_q + b_t, b_lse, mask=b_t < T_q)


class _FlashAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, lo, hi, scale):
        B, T_q, H, K = q.shape
        _, T_k, h, V = v.shape
        y = q.new_empty(B, T_q, H, V)
        lse = q.new_empty(B, H, T_q, dtype=torch.float32)
        sizes = {"K": K, "V": V, "BK": padded(K), "BV": padded(V), "PRECISION": precision(q)}

        def grid(meta):
            return triton.cdiv(T_q, meta["BT"]), B * H

        args = q, k, v, y, lse, T_q, T_k, H, h, lo, hi, scale * LOG2E.value
        tuned = {"configs": configs(TILES, K, V), "key": ("T_q", "T_k", "K", "V")}
        launch(attend_forward, grid, *args, **sizes, WINDOW=lo > -ANYWHERE, **tuned)
        ctx.save_for_backward(q, k, v, y, lse)
        ctx.options = lo, hi, scale
        return y, lse.transpose(1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy, dlse):
        gradients = attend_backward(dy, dlse, *ctx.saved_tensors, *ctx.options)
        return *gradients, None, None, None


def flash_attention(
    q: Float[Tensor, "B T_q H K"],
    k: Float[Tensor, "B T_k h K"],
    v: Float[Tensor, "B T_k h V"],
    *,
    causal: bool = False,
    window: int | None = None,
    align: str = "end",
    scale: float | None = None,
    return_lse: bool = False,
) -> Read:
    """`seqlab.core.attention.attend` without mask and bias, and its gradients. K, V ≤ 256.

    Sums and softmax are float32, the result has q's type. float32 inputs are multiplied as
    `torch.matmul` would multiply them. Under autocast they are cast to its type.
    """
    y, lse = _FlashAttention.apply(*prepared(q, k, v, causal, window, align, scale))
    return (y, lse) if return_lse else y


def prepared(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    window: int | None,
    align: str,
    scale: float | None,
) -> tuple[Tensor, Tensor, Tensor, int, int, float]:
    """q, k, v, lo, hi and scale, as the kernels take them.

    Raises ValueError or TypeError, with one sentence, for what the kernels cannot do.
    """
    q, k, v = under_autocast(q, k, v)
    check_attention(q, k, v, causal, window)
    check_types(q=q, k=k, v=v)
    if max(q.shape[-1], v.shape[-1]) > 256:
        wide = f"{q.shape[-1]} and {v.shape[-1]}"
        raise ValueError(f"q and v are {wide} wide: this kernel takes 256 at most")
    hi = first_query(q.shape[1], k.shape[1], align) + 1 if causal else ANYWHERE
    lo = -ANYWHERE if window is None else max(hi - window, -ANYWHERE)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if scale <= 0:  # the kernels take the largest product for the largest score
        q, scale = (-q, -scale) if scale < 0 else (0 * q, 1.0)
    return q.contiguous(), k.contiguous(), v.contiguous(), lo, hi, scale
