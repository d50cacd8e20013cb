import math

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from seqlab.core import scan
from seqlab.core.discretize import as_complex, lru_ring
from seqlab.core.inputs import full_precision, wide
from seqlab.layers.base import Mixer


class LRU(Mixer):
    """Linear recurrent unit (Orvieto et al. 2023, arXiv:2303.06349).

    h_t = λ h_{t-1} + γ B x_t        y_t = Re(C h_t) + D x_t        λ = exp(-exp(ν) + i exp(θ)),  γ = √(1 - |λ|²)

    The difference from S5: no continuous time. λ is learned as it is, begun on a ring inside the
    unit circle and kept there by the double exponential; γ, learned too, keeps h as large as B x
    whatever |λ|. One state of N complex numbers for all channels: S (1, N), S_t = S_{t-1} diag(λ) +
    (γ B x_t)ᵀ.

    form: any order of the scan, or any function of (a, b, h0) (a kernel). Output: GELU, a linear
    map to 2 D, GLU. State: (B, N) complex.
    """

    FORMS = scan.FORMS

    def __init__(
        self, d_model, *, d_state=None, r_min=0.0, r_max=1.0, max_phase=2 * math.pi, form="scan"
    ):
        super().__init__(d_model, form)
        N = d_state or d_model
        nu, theta = lru_ring(N, r_min, r_max, max_phase)
        self.nu_log, self.theta_log = nn.Parameter(nu.float()), nn.Parameter(theta.float())
        self.gamma_log = nn.Parameter((-torch.expm1(-2 * nu.exp())).log().float() / 2)
        self.B = nn.Parameter(torch.randn(N, d_model, 2) / math.sqrt(2 * d_model))
        self.C = nn.Parameter(torch.randn(d_model, N, 2) / math.sqrt(N))
        self.skip = nn.Parameter(torch.randn(d_model))
        self.out = nn.Linear(d_model, 2 * d_model)

    def gates(self) -> tuple[Complex[Tensor, " N"], Float[Tensor, " N"]]:
        """λ and γ."""
        rate = torch.complex(-wide(self.nu_log).exp(), wide(self.theta_log).exp())
        return rate.exp(), wide(self.gamma_log).exp()

    def forward(
        self, x: Float[Tensor, "B T D"], state: Complex[Tensor, "B N"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], Complex[Tensor, "B N"]]:
        y, state = self.respond(x, state)
        return F.glu(self.out(F.gelu(y + self.skip * x))), state

    @full_precision
    def respond(self, x, state):
        """Re(C h_t) for all t, and the last h."""
        lam, gamma = self.gates()
        B, C, u = as_complex(self.B), as_complex(self.C), wide(x)
        h = self.in_form(
            lam[None, None], gamma * torch.complex(u @ B.real.mT, u @ B.imag.mT), state
        )
        y = (h.real @ C.real.mT - h.imag @ C.imag.mT).to(x.dtype)
        return y, h[:, -1].clone()  # a view would keep all T states
