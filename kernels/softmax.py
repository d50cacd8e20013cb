"""softmax over the rows of a matrix, a program for each row: the smallest useful kernel.

PyTorch's plain expression exp(x - max) / sum reads the matrix five times and writes it three times.
Here it is read and written once, because the row stays in registers. A row too long for that is
read twice. The first pass finds its largest number and its sum, which shrinks whenever a larger
number appears (online softmax, Milakov & Gimelshein 2018, arXiv:1805.02867); the second computes
the weights.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from seqlab.kernels.launch import check_types, launch, row_config

LONGEST = 16384
"""The longest row that is kept in registers, and the size of the pieces of longer rows."""


@triton.jit
def softmax_row(p_x, p_y, D, BD: tl.constexpr):
    """y = exp(x - max x) / Σ exp(x - max x), the whole row at once."""
    o_d = tl.arange(0, BD)
    row = tl.program_id(0).to(tl.int64) * D
    b_x = tl.load(p_x + row + o_d, mask=o_d < D, other=float("-inf")).to(tl.float32)
    b_e = tl.exp(b_x - tl.max(b_x, 0))
    tl.store(p_y + row + o_d, (b_e / tl.sum(b_e, 0)).to(p_y.dtype.element_ty), mask=o_d < D)


@triton.jit
def softmax_pieces(p_x, p_y, D, BD: tl.constexpr):
    """The same, BD numbers at a time: first the largest number and the sum, then the weights."""
    row = tl.program_id(0).to(tl.int64) * D
    top, total = -3.4e38, 0.0  # below every score, and not -inf: -inf - -inf would be NaN
    for start in range(0, D, BD):
        o_d = start + tl.arange(0, BD)
        b_x = tl.load(p_x + row + o_d, mask=o_d < D, other=float("-inf")).to(tl.float32)
        new = tl.maximum(top, tl.max(b_x, 0))
        total = total * tl.exp(top - new) + tl.sum(tl.exp(b_x - new), 0)
        top = new
    for start in range(0, D, BD):
        o_d = start + tl.arange(0, BD)
        b_x = tl.load(p_x + row + o_d, mask=o_d < D, other=float("-inf")).to(tl.float32)
        b_y = tl.exp(b_x - top) / total
        tl.store(p_y + row + o_d, b_y.to(p_y.dtype.element_ty), mask=o_d < D)


@triton.jit
def softmax_backward_row(p_y, p_dy, p_dx, D, BD: tl.constexpr):
    """dx = y (dy - Σ y dy): each element needs one number of the whole row."""
    o_d = tl.arange(0, BD)
    row = tl.program_id(0).to(tl.int64) * D
    b_y = tl.load(p_y + row + o_d, mask=o_d < D, other=0.0).to(tl.float32)
    b_dy = tl.load(p_dy + row + o_d, mask=o_d < D, other=0.0).to(tl.float32)
    b_dx = b_y * (b_dy - tl.sum(b_y * b_dy, 0))
    tl.store(p_dx + row + o_d, b_dx.to(p_dx.dtype.element_ty), mask=o_d < D)


@triton.jit
def softmax_backward_pieces(p_y, p_dy, p_dx, D, BD: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * D
    total = 0.0
    for start in range(0, D, BD):
        o_d = start + tl.arange(0, BD)
        b_y = tl.load(p_y + row + o_d, mask=o_d < D, other=0.0).to(tl.float32)
        b_dy = tl.load(p_dy + row + o_d, mask=o_d < D, other=0.0).to(tl.float32)
        total += tl.sum(b_y * b_dy, 0)
    for start in range(0, D, BD):
        o_d = start + tl.arange(0, BD)
        b_y = tl.load(p_y + row + o_d, mask=o_d < D, other=0.0).to(tl.float32)
        b_dy = tl.load(p_dy + row + o_d, mask=o_d < D, other=0.0).to(tl.float32)
        tl.store(p_dx + row + o_d, (b_y * (b_dy - total)).to(p_dx.dtype.element_ty), mask=o_d < D)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = torch.empty_like(x)
        _over_rows(softmax_row, softmax_pieces, x, y)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        dx = torch.empty_like(y)
        _over_rows(softmax_backward_row, softmax_backward_pieces, y, dy.contiguous(), dx)
        return dx


def _over_rows(whole, pieces, *tensors):
    """Start a program for each row."""
    D = tensors[0].shape[-1]
    kernel = whole if D <= LONGEST else pieces
    rows = tensors[0].numel() // D
    launch(kernel, (rows,), *tensors, D, configs=(row_config(min(D, LONGEST)),))


def softmax(x: Float[Tensor, "..."], dim: int = -1) -> Float[Tensor, "..."]:
    """`torch.softmax(x, dim)` and its gradient, in float32 inside. The result has x's type."""
    check_types(x=x)
    if x.numel() == 0:
        return torch.softmax(x, dim)
    y = _Softmax.apply(x.movedim(dim, -1).contiguous())
    return y.movedim(-1, dim)
