"""Positions as rotations: RoPE, and xPos.

A pair of channels of q and k is turned by an angle position × θ. The dot product of two turned vectors depends only on
the *difference* of their positions, so an absolute operation gives a relative result.
"""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor


def rope_frequencies(width: int, base: float = 10000.0, *, inclusive: bool = False) -> Float[Tensor, " half"]:
    """θ_i, in radians per position, for the width/2 pairs (Su et al. 2021, arXiv:2104.09864).

    RoPE: θ_i = base^(-2i/width), i = 0 .. width/2 - 1, which stops one step short of 1/base.
    RetNet (`inclusive=True`): θ_i = base^(-i/(width/2 - 1)), which reaches 1/base.
    """
    if width % 2:
        raise ValueError(f"width is {width}: a rotation turns pairs of channels, so the width must be even")
    i = torch.arange(width // 2, dtype=torch.float64)
    return base ** -(i / max(width // 2 - 1, 1) if inclusive else 2 * i / width)


def rotate(
    x: Float[Tensor, "B T H K"],
    positions: Int[Tensor, " T"],
    theta: Float[Tensor, " half"],
    *,
    interleaved: bool = False,
) -> Float[Tensor, "B T H K"]:
    """Turn each pair of channels of x by positions × theta.

    A pair is channels (i, i + K/2), as in Llama, or (2i, 2i + 1) with `interleaved=True`, as in RetNet.
    """
    split = "b t h (k two) -> two b t h k" if interleaved else "b t h (two k) -> two b t h k"
    join = " -> ".join(reversed(split.split(" -> ")))
    angle = (positions[:, None] * theta.to(positions.device))[:, None]  # (T, 1, K/2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = rearrange(x, split, two=2)
    return rearrange(torch.stack([first * cos - second * sin, second * cos + first * sin]), join)


def xpos_scale(positions: Int[Tensor, " T"], width: int, scale_base: float = 512.0) -> Float[Tensor, "T half"]:
    """ζ_i^(n / scale_base), the magnitude xPos gives pair i of q at position n (Sun et al. 2022, arXiv:2212.10554).

    ζ_i = (2i/width + 0.4) / 1.4 < 1. Keys take the inverse, so q_n · k_m carries ζ^((n - m) / scale_base): distant
    tokens count less, and the fast pairs fade first. RetNet's γ is this magnitude with one value per head.
    """
    zeta = (2 * torch.arange(width // 2, dtype=torch.float64, device=positions.device) / width + 0.4) / 1.4
    return zeta ** (positions[:, None] / scale_base)


def xpos(q, k, positions, theta, *, scale_base: float = 512.0, interleaved: bool = False):
    """Rotate q and k and give them xPos's opposite magnitudes. Shapes as `rotate`; returns (q, k)."""
    scale = xpos_scale(positions, q.shape[-1], scale_base)
    scale = (scale.repeat_interleave(2, -1) if interleaved else scale.repeat(1, 2))[:, None].to(q.dtype)  # (T, 1, K)
    q, k = (rotate(x, positions, theta, interleaved=interleaved) for x in (q, k))
    return q * scale, k / scale
