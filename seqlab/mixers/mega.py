from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import convolution
from seqlab.core.inputs import wide
from seqlab.layers.base import Mixer


class MEGAState(NamedTuple):
    """The averages, and the keys and values of the chunk that is not full yet."""

    h: Float[Tensor, "B D N"]
    k: Float[Tensor, "B past Z"]
    v: Float[Tensor, "B past V"]


class MEGA(Mixer):
    """MEGA, moving average equipped gated attention (Ma et al. 2022, arXiv:2209.10655).

    h_t = (1 - α δ) h_{t-1} + α β x_t        N averages per channel, damped by δ
    x'_t = silu(η·h_t + ω x_t)        z = silu(W_z x')        v = silu(W_v x)
    q = κ_q z + μ_q        k = κ_k z + μ_k        o = softmax(q kᵀ / √Z + b_{i-j}) v
    ĥ = silu(W_h x' + U (silu(W_γ x') o))        y = sigmoid(W_φ x') (ĥ - x)

    The difference from attention: one head, whose q and k are two scalings of one narrow z, sees
    only its own chunk of `chunk_size` tokens; chunks do not overlap. Tokens before the chunk are
    visible only through the moving average, whose decays are constants. y + x is the paper's gated
    residual, φ ĥ + (1 - φ) x; `Block` normalises x before the mixer and adds the x before the norm.

    α, β, δ, η (D, N) start as in the authors' code: α and δ, which pass through a sigmoid, normal
    with std 0.2; β at 1, -1, 1, ... with std 0.02; η, which is scaled by N^-1/2, and ω normal with
    std 1. All matrices, κ and b start normal with std 0.02, biases and μ at 0. b is one number per
    distance. U has no bias, as theirs has: W_h x' has one, and the two would only add up. This is
    the chunked, causal variant; Laplace attention, rotary bias, both directions and dropout are
    left out. Scores are computed in float32 at least. form: of the average, "convolution" or
    "scan". State: MEGAState, T mod chunk_size tokens.
    """

    FORMS = convolution.FORMS

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        d_z: int | None = None,
        d_v: int | None = None,
        chunk_size: int = 128,
        form: str | Callable = "convolution",
    ):
        super().__init__(d_model, form, chunk_size)
        self.chunk_size: int = chunk_size
        d_z = d_z or max(d_model // 4, 1)
        d_v = d_v or 2 * d_model
        self.alpha = nn.Parameter(0.2 * torch.randn(d_model, d_state))
        self.delta = nn.Parameter(0.2 * torch.randn(d_model, d_state))
        sign = 1.0 - 2 * (torch.arange(d_state) % 2)
        self.beta = nn.Parameter(sign + 0.02 * torch.randn(d_model, d_state))
        self.eta = nn.Parameter(torch.randn(d_model, d_state))
        self.omega = nn.Parameter(torch.randn(d_model))
        self.widths = (d_model, d_model, d_z, d_v)  # of φ, ĥ, z, γ
        self.v = nn.Linear(d_model, d_v)
        self.moved = nn.Linear(d_model, sum(self.widths))  # [W_φ | W_h | W_z | W_γ]
        self.u = nn.Linear(d_v, d_model, bias=False)
        self.kappa = nn.Parameter(0.02 * torch.randn(2, d_z))
        self.mu = nn.Parameter(torch.zeros(2, d_z))
        self.bias = nn.Parameter(0.02 * torch.randn(chunk_size))  # by distance
        for W in (self.v, self.moved, self.u):
            nn.init.normal_(W.weight, std=0.02)
        for W in (self.v, self.moved):
            nn.init.zeros_(W.bias)

    def average(self) -> tuple[Float[Tensor, "D N"], Float[Tensor, "D N"]]:
        """What reads the averages, α β included; and the log of what each keeps per token."""
        alpha, delta = wide(self.alpha).sigmoid(), wide(self.delta).sigmoid()
        N = alpha.shape[1]
        return self.eta * self.beta * alpha * N**-0.5, torch.log1p(-alpha * delta)

    def forward(
        self, x: Float[Tensor, "B T D"], state: MEGAState | None = None
    ) -> tuple[Float[Tensor, "B T D"], MEGAState]:
        average, h = self.in_form(x, *self.average(), None if state is None else state.h)
        moved = self.moved(F.silu((average + self.omega * x).to(x.dtype)))
        update, candidate, z, reset = moved.split(self.widths, dim=-1)
        z = F.silu(z)
        q, k = (kappa * z + mu for kappa, mu in zip(self.kappa, self.mu, strict=True))
        v = F.silu(self.v(x))
        if state is not None:
            k, v = torch.cat([state.k, k], dim=1), torch.cat([state.v, v], dim=1)
        o = self._attend(q, k, v)
        hidden = F.silu(candidate + self.u(F.silu(reset) * o))
        kept = k.shape[1] - k.shape[1] % self.chunk_size
        return torch.sigmoid(update) * (hidden - x), MEGAState(h, k[:, kept:], v[:, kept:])

    def _attend(self, q, k, v):
        """Softmax within chunks. k and v may start with earlier tokens of q's first chunk."""
        T, L, C = q.shape[1], k.shape[1], self.chunk_size
        if L <= C:
            return self._attend_within(q, k, v)
        q = F.pad(q, (0, 0, L - T, 0))
        full = (F.pad(u, (0, 0, 0, -L % C)) for u in (q, k, v))
        q, k, v = (rearrange(u, "b (n c) z -> b n c z", c=C) for u in full)
        y = rearrange(self._attend_within(q, k, v), "b n c v -> b (n c) v")
        return y[:, L - T : L]

    def _attend_within(self, q, k, v):
        """softmax(q kᵀ / √Z + b_{i-j}) v, for the last tokens of one chunk or for whole chunks."""
        j = torch.arange(k.shape[-2], device=q.device)
        distance = j[-q.shape[-2] :, None] - j
        scores = wide(q) @ wide(k).mT * q.shape[-1] ** -0.5 + self.bias[distance.clamp(min=0)]
        weights = scores.masked_fill(distance < 0, -torch.inf).softmax(-1)
        return weights.to(v.dtype) @ v
