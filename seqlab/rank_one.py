"""A state space whose matrix is diagonal plus rank one, one per channel: its step and its kernel (arXiv:2111.00396).

    h' = (Λ - P P*) h + B x        y = 2 Re(C h)        in steps of dt, by the bilinear rule: h_t = Ā h_{t-1} + B̄ x_t

Rank one lets the modes mix, so no power of Ā is known mode by mode. But its generating function is: the inverse of
a diagonal plus rank one is four sums of fractions (Woodbury). `kernel` evaluates them on the unit circle, and an FFT
gives all of K_l = 2 Re(C Ā^l B̄).
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Complex, Float
from torch import Tensor

from seqlab.convolution import fft_conv


class System(NamedTuple):
    """Λ, P, B and C, of each conjugate pair the first: hence 2 Re, also in P* h. And dt, one per channel."""

    rates: Complex[Tensor, "D half"]
    P: Complex[Tensor, "D half"]
    B: Complex[Tensor, "D half"]
    C: Complex[Tensor, "D half"]
    dt: Float[Tensor, "D 1"]


def step(s: System, h: Complex[Tensor, "*B D half"], x: Float[Tensor, "*B D"]) -> Complex[Tensor, "*B D half"]:
    """(1 - dt A / 2) h' = (1 + dt A / 2) h + dt B x, solved for h' in O(N): rank one is taken out by Woodbury."""
    half, read = s.dt / 2, lambda h: 2 * (s.P.conj() * h).sum(-1, keepdim=True).real  # P* h over both conjugates
    h = h + half * (s.rates * h - s.P * read(h)) + s.dt * s.B * x[..., None]
    shrink = 1 / (1 - half * s.rates)
    h = shrink * h
    return h - half * shrink * s.P * read(h) / (1 + half * read(shrink * s.P))


def by_steps(
    s: System, x: Float[Tensor, "B T D"], h: Complex[Tensor, "B D half"] | None = None
) -> tuple[Float[Tensor, "B T D"], Complex[Tensor, "B D half"]]:
    """Fold `step` over time. Returns (y, h_T)."""
    h, ys = x.new_zeros(x.shape[0], *s.B.shape, dtype=s.B.dtype) if h is None else h, []
    for x_t in x.unbind(1):
        h = step(s, h, x_t)
        ys.append(2 * (s.C * h).sum(-1).real)
    return torch.stack(ys, dim=1), h


def by_convolution(
    s: System, x: Float[Tensor, "B T D"], h: Complex[Tensor, "B D half"] | None = None
) -> tuple[Float[Tensor, "B T D"], Complex[Tensor, "B D half"]]:
    """`by_steps` without a loop over T: y is a convolution, of any length.

    The last state, and what a first one adds to y, come from powers of Ā: inside chunks of J ≈ √T tokens, then across.
    """
    T, row = x.shape[1], 2 * _real(s.C.conj())  # 2 Re(C h) = row · h
    powers = _powers(s, T)
    across = [A.mT for A in powers]
    y = fft_conv(x, kernel(s, row - _advance(across, row, T), T))
    rows = _chunk(powers, _real(step(s, torch.zeros_like(s.B), torch.ones_like(s.dt[:, 0]))))  # Ā^i B̄
    J = rows.shape[1]
    chunks = rearrange(F.pad(x, (0, 0, -T % J, 0)), "b (n j) d -> n b j d", j=J)  # zeros before the first token
    last = torch.zeros_like(row)
    for end in torch.einsum("nbjd, djk -> nbdk", chunks, rows.flip(1)):
        last = _advance(powers, last, J) + end
    if h is None:
        return y, _complex(last)
    h, rows, fading = _real(h), _chunk(across, _advance(across, row, 1)), []  # C Ā^(i+1)
    last = last + _advance(powers, h, T)
    for _ in chunks:
        fading.append(torch.einsum("djk, bdk -> bjd", rows, h))
        h = _advance(powers, h, J)
    return y + torch.cat(fading, dim=1)[:, :T], _complex(last)


def kernel(s: System, row: Float[Tensor, "D N"], T: int) -> Float[Tensor, "D T"]:
    """K_l for l < T from K̂ at z = exp(-iθ), with C (1 - Ā^T) as a row over real and imaginary parts.

    (1 - Ā z)⁻¹ B̄ = dt [(1 - z) - dt/2 (1 + z) A]⁻¹ B = dt exp(iθ/2) [g - f (Λ - P P*)]⁻¹ B, with g = 2i sin(θ/2) and
    f = dt cos(θ/2). A mode and its conjugate share the denominator (g - f λ)(g - f λ̄).
    """
    theta = torch.arange(T // 2 + 1, dtype=row.dtype, device=row.device) * (2 * math.pi / T)
    sin, f = (theta / 2).sin(), s.dt * (theta / 2).cos()  # (F), (D, F)
    C, rates = _complex(row).conj() / 2, s.rates[..., None]
    real, imag = (rates.abs() * f[:, None]).square() - 4 * sin.square(), -4 * rates.real * f[:, None] * sin
    inverse = torch.cat([real, -imag], dim=-1) / (real.square() + imag.square()).repeat(1, 1, 2)
    w = torch.stack([C * s.B, C * s.P, s.P.conj() * s.B, s.P.conj() * s.P], dim=1)  # (D, 4, N/2)
    tops = torch.cat([w.real, (w * s.rates.conj()[:, None]).real], dim=1)
    by_g, by_f = torch.complex(*(tops @ inverse).chunk(2, dim=-1)).chunk(2, dim=1)  # (D, 4, F) each
    CB, CP, PB, PP = (2 * (2j * sin * by_g - f[:, None] * by_f)).unbind(1)
    spectrum = s.dt * torch.polar(torch.ones_like(theta), theta / 2) * (CB - f * CP * PB / (1 + f * PP))
    return torch.fft.irfft(spectrum, n=T)


def _powers(s, T):
    """Ā, Ā², Ā⁴, .. Ā^J as real matrices (D, N, N), J ≈ √T: column j is the step applied to the j-th unit state."""
    D, half = s.B.shape
    units = _complex(torch.eye(2 * half, dtype=s.dt.dtype, device=s.dt.device))[:, None]
    powers = [rearrange(_real(step(s, units, s.dt.new_zeros(D))), "j d i -> d i j")]
    for _ in range(((T - 1).bit_length() + 1) // 2):
        powers.append(powers[-1] @ powers[-1])
    return powers


def _chunk(powers, v):
    """v, Ā v, .. Ā^(J-1) v (D, J, N), by doubling."""
    v = v[:, None]
    for A in powers[:-1]:
        v = torch.cat([v, v @ A.mT], dim=1)
    return v


def _advance(powers, v, n):
    """Ā^n v for v (..., D, N): the largest power as often as it fits, then the smaller ones."""
    for i in reversed(range(len(powers))):
        times, n = divmod(n, 1 << i)
        for _ in range(times):
            v = (powers[i] @ v[..., None])[..., 0]
    return v


def _real(h):
    return torch.view_as_real(h.resolve_conj()).flatten(-2)


def _complex(h):
    return torch.view_as_complex(h.unflatten(-1, (-1, 2)).contiguous())
