import math
from itertools import pairwise
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.convolution import direct_conv, fft_conv
from seqlab.core.inputs import full_precision, wide
from seqlab.layers.base import Mixer
from seqlab.layers.short_conv import ShortConv


class HyenaState(NamedTuple):
    conv: Float[Tensor, "B past D3"]
    streams: list[Float[Tensor, "B T D"]]  # everything that each long convolution has read


class Sines(nn.Linear):
    """sin(frequency (W z + b)), in float32 at least."""

    def forward(self, z: Tensor, frequency: Tensor) -> Tensor:
        return torch.sin(wide(frequency) * (z @ wide(self.weight).mT + wide(self.bias)))


class ImplicitFilter(nn.Module):
    """A filter as a function of time: h(t) = FFN(z_t) · exp(-|δ| t), t from 0 to 1 in l_max steps.

    z_t = [t, cos(2π f t), -sin(2π f t)],  f = 0 .. bands - 1

    The activations of the FFN are sines, whose learned frequencies all its layers share. Each
    channel has its own δ, fixed: its filter falls to 1 % at t = 1.5 (the slowest) to 0.3 (the
    fastest). ValueError: d_emb is even or below 3; a filter longer than l_max is asked for.
    """

    def __init__(
        self,
        width: int,
        l_max: int,
        *,
        d_emb: int = 33,
        d_filter: int = 64,
        n_inner: int = 2,
        frequency: float = 1.0,
    ):
        super().__init__()
        if d_emb % 2 == 0 or d_emb < 3:
            raise ValueError(
                f"d_emb is {d_emb}: time, cosines and sines make an odd number, 3 or more"
            )
        self.l_max = l_max
        self.bands = (d_emb - 1) // 2
        widths = [d_emb, *[d_filter] * (n_inner + 1)]
        self.layers = nn.ModuleList(Sines(a, b) for a, b in pairwise(widths))
        self.out = nn.Linear(d_filter, width, bias=False)
        self.frequency = nn.Parameter(torch.full((d_filter,), frequency))
        # A plain tensor in float64, not a buffer: a model in bfloat16 must not round its decays.
        self.delta = -math.log(0.01) * torch.linspace(1 / 1.5, 1 / 0.3, width, dtype=torch.float64)

    @full_precision
    def forward(self, L: int) -> Float[Tensor, "L D"]:
        """The first L taps. They do not depend on L, so a longer sequence has the same filter."""
        if self.l_max < L:
            raise ValueError(
                f"the sequence is {L} tokens long, l_max is {self.l_max}: "
                "make the layer with a larger l_max"
            )
        W = wide(self.out.weight)
        exact = {"dtype": torch.float64, "device": W.device}
        n = torch.arange(L, **exact)[:, None]
        t = n / max(self.l_max - 1, 1)
        f = torch.linspace(1e-4, self.bands - 1, self.bands, **exact)
        angle = 2 * math.pi * n / self.l_max * f
        z = torch.cat([t, angle.cos(), -angle.sin()], dim=-1).to(W.dtype)
        for layer in self.layers:
            z = layer(z, self.frequency)
        window = (-t * self.delta.to(W.device)).exp()
        return z @ W.mT * window.to(W.dtype)


class Hyena(Mixer):
    """The Hyena operator (Poli et al. 2023, arXiv:2302.10866).

    v ← (h_i * (x_i v)) + b_i x_i v  for i = order - 1 .. 1        y_t = x_0 v_t
    (x_0, x_1, .., v) = short convolution of W x;  * is a causal convolution over all of the past

    The difference from H3 and S4: the long filter h is not the response of a small recurrent state
    but any function of time, given by a small network. So no state of fixed size exists either: to
    continue, every convolution needs all it has read, and the state grows by (order - 1) D numbers
    a token, for order 2 half a KV cache. Filters are functions of t / l_max, so longer sequences
    are refused.

    form: "fft" (O(T log T), padded to twice the length; a single token is summed directly) or
    "direct" (all pairs). b starts as N(0, 1). The authors' language models use d_emb = 33 as here,
    and sines of `frequency` 14 (1 here, the default of their class); they also learn z, at a small
    rate, which is left out. State: HyenaState.

    ValueError: order is below 2; the sequence is longer than l_max.
    """

    FORMS = ("fft", "direct")

    def __init__(
        self,
        d_model: int,
        *,
        order: int = 2,
        l_max: int = 2048,
        d_conv: int = 3,
        d_emb: int = 33,
        d_filter: int = 64,
        frequency: float = 1.0,
        form: str = "fft",
    ):
        super().__init__(d_model, form)
        if order < 2:
            raise ValueError(f"order is {order}: it must be at least 2, one long convolution")
        self.order = order
        self.inputs = nn.Linear(d_model, (order + 1) * d_model)
        self.conv = ShortConv((order + 1) * d_model, d_conv, bias=True, activation=None)
        self.filter = ImplicitFilter(
            (order - 1) * d_model, l_max, d_emb=d_emb, d_filter=d_filter, frequency=frequency
        )
        self.bias = nn.Parameter(torch.randn(order - 1, d_model))
        self.out = nn.Linear(d_model, d_model)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], HyenaState]:
        T = x.shape[1]
        u, conv = self.conv(self.inputs(x), None if state is None else state.conv)
        *gates, v = u.chunk(self.order + 1, dim=-1)
        past = [v[:, :0]] * (self.order - 1) if state is None else state.streams
        filters = rearrange(self.filter(past[0].shape[1] + T), "t (o d) -> o d t", o=self.order - 1)
        convolve = fft_conv if self.form == "fft" and T > 1 else direct_conv
        streams = []
        for gate, h, b, before in zip(reversed(gates[1:]), filters, self.bias, past, strict=True):
            v = v * gate
            streams.append(torch.cat([before, v], dim=1))
            v = convolve(v, h, before) + b * v
        return self.out(v * gates[0]), HyenaState(conv, streams)
