from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import two_sided
from seqlab.core.inputs import wide
from seqlab.layers.base import Mixer, head_width


class ABCState(NamedTuple):
    keys: Float[Tensor, "B H M K"]  # the mean key of each slot
    values: Float[Tensor, "B H V M"]  # its mean value
    z: Float[Tensor, "B H M"]  # log Σ φ, over everything written to it


class ABC(Mixer):
    """Attention with bounded-memory control, ABC_MLP (Peng et al. 2021, arXiv:2110.02488).

    K̃_t = Σ_{s≤t} φ_s k_sᵀ / Σ_{s≤t} φ_s        Ṽ_t = Σ_{s≤t} φ_s v_sᵀ / Σ_{s≤t} φ_s
    y_t = Ṽ_tᵀ softmax(K̃_t q_t / √K)        φ_s = exp(W_φ x_s): one number for each of M slots

    The difference from linear attention: no feature map approximates the softmax. The softmax is
    exact, but it runs over M slots (`n_slots`) instead of T tokens. The token alone decides what
    enters a slot, and a slot holds the weighted *mean* of everything written to it: its gate
    e^(z_{t-1} - z_t), z = log Σ φ, is the share that the old mean keeps when one more token joins.

    So ABC is two passes of gated linear attention with a softmax between them. The slots are the
    rows of the first table, K̃ (M, K), and the columns of the second, Ṽᵀ (V, M): that is
    `seqlab.core.two_sided`, and a function passed as `form` must have its signature.
    State: ABCState.
    """

    FORMS = two_sided.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        n_slots: int = 32,
        form: str | Callable = "chunkwise",
        chunk_size: int = 16,
    ):
        super().__init__(d_model, form, chunk_size)
        head_width(d_model, n_heads)
        self.n_heads = n_heads
        self.q, self.k, self.v, self.out = (
            nn.Linear(d_model, d_model, bias=False) for _ in range(4)
        )
        self.control = nn.Linear(d_model, n_heads * n_slots, bias=False)

    def project(
        self, x: Float[Tensor, "B T D"], state: ABCState | None = None
    ) -> dict[str, Tensor]:
        """q, k, v, z; for each slot the share of its mean that is new, and the log of the rest."""
        q, k, v, s = (
            rearrange(W(x), "b t (h k) -> b t h k", h=self.n_heads)
            for W in (self.q, self.k, self.v, self.control)
        )
        s = wide(s)
        if state is None:
            z = s.logcumsumexp(dim=1)
            # The first gate acts on empty slots, so any value will do.
            before = torch.cat([z[:, :1], z[:, :-1]], dim=1)
        else:
            z = torch.cat([state.z[:, None], s], dim=1).logcumsumexp(dim=1)
            before, z = z[:, :-1], z[:, 1:]
        return {
            "q": q * q.shape[-1] ** -0.5,
            "k": k,
            "v": v,
            "z": z,
            "share": (s - z).exp().to(x.dtype),
            "log_gate": (before - z).clamp(max=0),
        }

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], ABCState]:
        q, k, v, z, share, log_gate = self.project(x, state).values()
        keys, values = (None, None) if state is None else state[:2]
        scores, keys = self.in_form(q, k, share, log_b=log_gate, state=keys)
        y, values = self.in_form(scores.softmax(-1), share, v, log_a=log_gate, state=values)
        y = self.out(rearrange(y, "b t h v -> b t (h v)"))
        return y, ABCState(keys, values, z[:, -1])
