from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import two_sided
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.norm import RMSNorm


class GSAState(NamedTuple):
    keys: Float[Tensor, "B H M K"]
    values: Float[Tensor, "B H V M"]


class GSA(Mixer):
    """Gated slot attention (Zhang et al. 2024, arXiv:2409.07146).

    K̃_t = diag(a_t) K̃_{t-1} + (1 - a_t) k_tᵀ        Ṽ_t = diag(a_t) Ṽ_{t-1} + (1 - a_t) v_tᵀ        M slots (n_slots)
    y_t = Ṽ_tᵀ softmax(K̃_t q_t)        a_t = σ(W_a x_t)^(1/τ),  τ = 8: one number per slot

    The difference from ABC: a slot forgets. Its old content is kept with the share a_t and the new
    token taken in with 1 - a_t, chosen by the token, where ABC's share can only shrink. Still two
    passes of gated linear attention with a softmax between, the slots in the rows of the first
    table, K̃ (M, K), and in the columns of the second, Ṽᵀ (V, M): `seqlab.core.two_sided`, whose
    signature a function passed as `form` must have. q, k and v pass silu; output W_o
    RMSNorm(silu(y)) over all heads together, as in the authors' code, where q is not scaled by
    default. State: K̃ (B, H, M, K) and Ṽᵀ (B, H, V, M).
    """

    FORMS = two_sided.FORMS

    def __init__(
        self,
        d_model,
        n_heads=4,
        *,
        n_slots=64,
        tau=8.0,
        scale=1.0,
        eps=1e-5,
        form="chunkwise",
        chunk_size=16,
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
        """q, k, v after silu; the share 1 - a a slot takes in, and log a."""
        q, k, v, gate = (
            rearrange(W(x), "b t (h k) -> b t h k", h=self.n_heads)
            for W in (self.q, self.k, self.v, self.decay)
        )
        log_gate = F.logsigmoid(gate.to(torch.promote_types(x.dtype, torch.float32))) / self.tau
        share = -torch.expm1(log_gate).to(x.dtype)
        return {
            "q": F.silu(q) * self.scale,
            "k": F.silu(k),
            "v": F.silu(v),
            "share": share,
            "log_gate": log_gate,
        }

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], GSAState]:
        q, k, v, share, log_gate = self.project(x).values()
        recur = self.in_form
        keys, values = (None, None) if state is None else state
        scores, keys = recur(q, k, share, log_b=log_gate, state=keys)
        y, values = recur(scores.softmax(-1), share, v, log_a=log_gate, state=values)
        return self.out(self.norm(F.silu(rearrange(y, "b t h v -> b t (h v)")))), GSAState(
            keys, values
        )
