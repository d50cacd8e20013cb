import math
from collections.abc import Callable

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

    h_t = λ h_{t-1} + γ B x_t        y_t = Re(C h_t) + D x_t
    λ = exp(-exp(ν) + i exp(θ))        γ = √(1 - |λ|²)

    The difference from S5: there is no continuous time. λ itself is learned; the double exponential
    keeps it inside the unit circle. γ, learned too, keeps h as large as B x whatever |λ| is. One
    state of N complex numbers serves all channels: S (1, N), S_t = S_{t-1} diag(λ) + (γ B x_t)ᵀ.

    λ starts uniform by area on the ring r_min ≤ |λ| ≤ r_max, at angles up to max_phase, and γ at
    √(1 - |λ|²). Real and imaginary parts start normal: those of B with variance 1/(2 d_model),
    those of C with 1/N; D starts with variance 1.

    form: any order of the scan, or any function of (a, b, h0) (a kernel). Output: GELU, a linear
    map to 2 D, GLU. State: (B, N) complex.
    """

    FORMS = scan.FORMS

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int | None = None,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
        form: str | Callable = "scan",
    ):
        super().__init__(d_model, form)
        N = d_state or d_model
        nu, theta = lru_ring(N, r_min, r_max, max_phase)
        one_less_square = -torch.expm1(-2 * nu.exp())  # 1 - |λ|²
        self.nu_log = nn.Parameter(nu.float())
        self.theta_log = nn.Parameter(theta.float())
        self.gamma_log = nn.Parameter(one_less_square.log().float() / 2)
        self.B = nn.Parameter(torch.randn(N, d_model, 2) / math.sqrt(2 * d_model))
        self.C = nn.Parameter(torch.randn(d_model, N, 2) / math.sqrt(N))
        self.skip = nn.Parameter(torch.randn(d_model))
        self.out = nn.Linear(d_model, 2 * d_model)

    def gates(self) -> tuple[Complex[Tensor, " N"], Float[Tensor, " N"]]:
        """λ and γ."""
        log_lam = torch.complex(-wide(self.nu_log).exp(), wide(self.theta_log).exp())
        return log_lam.exp(), wide(self.gamma_log).exp()

    def forward(
        self, x: Float[Tensor, "B T D"], state: Complex[Tensor, "B N"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], Complex[Tensor, "B N"]]:
        y, h = self.respond(x, state)
        return F.glu(self.out(F.gelu((y + self.skip * x).to(x.dtype)))), h

    @full_precision
    def respond(self, x, state):
        """Re(C h_t) for all t, and the last h."""
        lam, gamma = self.gates()
        B, C = as_complex(self.B), as_complex(self.C)
        u = wide(x)
        writes = gamma * torch.complex(u @ B.real.mT, u @ B.imag.mT)
        h = self.in_form(lam[None, None], writes, state)
        y = h.real @ C.real.mT - h.imag @ C.imag.mT
        return y.to(x.dtype), h[:, -1].clone()  # a view would keep all T states
