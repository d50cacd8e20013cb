from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.inputs import wide
from seqlab.core.masks import causal_mask
from seqlab.core.path import turned
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.low_rank import low_rank
from seqlab.layers.norm import l2norm
from seqlab.layers.short_conv import ShortConv


class PaTHCache(NamedTuple):
    """Every key as the tokens after it have left it, every value, the convolution's last inputs."""

    k: Float[Tensor, "B H T K"]
    v: Float[Tensor, "B H T K"]
    conv: Float[Tensor, "B past D"]


class PaTH(Mixer):
    """PaTH attention (Yang et al. 2025, arXiv:2505.16381).

    y_t = Σ_{s≤t} softmax_s(q_tᵀ P_t ⋯ P_{s+1} k_s / √K) v_s        P_t = I - β_t w_t w_tᵀ
    w = silu(conv(W_w U_w x)), of length 1        β_t = 2 σ(W_β x_t + b), one per head

    The difference from attention with RoPE: between key and query stand the transitions of the
    delta rule, made from the tokens between them, where RoPE has fixed turns. With β up to 2 they
    reflect, so scores can count what a rotation cannot. Decoding, each new token changes all keys
    in the cache. U_w goes down to `rank` channels; the convolution has 3 taps. State: PaTHCache.
    """

    def __init__(self, d_model: int, n_heads: int = 4, *, rank: int = 32, d_conv: int = 3):
        super().__init__(d_model)
        head_width(d_model, n_heads)
        self.n_heads = n_heads
        self.q, self.k, self.v, self.out = (
            nn.Linear(d_model, d_model, bias=False) for _ in range(4)
        )
        self.w = low_rank(d_model, rank, d_model)
        self.conv = ShortConv(d_model, d_conv)
        self.beta = nn.Linear(d_model, n_heads)

    def forward(
        self, x: Float[Tensor, "B T D"], state: PaTHCache | None = None
    ) -> tuple[Float[Tensor, "B T D"], PaTHCache]:
        w, past = self.conv(self.w(x), None if state is None else state.conv)
        parts = self.q(x), self.k(x), self.v(x), w
        q, k, v, w = (rearrange(u, "b t (h k) -> b h t k", h=self.n_heads) for u in parts)
        beta = rearrange(2 * wide(self.beta(x)).sigmoid(), "b t h -> b h t 1")
        k = wide(k)
        if state is not None:
            k, v = torch.cat([state.k, k], dim=2), torch.cat([state.v, v], dim=2)
        scores, k = turned(q, k, l2norm(wide(w)), beta)
        seen = causal_mask(*scores.shape[2:], device=x.device)
        scores = (scores * q.shape[-1] ** -0.5).masked_fill(~seen, -torch.inf)
        y = scores.softmax(-1).to(v.dtype) @ v
        return self.out(rearrange(y, "b h t v -> b t (h v)")), PaTHCache(k, v, past)
