"""Convolutions over time: the short causal one before a recurrence, and long ones by the FFT.

A long kernel is often a sum of exponentials, because a linear recurrence made it:
`exponential_conv` and `exponential_scan` are the two readings of one diagonal state space model.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Inexact
from torch import Tensor

from seqlab.core.inputs import full_precision, wide
from seqlab.core.scan import linear_scan

FEW_TAPS = 8  # up to here, one product per tap is faster than PyTorch's convolution of D groups


def causal_conv(
    x: Float[Tensor, "B T D"],
    weight: Float[Tensor, "D W"],
    bias: Float[Tensor, " D"] | None = None,
    state: Float[Tensor, "B past D"] | None = None,
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B past D"]]:
    """y_t = Σ_{j<W} w_j x_{t-W+1+j} + bias, each channel on its own; x before the first token is 0.

    weight[:, -1] multiplies the newest token, as in `nn.Conv1d`. The state is the last W - 1
    inputs. Returns (y, state).
    """
    D, W = weight.shape
    T = x.shape[1]
    past = x.new_zeros(x.shape[0], W - 1, D) if state is None else state
    x = torch.cat([past, x], dim=1)
    if W > FEW_TAPS:
        return F.conv1d(x.mT, rearrange(weight, "d w -> d 1 w"), bias, groups=D).mT, x[:, T:]
    y = wide(x.new_zeros(D) if bias is None else bias)
    for j, w in enumerate(weight.unbind(1)):
        y = torch.addcmul(y, wide(x[:, j : j + T]), wide(w))
    return y.to(x.dtype), x[:, T:]


@full_precision
def fft_conv(
    x: Float[Tensor, "B T D"],
    kernel: Float[Tensor, "D L"],
    past: Float[Tensor, "B P D"] | None = None,
) -> Float[Tensor, "B T D"]:
    """y_t = Σ_s kernel_s x_{t-s}: each channel with its own kernel, in O(L log L).

    kernel[:, 0] multiplies the newest token. A product of spectra is a convolution on a circle;
    zeros appended to both, up to twice the length, keep the end from reaching round to the
    beginning. past: inputs before the first, which are read but get no output. Float32 at least
    inside; y has the dtype of x.
    """
    if len(x) == 0:  # MKL's FFT refuses it
        return x
    T = x.shape[1]
    inputs = wide(x if past is None else torch.cat([past, x], dim=1))
    length = inputs.shape[1]
    kernel = wide(kernel)[:, :length]
    size = _fast_size(length + kernel.shape[1] - 1)
    inputs = rearrange(inputs, "b t d -> b d t")
    spectrum = torch.fft.rfft(inputs, n=size) * torch.fft.rfft(kernel, n=size)
    y = torch.fft.irfft(spectrum, n=size)[..., length - T : length]
    return rearrange(y, "b d t -> b t d").to(x.dtype)


@full_precision
def direct_conv(
    x: Float[Tensor, "B T D"],
    kernel: Float[Tensor, "D L"],
    past: Float[Tensor, "B P D"] | None = None,
) -> Float[Tensor, "B T D"]:
    """`fft_conv` by its definition, in O(T L): the matrix kernel_{t-s} (D, T, P + T), t by s."""
    T = x.shape[1]
    inputs = wide(x if past is None else torch.cat([past, x], dim=1))
    length = inputs.shape[1]
    kernel = F.pad(wide(kernel), (0, max(0, length - kernel.shape[1])))
    now = torch.arange(length, device=x.device)
    lag = now[-T:, None] - now
    matrix = kernel[:, lag.clamp(min=0)].where(lag >= 0, 0.0)
    return torch.einsum("dts, bsd -> btd", matrix, inputs).to(x.dtype)


Modes = Inexact[Tensor, "*D N"]  # one number per mode of each channel, real or complex
Rates = Inexact[Tensor, "*#D N"]  # the same, or (1, N): one set of modes for all channels


@full_precision
def exponential_kernel(c: Modes, log_a: Rates, length: int) -> Float[Tensor, "*D length"]:
    """Re Σ_n c_n a_n^l for l = 0 .. length - 1: what a diagonal state space returns for a single 1.

    a^l with l = C j + i is a^(C j) a^i. So the powers are a product of two tables of about √length
    entries, and the sum over n is a matrix product: nothing of size (N, length) is made.
    """
    C, n = _split(length)
    inner = _powers(log_a, torch.arange(C, device=c.device))  # (D, N, C)
    outer = c[..., None] * _powers(log_a, C * torch.arange(n, device=c.device))  # (D, N, n)
    if outer.is_complex() or inner.is_complex():
        # Re(u v) = Re u Re v - Im u Im v, as one product of tables twice as long.
        outer = torch.cat([outer.real, outer.imag], dim=-2)
        inner = torch.cat([inner.real, -inner.imag], dim=-2)
    return (outer.mT @ inner).flatten(-2)[..., :length]


@full_precision
def exponential_state(x: Float[Tensor, "B T D"], log_a: Rates) -> Inexact[Tensor, "B D N"]:
    """Σ_s a_n^(T-1-s) x_s: the state after T tokens, by the same two tables."""
    C, n = _split(x.shape[1])
    x = F.pad(x, (0, 0, n * C - x.shape[1], 0))  # zeros before the first token
    x = rearrange(x, "b (n c) d -> d b n c", n=n, c=C)
    inner = _powers(log_a, torch.arange(C - 1, -1, -1, device=x.device))
    outer = _powers(log_a, C * torch.arange(n - 1, -1, -1, device=x.device))
    parts = [torch.einsum("dbjc, dnc -> bdnj", x, part) for part in _real_parts(inner)]
    within = torch.complex(*parts) if len(parts) == 2 else parts[0]  # (B, D, N, n)
    return (within * outer).sum(-1)


@full_precision
def exponential_conv(
    x: Float[Tensor, "B T D"], c: Modes, log_a: Rates, state: Inexact[Tensor, "B D N"] | None = None
) -> tuple[Float[Tensor, "B T D"], Inexact[Tensor, "B D N"]]:
    """h_t = a h_{t-1} + x_t, y_t = Re Σ_n c_n h_tn, as a convolution. Returns (y, h_T).

    A first state h adds its own fading answer, Re Σ_n c_n a_n^(t+1) h_n.
    """
    T = x.shape[1]
    if T == 1:
        return exponential_scan(x, c, log_a, state)
    exact = wide(x)
    y = fft_conv(exact, exponential_kernel(c, log_a, T))
    h = exponential_state(exact, log_a)
    if state is not None:
        y = y + exponential_kernel(c * log_a.exp() * state, log_a, T).mT
        h = h + (T * log_a).exp() * state
    return y.to(x.dtype), h


@full_precision
def exponential_scan(
    x: Float[Tensor, "B T D"], c: Modes, log_a: Rates, state: Inexact[Tensor, "B D N"] | None = None
) -> tuple[Float[Tensor, "B T D"], Inexact[Tensor, "B D N"]]:
    """`exponential_conv` as the recurrence it is, with every state (B, T, D, N) in memory."""
    a = log_a.exp()[None, None]
    inputs = wide(x)[..., None].expand(*x.shape, log_a.shape[-1])
    h = linear_scan(a, inputs, state)
    return (c * h).sum(-1).real.to(x.dtype), h[:, -1].clone()  # a view would keep all T states


FORMS = {"convolution": exponential_conv, "scan": exponential_scan}


def _powers(log_a, exponents):
    return (log_a[..., None] * exponents).exp()


def _split(length):
    """C and n, both about √length, with C n at least length."""
    C = math.isqrt(length - 1) + 1
    return C, math.ceil(length / C)


def _real_parts(x):
    """(Re x, Im x), copied: a view of every second number would be multiplied row by row."""
    return (x.real.clone(), x.imag.clone()) if x.is_complex() else (x,)


def _fast_size(n):
    """The least 2^k or 3·2^k ≥ n: the FFT is several times slower if n has large prime factors."""
    power = 1 << (n - 1).bit_length()
    return power * 3 // 4 if power * 3 // 4 >= n else power
