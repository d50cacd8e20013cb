"""S4's state space, diagonal plus rank one per channel: its step and its kernel (arXiv:2111.00396).

    h' = (Λ - P P*) h + B x        y = 2 Re(C h)

in steps of dt, by the bilinear rule: h_t = Ā h_{t-1} + B̄ x_t. Rank one lets the modes mix, so no
power of Ā is known mode by mode. But its generating function is: the inverse of a diagonal plus
rank one is four sums of fractions (Woodbury). `kernel` evaluates them on the unit circle, and an
FFT gives all of K_l = 2 Re(C Ā^l B̄).
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
    """Λ, P, B and C, and dt, one per channel.

    Of each conjugate pair only the first mode is kept: hence 2 Re in y, and also in P* h.
    """

    rates: Complex[Tensor, "D half"]
    P: Complex[Tensor, "D half"]
    B: Complex[Tensor, "D half"]
    C: Complex[Tensor, "D half"]
    dt: Float[Tensor, "D 1"]


def step(
    s: System, h: Complex[Tensor, "*B D half"], x: Float[Tensor, "*B D"]
) -> Complex[Tensor, "*B D half"]:
    """(1 - dt A / 2) h' = (1 + dt A / 2) h + dt B x, solved for h' in O(N) by Woodbury."""
    half = s.dt / 2
    h = h + half * (s.rates * h - s.P * _along(s.P, h)) + s.dt * s.B * x[..., None]
    shrink = 1 / (1 - half * s.rates)  # the inverse without rank one
    h = shrink * h
    return h - half * shrink * s.P * _along(s.P, h) / (1 + half * _along(s.P, shrink * s.P))


def _along(P, h):
    """P* h over both modes of each conjugate pair."""
    return 2 * (P.conj() * h).sum(-1, keepdim=True).real


@full_precision
def by_steps(
    s: System, x: Float[Tensor, "B T D"], h: Complex[Tensor, "B D half"] | None = None
) -> tuple[Float[Tensor, "B T D"], Complex[Tensor, "B D half"]]:
    """Fold `step` over time. Returns (y, h_T)."""
    if h is None:
        h = x.new_zeros(x.shape[0], *s.B.shape, dtype=s.B.dtype)
    ys = []
    for x_t in x.unbind(1):
        h = step(s, h, x_t)
        ys.append(2 * (s.C * h).sum(-1).real)
    return torch.stack(ys, dim=1), h


@full_precision
def by_convolution(
    s: System, x: Float[Tensor, "B T D"], h: Complex[Tensor, "B D half"] | None = None
) -> tuple[Float[Tensor, "B T D"], Complex[Tensor, "B D half"]]:
    """`by_steps` without a loop over T: y is a convolution, of any length.

    The last state, and what the first one adds to y, are found by powers of Ā: inside chunks of 2^k
    tokens, then across the 2^(m-k) chunks.
    """
    T = x.shape[1]
    m = (T - 1).bit_length()
    k = m // 2
    powers = _powers(s, m)
    transposed = [A.mT for A in powers]
    row = 2 * _real(s.C.conj())[:, None]  # 2 Re(C h) = row · h
    y = fft_conv(x, kernel(s, (row - _advance(transposed, row, T))[:, 0], T))
    last = _last_state(s, x, powers[:m], k)
    if h is not None:
        h = rearrange(_real(h), "b d k -> d b k")
        last = last + _advance(powers, h, T)
        starts = _double(powers[k:m], h)  # (D, n B, N): Ā^(n 2^k) h
        rows = _double(transposed[:k], _advance(transposed, row, 1))  # (D, 2^k, N): row Ā^(j + 1)
        fading = starts @ rows.mT
        y = y + rearrange(fading, "d (n b) j -> b (n j) d", n=2 ** (m - k), b=len(x))[:, :T]
    return y, _complex(rearrange(last, "d b k -> b d k"))


def _last_state(s, x, powers, k):
    """The state after x, from a first state of 0, as real numbers (D, B, N)."""
    B_bar = step(s, torch.zeros_like(s.B), torch.ones_like(s.dt[:, 0]))
    answers = _double(powers[:k], _real(B_bar)[:, None])  # (D, 2^k, N): Ā^j B̄
    x = F.pad(x, (0, 0, 2 ** len(powers) - x.shape[1], 0))  # zeros before the first token
    chunks = rearrange(x, "b (n j) d -> b n j d", j=2**k)
    last = torch.einsum("bnjd, djk -> dnbk", chunks, answers.flip(1))
    for A in powers[k:]:  # two chunks become one
        earlier, later = last[:, ::2], last[:, 1::2]
        last = (earlier.flatten(1, 2) @ A.mT).view_as(later) + later
    return last[:, 0]


@full_precision
def kernel(s: System, row: Float[Tensor, "D N"], T: int) -> Float[Tensor, "D T"]:
    """K_l for l < T from K̂ at z = exp(-iθ), with C (1 - Ā^T) as a row of real and imaginary parts.

    (1 - Ā z)⁻¹ B̄ = dt [(1 - z) - dt/2 (1 + z) A]⁻¹ B = dt exp(iθ/2) [g - f (Λ - P P*)]⁻¹ B,
    with g = 2i sin(θ/2) and f = dt cos(θ/2). A mode and its conjugate share the denominator
    (g - f λ)(g - f λ̄) = |λ|² f² - 4 sin² - 4i Re(λ) f sin.
    """
    theta = torch.arange(T // 2 + 1, dtype=row.dtype, device=row.device) * (2 * math.pi / T)
    sin = (theta / 2).sin()  # (F)
    f = s.dt * (theta / 2).cos()  # (D, F)
    zero = torch.zeros_like(f)
    # All denominators in one real matrix product: mode by mode, times frequency by frequency.
    size = s.rates.abs().square()
    by_mode = torch.stack([size, torch.full_like(size, -4), -4 * s.rates.real], dim=-1)
    terms = [(f.square(), zero), (sin.square().expand_as(f), zero), (zero, f * sin)]
    by_frequency = torch.stack([torch.stack(term, dim=-1).flatten(1) for term in terms], dim=1)
    fractions = _real(_complex(by_mode @ by_frequency).reciprocal())  # (D, N/2, 2 F)
    C = _complex(row).conj() / 2
    w = torch.stack([C * s.B, C * s.P, s.P.conj() * s.B, s.P.conj() * s.P], dim=1)  # (D, 4, N/2)
    tops = torch.cat([w.real, (w * s.rates.conj()[:, None]).real], dim=1)
    by_g, by_f = _complex(tops @ fractions).chunk(2, dim=1)  # (D, 4, F) each
    CB, CP, PB, PP = (2 * (2j * sin * by_g - f[:, None] * by_f)).unbind(1)
    turn = torch.polar(torch.ones_like(theta), theta / 2)  # exp(iθ/2)
    spectrum = s.dt * turn * (CB - f * CP * PB / (1 + f * PP))
    return torch.fft.irfft(spectrum, n=T)


def _powers(s, m):
    """Ā, Ā², Ā⁴, .. Ā^(2^(m-1)), at least one, as real matrices (D, N, N).

    Column j of Ā is the step applied to the j-th unit state.
    """
    D, half = s.B.shape
    units = _complex(torch.eye(2 * half, dtype=s.dt.dtype, device=s.dt.device))
    columns = step(s, units[:, None].expand(-1, D, -1), s.dt.new_zeros(2 * half, D))
    powers = [rearrange(_real(columns), "j d i -> d i j")]
    while len(powers) < m:
        powers.append(powers[-1] @ powers[-1])
    return powers


def _double(powers, v):
    """v, Ā v, Ā² v, .. for the rows v (D, R, N): each power doubles the number of rows."""
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
    """Complex modes as real numbers: N/2 modes become N entries, real and imaginary in turn."""
    return torch.view_as_real(h.resolve_conj()).flatten(-2)


def _complex(h):
    """The inverse of `_real`."""
    return torch.view_as_complex(h.unflatten(-1, (-1, 2)).contiguous())
