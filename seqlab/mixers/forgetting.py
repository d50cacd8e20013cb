from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.attention import attend
from seqlab.core.inputs import wide
from seqlab.layers.base import Mixer, head_width


class ForgettingCache(NamedTuple):
    """Every key and value so far, and the sum of log f up to each token."""

    k: Float[Tensor, "B T H K"]
    v: Float[Tensor, "B T H K"]
    total: Float[Tensor, "B T H"]


class ForgettingAttention(Mixer):
    """Forgetting attention, FoX (Lin et al. 2025, arXiv:2503.02130).

    y_t = Σ_{s≤t} softmax_s(q_t·k_s / √K + Σ_{s<i≤t} log f_i) v_s        f_t = σ(W_f x_t + b)

    The difference from attention: each token multiplies the weight of all tokens before it by its
    own f_t, one per head. That is the scalar gate of gated retention and Mamba-2, put into the
    scores; so there are no rotated positions, and the cache still grows with T.

    State: ForgettingCache. A difference of two sums of log f is the decay between two tokens.
    """

    def __init__(self, d_model: int, n_heads: int = 4):
        super().__init__(d_model)
        head_width(d_model, n_heads)
        self.n_heads = n_heads
        self.q, self.k, self.v, self.out = (
            nn.Linear(d_model, d_model, bias=False) for _ in range(4)
        )
        self.forget = nn.Linear(d_model, n_heads)

    def forward(
        self, x: Float[Tensor, "B T D"], state: ForgettingCache | None = None
    ) -> tuple[Float[Tensor, "B T D"], ForgettingCache]:
        q, k, v = (
            rearrange(W(x), "b t (h k) -> b t h k", h=self.n_heads)
            for W in (self.q, self.k, self.v)
        )
        total = F.logsigmoid(wide(self.forget(x))).cumsum(1)
        new = total
        if state is not None:
            new = total + state.total[:, -1:]
            k, v = torch.cat([state.k, k], dim=1), torch.cat([state.v, v], dim=1)
            total = torch.cat([state.total, new], dim=1)
        decay = new.mT[..., :, None] - total.mT[..., None, :]  # (B, H, T_q, T_k)
        y = attend(q, k, v, causal=True, bias=decay)
        return self.out(rearrange(y, "b t h v -> b t (h v)")), ForgettingCache(k, v, total)
