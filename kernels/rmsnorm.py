"""RMSNorm and its gradient, each row read once: y = x / sqrt(mean x² + eps) · weight.

The forward keeps one number of each row, r = 1 / sqrt(mean x² + eps). With x̂ = x r and
g = dy · weight

    dx = r (g - x̂ mean(g x̂))        dweight = Σ_rows dy x̂

A program takes ROWS rows. If HELD, it keeps the weight in registers meanwhile. The sum over rows
crosses programs: each writes its part of the sum once, and PyTorch adds the few parts. No atomics,
so the result is the same on every run.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from seqlab.kernels.launch import check_types, launch, row_config

WIDEST = 65536
"""The widest row of one program. Beyond 16384 the backward spills a part of it."""


@triton.jit
def rms_norm_forward(p_x, p_w, p_y, p_r, M, D, eps, ROWS, BD: tl.constexpr, HELD: tl.constexpr):
    i = tl.program_id(0).to(tl.int64)
    o_d = tl.arange(0, BD)
    if p_w is not None and HELD:
        b_w = tl.load(p_w + o_d, mask=o_d < D, other=0.0)
    for row in range(i * ROWS, tl.minimum(i * ROWS + ROWS, M)):
        b_x = tl.load(p_x + row * D + o_d, mask=o_d < D, other=0.0).to(tl.float32)
        r = tl.rsqrt(tl.sum(b_x * b_x, 0) / D + eps)
        b_y = (b_x * r).to(p_x.dtype.element_ty)  # rounded before the weight, as in the reference
        if p_w is not None:
            if not HELD:
                b_w = tl.load(p_w + o_d, mask=o_d < D, other=0.0)
            b_y = b_y.to(tl.float32) * b_w.to(tl.float32)
        tl.store(p_y + row * D + o_d, b_y.to(p_y.dtype.element_ty), mask=o_d < D)
        tl.store(p_r + row, r)


@triton.jit
def rms_norm_backward(
    p_x, p_w, p_r, p_dy, p_dx, p_dw, M, D, ROWS, BD: tl.constexpr, HELD: tl.constexpr
):
    """dx of each row, and the sum of the rows' dweight."""
    i = tl.program_id(0).to(tl.int64)
    o_d = tl.arange(0, BD)
    if p_w is not None and HELD:
        b_w = tl.load(p_w + o_d, mask=o_d < D, other=0.0)
    b_dw = tl.zeros((BD,), tl.float32)
    for row in range(i * ROWS, tl.minimum(i * ROWS + ROWS, M)):
        b_g = tl.load(p_dy + row * D + o_d, mask=o_d < D, other=0.0).to(tl.float32)
        b_x = tl.load(p_x + row * D + o_d, mask=o_d < D, other=0.0).to(tl.float32)
        r = tl.load(p_r + row)
        b_x *= r
        if p_w is not None:
            if not HELD:
                b_w = tl.load(p_w + o_d, mask=o_d < D, other=0.0)
            b_dw += b_g * b_x
            b_g *= b_w.to(tl.float32)
        b_dx = r * (b_g - b_x * (tl.sum(b_g * b_x, 0) / D))
        tl.store(p_dx + row * D + o_d, b_dx.to(p_dx.dtype.element_ty), mask=o_d < D)
    if p_w is not None:
        tl.store(p_dw + i * D + o_d, b_dw, mask=o_d < D)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        M, D = x.shape
        y = torch.empty_like(x)
        r = x.new_empty(M, dtype=torch.float32)
        rows = _rows(M, FORWARD)
        grid = (triton.cdiv(M, rows),)
        args = x, weight, y, r, M, D, eps, rows
        launch(rms_norm_forward, grid, *args, HELD=D <= 16384, configs=(row_config(D),))
        ctx.save_for_backward(x, weight, r)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        x, weight, r = ctx.saved_tensors
        M, D = x.shape
        rows = _rows(M, BACKWARD)
        programs = triton.cdiv(M, rows)
        dx = torch.empty_like(x)
        dw = None if weight is None else x.new_empty(programs, D, dtype=torch.float32)
        args = x, weight, r, dy.contiguous(), dx, dw, M, D, rows
        launch(rms_norm_backward, (programs,), *args, HELD=D <= 8192, configs=(row_config(D),))
        return dx, None if weight is None else dw.sum(0).to(weight.dtype), None


FORWARD, BACKWARD = 1056, 264
"""The most programs, eight and two for each of 132 multiprocessors.

In the backward there are few because each leaves a partial sum.
"""


def _rows(M, programs):
    """The rows of a program."""
    return max(1, triton.cdiv(M, programs))


def rms_norm(
    x: Float[Tensor, "*B D"], weight: Float[Tensor, " D"] | None = None, eps: float = 1e-6
) -> Float[Tensor, "*B D"]:
    """`seqlab.layers.norm.rms_norm(x, weight, eps)`, and the gradients of x and weight."""
    check_types(x=x)
    D = x.shape[-1]
    if D > WIDEST:
        raise ValueError(
            f"x has rows of {D}: this kernel keeps a row in registers, {WIDEST} at most; "
            "use seqlab.layers.norm"
        )
    if weight is not None and weight.shape != (D,):
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, x has width {D}: weight must be ({D},)"
        )
    return _RMSNorm.apply(x.reshape(-1, D).contiguous(), weight, eps).reshape(x.shape)
