from collections.abc import Callable

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import recurrence
from seqlab.core.inputs import at_least_one, wide
from seqlab.layers.base import Mixer
from seqlab.layers.norm import RMSNorm


class GLA(Mixer):
    """Gated linear attention (Yang et al. 2023, arXiv:2312.06635).

    S_t = S_{t-1} diag(a_t) + v_t k_tᵀ        y_t = S_t q_t
    a_t = σ(x_t W₁ W₂ + b)^(1/τ),  τ = 16

    The difference from RetNet: the constant decay of a head becomes one number per key channel,
    chosen by the token. W₁ W₂ has rank 16 (`gate_rank`), so the gate needs few weights; τ keeps a
    near 1 at first. q is scaled by K^-1/2, and K is half of V.

    Output: W_o(silu(W_g x + b_g) · norm(y)), the norm per head. The paper says LayerNorm there; the
    authors' code, and this, uses an RMS norm. All matrices start by Xavier's rule with gain 2^-2.5,
    as in the authors' code. State: S (B, H, V, K).

    ValueError: n_heads does not divide the width of keys and values.
    """

    FORMS = recurrence.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        expand_k: float = 0.5,
        expand_v: float = 1.0,
        gate_rank: int = 16,
        tau: float = 16.0,
        eps: float = 1e-5,
        form: str | Callable = "chunkwise",
        chunk_size: int = 16,
    ):
        super().__init__(d_model, form, chunk_size)
        d_key = int(d_model * expand_k)
        d_value = int(d_model * expand_v)
        at_least_one(n_heads=n_heads, d_key=d_key, d_value=d_value)
        if d_key % n_heads or d_value % n_heads:
            raise ValueError(
                f"keys are {d_key} wide, values {d_value}: "
                f"both must be a multiple of n_heads = {n_heads}"
            )
        self.n_heads = n_heads
        self.tau = tau
        self.q, self.k = (nn.Linear(d_model, d_key, bias=False) for _ in range(2))
        self.v = nn.Linear(d_model, d_value, bias=False)
        down = nn.Linear(d_model, gate_rank, bias=False)
        up = nn.Linear(gate_rank, d_key)
        self.decay = nn.Sequential(down, up)
        self.g = nn.Linear(d_model, d_value)
        self.norm = RMSNorm(d_value // n_heads, eps)
        self.out = nn.Linear(d_value, d_model, bias=False)
        for W in (self.q, self.k, self.v, self.g, self.out, down, up):
            nn.init.xavier_uniform_(W.weight, gain=2**-2.5)

    def project(self, x: Float[Tensor, "B T D"], state=None) -> dict[str, Tensor]:
        """What the recurrence reads: q, k, v and the log decay of each key channel."""
        log_a = F.logsigmoid(wide(self.decay(x))) / self.tau
        q, k, v, log_a = (
            rearrange(u, "b t (h k) -> b t h k", h=self.n_heads)
            for u in (self.q(x), self.k(x), self.v(x), log_a)
        )
        return {"q": q * q.shape[-1] ** -0.5, "k": k, "v": v, "log_a": log_a}

    def read(self, y: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """From S_t q_t to the head's output: an RMS norm with a weight per channel."""
        return self.norm(y)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], Tensor]:
        y, state = self.in_form(**self.project(x), state=state)
        return self.out(F.silu(self.g(x)) * rearrange(self.read(y), "b t h v -> b t (h v)")), state
