from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.inputs import full_precision, wide
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
    i_t = exp(ĩ_t)        f_t = σ(f̃_t)
    ĩ, f̃, z, o = W x_t + R h_{t-1} + b, with one block of W and R per head

    The difference from the LSTM: the input gate is an exponential, so a new token can outweigh
    everything before it by any factor; and the normaliser n makes c / n a weighted mean of what was
    written. exp(ĩ) would overflow, so c and n are kept divided by exp(m),
    m = max(log f + m, ĩ). m cancels in c / n, so no gradient needs to pass through it.

    As in the authors' code, ĩ and f̃ read a short convolution of x, and each head is normalised
    (mean and variance) at the end. Starts are the authors' too: W is normal with variance
    2 / (5 D), R is 0, and so is b except for the forget gate, whose bias falls from 5 to -7 over a
    head by a power law that depends on how deep the layer is (`depth`, from 0, the first, to 1, the
    last: [partial(sLSTM, depth=l / (L - 1)) for l in range(L)]).

    h feeds back into every gate, so this is a loop over T: there is no other form. State: h, c, n
    and m, each (B, H, K), and the last d_conv - 1 inputs.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        d_conv: int = 4,
        depth: float = 0.0,
        eps: float = 1e-5,
    ):
        super().__init__(d_model)
        K = head_width(d_model, n_heads)
        self.n_heads = n_heads
        self.eps = eps
        self.conv = ShortConv(d_model, d_conv, bias=True)
        # In the order of the gates: i, f, z, o.
        self.W = nn.Parameter(torch.randn(4, n_heads, K, K) * (2 / 5 / d_model) ** 0.5)
        self.R = nn.Parameter(torch.zeros(4, n_heads, K, K))
        self.b = nn.Parameter(torch.zeros(4, n_heads, K))
        self.b.data[1] = 5 - 12 * torch.linspace(0, 1, K) ** (0.3 + 1.3 * depth)
        self.norm = nn.Parameter(torch.ones(d_model))

    def gates(self, x: Float[Tensor, "B T D"], past) -> tuple[Float[Tensor, "T H B _"], Tensor]:
        """W x + b of all four gates for all t at once: everything that does not need h."""
        conv, past = self.conv(x, past)
        u = rearrange(torch.stack([conv, conv, x, x]), "g b t (h k) -> g h (t b) k", h=self.n_heads)
        u = u @ self.W.mT + self.b[:, :, None]
        return rearrange(u, "g h (t b) k -> t h b (g k)", b=len(x)), past

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], sLSTMState]:
        gates, past = self.gates(x, None if state is None else state.conv)
        R = rearrange(wide(self.R), "g h i j -> h j (g i)")
        cell = self.first(x) if state is None else state[:4]
        cell = (u.transpose(0, 1) for u in cell)  # (H, B, K): one matrix product per head
        hs, cell = self.loop(wide(gates), R, *cell)
        y = rearrange(hs, "t h b k -> b t (h k)").to(x.dtype)
        y = F.group_norm(y.flatten(0, 1), self.n_heads, self.norm, eps=self.eps).view_as(x)
        h, c, n, m = (u.transpose(0, 1) for u in cell)
        return y, sLSTMState(h, c, n, m, past)

    @full_precision
    def loop(self, gates, R, h, c, n, m):
        """Every h, and the last (h, c, n, m)."""
        hs = []
        for Wx in gates.unbind():
            h, c, n, m = self.step(torch.baddbmm(Wx, h, R), c, n, m)
            hs.append(h)
        return torch.stack(hs), (h, c, n, m)

    def first(self, x):
        """Before any write: 0 at every scale, so m = -inf. The first token sets m to its own ĩ."""
        heads = self.n_heads, self.d_model // self.n_heads
        zeros = wide(x.new_zeros(len(x), *heads))
        return zeros, zeros, zeros, torch.full_like(zeros, -torch.inf)

    @staticmethod
    def step(gates, c, n, m):
        """The equation, one token, at the scale exp(m)."""
        i, f, z, o = gates.chunk(4, dim=-1)
        log_f = F.logsigmoid(f) + m
        m = torch.maximum(log_f, i).detach()
        i = (i - m).exp()
        f = (log_f - m).exp()
        c = f * c + i * z.tanh()
        n = f * n + i
        return o.sigmoid() * c / n, c, n, m
