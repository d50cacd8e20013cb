from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.attention import attend, causal_mask, repeat_heads
from seqlab.position import rope_frequencies, rotate


class KVCache(NamedTuple):
    """Attention's state: every key and value so far, or the last `window` of them. It grows with T."""

    k: Float[Tensor, "B T h K"]
    v: Float[Tensor, "B T h V"]
    position: int


class Attention(nn.Module):
    """Causal softmax attention with rotary positions (Vaswani et al. 2017, arXiv:1706.03762; RoPE, arXiv:2104.09864).

    y_t = Σ_{s≤t} softmax_s(q_t·k_s / √K) v_s

    The difference: nothing is summed into a table; all keys and values are kept, so the state is the KV cache. Fewer
    heads for k and v (`n_kv_heads`) shrink it: grouped queries (arXiv:2305.13245), multi-query with one. `window`
    keeps only that many last tokens. form: "parallel" (the scores as a matrix) or "sdpa" (PyTorch's fused attention).
    """

    def __init__(
        self, d_model, n_heads=4, *, n_kv_heads=None, d_head=None, rope_base=10000.0, window=None, form="parallel"
    ):
        super().__init__()
        n_kv_heads, d_head = n_kv_heads or n_heads, d_head or d_model // n_heads
        if n_heads % n_kv_heads:
            raise ValueError(
                f"n_heads is {n_heads}, n_kv_heads is {n_kv_heads}: the first must be a multiple of the second"
            )
        if form not in ("parallel", "sdpa"):
            raise ValueError(f"form is {form!r}: choose 'parallel' or 'sdpa'")
        self.d_head, self.window, self.form = d_head, window, form
        self.q = nn.Linear(d_model, n_heads * d_head, bias=False)
        self.k, self.v = (nn.Linear(d_model, n_kv_heads * d_head, bias=False) for _ in range(2))
        self.out = nn.Linear(n_heads * d_head, d_model, bias=False)
        self.theta = rope_frequencies(d_head, rope_base)

    def project(self, x: Float[Tensor, "B T D"], state: KVCache | None = None) -> dict[str, Tensor]:
        """Rotated q, k and v of the new tokens."""
        start = 0 if state is None else state.position
        positions = torch.arange(start, start + x.shape[1], device=x.device)
        q, k, v = (rearrange(W(x), "b t (h k) -> b t h k", k=self.d_head) for W in (self.q, self.k, self.v))
        q, k = (rotate(u, positions, self.theta) for u in (q, k))
        return {"q": q, "k": k, "v": v}

    def forward(self, x: Float[Tensor, "B T D"], state=None) -> tuple[Float[Tensor, "B T D"], KVCache]:
        q, k, v = self.project(x, state).values()
        if state is not None:
            k, v = torch.cat([state.k, k], dim=1), torch.cat([state.v, v], dim=1)
        y = attend(q, k, v, causal=True, window=self.window) if self.form == "parallel" else self._sdpa(q, k, v)
        kept = slice(None if self.window is None else -self.window, None)
        position = x.shape[1] + (0 if state is None else state.position)
        return self.out(rearrange(y, "b t h v -> b t (h v)")), KVCache(k[:, kept], v[:, kept], position)

    def _sdpa(self, q, k, v):
        mask = causal_mask(q.shape[1], k.shape[1], window=self.window, device=q.device)
        q, k, v = (repeat_heads(u, q.shape[2]).transpose(1, 2) for u in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
