from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import dplr
from seqlab.core.discretize import draw_dt, softplus_inverse
from seqlab.core.inputs import wide
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.low_rank import low_rank
from seqlab.layers.norm import l2norm, rms_norm
from seqlab.layers.short_conv import ShortConv


class GatedDeltaNet2State(NamedTuple):
    S: Float[Tensor, "B H V K"]
    conv: Float[Tensor, "B past E"]


class GatedDeltaNet2(Mixer):
    """Gated DeltaNet-2 (Hatamizadeh, Choi & Kautz 2026, arXiv:2605.22791).

    S̃ = S_{t-1} diag(a_t)        S_t = S̃ + (w_t v_t - S̃ (b_t k_t)) k_tᵀ        y_t = S_t q_t
    b_t = σ(W_b x_t), one per key channel        w_t = σ(W_w x_t), one per value channel

    The difference from KDA: what is erased and what is written have gates of their own, channel by
    channel, where KDA has one strength β per head for both: b_t = w_t = β_t is KDA. The table is
    read under b_t k_t and written under k_t, two keys, so `seqlab.core.dplr` computes it.

    The rest is KDA's: a_t = exp(-A softplus(W_a U_a x_t + bias)), one decay per key channel;
    (q, k, v) = silu(conv(W x)), q and k of length 1, q scaled by K^-1/2; output
    W_o(norm(y) σ(W_g U_g x + bias)). Both low-rank maps go through V channels.
    `negative_eigenvalues` doubles b. K = V = d_model / n_heads by default. Starts as in KDA.
    State: S (B, H, V, K) and the convolution's last inputs.
    """

    FORMS = dplr.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        d_key: int | None = None,
        d_value: int | None = None,
        d_conv: int = 4,
        negative_eigenvalues: bool = False,
        eps: float = 1e-5,
        form: str | Callable = "chunkwise",
        chunk_size: int = 16,
    ):
        super().__init__(d_model, form, chunk_size)
        d_key = head_width(d_model, n_heads, d_key)
        d_value = d_value or d_key
        self.n_heads = n_heads
        self.eps = eps
        self.erase_scale = 2 if negative_eigenvalues else 1
        d_keys, d_values = n_heads * d_key, n_heads * d_value
        self.widths = [d_keys, d_keys, d_values]
        self.qkv = nn.Linear(d_model, sum(self.widths), bias=False)
        self.conv = ShortConv(sum(self.widths), d_conv)
        self.erase = nn.Linear(d_model, d_keys, bias=False)
        self.write = nn.Linear(d_model, d_values, bias=False)
        self.decay = low_rank(d_model, d_value, d_keys)
        self.dt_bias = nn.Parameter(softplus_inverse(draw_dt(d_keys)).float())
        self.A_log = nn.Parameter(torch.empty(n_heads).uniform_(1, 16).log())
        self.gate = low_rank(d_model, d_value, d_values, bias=True)
        self.norm = nn.Parameter(torch.ones(d_value))
        self.out = nn.Linear(d_values, d_model, bias=False)

    def _heads(self, u):
        return rearrange(u, "b t (h k) -> b t h k", h=self.n_heads)

    def _inputs(self, x, past):
        """What `seqlab.core.dplr` takes, and the convolution's new state."""
        qkv, past = self.conv(self.qkv(x), past)
        q, k, v = map(self._heads, qkv.split(self.widths, dim=-1))
        q, k = l2norm(q) * q.shape[-1] ** -0.5, l2norm(k)
        dt = F.softplus(wide(self.decay(x)) + wide(self.dt_bias))
        log_a = -wide(self.A_log).exp()[:, None] * self._heads(dt)
        b = self.erase_scale * self._heads(self.erase(x)).sigmoid()
        w = self._heads(self.write(x)).sigmoid()
        inputs = {"q": q, "k": k, "v": w * v, "e": -log_a.exp() * b * k, "f": k, "log_a": log_a}
        return inputs, past

    def project(
        self, x: Float[Tensor, "B T D"], state: GatedDeltaNet2State | None = None
    ) -> dict[str, Tensor]:
        """What `seqlab.core.dplr` takes: q, k, w v, log a, and two more keys.

        The old table is read under e = -a b k, and the answer is written under f = k.
        """
        return self._inputs(x, None if state is None else state.conv)[0]

    def read(self, y: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """The heads' output: each head's S_t q_t divided by its root mean square, with a weight."""
        return rms_norm(y, self.norm, self.eps)

    def forward(
        self, x: Float[Tensor, "B T D"], state: GatedDeltaNet2State | None = None
    ) -> tuple[Float[Tensor, "B T D"], GatedDeltaNet2State]:
        S, past = (None, None) if state is None else state
        inputs, past = self._inputs(x, past)
        y, S = self.in_form(**inputs, state=S)
        y = rearrange(self.read(y), "b t h v -> b t (h v)")
        return self.out(y * self.gate(x).sigmoid()), GatedDeltaNet2State(S, past)
