from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.inputs import full_precision
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.short_conv import ShortConv


class sLSTMState(NamedTuple):
    h: Float[Tensor, "B H K"]
    c: Float[Tensor, "B H K"]
    n: Float[Tensor, "B H K"]
    m: Float[Tensor, "B H K"]
    conv: Tensor


class sLSTM(Mixer):
    """The scalar LSTM of xLSTM (Beck et al. 2024, arXiv:2405.04517).

    c_t = f_t c_{t-1} + i_t tanh(z_t)        n_t = f_t n_{t-1} + i_t        h_t = σ(o_t) c_t / n_t
    i_t = exp(ĩ_t), f_t = σ(f̃_t);  ĩ, f̃, z, o = W x_t + R h_{t-1} + b, with W and R one block per head

    The difference from the LSTM: the input gate is an exponential, so a new token can outweigh
    everything before it by any factor, and the normaliser n makes c / n a weighted mean of what was
    written. exp(ĩ) would overflow: c and n are kept divided by exp(m), m = max(log f + m, ĩ), which
    cancels in c / n; so no gradient needs to pass through m.

    As in the authors' code, ĩ and f̃ read a short convolution of x and each head is normalised
    (mean and variance) at the end; R starts at 0 and the forget biases fall from 5 to -7 over a
    head, by a power law that depends on how deep the layer is (`depth`, 0 the first to 1 the last:
    [partial(sLSTM, depth=l / (L - 1)) for l in range(L)]). h reaches every gate, so this is a loop
    over T: there is no other form. State: h, c, n, m, each (B, H, K), and the last d_conv - 1
    inputs.
    """

    def __init__(self, d_model, n_heads=4, *, d_conv=4, depth=0.0, eps=1e-5):
        super().__init__(d_model)
        K = head_width(d_model, n_heads)
        self.n_heads, self.eps = n_heads, eps
        self.conv = ShortConv(d_model, d_conv, bias=True)
        self.W = nn.Parameter(
            torch.randn(4, n_heads, K, K) * (2 / 5 / d_model) ** 0.5
        )  # gates i, f, z, o
        self.R = nn.Parameter(torch.zeros(4, n_heads, K, K))
        self.b = nn.Parameter(torch.zeros(4, n_heads, K))
        self.b.data[1] = 5 - 12 * torch.linspace(0, 1, K) ** (0.3 + 1.3 * depth)
        self.norm = nn.Parameter(torch.ones(d_model))

    def gates(self, x: Float[Tensor, "B T D"], past) -> tuple[Float[Tensor, "T H B _"], Tensor]:
        """W x + b of all four gates for all t at once: what needs no h."""
        conv, past = self.conv(x, past)
        u = rearrange(torch.stack([conv, conv, x, x]), "g b t (h k) -> g h (t b) k", h=self.n_heads)
        u = u @ self.W.mT + self.b[:, :, None]
        return rearrange(u, "g h (t b) k -> t h b (g k)", b=len(x)), past

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], sLSTMState]:
        wide = torch.promote_types(x.dtype, torch.float32)
        gates, past = self.gates(x, None if state is None else state.conv)
        R = rearrange(self.R.to(wide), "g h i j -> h j (g i)")
        state = self.first(x, wide) if state is None else state[:4]
        ys, state = self.loop(
            gates.to(wide), R, *(u.transpose(0, 1) for u in state)
        )  # (H, B, K): a product per head
        y = rearrange(ys, "t h b k -> b t (h k)").to(x.dtype)
        y = F.group_norm(y.flatten(0, 1), self.n_heads, self.norm, eps=self.eps).view_as(x)
        return y, sLSTMState(*(u.transpose(0, 1) for u in state), past)

    @full_precision
    def loop(self, gates, R, h, c, n, m):
        """Every h, and the last (h, c, n, m)."""
        ys = []
        for Wx in gates.unbind():
            h, c, n, m = self.step(torch.baddbmm(Wx, h, R), c, n, m)
            ys.append(h)
        return torch.stack(ys), (h, c, n, m)

    def first(self, x, wide):
        """Nothing written: c and n are 0 at any scale, so m = -inf, and the first token sets m to
        its own ĩ.
        """
        zeros = x.new_zeros(len(x), self.n_heads, x.shape[-1] // self.n_heads, dtype=wide)
        return zeros, zeros, zeros, torch.full_like(zeros, -torch.inf)

    @staticmethod
    def step(gates, c, n, m):
        """The equation, one token, at the scale exp(m)."""
        i, f, z, o = gates.chunk(4, dim=-1)
        f = F.logsigmoid(f) + m
        m = torch.maximum(f, i).detach()
        i, f = (i - m).exp(), (f - m).exp()
        c, n = f * c + i * z.tanh(), f * n + i
        return o.sigmoid() * c / n, c, n, m
