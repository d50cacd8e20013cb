from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from seqlab.core import convolution
from seqlab.core.discretize import as_complex, draw_dt, legs_dplr
from seqlab.core.inputs import wide
from seqlab.layers.base import Mixer


class DSS(Mixer):
    """Diagonal state spaces, the "exp" variant (Gupta et al. 2022, arXiv:2203.14343).

    h_t = a h_{t-1} + x_t        y_t = Re(W b h_t) + D x_t
    a = exp(Δ),  b = (a - 1) / Λ,  Δ = dt₁ Re Λ + i dt₂ Im Λ,  Re Λ < 0

    The difference from S4D, which followed it: all channels share one Λ (N,) and differ only in dt
    and W. The N modes are not halves of conjugate pairs, so y is Re, not 2 Re. A channel has one
    step for its decays and one for its frequencies, as in the authors' code; the two start equal,
    log-uniform in [dt_min, dt_max]. Λ starts as the N positive frequencies of HiPPO-LegS of size
    2 N; D and both parts of W start as N(0, 1).

    The "softmax" variant divides b by a^L - 1, where L is the length it is trained on, so that Re Λ
    may be positive. That is only another W, and it ties the model to L: left out.

    Output: GELU, then a linear map. State: (B, D, N) complex.
    """

    FORMS = convolution.FORMS

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        form: str | Callable = "convolution",
    ):
        super().__init__(d_model, form)
        rates = legs_dplr(2 * d_state)[0][:d_state]
        log_dt = draw_dt(d_model, dt_min, dt_max).log().float()
        self.log_dt = nn.Parameter(torch.stack([log_dt, log_dt], dim=1))  # dt₁ and dt₂
        self.A_log = nn.Parameter((-rates.real).log().float())
        self.A_imag = nn.Parameter(rates.imag.float())
        self.W = nn.Parameter(torch.randn(d_model, d_state, 2))
        self.skip = nn.Parameter(torch.randn(d_model))
        self.out = nn.Linear(d_model, d_model)

    def modes(self) -> tuple[Complex[Tensor, "D N"], Complex[Tensor, "D N"]]:
        """What y reads from each mode, and the log of its gate: (W b, Δ)."""
        rates = torch.complex(-wide(self.A_log).exp(), wide(self.A_imag))
        dt_1, dt_2 = wide(self.log_dt).exp()[:, None].unbind(-1)  # (D, 1)
        log_a = torch.complex(dt_1 * rates.real, dt_2 * rates.imag)
        return as_complex(self.W) * torch.expm1(log_a) / rates, log_a

    def forward(
        self, x: Float[Tensor, "B T D"], state: Complex[Tensor, "B D N"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], Complex[Tensor, "B D N"]]:
        y, h = self.in_form(x, *self.modes(), state)
        return self.out(F.gelu((y + self.skip * x).to(x.dtype))), h
