"""Attention of a few queries over a long cache: programs share the keys (Flash-Decoding).

Dao et al. 2023. With one query per head, flash attention has one program per head, and most of a
GPU is idle. Here SPLITS programs share each head of the cache: each reads its own span of keys, and
keeps its read and its lse = log Σ exp(scores). A second kernel joins the parts with weights
proportional to their Σ exp(scores), as in `seqlab.core.attention.merge`.

The query heads that share a head of the cache, at all T_q times, are the rows of one tile. So every
key and value is read once, which is the bound: decoding moves many bytes and computes little. Row r
is query head r % G at time r // G.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from seqlab.core.inputs import at_least_one
from seqlab.kernels.flash_attention import (
    LEAST,
    Read,
    divided,
    flash_attention,
    prepared,
    read_keys,
)
from seqlab.kernels.flash_attention_backward import attend_backward
from seqlab.kernels.launch import configurations, launch
from seqlab.kernels.tiles import LOG2E, padded, precision

ROWS = 64
"""The most rows of a tile. With more queries in one head of the cache, flash attention runs."""
CONFIGS = configurations("BS", ((64, 4, 2), (64, 4, 4), (128, 4, 3), (128, 8, 3), (32, 4, 1)))
WIDE = configurations("BS", ((32, 4, 2), (64, 8, 2), (16, 4, 2)))
"""For heads wider than 128. The last fits if the others do not: float32, little shared memory."""


@triton.jit
def decode_split(p_q, p_k, p_v, p_part, p_lse, T_q, T_k, h, lo, hi, scale_2, begin, end, SPAN,
                 G: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
                 BK: tl.constexpr, BV: tl.constexpr, BR: tl.constexpr,
                 PRECISION: tl.constexpr, BS: tl.constexpr):  # fmt: skip
    """The read of SPAN keys by all queries of one head of the cache, and its lse, in float32."""
    split, i_bh = tl.program_id(0), tl.program_id(1)
    i_b, i_h = (i_bh // h).to(tl.int64), i_bh % h
    b_r, o_k, o_v = tl.arange(0, BR), tl.arange(0, BK), tl.arange(0, BV)
    b_t = b_r // G
    rows = T_q * G
    o_q = ((i_b * T_q + b_t) * h + i_h) * G + b_r % G  # the row's index among the heads of q
    b_q = tl.load(p_q + o_q[:, None] * K + o_k, mask=(b_r[:, None] < rows) & (o_k < K), other=0.0)
    i_k = i_b * T_k * h + i_h
    p_k, p_v = p_k + i_k * K, p_v + i_k * V
    b_y = tl.zeros((BR, BV), tl.float32)
    b_top = tl.full((BR,), LEAST, tl.float32)
    b_sum = tl.zeros((BR,), tl.float32)
    first = begin + split * SPAN
    last = tl.minimum(first + SPAN, end)
    b_y, b_top, b_sum = read_keys(
        b_y, b_top, b_sum, b_q, b_t, p_k, p_v, first, last, lo, hi, T_k, h, scale_2,
        BS, K, V, BK, BV, PRECISION, MASKED=True,
    )  # fmt: skip
    b_y, b_lse = divided(b_y, b_top, b_sum)
    row = (i_bh.to(tl.int64) * tl.num_programs(0) + split) * rows + b_r
    tl.store(p_part + row[:, None] * V + o_v, b_y, mask=(b_r[:, None] < rows) & (o_v < V))
    tl.store(p_lse + row, b_lse, mask=b_r < rows)


@triton.jit
def decode_merge(p_part, p_parts_lse, p_y, p_lse, T_q, h, SPLITS,
                 G: tl.constexpr, V: tl.constexpr,
                 BV: tl.constexpr, BSPLIT: tl.constexpr):  # fmt: skip
    """One row: the mean of its parts, weighted by exp of their lse."""
    r, i_bh = tl.program_id(0), tl.program_id(1)
    rows = T_q * G
    o_s, o_v = tl.arange(0, BSPLIT), tl.arange(0, BV)
    part = (i_bh.to(tl.int64) * SPLITS + o_s) * rows + r
    b_lse = tl.load(p_parts_lse + part, mask=o_s < SPLITS, other=float("-inf"))
    top = tl.maximum(tl.max(b_lse, 0), LEAST)
    b_w = tl.exp(b_lse - top)
    total = tl.sum(b_w, 0)
    there = (o_s[:, None] < SPLITS) & (o_v < V)
    b_y = tl.load(p_part + part[:, None] * V + o_v, mask=there, other=0.0)
    b_y = tl.sum(b_w[:, None] * b_y, 0) / tl.maximum(total, 1e-30)  # no visible key: the read is 0
    t, head = r // G, (i_bh % h) * G + r % G
    i_b, H = (i_bh // h).to(tl.int64), h * G
    p_y += ((i_b * T_q + t) * H + head) * V
    tl.store(p_y + o_v, b_y.to(p_y.dtype.element_ty), mask=o_v < V)
    lse = tl.where(total == 0.0, float("-inf"), top + tl.log(total))
    tl.store(p_lse + (i_b * H + head) * T_q + t, lse)


class _FlashDecode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, lo, hi, scale, splits):
        B, T_q, H, K = q.shape
        _, T_k, h, V = v.shape
        BK, BV = padded(K), padded(V)
        rows = T_q * H // h
        begin = min(max(lo, 0), T_k)
        end = max(min(T_q - 1 + hi, T_k), 0)
        keys = max(end - begin, 1)
        span = triton.cdiv(triton.cdiv(keys, splits), 128) * 128
        splits = triton.cdiv(keys, span)
        part = q.new_empty(B, h, splits, rows, V, dtype=torch.float32)
        parts_lse = q.new_empty(B, h, splits, rows, dtype=torch.float32)
        y = q.new_empty(B, T_q, H, V)
        lse = q.new_empty(B, H, T_q, dtype=torch.float32)
        sizes = {"G": H // h, "V": V, "BV": BV}
        tile = {"K": K, "BK": BK, "BR": padded(rows), "PRECISION": precision(q)}
        tuned = {"configs": CONFIGS if max(BK, BV) <= 128 else WIDE, "key": ("SPAN", "K", "V")}
        args = q, k, v, part, parts_lse, T_q, T_k, h, lo, hi, scale * LOG2E.value, begin, end, span
        launch(decode_split, (splits, B * h), *args, **sizes, **tile, **tuned)
        args = part, parts_lse, y, lse, T_q, h, splits
        BSPLIT = triton.next_power_of_2(splits)
        launch(decode_merge, (rows, B * h), *args, **sizes, BSPLIT=BSPLIT)
        ctx.save_for_backward(q, k, v, y, lse)
        ctx.options = lo, hi, scale
        return y, lse.transpose(1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy, dlse):
        gradients = attend_backward(dy, dlse, *ctx.saved_tensors, *ctx.options)
        return *gradients, None, None, None, None


def flash_decode(
    q: Float[Tensor, "B T_q H K"],
    k: Float[Tensor, "B T_k h K"],
    v: Float[Tensor, "B T_k h V"],
    *,
    causal: bool = False,
    window: int | None = None,
    align: str = "end",
    scale: float | None = None,
    return_lse: bool = False,
    splits: int | None = None,
) -> Read:
    """`flash_attention` for few queries over a long cache.

    If T_q · H / h, the number of rows, is more than 64, it calls that function. splits: the most
    programs that share a head of the cache; the default is enough to fill the GPU.
    """
    if splits is not None:
        at_least_one(splits=splits)
    if q.shape[1] * q.shape[2] // k.shape[2] > ROWS:
        return flash_attention(
            q, k, v, causal=causal, window=window, align=align, scale=scale, return_lse=return_lse
        )
    if splits is None:
        splits = triton.cdiv(2 * _multiprocessors(q), q.shape[0] * k.shape[2])
    y, lse = _FlashDecode.apply(*prepared(q, k, v, causal, window, align, scale), min(splits, 128))
    return (y, lse) if return_lse else y


def _multiprocessors(x: Tensor) -> int:
    return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 132
