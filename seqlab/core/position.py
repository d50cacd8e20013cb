"""Positions as rotations (RoPE, xPos), RoPE for longer contexts, and positions as a bias (ALiBi).

A pair of channels of q and k is turned by an angle position × θ. The dot product of two turned
vectors depends only on the *difference* of their positions, so an absolute operation gives a
relative result. Pair i makes a full turn in 2π / θ_i tokens. A model trained on L0 tokens has never
seen the slow pairs turn fully. Each way to a longer context (factor = L / L0) is another θ; YaRN
and LongRoPE also make the rotated channels a little longer (`magnitude`).
"""

import math

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from seqlab.core.masks import distances


def rope_frequencies(
    width: int, base: float = 10000.0, *, inclusive: bool = False
) -> Float[Tensor, " half"]:
    """θ_i, in radians per position, for the width/2 pairs (Su et al. 2021, arXiv:2104.09864).

    RoPE: θ_i = base^(-2i/width), i = 0 .. width/2 - 1, which stops one step short of 1/base.
    RetNet (`inclusive=True`): θ_i = base^(-i/(width/2 - 1)), which reaches 1/base. An odd width
    raises a ValueError.
    """
    if width % 2:
        raise ValueError(
            f"width is {width}: a rotation turns pairs of channels, so the width must be even"
        )
    i = torch.arange(width // 2, dtype=torch.float64)
    share = i / max(width // 2 - 1, 1) if inclusive else 2 * i / width
    return base**-share


def linear_frequencies(theta: Float[Tensor, " half"], factor: float) -> Float[Tensor, " half"]:
    """Position interpolation (Chen et al. 2023, arXiv:2306.15595): θ / factor.

    Positions are squeezed into the trained range; neighbours become harder to tell apart.
    """
    return theta / factor


def ntk_frequencies(width: int, factor: float, base: float = 10000.0) -> Float[Tensor, " half"]:
    """NTK-aware: a larger base, so that the slowest pair is interpolated and the fastest is not.

    base · factor^(width/(width - 2)). By bloc97 (2023), written down in arXiv:2309.00071, §3.1.
    """
    return rope_frequencies(width, base * factor ** (width / (width - 2)))


def dynamic_ntk_frequencies(
    width: int, factor: float, length: int, original_length: int, base: float = 10000.0
) -> Float[Tensor, " half"]:
    """NTK-aware with a factor that grows with the text.

    The factor is 1 up to original_length and factor · length / L0 - (factor - 1) beyond. Keys
    cached at a smaller length were turned by another θ, so reading a text in parts differs from
    reading it whole.
    """
    grown = max(factor * length / original_length - (factor - 1), 1.0)
    return ntk_frequencies(width, grown, base)


def llama3_frequencies(
    theta: Float[Tensor, " half"],
    factor: float = 8.0,
    low: float = 1.0,
    high: float = 4.0,
    original_length: int = 8192,
) -> Float[Tensor, " half"]:
    """Llama 3.1, as in its released code: only slow pairs are interpolated.

    Pairs that make more than `high` turns in L0 tokens keep their θ, those with fewer than `low`
    get θ / factor, and between the two θ is mixed linearly in the number of turns.
    """
    turns = original_length * theta / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return kept * theta + (1 - kept) * theta / factor


def yarn_frequencies(
    width: int,
    factor: float,
    original_length: int,
    base: float = 10000.0,
    *,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> Float[Tensor, " half"]:
    """YaRN (Peng et al. 2023, arXiv:2309.00071): like Llama 3.1, mixed by the *index* of a pair.

    Pairs up to the one that makes beta_fast turns in L0 tokens keep their θ; from the one with
    beta_slow turns on they get θ / factor. truncate: these two ends are rounded outwards to whole
    pairs. To be used with `yarn_magnitude`.
    """

    def pair(turns):
        return width * math.log(original_length / (2 * math.pi * turns)) / (2 * math.log(base))

    first, last = pair(beta_fast), pair(beta_slow)
    if truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    i = torch.arange(width // 2, dtype=torch.float64)
    interpolated = ((i - first) / max(last - first, 1e-3)).clamp(0, 1)
    theta = rope_frequencies(width, base)
    return interpolated * theta / factor + (1 - interpolated) * theta


def yarn_magnitude(factor: float, mscale: float = 1.0) -> float:
    """0.1 mscale ln(factor) + 1: how much longer YaRN makes rotated q and k.

    Longer q and k make the softmax sharper.
    """
    return 0.1 * mscale * math.log(factor) + 1 if factor > 1 else 1.0


def longrope_frequencies(
    short: list[float], long: list[float], length: int, original_length: int, base: float = 10000.0
) -> Float[Tensor, " half"]:
    """LongRoPE (Ding et al. 2024, arXiv:2402.13753): one divisor per pair, found by search.

    `short` up to original_length tokens, `long` beyond. To be used with `longrope_magnitude`.
    """
    divisors = torch.tensor(long if length > original_length else short, dtype=torch.float64)
    return rope_frequencies(2 * len(divisors), base) / divisors


def longrope_magnitude(factor: float, original_length: int) -> float:
    """sqrt(1 + ln(factor) / ln(original_length)): LongRoPE's counterpart of `yarn_magnitude`."""
    return math.sqrt(1 + math.log(factor) / math.log(original_length)) if factor > 1 else 1.0


def rotate(
    x: Float[Tensor, "B T H K"],
    positions: Int[Tensor, " T"],
    theta: Float[Tensor, " half"],
    *,
    interleaved: bool = False,
    magnitude: float = 1.0,
) -> Float[Tensor, "B T H K"]:
    """Turn each pair of channels of x by positions × theta, and scale it by `magnitude`.

    A pair is channels (i, i + R/2), as in Llama, or (2i, 2i + 1) with `interleaved=True`, as in
    RetNet. theta may be shorter than K/2: then the first R = 2 len(theta) channels turn and the
    rest stay unchanged (partial rotary). A longer theta raises a ValueError.
    """
    R = 2 * len(theta)
    if x.shape[-1] < R:
        raise ValueError(
            f"theta turns {R} channels, x has {x.shape[-1]}: at most {x.shape[-1] // 2} angles fit"
        )
    first, second = (x[..., 0:R:2], x[..., 1:R:2]) if interleaved else x[..., :R].chunk(2, dim=-1)
    angle = (positions[:, None] * theta.to(positions.device))[:, None]  # (T, 1, R/2)
    cos, sin = ((magnitude * f).to(x.dtype) for f in (angle.cos(), angle.sin()))
    turned = [first * cos - second * sin, second * cos + first * sin]
    if interleaved:
        turned = [rearrange(turned, "two b t h r -> b t h (r two)")]
    return torch.cat([*turned, x[..., R:]], dim=-1)


def xpos_scale(
    positions: Int[Tensor, " T"], width: int, scale_base: float = 512.0
) -> Float[Tensor, "T half"]:
    """ζ_i^(n / scale_base), the magnitude that xPos gives pair i of q at position n.

    xPos (Sun et al. 2022, arXiv:2212.10554), ζ_i = (2i/width + 0.4) / 1.4 < 1. Keys take the
    inverse, so q_n · k_m carries ζ^((n - m) / scale_base): distant tokens count less, and the fast
    pairs fade first. RetNet's γ is this magnitude with one value per head.
    """
    i = torch.arange(width // 2, dtype=torch.float64, device=positions.device)
    zeta = (2 * i / width + 0.4) / 1.4
    return zeta ** (positions[:, None] / scale_base)


def xpos(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    positions: Int[Tensor, " T"],
    theta: Float[Tensor, " half"],
    *,
    scale_base: float = 512.0,
    interleaved: bool = False,
) -> tuple[Float[Tensor, "B T H K"], Float[Tensor, "B T H K"]]:
    """Rotate q and k and give them xPos's opposite magnitudes. Returns (q, k)."""
    scale = xpos_scale(positions, q.shape[-1], scale_base)
    scale = scale.repeat_interleave(2, -1) if interleaved else scale.repeat(1, 2)
    scale = scale[:, None].to(q.dtype)  # (T, 1, K)
    q, k = (rotate(x, positions, theta, interleaved=interleaved) for x in (q, k))
    return q * scale, k / scale


def alibi_slopes(n_heads: int) -> Float[Tensor, " H"]:
    """2^(-8h/H), h = 1 .. H (Press et al. 2021, arXiv:2108.12409): from strong to weak.

    If H is not a power of two: the slopes of the power of two below it, then every second one of
    twice that power, as in the authors' code.
    """
    whole = 2 ** int(math.log2(n_heads))
    between = _slopes(2 * whole)[::2]
    return torch.cat([_slopes(whole), between[: n_heads - whole]])


def _slopes(n):
    return 2 ** (-8 * torch.arange(1, n + 1, dtype=torch.float64) / n)


def alibi_bias(n_heads: int, T_q: int, T_k: int) -> Float[Tensor, "H T_q T_k"]:
    """-slope_h · |i - j|, for `attend(..., bias=...)`: a linear penalty on distance, no rotations.

    Its exp is a decay per head, like RetNet's γ_h, here inside a softmax.
    """
    return -alibi_slopes(n_heads)[:, None, None] * distances(T_q, T_k).abs()
