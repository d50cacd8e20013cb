"""A state space whose matrix is diagonal plus rank one, one per channel: its step and its kernel
(arXiv:2111.00396).

    h' = (Λ - P P*) h + B x        y = 2 Re(C h)        in steps of dt, by the bilinear rule: h_t = Ā h_{t-1} + B̄ x_t

Rank one lets the modes mix, so no power of Ā is known mode by mode. But its generating function is:
the inverse of a diagonal plus rank one is four sums of fractions (Woodbury). `kernel` evaluates
them on the unit circle, and an FFT gives all of K_l = 2 Re(C Ā^l B̄).
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Complex, Float
from torch import Tensor

from seqlab.core.convolution import fft_conv
from seqlab.core.inputs import full_precision


class System(NamedTuple):
    """Λ, P, B and C, of each conjugate pair the first: hence 2 Re, also in P* h. And dt, one per
    channel.
    """

    rates: Complex[Tensor, "D half"]
    P: Complex[Tensor, "D half"]
    B: Complex[Tensor, "D half"]
    C: Complex[Tensor, "D half"]
    dt: Float[Tensor, "D 1"]


def step(
    s: System, h: Complex[Tensor, "*B D half"], x: Float[Tensor, "*B D"]
) -> Complex[Tensor, "*B D half"]:
    """(1 - dt A / 2) h' = (1 + dt A / 2) h + dt B x, solved for h' in O(N): rank one is taken out
    by Woodbury.
    """
    half, read = (
        s.dt / 2,
        lambda h: 2 * (s.P.conj() * h).sum(-1, keepdim=True).real,
    )  # P* h over both conjugates
    h = h + half * (s.rates * h - s.P * read(h)) + s.dt * s.B * x[..., None]
    shrink = 1 / (1 - half * s.rates)
    h = shrink * h
    return h - half * shrink * s.P * read(h) / (1 + half * read(shrink * s.P))


@full_precision
def by_steps(
    s: System, x: Float[Tensor, "B T D"], h: Complex[Tensor, "B D half"] | None = None
) -> tuple[Float[Tensor, "B T D"], Complex[Tensor, "B D half"]]:
    """Fold `step` over time. Returns (y, h_T)."""
    h, ys = x.new_zeros(x.shape[0], *s.B.shape, dtype=s.B.dtype) if h is None else h, []
    for x_t in x.unbind(1):
        h = step(s, h, x_t)
        ys.append(2 * (s.C * h).sum(-1).real)
    return torch.stack(ys, dim=1), h


@full_precision
def by_convolution(
    s: System, x: Float[Tensor, "B T D"], h: Complex[Tensor, "B D half"] | None = None
) -> tuple[Float[Tensor, "B T D"], Complex[Tensor, "B D half"]]:
    """`by_steps` without a loop over T: y is a convolution, of any length.

    The last state, and what a first one adds to y, come from powers of Ā, within chunks of 2^k
    tokens and then across.
    """
    T, row = x.shape[1], 2 * _real(s.C.conj())[:, None]  # 2 Re(C h) = row · h
    m = (T - 1).bit_length()
    k, powers = m // 2, _powers(s, m)
    across = [A.mT for A in powers]
    y = fft_conv(x, kernel(s, (row - _advance(across, row, T))[:, 0], T))
    answers = _double(
        powers[:k], _real(step(s, torch.zeros_like(s.B), torch.ones_like(s.dt[:, 0])))[:, None]
    )  # Ā^i B̄
    chunks = rearrange(
        F.pad(x, (0, 0, 2**m - T, 0)), "b (n j) d -> b n j d", j=2**k
    )  # zeros before the first token
    last = torch.einsum("bnjd, djk -> dnbk", chunks, answers.flip(1))
    for A in powers[k:m]:  # two chunks become one
        last = (last[:, ::2].flatten(1, 2) @ A.mT).unflatten(1, (-1, len(x))) + last[:, 1::2]
    last = last[:, 0]
    if h is not None:
        h = rearrange(_real(h), "b d k -> d b k")
        last = last + _advance(powers, h, T)
        fading = _double(powers[k:m], h) @ _double(across[:k], _advance(across, row, 1)).mT
        y = y + rearrange(fading, "d (n b) j -> b (n j) d", b=len(x))[:, :T]
    return y, _complex(rearrange(last, "d b k -> b d k"))


@full_precision
def kernel(s: System, row: Float[Tensor, "D N"], T: int) -> Float[Tensor, "D T"]:
    """K_l for l < T from K̂ at z = exp(-iθ), with C (1 - Ā^T) as a row over real and imaginary
    parts.

    (1 - Ā z)⁻¹ B̄ = dt [(1 - z) - dt/2 (1 + z) A]⁻¹ B = dt exp(iθ/2) [g - f (Λ - P P*)]⁻¹ B, with g
    = 2i sin(θ/2) and f = dt cos(θ/2). A mode and its conjugate share the denominator (g - f λ)(g -
    f λ̄).
    """
    theta = torch.arange(T // 2 + 1, dtype=row.dtype, device=row.device) * (2 * math.pi / T)
    sin, f = (theta / 2).sin(), s.dt * (theta / 2).cos()  # (F), (D, F)
    C, size, decay = _complex(row).conj() / 2, s.rates.abs().square(), s.rates.real
    zero = torch.zeros_like(
        f
    )  # the denominator, |λ|² f² - 4 sin² - 4i Re(λ) f sin, as pairs and as one matrix product
    tables = [(f.square(), zero), (sin.square().expand_as(f), zero), (zero, f * sin)]
    by_mode = torch.stack([size, torch.full_like(size, -4), -4 * decay], dim=-1)  # (D, N/2, 3)
    denominator = by_mode @ torch.stack(
        [torch.stack(t, dim=-1).flatten(1) for t in tables], dim=1
    )  # (D, N/2, 2 F)
    fractions = _real(_complex(denominator).reciprocal())
    w = torch.stack([C * s.B, C * s.P, s.P.conj() * s.B, s.P.conj() * s.P], dim=1)  # (D, 4, N/2)
    tops = torch.cat([w.real, (w * s.rates.conj()[:, None]).real], dim=1)
    by_g, by_f = _complex(tops @ fractions).chunk(2, dim=1)  # (D, 4, F) each
    CB, CP, PB, PP = (2 * (2j * sin * by_g - f[:, None] * by_f)).unbind(1)
    spectrum = (
        s.dt * torch.polar(torch.ones_like(theta), theta / 2) * (CB - f * CP * PB / (1 + f * PP))
    )
    return torch.fft.irfft(spectrum, n=T)


def _powers(s, m):
    """Ā, Ā², Ā⁴, .. Ā^(2^(m-1)) as real matrices (D, N, N): column j is the step applied to the
    j-th unit state.
    """
    D, half = s.B.shape
    units = _complex(torch.eye(2 * half, dtype=s.dt.dtype, device=s.dt.device))[:, None].expand(
        -1, D, -1
    )
    powers = [rearrange(_real(step(s, units, s.dt.new_zeros(2 * half, D))), "j d i -> d i j")]
    while len(powers) < m:
        powers.append(powers[-1] @ powers[-1])
    return powers


def _double(powers, v):
    """v, Ā v, Ā² v, .. for the rows v (D, R, N): each power at hand doubles them."""
    for A in powers:
        v = torch.cat([v, v @ A.mT], dim=1)
    return v


def _advance(powers, v, n):
    """Ā^n v for the rows v (D, R, N), n in binary; the largest power may be needed twice."""
    for i in reversed(range(len(powers))):
        times, n = divmod(n, 1 << i)
        for _ in range(times):
            v = v @ powers[i].mT
    return v


def _real(h):
    return torch.view_as_real(h.resolve_conj()).flatten(-2)


def _complex(h):
    return torch.view_as_complex(h.unflatten(-1, (-1, 2)).contiguous())
