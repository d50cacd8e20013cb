from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import recurrence
from seqlab.core.inputs import wide
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.norm import l2norm


class GatedRFA(Mixer):
    """Random feature attention with a recency gate (Peng et al. 2021, arXiv:2103.02143).

    S_t = g_t S_{t-1} + (1 - g_t) v_t φ(k_t)ᵀ        y_t = S_t φ(q_t) / z_t·φ(q_t)
    z_t = g_t z_{t-1} + (1 - g_t) φ(k_t)             g_t = σ(w_h·x_t + b_h)

    The difference from linear attention: one gate per head, chosen by the token, balances old
    against new, in S and in the normaliser alike. This was three years before gated retention.

    φ(x) = [sin(Wx), cos(Wx)] / √D with D random rows w_i ~ N(0, diag(σ²)), so φ(q)·φ(k) is near
    exp(-‖σ(q - k)‖²/2). q and k are normalised first, and for unit vectors that is softmax's
    exp(q·k) up to a constant. W is drawn once, from `seed`, and kept with the weights; each head
    learns its own σ, which starts at 1. φ(q)·φ(k) can be slightly negative, so we divide by
    |z·φ(q)|, at least eps; the paper has the plain quotient. The normaliser is one more row of S,
    written by a 1 appended to v. State: S (B, H, V + 1, F), F = 2D features (`n_features`).

    ValueError: n_features is odd.
    """

    FORMS = recurrence.FORMS

    normalize = True  # the last row of the state is the normaliser

    w: Float[Tensor, "H half K"]

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        n_features: int = 128,
        eps: float = 1e-6,
        seed: int = 0,
        form: str | Callable = "chunkwise",
        chunk_size: int = 64,
    ):
        super().__init__(d_model, form, chunk_size)
        if n_features % 2:
            raise ValueError(
                f"n_features is {n_features}: features come in pairs, a sine and a cosine"
            )
        d_head = head_width(d_model, n_heads)
        rng = torch.Generator().manual_seed(seed)
        self.n_heads = n_heads
        self.eps = eps
        self.q, self.k, self.v, self.out = (
            nn.Linear(d_model, d_model, bias=False) for _ in range(4)
        )
        self.gate = nn.Linear(d_model, n_heads)
        self.scale = nn.Parameter(torch.ones(n_heads, d_head))  # σ
        self.register_buffer("w", torch.randn(n_heads, n_features // 2, d_head, generator=rng))

    def phi(self, x: Float[Tensor, "B T H K"]) -> Float[Tensor, "B T H F"]:
        """Random Fourier features of the direction of x."""
        angle = torch.einsum("bthk, hdk -> bthd", l2norm(x), self.w * self.scale[:, None])
        return torch.cat([angle.sin(), angle.cos()], dim=-1) * angle.shape[-1] ** -0.5

    def project(self, x: Float[Tensor, "B T D"], state=None) -> dict[str, Tensor]:
        """What the recurrence reads: φ(q), (1 - g) φ(k), v with its column of ones, log g."""
        q, k, v = (
            rearrange(W(x), "b t (h k) -> b t h k", h=self.n_heads)
            for W in (self.q, self.k, self.v)
        )
        gate = wide(self.gate(x))[..., None]
        return {
            "q": self.phi(q),
            "k": self.phi(k) * torch.sigmoid(-gate).to(x.dtype),
            "v": F.pad(v, (0, 1), value=1.0),
            "log_a": F.logsigmoid(gate),
        }

    def read(self, y: Float[Tensor, "B T H _"]) -> Float[Tensor, "B T H V"]:
        """From S_t φ(q_t) to the head's output: divide by the size of the normaliser."""
        return y[..., :-1] / y[..., -1:].abs().clamp(min=self.eps)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], Tensor]:
        y, state = self.in_form(**self.project(x), state=state)
        return self.out(rearrange(self.read(y), "b t h v -> b t (h v)")), state
