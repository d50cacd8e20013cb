from collections.abc import Callable
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
    """What MLA keeps of each token: the latent c and the rotated key that all heads share."""

    c: Float[Tensor, "B T R"]
    k_rope: Float[Tensor, "B T rope"]
    position: int


class MLA(Mixer):
    """Multi-head latent attention (DeepSeek-V2, Liu et al. 2024, arXiv:2405.04434).

    c_t = norm(W_c x_t)        k_t = [W_uk c_t ; RoPE(W_kr x_t)]        v_t = W_uv c_t
    q_t = [W_q x_t ; RoPE(W_qr x_t)]        K = nope + rope channels
    y_t = Σ_{s≤t} softmax_s(q_t·k_s / √K) v_s

    The difference from grouped queries: every head has its own keys and values, yet the cache holds
    one latent of width R for all heads. A rotation cannot be absorbed by W_uk, so positions have
    `d_rope` channels of their own, with one key for all heads. form "naive": expand c to k and v,
    then attend. form "absorbed": since q·(W_uk c) = (W_ukᵀ q)·c, move W_uk to q and W_uv to y:
    multi-query attention with R + rope channels, directly on the cache.

    DeepSeek-V3 (arXiv:2412.19437) has the same layer. q_rank: queries pass through a normed
    bottleneck too (None: they do not). Of the keys, the norm covers c alone. `scale` replaces
    K^-1/2; with YaRN, DeepSeek uses K^-1/2 yarn_magnitude(factor, mscale_all_dim)². rope_base=None:
    no positions (Kimi Linear). theta: any frequencies of `seqlab.core.position`, with their
    magnitude. interleaved: pairs are channels (2i, 2i + 1), as in DeepSeek's code; otherwise
    (i, i + rope/2). attend: the softmax inside, "sdpa", "parallel", "tiled" or a function. State:
    LatentCache, T (R + rope) numbers.
    """

    FORMS = ("naive", "absorbed")

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        kv_rank: int | None = None,
        q_rank: int | None = None,
        d_nope: int | None = None,
        d_rope: int | None = None,
        d_v: int | None = None,
        rope_base: float | None = 10000.0,
        theta: Float[Tensor, " half"] | None = None,
        magnitude: float = 1.0,
        interleaved: bool = True,
        scale: float | None = None,
        bias: bool = False,
        eps: float = 1e-6,
        form: str = "naive",
        attend: str | Callable = "sdpa",
    ):
        super().__init__(d_model, form)
        choose(attend, attention.FORMS, name="attend")
        d_nope = head_width(d_model, n_heads, d_nope)
        d_rope = d_nope // 2 if d_rope is None else d_rope
        d_v = d_v or d_nope
        kv_rank = kv_rank or 4 * d_nope
        self.n_heads = n_heads
        self.d_nope, self.d_rope = d_nope, d_rope
        self.kv_rank = kv_rank
        self.attend = attend
        self.theta = _frequencies(d_rope, rope_base) if theta is None else theta
        self.turn = partial(rotate, interleaved=interleaved, magnitude=magnitude)
        self.scale = (d_nope + d_rope) ** -0.5 if scale is None else scale
        self.q_down = None if q_rank is None else nn.Linear(d_model, q_rank, bias=bias)
        self.q_norm = nn.Identity() if q_rank is None else RMSNorm(q_rank, eps)
        self.q = nn.Linear(q_rank or d_model, n_heads * (d_nope + d_rope), bias=False)
        self.kv_down = nn.Linear(d_model, kv_rank + d_rope, bias=bias)
        self.kv_norm = RMSNorm(kv_rank, eps)
        self.kv_up = nn.Linear(kv_rank, n_heads * (d_nope + d_v), bias=False)
        self.out = nn.Linear(n_heads * d_v, d_model, bias=bias)

    def compress(self, x: Float[Tensor, "B T D"], state: LatentCache | None = None):
        """q without and with position, and the cache with the new tokens."""
        start = 0 if state is None else state.position
        q = self.q(x if self.q_down is None else self.q_norm(self.q_down(x)))
        q = rearrange(q, "b t (h k) -> b t h k", h=self.n_heads)
        q, q_rope = q[..., : self.d_nope], q[..., self.d_nope :]
        c, k_rope = self.kv_down(x).split([self.kv_rank, self.d_rope], dim=-1)
        c = self.kv_norm(c)
        if self.theta is not None:
            positions = torch.arange(start, start + x.shape[1], device=x.device)
            q_rope = self.turn(q_rope, positions, self.theta)
            k_rope = self.turn(k_rope[:, :, None], positions, self.theta)[:, :, 0]
        if state is not None:
            c = torch.cat([state.c, c], dim=1)
            k_rope = torch.cat([state.k_rope, k_rope], dim=1)
        return q, q_rope, LatentCache(c, k_rope, start + x.shape[1])

    def forward(
        self, x: Float[Tensor, "B T D"], state: LatentCache | None = None
    ) -> tuple[Float[Tensor, "B T D"], LatentCache]:
        q, q_rope, cache = self.compress(x, state)
        attend = self._naive if self.form == "naive" else self._absorbed
        y = attend(q, q_rope, cache.c, cache.k_rope)
        return self.out(rearrange(y, "b t h v -> b t (h v)")), cache

    def _naive(self, q, q_rope, c, k_rope):
        kv = rearrange(self.kv_up(c), "b t (h k) -> b t h k", h=self.n_heads)
        k, v = kv[..., : self.d_nope], kv[..., self.d_nope :]
        k_rope = k_rope[:, :, None].expand(-1, -1, self.n_heads, -1)
        return self._attend(torch.cat([q, q_rope], dim=-1), torch.cat([k, k_rope], dim=-1), v)

    def _absorbed(self, q, q_rope, c, k_rope):
        W = rearrange(self.kv_up.weight, "(h k) r -> h k r", h=self.n_heads)
        W_uk, W_uv = W[:, : self.d_nope], W[:, self.d_nope :]
        q = torch.cat([torch.einsum("hkr, bthk -> bthr", W_uk, q), q_rope], dim=-1)
        k = torch.cat([c, k_rope], dim=-1)
        y = self._attend(q, k[:, :, None], c[:, :, None])  # (B, T, H, R)
        return torch.einsum("hvr, bthr -> bthv", W_uv, y)

    def _attend(self, q, k, v):
        return choose(self.attend, attention.FORMS)(q, k, v, causal=True, scale=self.scale)


def _frequencies(d_rope, rope_base):
    """RoPE's θ for d_rope channels; None if there are no positions."""
    if rope_base is None:
        return None
    if d_rope % 2:
        raise ValueError(
            f"d_rope is {d_rope}: a rotation turns pairs of channels, so it must be even"
        )
    return rope_frequencies(d_rope, rope_base)
