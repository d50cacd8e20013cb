from functools import partial
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import attention
from seqlab.core.inputs import choose
from seqlab.core.position import rope_frequencies, rotate
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.norm import RMSNorm


class LatentCache(NamedTuple):
    """What MLA keeps of a token: the latent c that all heads' keys and values are made of, and one
    rotated key.
    """

    c: Float[Tensor, "B T R"]
    k_rope: Float[Tensor, "B T rope"]
    position: int


class MLA(Mixer):
    """Multi-head latent attention (DeepSeek-V2, Liu et al. 2024, arXiv:2405.04434; DeepSeek-V3,
    arXiv:2412.19437).

    c_t = norm(W_c x_t)        k_t = [W_uk c_t ; RoPE(W_kr x_t)]        v_t = W_uv c_t
    y_t = Σ_{s≤t} softmax_s(q_t·k_s / √K) v_s        q_t = [W_q x_t ; RoPE(W_qr x_t)],  K = nope + rope

    The difference from grouped queries: every head has keys and values of its own, yet the cache
    holds one latent of width R for all of them. A rotation cannot be undone by W_uk, so positions
    ride on `d_rope` channels of their own, one key for all heads. form "naive": expand c to k and
    v, then attend. form "absorbed": since q·(W_uk c) = (W_ukᵀ q)·c, move W_uk to q and W_uv to y:
    multi-query attention with R + rope channels on the cache as it is.

    q_rank: queries through a normed bottleneck too (None: directly). The norm is on c alone.
    `scale` replaces K^-1/2; with YaRN DeepSeek takes K^-1/2 yarn_magnitude(factor,
    mscale_all_dim)². rope_base=None: no positions (Kimi Linear). theta: any frequencies of
    `seqlab.core.position`, with their magnitude; interleaved: pairs are channels (2i, 2i + 1), as
    in DeepSeek's code, else (i, i + rope/2). attend: the softmax inside, "sdpa", "parallel",
    "tiled" or a function. State: LatentCache, T (R + rope) numbers.
    """

    FORMS = ("naive", "absorbed")

    def __init__(
        self, d_model, n_heads=4, *, kv_rank=None, q_rank=None, d_nope=None, d_rope=None, d_v=None, rope_base=10000.0,
        theta=None, magnitude=1.0, interleaved=True, scale=None, bias=False, eps=1e-6, form="naive", attend="sdpa",
    ):  # fmt: skip
        super().__init__(d_model, form)
        d_nope = head_width(d_model, n_heads, d_nope)
        d_rope = d_nope // 2 if d_rope is None else d_rope
        d_v, kv_rank = d_v or d_nope, kv_rank or 4 * d_nope
        choose(attend, attention.FORMS, name="attend")
        if d_rope % 2 and theta is None and rope_base is not None:
            raise ValueError(
                f"d_rope is {d_rope}: a rotation turns pairs of channels, so it must be even"
            )
        self.n_heads, self.d_nope, self.d_rope, self.kv_rank = n_heads, d_nope, d_rope, kv_rank
        self.attend = attend
        self.turn = partial(rotate, interleaved=interleaved, magnitude=magnitude)
        self.scale = (d_nope + d_rope) ** -0.5 if scale is None else scale
        width = n_heads * (d_nope + d_rope)
        self.q_down = None if q_rank is None else nn.Linear(d_model, q_rank, bias=bias)
        self.q_norm = None if q_rank is None else RMSNorm(q_rank, eps)
        self.q = nn.Linear(q_rank or d_model, width, bias=False)
        self.kv_down = nn.Linear(d_model, kv_rank + d_rope, bias=bias)
        self.kv_norm = RMSNorm(kv_rank, eps)
        self.kv_up = nn.Linear(kv_rank, n_heads * (d_nope + d_v), bias=False)
        self.out = nn.Linear(n_heads * d_v, d_model, bias=bias)
        self.theta = (
            rope_frequencies(d_rope, rope_base)
            if theta is None and rope_base is not None
            else theta
        )

    def compress(self, x: Float[Tensor, "B T D"], state: LatentCache | None = None):
        """q without and with position, and the cache with the new tokens."""
        start = 0 if state is None else state.position
        q = self.q(x if self.q_down is None else self.q_norm(self.q_down(x)))
        q, q_rope = rearrange(q, "b t (h k) -> b t h k", h=self.n_heads).split(
            [self.d_nope, self.d_rope], dim=-1
        )
        c, k_rope = self.kv_down(x).split([self.kv_rank, self.d_rope], dim=-1)
        c, k_rope = self.kv_norm(c), k_rope[:, :, None]
        if self.theta is not None:
            positions = torch.arange(start, start + x.shape[1], device=x.device)
            q_rope, k_rope = (self.turn(u, positions, self.theta) for u in (q_rope, k_rope))
        k_rope = k_rope[:, :, 0]
        if state is not None:
            c, k_rope = torch.cat([state.c, c], dim=1), torch.cat([state.k_rope, k_rope], dim=1)
        return q, q_rope, LatentCache(c, k_rope, start + x.shape[1])

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], LatentCache]:
        q, q_rope, cache = self.compress(x, state)
        y = (self._naive if self.form == "naive" else self._absorbed)(q, q_rope, *cache[:2])
        return self.out(rearrange(y, "b t h v -> b t (h v)")), cache

    def _naive(self, q, q_rope, c, k_rope):
        k, v = self._heads(self.kv_up(c), "b t (h k) -> b t h k")
        k = torch.cat([k, k_rope[:, :, None].expand(-1, -1, self.n_heads, -1)], dim=-1)
        return self._attend(torch.cat([q, q_rope], dim=-1), k, v)

    def _absorbed(self, q, q_rope, c, k_rope):
        W_uk, W_uv = self._heads(self.kv_up.weight, "(h k) r -> r h k")
        q = torch.cat([torch.einsum("bthk, rhk -> bthr", q, W_uk), q_rope], dim=-1)
        y = self._attend(
            q, torch.cat([c, k_rope], dim=-1)[:, :, None], c[:, :, None]
        )  # (B, T, H, R)
        return torch.einsum("bthr, rhv -> bthv", y, W_uv)

    def _heads(self, kv, pattern):
        """Each head's part for k and its part for v, along the last axis."""
        kv = rearrange(kv, pattern, h=self.n_heads)
        return kv[..., : self.d_nope], kv[..., self.d_nope :]

    def _attend(self, q, k, v):
        return choose(self.attend, attention.FORMS)(q, k, v, causal=True, scale=self.scale)
