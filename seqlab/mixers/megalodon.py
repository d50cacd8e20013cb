import math
from collections.abc import Callable

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from seqlab.core import convolution
from seqlab.core.inputs import wide
from seqlab.layers.base import Mixer


class CEMA(Mixer):
    """Megalodon's complex exponential moving average, alone (Ma et al. 2024, arXiv:2404.08801).

    h_t,n = (1 - α_n δ_n) e^{i n ϑ} h_{t-1,n} + α_n x_t        n = 1 .. N in each channel
    y_t = Re Σ_n η_n h_t,n + ω x_t

    The difference from MEGA's average: each decay also rotates, by an angle of its channel times
    its index, so the kernel is a sum of fading waves instead of fading exponentials. As in the
    authors' code, η (complex) includes the paper's β and the phase of the input, because the output
    cannot tell them apart.

    The start is the authors' too: ϑ = 2π/N σ(θ) at 2π/N D^{-j/D}, j = 1 .. D a permutation of the
    channels; α and δ, which pass through a sigmoid, normal with std 0.2; η, which is scaled by
    N^-1/2, real and normal with std 1; ω normal with std 0.25, truncated to [-1, 1].

    Channels do not mix here: that is for what follows. Megalodon's time-step norm, its normalised
    gated attention and its two-hop residual are not part of this module. form: "convolution" or
    "scan". State: h (B, D, N), complex.
    """

    FORMS = convolution.FORMS

    def __init__(self, d_model: int, *, d_state: int = 16, form: str | Callable = "convolution"):
        super().__init__(d_model, form)
        self.alpha = nn.Parameter(0.2 * torch.randn(d_model, d_state))
        self.delta = nn.Parameter(0.2 * torch.randn(d_model, d_state))
        j = torch.randperm(d_model) + 1.0
        self.theta = nn.Parameter(torch.logit(torch.exp(-math.log(d_model) * j / d_model)))
        real = torch.randn(d_model, d_state)
        self.eta = nn.Parameter(torch.stack([real, torch.zeros_like(real)], dim=-1))
        self.omega = nn.Parameter(torch.empty(d_model))
        nn.init.trunc_normal_(self.omega, std=0.25, a=-1.0, b=1.0)

    def average(self) -> tuple[Complex[Tensor, "D N"], Complex[Tensor, "D N"]]:
        """What reads the averages, α included; and the log of what each keeps per token."""
        alpha, delta = wide(self.alpha).sigmoid(), wide(self.delta).sigmoid()
        N = alpha.shape[1]
        n = torch.arange(1, N + 1, device=alpha.device)
        angle = 2 * math.pi / N * wide(self.theta).sigmoid()[:, None] * n
        eta = torch.view_as_complex(wide(self.eta)) * N**-0.5
        return eta * alpha, torch.complex(torch.log1p(-alpha * delta), angle)

    def forward(
        self, x: Float[Tensor, "B T D"], state: Complex[Tensor, "B D N"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], Complex[Tensor, "B D N"]]:
        y, h = self.in_form(x, *self.average(), state)
        return (y + self.omega * x).to(x.dtype), h
