"""h_t = a_t h_{t-1} + b_t for each channel, real or complex: the scan of RG-LRU, LRU and S5.

Two steps in a row are one step, (a₂, b₂) ∘ (a₁, b₁) = (a₂ a₁, a₂ b₁ + b₂), and any neighbours may
be joined first (Blelloch 1990). So a program takes BW channels and walks along time, BT tokens at
once: inside a tile the steps are joined as a tree, and one row h is carried from tile to tile. The
gradient is the same scan from the end, with ā the conjugate of a:

    dh_t = g_t + ā_{t+1} dh_{t+1}    db_t = dh_t    da_t = dh_t h̄_{t-1}    dh_0 = ā_1 dh_1

Bytes: a and b are read once, h is written once; the backward reads a, g and h and writes da and db,
once each. An a that is constant over time is one row, and its da is summed in registers.

A number is a tuple of planes: one plane (re,) if it is real, two (re, im) if it is complex.
"""

import torch
import triton
import triton.language as tl

from seqlab.core.scan import Gates, Sequence, Start, check_scan
from seqlab.kernels.launch import check_types, launch

CONFIGS = tuple(
    {"BT": BT, "BW": BW, "AHEAD": ahead, "num_warps": warps}
    for BT, BW, ahead, warps in (
        (64, 32, 1, 4),
        (64, 32, 2, 4),
        (32, 32, 3, 4),
        (64, 16, 3, 4),
        (32, 32, 3, 1),  # one warp: it scans without shared memory or barriers
        (32, 16, 3, 1),
        (64, 32, 2, 2),
    )
)
"""AHEAD: the number of tiles in flight, all but one of them loaded ahead of their step."""
TUNED = {"configs": CONFIGS, "key": ("T", "W")}


@triton.jit
def join(a1, b1, a2, b2):
    """The one step that equals (a1, b1) followed by (a2, b2)."""
    return a2 * a1, a2 * b1 + b2


@triton.jit
def join_complex(a1, a1_i, b1, b1_i, a2, a2_i, b2, b2_i):
    a = a2 * a1 - a2_i * a1_i
    a_i = a2 * a1_i + a2_i * a1
    b = a2 * b1 - a2_i * b1_i + b2
    b_i = a2 * b1_i + a2_i * b1 + b2_i
    return a, a_i, b, b_i


@triton.jit
def plus(x, y):
    if len(x) == 1:
        return (x[0] + y[0],)
    else:
        return (x[0] + y[0], x[1] + y[1])


@triton.jit
def times(x, y):
    if len(x) == 1:
        return (x[0] * y[0],)
    else:
        return (x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0])


@triton.jit
def conj(x):
    if len(x) == 1:
        return x
    else:
        return (x[0], -x[1])


@triton.jit
def sum_rows(x, keep):
    """The sum (1, BW) of the rows where `keep` is true."""
    if len(x) == 1:
        return (tl.sum(tl.where(keep, x[0], 0.0), 0, keep_dims=True),)
    else:
        re, im = tl.where(keep, x[0], 0.0), tl.where(keep, x[1], 0.0)
        return (tl.sum(re, 0, keep_dims=True), tl.sum(im, 0, keep_dims=True))


@triton.jit
def scan_tile(a, b, h, REVERSE: tl.constexpr):
    """h_t of every row of a tile (BT, BW), given h (1, BW) before its first row.

    With REVERSE, h is that after the last row.
    """
    if len(a) == 1:
        b_a, b_h = tl.associative_scan((a[0], b[0]), 0, join, reverse=REVERSE)
        return (b_a * h[0] + b_h,)
    else:
        b_a, b_a_i, b_h, b_h_i = tl.associative_scan(
            (a[0], a[1], b[0], b[1]), 0, join_complex, reverse=REVERSE
        )
        return plus(times((b_a, b_a_i), h), (b_h, b_h_i))


@triton.jit
def place(begin, start, end, stride, W, N: tl.constexpr, PLANES: tl.constexpr, BW: tl.constexpr):
    """Offsets of N rows from `start` in this program's channels, and which of them to use.

    Rows outside begin … end do not exist.
    """
    o_t = start + tl.arange(0, N)[:, None]
    o_w = tl.program_id(0) * BW * PLANES + tl.arange(0, BW * PLANES)[None, :]
    return o_t.to(tl.int64) * stride + o_w, (o_t >= begin) & (o_t < end) & (o_w < W * PLANES)


@triton.jit
def load(p, begin, start, end, stride, W, N: tl.constexpr, PLANES: tl.constexpr, BW: tl.constexpr):
    """The rows of `place`, with 0 for those that do not exist."""
    o, there = place(begin, start, end, stride, W, N, PLANES, BW)
    b = tl.load(p + o, mask=there, other=0.0).to(tl.float32)
    if PLANES == 1:
        return (b,)
    else:
        return tl.split(tl.reshape(b, (N, BW, 2)))


@triton.jit
def store(p, x, start, end, stride, W, N: tl.constexpr, PLANES: tl.constexpr, BW: tl.constexpr):
    """x into the rows of `place` from 0 on."""
    o, there = place(0, start, end, stride, W, N, PLANES, BW)
    b = x[0] if PLANES == 1 else tl.reshape(tl.join(x[0], x[1]), (N, BW * 2))
    tl.store(p + o, b.to(p.dtype.element_ty), mask=there)


@triton.jit
def linear_scan_forward(p_a, p_b, p_h0, p_h, T, W, a_b, a_t, PLANES: tl.constexpr,
                        BT: tl.constexpr, BW: tl.constexpr, AHEAD: tl.constexpr):  # fmt: skip
    """a_b, a_t: strides of a from one sequence and one token to the next; 0 if a is the same."""
    i_b = tl.program_id(1).to(tl.int64)
    row = W * PLANES
    p_a += i_b * a_b
    p_b += i_b * T * row
    p_h += i_b * T * row
    last = tl.arange(0, BT)[:, None] == BT - 1
    h = load(p_h0 + i_b * row, 0, 0, 1, row, W, 1, PLANES, BW)
    for start in tl.range(0, T, BT, num_stages=AHEAD):
        a = load(p_a, 0, start, T, a_t, W, BT, PLANES, BW)
        b = load(p_b, 0, start, T, row, W, BT, PLANES, BW)
        hs = scan_tile(a, b, h, REVERSE=False)
        store(p_h, hs, start, T, row, W, BT, PLANES, BW)
        h = sum_rows(hs, last)


@triton.jit
def linear_scan_backward(p_a, p_h0, p_h, p_g, p_da, p_db, p_dh0, T, W, a_b, a_t,
                         FIXED: tl.constexpr, PLANES: tl.constexpr,
                         BT: tl.constexpr, BW: tl.constexpr, AHEAD: tl.constexpr):  # fmt: skip
    """FIXED: a is constant over time, so da is one row for each sequence."""
    i_b = tl.program_id(1).to(tl.int64)
    row = W * PLANES
    p_a += i_b * a_b
    p_h += i_b * T * row
    p_g += i_b * T * row
    p_db += i_b * T * row
    o_t = tl.arange(0, BT)[:, None]
    dh = load(p_g, 0, 0, 0, row, W, 1, PLANES, BW)  # of no row, so it is 0
    da = dh
    for i in tl.range(tl.cdiv(T, BT), num_stages=AHEAD):
        start = (tl.cdiv(T, BT) - 1 - i) * BT
        # a_{t+1}, which is 0 for the last token
        a = load(p_a + a_t, 0, start, T - 1, a_t, W, BT, PLANES, BW)
        g = load(p_g, 0, start, T, row, W, BT, PLANES, BW)
        dhs = scan_tile(conj(a), g, dh, REVERSE=True)
        store(p_db, dhs, start, T, row, W, BT, PLANES, BW)
        # h_{t-1}, which is h0 for the first token
        before = load(p_h - row, 1, start, T, row, W, BT, PLANES, BW)
        before = plus(before, load(p_h0 + i_b * row, 0, start, 1, row, W, BT, PLANES, BW))
        das = times(dhs, conj(before))
        dh = sum_rows(dhs, o_t == 0)
        if FIXED:
            da = plus(da, sum_rows(das, o_t < BT))
        else:
            store(p_da + i_b * T * row, das, start, T, row, W, BT, PLANES, BW)
    if FIXED:
        store(p_da + i_b * row, da, 0, 1, row, W, 1, PLANES, BW)
    first = load(p_a, 0, 0, 1, row, W, 1, PLANES, BW)
    store(p_dh0 + i_b * row, times(conj(first), dh), 0, 1, row, W, 1, PLANES, BW)


class _LinearScan(torch.autograd.Function):
    """a (B or 1, T or 1, row), b (B, T, row), h0 (B, row); a row has the planes of W numbers."""

    @staticmethod
    def forward(ctx, a, b, h0, planes):
        _, T, row = b.shape
        h = torch.empty_like(b, dtype=torch.float32)
        a_b, a_t = (a.stride(axis) if a.shape[axis] > 1 else 0 for axis in (0, 1))
        sizes = T, row // planes, a_b, a_t
        launch(linear_scan_forward, _grid(b, planes), a, b, h0, h, *sizes, PLANES=planes, **TUNED)
        ctx.save_for_backward(a, h0, h)
        ctx.sizes = sizes
        ctx.planes = planes
        ctx.dtype = b.dtype
        return h

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        a, h0, h = ctx.saved_tensors
        da = h.new_empty(len(h), *a.shape[1:])
        db = torch.empty_like(h, dtype=ctx.dtype)
        dh0 = torch.empty_like(h0)
        args = a, h0, h, g.contiguous(), da, db, dh0, *ctx.sizes
        constants = {"FIXED": a.shape[1] == 1, "PLANES": ctx.planes}
        launch(linear_scan_backward, _grid(h, ctx.planes), *args, **constants, **TUNED)
        return da.sum_to_size(a.shape).to(a.dtype), db, dh0, None


def _grid(b, planes):
    B, _, row = b.shape
    return lambda meta: (triton.cdiv(row // planes, meta["BW"]), B)


def _rows(x, width, planes):
    """x as contiguous rows of real numbers, expanded to the channels of b, of shape `width`."""
    front = x.shape[: x.ndim - len(width)]
    x = x.expand(*front, *width)
    if planes == 2:
        x = torch.view_as_real(x if x.is_complex() else x.to(torch.complex64))
    return x.reshape(*front, -1).contiguous()


def linear_scan(a: Gates, b: Sequence, h0: Start | None = None) -> Sequence:
    """`seqlab.core.scan.linear_scan` and its gradients, complex if any of the inputs is.

    a, b and h0 may have different types, none wider than float32 or complex64. The result is
    float32 or complex64.
    """
    check_scan(a, b, h0)
    h0 = torch.zeros_like(b[:, 0]) if h0 is None else h0
    inputs = {"a": a, "b": b, "h0": h0}
    planes = 2 if any(x.is_complex() for x in inputs.values()) else 1
    rows = {name: _rows(x.resolve_conj(), b.shape[2:], planes) for name, x in inputs.items()}
    for name, x in rows.items():
        check_types(**{name: x})
    h = _LinearScan.apply(*rows.values(), planes)
    if planes == 2:
        return torch.view_as_complex(h.unflatten(-1, (-1, 2))).view_as(b)
    return h.view_as(b)
