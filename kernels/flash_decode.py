"""Attention of a few queries over a long cache: the keys are split among programs (Flash-Decoding,
Dao et al. 2023).

One query per head leaves flash attention a program per head, and most of a GPU idle. Here SPLITS
programs share each head of the cache: each reads its own span of keys, and keeps its read and its
lse = log Σ exp(scores). A second kernel joins them: a part weighs as much as its Σ exp(scores), as
in `seqlab.core.attention.merge`.

All the query heads that share a head of the cache, at all T_q times, are rows of one tile: so every
key and value is read once, which is the bound, for decoding moves bytes and computes little. Row r
is query head r % G at time r // G.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from seqlab.core.inputs import at_least_one
from seqlab.kernels.flash_attention import LEAST, divided, flash_attention, prepared, read_keys
from seqlab.kernels.flash_attention_backward import attend_backward
from seqlab.kernels.launch import configurations, launch
from seqlab.kernels.tiles import LOG2E, padded, precision

ROWS = 64
"""The most rows of a tile. More queries than this in one head of the cache are flash attention's business."""
CONFIGS = configurations("BS", ((64, 4, 2), (64, 4, 4), (128, 4, 3), (128, 8, 3), (32, 4, 1)))
WIDE = configurations("BS", ((32, 4, 2), (64, 8, 2), (16, 4, 2)))
"""Of heads wider than 128. The last of both fits where the others do not: float32, little shared memory."""


@triton.jit
def decode_split(p_q, p_k, p_v, p_part, p_lse, T_q, T_k, h, lo, hi, scale_2, begin, end, SPAN,
                 G: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
                 BR: tl.constexpr, PRECISION: tl.constexpr, BS: tl.constexpr):  # fmt: skip
    """The read of SPAN keys by all the queries of one head of the cache, in float32, and its
    log-sum-exp.
    """
    split, i_bh = tl.program_id(0), tl.program_id(1)
    i_b, i_h = (i_bh // h).to(tl.int64), i_bh % h
    b_r, o_k, o_v = tl.arange(0, BR), tl.arange(0, BK), tl.arange(0, BV)
    b_t, rows = b_r // G, T_q * G
    o_q = ((i_b * T_q + b_t) * h + i_h) * G + b_r % G  # the row's place among the heads of q
    b_q = tl.load(p_q + o_q[:, None] * K + o_k, mask=(b_r[:, None] < rows) & (o_k < K), other=0.0)
    i_k = i_b * T_k * h + i_h
    b_y, b_top, b_sum = (
        tl.zeros((BR, BV), tl.float32),
        tl.full((BR,), LEAST, tl.float32),
        tl.zeros((BR,), tl.float32),
    )
    first = begin + split * SPAN
    b_y, b_top, b_sum = read_keys(b_y, b_top, b_sum, b_q, b_t, p_k + i_k * K, p_v + i_k * V, first,
                                  tl.minimum(first + SPAN, end), lo, hi, T_k, h, scale_2,
                                  BS, K, V, BK, BV, PRECISION, True)  # fmt: skip
    b_y, b_lse = divided(b_y, b_top, b_sum)
    row = (i_bh.to(tl.int64) * tl.num_programs(0) + split) * rows + b_r
    tl.store(p_part + row[:, None] * V + o_v, b_y, mask=(b_r[:, None] < rows) & (o_v < V))
    tl.store(p_lse + row, b_lse, mask=b_r < rows)


@triton.jit
def decode_merge(p_part, p_parts_lse, p_y, p_lse, T_q, h, SPLITS,
                 G: tl.constexpr, V: tl.constexpr, BV: tl.constexpr, BSPLIT: tl.constexpr):  # fmt: skip
    """One row: its parts, each weighed by exp of its own lse, over the sum of the weights."""
    r, i_bh = tl.program_id(0), tl.program_id(1)
    rows = T_q * G
    o_s, o_v = tl.arange(0, BSPLIT), tl.arange(0, BV)
    part = (i_bh.to(tl.int64) * SPLITS + o_s) * rows + r
    b_lse = tl.load(p_parts_lse + part, mask=o_s < SPLITS, other=float("-inf"))
    top = tl.maximum(tl.max(b_lse, 0), LEAST)
    b_w = tl.exp(b_lse - top)
    total = tl.sum(b_w, 0)
    b_y = tl.load(
        p_part + part[:, None] * V + o_v, mask=(o_s[:, None] < SPLITS) & (o_v < V), other=0.0
    )
    b_y = tl.sum(b_w[:, None] * b_y, 0) / tl.maximum(
        total, 1e-30
    )  # a query that may see nothing reads 0
    t, head = r // G, (i_bh % h) * G + r % G
    i_b, H = (i_bh // h).to(tl.int64), h * G
    tl.store(
        p_y + ((i_b * T_q + t) * H + head) * V + o_v, b_y.to(p_y.dtype.element_ty), mask=o_v < V
    )
    tl.store(
        p_lse + (i_b * H + head) * T_q + t,
        tl.where(total == 0.0, float("-inf"), top + tl.log(total)),
    )


class _FlashDecode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, lo, hi, scale, splits):
        (B, T_q, H, K), (_, T_k, h, V) = q.shape, v.shape
        BK, BV = (padded(width) for width in (K, V))
        rows = T_q * H // h
        configs = CONFIGS if max(BK, BV) <= 128 else WIDE
        begin, end = min(max(lo, 0), T_k), max(min(T_q - 1 + hi, T_k), 0)
        span = triton.cdiv(triton.cdiv(max(end - begin, 1), splits), 128) * 128
        splits = triton.cdiv(max(end - begin, 1), span)
        part = q.new_empty(B, h, splits, rows, V, dtype=torch.float32)
        parts_lse = q.new_empty(B, h, splits, rows, dtype=torch.float32)
        y, lse = q.new_empty(B, T_q, H, V), q.new_empty(B, H, T_q, dtype=torch.float32)
        sizes = {"G": H // h, "V": V, "BV": BV}
        args = q, k, v, part, parts_lse, T_q, T_k, h, lo, hi, scale * LOG2E.value, begin, end, span
        tile = {"K": K, "BK": BK, "BR": padded(rows), "PRECISION": precision(q)}
        launch(
            decode_split,
            (splits, B * h),
            *args,
            **sizes,
            **tile,
            configs=configs,
            key=("SPAN", "K", "V"),
        )
        launch(decode_merge, (rows, B * h), part, parts_lse, y, lse, T_q, h, splits, **sizes,
               BSPLIT=triton.next_power_of_2(splits))  # fmt: skip
        ctx.save_for_backward(q, k, v, y, lse)
        ctx.options = lo, hi, scale
        return y, lse.transpose(1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy, dlse):
        return *attend_backward(dy, dlse, *ctx.saved_tensors, *ctx.options), *(None,) * 4


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
):
    """`flash_attention` for few queries over a long cache. With more than 64 rows, T_q · H / h, it
    is that function.

    splits: the most programs that share a head of the cache; by default enough to fill the GPU.
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
