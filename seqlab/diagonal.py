"""Diagonal state spaces that do not change with time: one equation, two readings.

    h_t = λ h_{t-1} + x_t        y_t = Re Σ_n c_n h_t,n

Each channel of x feeds N numbers h, real or complex. The input's weight b is folded into c, since both only ever meet
as their product. Unrolled, y is a causal convolution with the kernel K_l = Re Σ_n c_n λ_n^l, so it is read through the
FFT ("convolution": O(T log T), how a model trains) or as a recurrence ("scan": any T, how it decodes).
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Inexact
from torch import Tensor

from seqlab.scan import linear_scan

DIAGONAL_FORMS = ("convolution", "scan")


def diagonal(
    x: Float[Tensor, "B T E"],
    log_lam: Inexact[Tensor, "e N"],
    c: Inexact[Tensor, "E N"],
    h: Inexact[Tensor, "B E N"] | None = None,
    *,
    form: str = "convolution",
) -> tuple[Float[Tensor, "B T E"], Inexact[Tensor, "B E N"]]:
    """y and the last h. log_lam: log λ, of each channel or (e = 1) shared by all; its real part is below 0."""
    if form not in DIAGONAL_FORMS:
        raise ValueError(f"form is {form!r}: choose one of {', '.join(DIAGONAL_FORMS)}")
    read = _convolve if form == "convolution" and x.shape[1] > 1 else _scan
    h = x.new_zeros(x.shape[0], *c.shape, dtype=log_lam.dtype) if h is None else h
    y, h = read(x.to(log_lam.dtype.to_real()), log_lam, c, h)
    return y.to(x.dtype), h


def _scan(x, log_lam, c, h):
    inputs = x.to(log_lam.dtype)[..., None].expand(*x.shape, c.shape[-1])
    hs = linear_scan(log_lam.exp()[None, None], inputs, h)
    return torch.einsum("bten, en -> bte", hs, c).real, hs[:, -1]


def _convolve(x, log_lam, c, h):
    T = x.shape[1]
    kernel = _responses(c[None], log_lam, T)  # (1, E, T)
    spectrum = torch.fft.rfft(x.mT, n=2 * T) * torch.fft.rfft(kernel, n=2 * T)  # 2 T: the end must not wrap around
    y = torch.fft.irfft(spectrum, n=2 * T)[..., :T] + _responses(c * log_lam.exp() * h, log_lam, T)
    return y.mT, (T * log_lam).exp() * h + _last_state(x, log_lam)


def _responses(c, log_lam, T):
    """Re Σ_n c_n λ_n^l for l < T, (B, E, T). l = C j + i: the powers are products of √T coarse and √T fine ones."""
    C = math.isqrt(T - 1) + 1
    coarse, fine = _powers(C * log_lam, math.ceil(T / C)), _powers(log_lam, C)
    return ((c[..., None, :] * coarse) @ fine.mT).real.flatten(-2)[..., :T]


def _last_state(x, log_lam):
    """Σ_s λ^(T-1-s) x_s, (B, E, N): the same two factors, counted from the end."""
    T = x.shape[1]
    C = math.isqrt(T - 1) + 1
    coarse, fine = _powers(C * log_lam, math.ceil(T / C)), _powers(log_lam, C)
    x = rearrange(F.pad(x.flip(1), (0, 0, 0, -T % C)), "b (j i) e -> b e j i", i=C)
    return (coarse * (x.to(fine.dtype) @ fine)).sum(-2)


def _powers(log_lam, n):
    """λ⁰ .. λⁿ⁻¹, (e, n, N)."""
    return (torch.arange(n, device=log_lam.device)[:, None] * log_lam[:, None]).exp()
