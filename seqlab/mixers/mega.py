from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import convolution
from seqlab.core.inputs import at_least_one
from seqlab.layers.base import Mixer


class MEGAState(NamedTuple):
    h: Float[Tensor, "B D N"]
    k: Float[Tensor, "B past Z"]  # keys and values of the chunk that is not full yet
    v: Float[Tensor, "B past V"]


class MEGA(Mixer):
    """Moving average equipped gated attention (Ma et al. 2022, arXiv:2209.10655), the chunked,
    causal one.

    h_t = (1 - α δ) h_{t-1} + α β x_t        x'_t = silu(η·h_t + ω x_t)        N averages of each channel, damped by δ
    z = silu(W_z x')        q = κ_q z + μ_q        k = κ_k z + μ_k        v = silu(W_v x)
    o = softmax(q kᵀ / √Z + b_{i-j}) v        ĥ = silu(W_h x' + U (silu(W_γ x') o))        y = sigmoid(W_φ x') (ĥ - x)

    The difference from attention: one head, whose q and k are two scalings of one narrow z, and
    which looks only within chunks of `chunk_size` tokens that do not overlap. What lies before the
    chunk arrives through the moving average, whose decays are constants. y + x is the paper's gated
    residual, φ ĥ + (1 - φ) x; `Block` adds the x before its norm to the y of the x after it.

    α, β, δ, η (D, N) and their start are those of the authors' code (α, δ through a sigmoid, η
    scaled by N^-1/2). The bias b is one number per distance. Left out: Laplace attention, rotary
    bias, both directions, dropout; normalise x before, as `Block` does. form: of the average,
    "convolution" or "scan". State: MEGAState, T mod chunk_size tokens.
    """

    FORMS = convolution.FORMS

    def __init__(
        self, d_model, *, d_state=16, d_z=None, d_v=None, chunk_size=128, form="convolution"
    ):
        super().__init__(d_model, form, chunk_size)
        at_least_one(chunk_size=chunk_size)
        d_z, d_v = d_z or max(d_model // 4, 1), d_v or 2 * d_model
        self.widths, self.chunk_size, self.form = (d_model, d_model, d_z, d_v), chunk_size, form
        self.alpha, self.delta = (
            nn.Parameter(0.2 * torch.randn(d_model, d_state)) for _ in range(2)
        )
        sign = 1.0 - 2 * (torch.arange(d_state) % 2)
        self.beta = nn.Parameter(sign + 0.02 * torch.randn(d_model, d_state))
        self.eta, self.omega = (
            nn.Parameter(torch.randn(d_model, d_state)),
            nn.Parameter(torch.randn(d_model)),
        )
        self.v = nn.Linear(d_model, d_v)
        self.moved = nn.Linear(d_model, sum(self.widths))  # [φ | ĥ | z | γ]
        self.u = nn.Linear(d_v, d_model, bias=False)
        self.kappa, self.mu = (
            nn.Parameter(0.02 * torch.randn(2, d_z)),
            nn.Parameter(torch.zeros(2, d_z)),
        )
        self.bias = nn.Parameter(0.02 * torch.randn(chunk_size))  # by distance
        for W in (self.v, self.moved, self.u):
            nn.init.normal_(W.weight, std=0.02)
        for W in (self.v, self.moved):
            nn.init.zeros_(W.bias)

    def average(self) -> tuple[Float[Tensor, "D N"], Float[Tensor, "D N"]]:
        """What reads the averages, their input weights included; and the log of what each keeps per
        token.
        """
        wide = torch.promote_types(self.alpha.dtype, torch.float32)
        alpha, delta = self.alpha.to(wide).sigmoid(), self.delta.to(wide).sigmoid()
        return self.eta * self.beta * alpha * self.eta.shape[1] ** -0.5, torch.log1p(-alpha * delta)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], MEGAState]:
        h, *past = (None,) if state is None else state
        moved, h = self.in_form(x, *self.average(), h)
        update, candidate, z, reset = self.moved(F.silu(moved + self.omega * x)).split(
            self.widths, dim=-1
        )
        q, k = F.silu(z)[..., None, :].mul(self.kappa).add(self.mu).unbind(-2)
        new = k, F.silu(self.v(x))
        k, v = new if state is None else (torch.cat(u, dim=1) for u in zip(past, new, strict=True))
        y = self._attend(q, k, v)
        kept = k.shape[1] - k.shape[1] % self.chunk_size
        y = F.silu(candidate + self.u(F.silu(reset) * y))
        return torch.sigmoid(update) * (y - x), MEGAState(h, k[:, kept:], v[:, kept:])

    def _attend(self, q, k, v):
        """Softmax within chunks; k and v may begin with tokens of a chunk that q goes on with."""
        (T, Z), L, C = q.shape[1:], k.shape[1], self.chunk_size
        if L > C:
            q = F.pad(q, (0, 0, L - T, 0))
            q, k, v = (
                rearrange(F.pad(u, (0, 0, 0, -L % C)), "b (n c) z -> b n c z", c=C)
                for u in (q, k, v)
            )
        j = torch.arange(k.shape[-2], device=q.device)
        distance = j[-q.shape[-2] :, None] - j
        scores = q @ k.mT * Z**-0.5 + self.bias[distance.clamp(min=0)]
        scores = scores.masked_fill(distance < 0, -torch.inf).to(
            torch.promote_types(q.dtype, torch.float32)
        )
        y = scores.softmax(-1).to(v.dtype) @ v
        return y if L <= C else rearrange(y, "b n c v -> b (n c) v")[:, L - T : L]
