from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import two_sided
from seqlab.core.inputs import wide
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.norm import RMSNorm


class GSAState(NamedTuple):
    keys: Float[Tensor, "B H M K"]  # K̃
    values: Float[Tensor, "B H V M"]  # Ṽᵀ


class GSA(Mixer):
    """Gated slot attention (Zhang et al. 2024, arXiv:2409.07146).

    K̃_t = diag(a_t) K̃_{t-1} + (1 - a_t) k_tᵀ        Ṽ_t = diag(a_t) Ṽ_{t-1} + (1 - a_t) v_tᵀ
    y_t = Ṽ_tᵀ softmax(K̃_t q_t)        a_t = σ(W_a x_t)^(1/τ): one number for each of M slots

    The difference from ABC: a slot forgets. The token chooses a_t, the share of the slot's old
    content that is kept, and is itself written with 1 - a_t; ABC's share can only shrink.

    It is still two passes of gated linear attention with a softmax between them. The slots
    (`n_slots`) are the rows of the first table, K̃ (M, K), and the columns of the second, Ṽᵀ (V, M):
    that is `seqlab.core.two_sided`, and a function passed as `form` must have its signature.

    q, k and v pass through silu. Output: W_o RMSNorm(silu(y)) over all heads together, as in the
    authors' code, which does not scale q by default either (`scale` multiplies it). τ = 8 keeps a
    near 1 at first. State: GSAState.
    """

    FORMS = two_sided.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        n_slots: int = 64,
        tau: float = 8.0,
        scale: float = 1.0,
        eps: float = 1e-5,
        form: str | Callable = "chunkwise",
        chunk_size: int = 16,
    ):
        super().__init__(d_model, form, chunk_size)
        head_width(d_model, n_heads)
        self.n_heads = n_heads
        self.tau = tau
        self.scale = scale
        self.q, self.k, self.v, self.out = (
            nn.Linear(d_model, d_model, bias=False) for _ in range(4)
        )
        self.decay = nn.Linear(d_model, n_heads * n_slots, bias=False)
        self.norm = RMSNorm(d_model, eps)

    def project(self, x: Float[Tensor, "B T D"], state=None) -> dict[str, Tensor]:
        """q, k, v after silu; for each slot 1 - a, the share that is new, and log a."""
        q, k, v, gate = (
            rearrange(W(x), "b t (h k) -> b t h k", h=self.n_heads)
            for W in (self.q, self.k, self.v, self.decay)
        )
        log_gate = F.logsigmoid(wide(gate)) / self.tau
        return {
            "q": F.silu(q) * self.scale,
            "k": F.silu(k),
            "v": F.silu(v),
            "share": -torch.expm1(log_gate).to(x.dtype),
            "log_gate": log_gate,
        }

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], GSAState]:
        q, k, v, share, log_gate = self.project(x).values()
        keys, values = (None, None) if state is None else state
        scores, keys = self.in_form(q, k, share, log_b=log_gate, state=keys)
        y, values = self.in_form(scores.softmax(-1), share, v, log_a=log_gate, state=values)
        y = self.norm(F.silu(rearrange(y, "b t h v -> b t (h v)")))
        return self.out(y), GSAState(keys, values)
