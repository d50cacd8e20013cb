"""What kernels of attention and recurrences share: tiles, which of them are visible, and decays."""

import torch
import triton
import triton.language as tl

from seqlab.kernels.launch import configurations

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def visible(start, N: tl.constexpr, lo, hi, T, STEP: tl.constexpr):
    """The columns that N rows from `start` see, if row r sees r + lo ≤ column < r + hi and < T.

    Returns begin, whole, whole_end, end: in steps of STEP, every row sees all of whole … whole_end,
    and begin … whole and whole_end … end are the edges.
    """
    begin = tl.maximum(start + lo, 0) // STEP * STEP
    end = tl.minimum(tl.maximum(start + N - 1 + hi, begin), T)
    whole = tl.cdiv(tl.maximum(start + N - 1 + lo, 0), STEP) * STEP
    whole = tl.minimum(tl.maximum(whole, begin), tl.maximum(end, begin))
    whole_end = tl.minimum(tl.maximum(start + hi, 0), T) // STEP * STEP
    return begin, whole, tl.maximum(whole_end, whole), end


@triton.jit
def load_rows(
    p, start, N: tl.constexpr, T, stride, W: tl.constexpr, BW: tl.constexpr, MASKED: tl.constexpr
):
    """Rows start … start + N of a (T, W) matrix as (N, BW), with 0 where there is no element.

    Without MASKED, all N rows must exist.
    """
    o_t, o_w = tl.arange(0, N)[:, None], tl.arange(0, BW)[None, :]
    p += tl.cast(start, tl.int64) * stride + o_t * stride + o_w
    if MASKED and W != BW:
        return tl.load(p, mask=(start + o_t < T) & (o_w < W), other=0.0)
    elif MASKED:
        return tl.load(p, mask=start + o_t < T, other=0.0)
    elif W != BW:
        return tl.load(p, mask=o_w < W, other=0.0)
    else:
        return tl.load(p)


@triton.jit
def store_rows(p, b, start, N: tl.constexpr, T, stride, W: tl.constexpr, BW: tl.constexpr):
    """b (N, BW) into rows start … start + N of a (T, W) matrix."""
    o_t, o_w = tl.arange(0, N)[:, None], tl.arange(0, BW)[None, :]
    p += tl.cast(start, tl.int64) * stride + o_t * stride + o_w
    tl.store(p, b.to(p.dtype.element_ty), mask=(start + o_t < T) & (o_w < W))


@triton.jit
def head(i_bh, T_q, T_k, H, h):
    """The first row of program i_bh: of its queries in (B, T_q, H), of its keys in (B, T_k, h)."""
    i_b, i_h = (i_bh // H).to(tl.int64), i_bh % H
    return i_b * T_q * H + i_h, i_b * T_k * h + i_h // (H // h)


def configs(tiles, *widths):
    """The configurations for heads of these widths.

    tiles: {the widest head: ((BT, BS, num_warps, num_stages), …)}, narrow heads first.
    """
    wide_enough = (sizes for width, sizes in tiles.items() if max(widths) <= width)
    return configurations("BT BS", next(wide_enough))


def padded(width: int) -> int:
    """The side of a tile that holds `width`: a power of two, at least 16, as `tl.dot` needs."""
    return max(16, triton.next_power_of_2(width))


def precision(x: torch.Tensor) -> str:
    """The precision of dots of x. float32 is multiplied as `torch.matmul` would multiply it.

    All else is "ieee": not every GPU knows "tf32".
    """
    tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if x.dtype == torch.float32 and tf32 else "ieee"


@triton.jit
def load_tile(p, row, N: tl.constexpr, rows, stride, column, W: tl.constexpr, BW: tl.constexpr):
    """The (N, BW) tile of a (rows, W) matrix at (row, column), with 0 where there is no element.

    stride: from one row to the next. `load_rows` cannot use it: with these 32-bit offsets the
    backward of attention spills (seen on sm_90).
    """
    o_r, o_w = tl.arange(0, N)[:, None], tl.arange(0, BW)[None, :]
    p += tl.cast(row, tl.int64) * stride + column  # inside the tile 32 bits are enough
    p += o_r * stride + o_w
    if W % BW == 0:
        return tl.load(p, mask=row + o_r < rows, other=0.0)
    else:
        return tl.load(p, mask=(row + o_r < rows) & (column + o_w < W), other=0.0)


@triton.jit
def store_tile(p, b, row, N: tl.constexpr, rows, stride, column, W: tl.constexpr, BW: tl.constexpr):
    """b (N, BW) into a (rows, W) matrix at (row, column)."""
    o_r, o_w = tl.arange(0, N)[:, None], tl.arange(0, BW)[None, :]
    p += tl.cast(row, tl.int64) * stride + column
    p += o_r * stride + o_w
    tl.store(p, b.to(p.dtype.element_ty), mask=(row + o_r < rows) & (column + o_w < W))


@triton.jit
def load_gate(p, i_head, start, C: tl.constexpr, T, H):
    """C numbers of one head of (B, T, H), from `start` on, with 0 past the end.

    i_head: the index of the head's first token.
    """
    o_t = start + tl.arange(0, C)
    return tl.load(p + i_head + o_t * H, mask=o_t < T, other=0.0)


@triton.jit
def decay_ends(p_a, i_head, start, C: tl.constexpr, T, H):
    """Three decays of a chunk of C tokens: from its start to each, from each to its end, of all.

    p_a: the log decays, or None. Each decay is exp of a sum over its own span, so none exceeds 1,
    and a gate of 0, whose log is -inf, is allowed.
    """
    if p_a is None:
        b_one = tl.full((C,), 1.0, tl.float32)
        return b_one, b_one, 1.0
    else:
        b_a = load_gate(p_a, i_head, start, C, T, H)
        b_next = load_gate(p_a, i_head, start + 1, C, T, H)
        b_next = tl.where(tl.arange(0, C) < C - 1, b_next, 0.0)
        b_since = tl.exp(tl.cumsum(b_a, 0))
        b_until = tl.exp(tl.cumsum(b_next, 0, reverse=True))
        return b_since, b_until, tl.exp(tl.sum(b_a, 0))


@triton.jit
def decay_between(p_a, i_head, start, C: tl.constexpr, T, H):
    """The decay from token j to token i of C (C, C): exp of the sum of the logs after j up to i.

    It is 0 for j > i.
    """
    o_i, o_j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    if p_a is None:
        return tl.where(o_i >= o_j, 1.0, 0.0)
    else:
        b_a = load_gate(p_a, i_head, start, C, T, H)[:, None]
        b_sum = tl.cumsum(tl.where(o_i > o_j, b_a, 0.0), 0)
        return tl.where(o_i >= o_j, tl.exp(b_sum), 0.0)
