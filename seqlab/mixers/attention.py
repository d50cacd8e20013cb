from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import attention
from seqlab.core.position import rope_frequencies, rotate
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.norm import RMSNorm


class KVCache(NamedTuple):
    """Every key and value so far, or the last `window` of them: this state grows with T."""

    k: Float[Tensor, "B T h K"]
    v: Float[Tensor, "B T h K"]
    position: int


class Attention(Mixer):
    """Causal softmax attention with rotary positions (Vaswani et al. 2017, arXiv:1706.03762).

    y_t = Σ_{s≤t} softmax_s(q_t·k_s / √K) v_s        q, k: rotated by RoPE (arXiv:2104.09864)

    The difference from linear attention: nothing is summed into a table S. Every key and value is
    kept, so the state is the KV cache. Fewer heads for k and v (`n_kv_heads`) make it smaller:
    grouped queries (arXiv:2305.13245), or multi-query attention with one head (arXiv:1911.02150).
    `window` keeps only that many of the last tokens. State: KVCache.

    form: "parallel" (the scores as a matrix), "tiled" (never the whole matrix), "sdpa" (PyTorch's
    fused attention), or a function with the signature of `attend`.

    Real models vary these:
    d_head and d_out need not follow from d_model. bias: on q, k and v, and on out unless `out_bias`
    says otherwise. qk_norm: an RMS norm per head before the rotation (Qwen 3, arXiv:2505.09388).
    gate: a sigmoid for each channel of y (arXiv:2505.06708; Qwen3-Next). scale: in place of K^-1/2.
    d_rotary: how many channels of a head are rotated. rope_base: None for no positions (Jamba).
    theta and magnitude: any frequencies of `seqlab.core.position`, with their magnitude.

    ValueError: n_kv_heads does not divide n_heads.
    """

    FORMS = attention.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        n_kv_heads: int | None = None,
        d_head: int | None = None,
        d_out: int | None = None,
        window: int | None = None,
        rope_base: float | None = 10000.0,
        d_rotary: int | None = None,
        theta: Float[Tensor, " half"] | None = None,
        magnitude: float = 1.0,
        bias: bool = False,
        out_bias: bool | None = None,
        qk_norm: bool = False,
        gate: bool = False,
        scale: float | None = None,
        eps: float = 1e-6,
        form: str | Callable = "parallel",
    ):
        super().__init__(d_model, form)
        even = theta is None and rope_base is not None and d_rotary is None
        d_head = head_width(d_model, n_heads, d_head, even=even)
        n_kv_heads = key_heads(n_heads, n_kv_heads)
        out_bias = bias if out_bias is None else out_bias
        self.d_head = d_head
        self.window = window
        self.magnitude = magnitude
        self.scale = scale
        self.q = nn.Linear(d_model, n_heads * d_head, bias=bias)
        self.gate = nn.Linear(d_model, n_heads * d_head, bias=bias) if gate else None
        self.k, self.v = (nn.Linear(d_model, n_kv_heads * d_head, bias=bias) for _ in range(2))
        self.out = nn.Linear(n_heads * d_head, d_out or d_model, bias=out_bias)
        self.q_norm, self.k_norm = (RMSNorm(d_head, eps) if qk_norm else None for _ in range(2))
        if theta is None and rope_base is not None:
            theta = rope_frequencies(d_rotary or d_head, rope_base)
        self.theta = theta

    def project(self, x: Float[Tensor, "B T D"], state: KVCache | None = None) -> dict[str, Tensor]:
        """q and k, normed and rotated, and v, of the new tokens."""
        start = 0 if state is None else state.position
        positions = torch.arange(start, start + x.shape[1], device=x.device)
        q, k, v = (
            rearrange(W(x), "b t (h k) -> b t h k", k=self.d_head) for W in (self.q, self.k, self.v)
        )
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.theta is not None:
            q, k = (rotate(u, positions, self.theta, magnitude=self.magnitude) for u in (q, k))
        return {"q": q, "k": k, "v": v}

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D_out"], KVCache]:
        q, k, v = self.project(x, state).values()
        position = x.shape[1]
        if state is not None:
            k, v = torch.cat([state.k, k], dim=1), torch.cat([state.v, v], dim=1)
            position += state.position
        y = self.in_form(q, k, v, causal=True, window=self.window, scale=self.scale)
        y = rearrange(y, "b t h v -> b t (h v)")
        if self.gate is not None:
            y = y * torch.sigmoid(self.gate(x))
        if self.window is not None:
            # Cloned: a view would keep all T tokens in memory.
            k, v = k[:, -self.window :].clone(), v[:, -self.window :].clone()
        return self.out(y), KVCache(k, v, position)


def key_heads(n_heads: int, n_kv_heads: int | None) -> int:
    """n_kv_heads, or by default n_heads; each must serve equally many heads of q."""
    n_kv_heads = n_kv_heads or n_heads
    if n_heads % n_kv_heads:
        raise ValueError(
            f"n_heads is {n_heads}, n_kv_heads is {n_kv_heads}: "
            "the first must be a multiple of the second"
        )
    return n_kv_heads
