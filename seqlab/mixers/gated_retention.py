from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import recurrence
from seqlab.core.inputs import wide
from seqlab.core.position import rope_frequencies, rotate
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.norm import rms_norm


class GatedRetentionState(NamedTuple):
    S: Float[Tensor, "B H V K"]
    position: int


class GatedRetention(Mixer):
    """Gated retention, YOCO's self-decoder (Sun et al. 2024, arXiv:2405.05254).

    S_t = γ_t S_{t-1} + v_t k_tᵀ        y_t = S_t q_t        γ_t = σ(w_h·x_t)^(1/τ),  τ = 16

    The difference from RetNet: the decay of a head is no longer a constant; the token chooses it.
    The rest is RetNet's: q and k rotated by their position (with RetNet's angles), k scaled by
    K^-1/2, each head divided by its root mean square, output W_o(silu(W_g x) · norm(y)), and Xavier
    starts with gain 2^-2.5, for W_o 2^-1. Here V = K. τ keeps γ near 1 at first:
    σ(0)^(1/16) = 0.96. State: S (B, H, V, K), and the position.
    """

    FORMS = recurrence.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        tau: float = 16.0,
        eps: float = 1e-6,
        form: str | Callable = "chunkwise",
        chunk_size: int = 64,
    ):
        super().__init__(d_model, form, chunk_size)
        d_head = head_width(d_model, n_heads, even=True)
        self.n_heads = n_heads
        self.tau = tau
        self.eps = eps
        self.q, self.k, self.v, self.g, self.out = (
            nn.Linear(d_model, d_model, bias=False) for _ in range(5)
        )
        self.decay = nn.Linear(d_model, n_heads, bias=False)
        for W in (self.q, self.k, self.v, self.g, self.decay):
            nn.init.xavier_uniform_(W.weight, gain=2**-2.5)
        nn.init.xavier_uniform_(self.out.weight, gain=2**-1)
        self.theta = rope_frequencies(d_head, inclusive=True)

    def project(
        self, x: Float[Tensor, "B T D"], state: GatedRetentionState | None = None
    ) -> dict[str, Tensor]:
        """What the recurrence reads: rotated q and k, v, and the log decay of each head."""
        start = 0 if state is None else state.position
        positions = torch.arange(start, start + x.shape[1], device=x.device)
        q, k, v = (
            rearrange(W(x), "b t (h k) -> b t h k", h=self.n_heads)
            for W in (self.q, self.k, self.v)
        )
        k = k * k.shape[-1] ** -0.5
        q, k = (rotate(u, positions, self.theta, interleaved=True) for u in (q, k))
        log_a = F.logsigmoid(wide(self.decay(x))) / self.tau
        return {"q": q, "k": k, "v": v, "log_a": log_a[..., None]}

    def read(self, y: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """From S_t q_t to the head's output: divide by its root mean square."""
        return rms_norm(y, eps=self.eps)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], GatedRetentionState]:
        S, start = (None, 0) if state is None else state
        y, S = self.in_form(**self.project(x, state), state=S)
        y = F.silu(self.g(x)) * rearrange(self.read(y), "b t h v -> b t (h v)")
        return self.out(y), GatedRetentionState(S, start + x.shape[1])
