"""Norms: RMSNorm, gated RMSNorm, l2norm."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.inputs import wide


def rms_norm(
    x: Float[Tensor, "*B D"], weight: Float[Tensor, " D"] | None = None, eps: float = 1e-6
) -> Float[Tensor, "*B D"]:
    """x / sqrt(mean(x²) + eps) · weight, the mean over the last axis, in float32 at least.

    The result has x's dtype, also if the weight's is wider.
    """
    exact = wide(x)
    y = (exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    return y if weight is None else (y * weight).to(x.dtype)


def l2norm(x: Float[Tensor, "*B D"], eps: float = 1e-6) -> Float[Tensor, "*B D"]:
    """x / sqrt(sum(x²) + eps). eps is inside the root (DeltaNet), not as in `F.normalize`."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + eps)


class RMSNorm(nn.Module):
    """Root-mean-square norm with a weight per channel (Zhang & Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, d_model: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return rms_norm(x, self.weight, self.eps)


class GatedRMSNorm(RMSNorm):
    """RMSNorm(y · silu(gate)): the gate first, then the norm (Mamba-2's order)."""

    def forward(
        self, y: Float[Tensor, "*B D"], gate: Float[Tensor, "*B D"]
    ) -> Float[Tensor, "*B D"]:
        return rms_norm(y * F.silu(gate), self.weight, self.eps)
