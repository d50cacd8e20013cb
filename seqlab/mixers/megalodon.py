import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from seqlab.core import convolution
from seqlab.layers.base import Mixer


class CEMA(Mixer):
    """Megalodon's complex exponential moving average, alone (Ma et al. 2024, arXiv:2404.08801).

    h_t,n = (1 - α_n δ_n) e^{i n ϑ} h_{t-1,n} + α_n x_t        y_t = Re Σ_n η_n h_t,n + ω x_t        n = 1 .. N

    The difference from MEGA's average: each decay also turns, by an angle of its channel times its
    index, so that the kernel is a sum of fading waves rather than of fading exponentials. ϑ = 2π/N
    σ(θ) starts as 2π/N D^{-j/D}, j a permutation of the channels. As in the authors' code, η
    (complex) has taken in the paper's β and the phase of the input, neither of which the output can
    tell from it; α, δ pass through a sigmoid, η is scaled by N^-1/2.

    Channels do not meet here: that is for what follows. Megalodon's time-step norm, its normalised
    gated attention and its two-hop residual are not part of this module. form: "convolution" or
    "scan". State: h (B, D, N), complex.
    """

    FORMS = convolution.FORMS

    def __init__(self, d_model, *, d_state=16, form="convolution"):
        super().__init__(d_model, form)
        self.alpha, self.delta = (
            nn.Parameter(0.2 * torch.randn(d_model, d_state)) for _ in range(2)
        )
        share = torch.exp(-math.log(d_model) / d_model * (torch.randperm(d_model) + 1.0))
        self.theta = nn.Parameter(torch.logit(share))
        self.eta = nn.Parameter(
            torch.stack([torch.randn(d_model, d_state), torch.zeros(d_model, d_state)], dim=-1)
        )
        self.omega = nn.Parameter(
            nn.init.trunc_normal_(torch.empty(d_model), std=0.25, a=-1.0, b=1.0)
        )

    def average(self) -> tuple[Complex[Tensor, "D N"], Complex[Tensor, "D N"]]:
        """What reads the averages, their input weights included; and the log of what each keeps per
        token.
        """
        wide = torch.promote_types(self.alpha.dtype, torch.float32)
        alpha, delta = self.alpha.to(wide).sigmoid(), self.delta.to(wide).sigmoid()
        N = alpha.shape[1]
        angle = (
            2
            * math.pi
            / N
            * self.theta.to(wide).sigmoid()[:, None]
            * torch.arange(1, N + 1, device=alpha.device)
        )
        eta = torch.view_as_complex(self.eta.to(wide)) * N**-0.5
        return eta * alpha, torch.complex(torch.log1p(-alpha * delta), angle)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], Tensor]:
        y, state = self.in_form(x, *self.average(), state)
        return y + self.omega * x, state
