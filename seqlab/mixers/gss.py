from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from seqlab.core import convolution
from seqlab.core.discretize import as_complex, zero_order_hold
from seqlab.core.inputs import wide
from seqlab.layers.base import Mixer


class GSS(Mixer):
    """Gated state space (Mehta et al. 2022, arXiv:2206.13947).

    u = gelu(W_u x)        v = norm(gelu(W_v x))        h_t = e^λ h_{t-1} + v_t
    y_t = Re Σ_n C_n (e^{λ_n} - 1)/λ_n h_t,n + D v_t        output: W_o(u * W_c y)

    The difference from DSS: a narrow v (d_inner = d_model / 4) passes through the state space and a
    wide gate u (4 d_model) does the rest, so the expensive part is small. One set of N rates
    λ = -exp(a) + i exp(b) serves all channels, and the step is 1. There is no HiPPO: a, b, D and
    both parts of C start as N(0, 1). That start, the norm on v, the skip D, and a bias on W_o alone
    follow a public implementation of the paper's listing.

    form: "convolution" (through the FFT) or "scan". State: h (B, d_inner, N), complex.
    """

    FORMS = convolution.FORMS

    def __init__(
        self,
        d_model: int,
        *,
        d_inner: int | None = None,
        expand: int = 4,
        d_state: int = 512,
        form: str | Callable = "convolution",
    ):
        super().__init__(d_model, form)
        d_inner = d_inner or max(d_model // 4, 1)
        self.u = nn.Linear(d_model, expand * d_model, bias=False)
        self.v = nn.Linear(d_model, d_inner, bias=False)
        self.norm = nn.LayerNorm(d_inner)
        self.log_rate, self.log_frequency = (
            nn.Parameter(torch.randn(1, d_state)) for _ in range(2)
        )
        self.C = nn.Parameter(torch.randn(d_inner, d_state, 2))  # real and imaginary part
        self.D = nn.Parameter(torch.randn(d_inner))
        self.context = nn.Linear(d_inner, expand * d_model, bias=False)
        self.out = nn.Linear(expand * d_model, d_model)

    def kernel(self) -> tuple[Complex[Tensor, "E N"], Complex[Tensor, "1 N"]]:
        """C, with the gain of an input held for one step, and λ."""
        lam = torch.complex(-wide(self.log_rate).exp(), wide(self.log_frequency).exp())
        _, gain = zero_order_hold(lam, lam.real.new_ones(()))
        return as_complex(self.C) * gain, lam

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], Tensor]:
        u = F.gelu(self.u(x))
        v = self.norm(F.gelu(self.v(x)))
        y, state = self.in_form(v, *self.kernel(), state)
        return self.out(u * self.context((y + self.D * v).to(v.dtype))), state
