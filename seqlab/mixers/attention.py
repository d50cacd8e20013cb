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
    """Attention's state: every key and value so far, or the last `window` of them. It grows with
    T.
    """

    k: Float[Tensor, "B T h K"]
    v: Float[Tensor, "B T h K"]
    position: int


class Attention(Mixer):
    """Causal softmax attention with rotary positions (Vaswani et al. 2017, arXiv:1706.03762; RoPE,
    arXiv:2104.09864).

    y_t = Σ_{s≤t} softmax_s(q_t·k_s / √K) v_s

    The difference from linear attention: nothing is summed into a table S; all keys and values are
    kept, so the state is the KV cache. Fewer heads for k and v (`n_kv_heads`) shrink it: grouped
    queries (arXiv:2305.13245), multi-query with one (arXiv:1911.02150). `window` keeps only that
    many last tokens. form: "parallel" (the scores as a matrix), "tiled" (never the matrix), "sdpa"
    (PyTorch's fused attention), or a function with the signature of `attend`.

    What real models vary: d_head and d_out apart from d_model; bias on q, k, v (and out, unless
    out_bias says other); qk_norm, an RMS norm per head before the rotation (Qwen 3,
    arXiv:2505.09388); gate, a sigmoid per channel of y (arXiv:2505.06708; Qwen3-Next); scale in
    place of K^-1/2; d_rotary, how many channels of a head turn; rope_base=None for no positions
    (Jamba); theta, any frequencies of `seqlab.core.position`, with their magnitude.
    """

    FORMS = attention.FORMS

    def __init__(
        self,
        d_model,
        n_heads=4,
        *,
        n_kv_heads=None,
        d_head=None,
        d_out=None,
        window=None,
        rope_base=10000.0,
        d_rotary=None,
        theta=None,
        magnitude=1.0,
        bias=False,
        out_bias=None,
        qk_norm=False,
        gate=False,
        scale=None,
        eps=1e-6,
        form="parallel",
    ):
        super().__init__(d_model, form)
        turns = theta is None and rope_base is not None
        d_head = head_width(d_model, n_heads, d_head, even=turns and d_rotary is None)
        n_kv_heads = n_kv_heads or n_heads
        if n_heads % n_kv_heads:
            raise ValueError(
                f"n_heads is {n_heads}, n_kv_heads is {n_kv_heads}: the first must be a multiple of the second"
            )
        self.d_head = d_head
        self.window = window
        self.magnitude = magnitude
        self.scale = scale
        self.q = nn.Linear(d_model, n_heads * d_head, bias=bias)
        self.gate = nn.Linear(d_model, n_heads * d_head, bias=bias) if gate else None
        self.k, self.v = (nn.Linear(d_model, n_kv_heads * d_head, bias=bias) for _ in range(2))
        self.out = nn.Linear(
            n_heads * d_head, d_out or d_model, bias=bias if out_bias is None else out_bias
        )
        self.q_norm, self.k_norm = (RMSNorm(d_head, eps) if qk_norm else None for _ in range(2))
        self.theta = rope_frequencies(d_rotary or d_head, rope_base) if turns else theta

    def project(self, x: Float[Tensor, "B T D"], state: KVCache | None = None) -> dict[str, Tensor]:
        """Normed and rotated q, k, and v, of the new tokens."""
        start = 0 if state is None else state.position
        positions = torch.arange(start, start + x.shape[1], device=x.device)
        q, k, v = (
            rearrange(W(x), "b t (h k) -> b t h k", k=self.d_head) for W in (self.q, self.k, self.v)
        )
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.theta is not None:
            q, k = (rotate(u, positions, self.theta, magnitude=self.magnitude) for u in (q, k))
        return {"q": q, "k": k, "v": v}

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D_out"], KVCache]:
        q, k, v = self.project(x, state).values()
        if state is not None:
            k, v = torch.cat([state.k, k], dim=1), torch.cat([state.v, v], dim=1)
        y = self.in_form(q, k, v, causal=True, window=self.window, scale=self.scale)
        y = rearrange(y, "b t h v -> b t (h v)")
        if self.gate is not None:
            y = y * torch.sigmoid(self.gate(x))
        if self.window is not None:  # cloned: a view would keep all T tokens
            k, v = k[:, -self.window :].clone(), v[:, -self.window :].clone()
        return self.out(y), KVCache(k, v, x.shape[1] + (0 if state is None else state.position))
