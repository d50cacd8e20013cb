"""RMSNorm and its gradient, each row read once: y = x / sqrt(mean x² + eps) · weight.

The forward keeps one number of each row, r = 1 / sqrt(mean x² + eps). With x̂ = x r and g = dy · weight

    dx = r (g - x̂ mean(g x̂))        dweight = Σ_rows dy x̂

The sum over rows crosses programs. So a program takes many rows, keeps its part of the sum in registers, and writes it
once; a last sum over the few programs is left to PyTorch. No atomics: the result is the same on every run.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from seqlab.kernels.launch import check_types, launch

WIDEST = 65536
"""The widest row that fits into the registers of one program."""


@triton.jit
def rms_norm_forward(p_x, p_w, p_y, p_r, D, eps, BD: tl.constexpr):
    i = tl.program_id(0).to(tl.int64)
    o_d = tl.arange(0, BD)
    b_x = tl.load(p_x + i * D + o_d, mask=o_d < D, other=0.0).to(tl.float32)
    r = tl.rsqrt(tl.sum(b_x * b_x, 0) / D + eps)
    b_y = (b_x * r).to(p_x.dtype.element_ty)  # rounded before the weight, as the reference does
    if p_w is not None:
        b_y = b_y.to(tl.float32) * tl.load(p_w + o_d, mask=o_d < D, other=0.0).to(tl.float32)
    tl.store(p_y + i * D + o_d, b_y.to(p_y.dtype.element_ty), mask=o_d < D)
    tl.store(p_r + i, r)


@triton.jit
def rms_norm_backward(p_x, p_w, p_r, p_dy, p_dx, p_dw, M, D, ROWS, BD: tl.constexpr):
    """ROWS rows a program: dx of each, and the sum of their dweight."""
    i = tl.program_id(0).to(tl.int64)
    o_d = tl.arange(0, BD)
    b_dw = tl.zeros((BD,), tl.float32)
    for row in range(i * ROWS, tl.minimum(i * ROWS + ROWS, M)):
        b_g = tl.load(p_dy + row * D + o_d, mask=o_d < D, other=0.0).to(tl.float32)
        b_x = tl.load(p_x + row * D + o_d, mask=o_d < D, other=0.0).to(tl.float32)
        r = tl.load(p_r + row)
        b_x *= r
        if p_w is not None:
            b_dw += b_g * b_x
            b_g *= tl.load(p_w + o_d, mask=o_d < D, other=0.0).to(tl.float32)
        b_dx = r * (b_g - b_x * (tl.sum(b_g * b_x, 0) / D))
        tl.store(p_dx + row * D + o_d, b_dx.to(p_dx.dtype.element_ty), mask=o_d < D)
    if p_w is not None:
        tl.store(p_dw + i * D + o_d, b_dw, mask=o_d < D)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        M, D = x.shape
        dtype = x.dtype if weight is None else torch.promote_types(x.dtype, weight.dtype)
        y, r = torch.empty_like(x, dtype=dtype), x.new_empty(M, dtype=torch.float32)
        launch(rms_norm_forward, (M,), x, weight, y, r, D, eps, configs=(_config(D),))
        ctx.save_for_backward(x, weight, r)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        x, weight, r = ctx.saved_tensors
        M, D = x.shape
        rows = max(1, triton.cdiv(M, PROGRAMS))
        dx, dw = torch.empty_like(x), None
        if weight is not None:
            dw = x.new_empty(triton.cdiv(M, rows), D, dtype=torch.float32)
        args = x, weight, r, dy.contiguous(), dx, dw, M, D, rows
        launch(rms_norm_backward, (triton.cdiv(M, rows),), *args, configs=(_config(D),))
        return dx, None if weight is None else dw.sum(0).to(weight.dtype), None


PROGRAMS = 264
"""Programs of the backward: two for each multiprocessor of the largest GPUs here, so that few partial sums are left."""


def _config(D):
    BD = triton.next_power_of_2(D)
    return {"BD": BD, "num_warps": min(16, max(1, BD // 512))}


def rms_norm(
    x: Float[Tensor, "*B D"], weight: Float[Tensor, " D"] | None = None, eps: float = 1e-6
) -> Float[Tensor, "*B D"]:
    """`seqlab.norm.rms_norm(x, weight, eps)`, and the gradients of x and weight."""
    check_types(x=x)
    D = x.shape[-1]
    if D > WIDEST:
        raise ValueError(f"x has rows of {D}, this kernel keeps a row in registers, {WIDEST} at most: use seqlab.norm")
    if weight is not None and weight.shape != (D,):
        raise ValueError(f"weight has shape {tuple(weight.shape)}, x has width {D}: weight must be ({D},)")
    return _RMSNorm.apply(x.reshape(-1, D).contiguous(), weight, eps).reshape(x.shape)
