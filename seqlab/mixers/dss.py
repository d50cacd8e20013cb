import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from seqlab.core import convolution
from seqlab.core.discretize import as_complex, draw_dt, legs_dplr, zero_order_hold
from seqlab.core.inputs import wide
from seqlab.layers.base import Mixer


class DSS(Mixer):
    """Diagonal state spaces, the "exp" variant (Gupta et al. 2022, arXiv:2203.14343).

    h_t = a h_{t-1} + x_t        y_t = Re(W b h_t) + D x_t        a = exp(dt Λ),  b = (a - 1) / Λ,  Re Λ < 0

    The difference from S4D, which followed it: all channels share one Λ (N,) and differ by dt and W
    alone; the N modes are no halves of conjugate pairs, so y is Re, not 2 Re. Λ begins as the N
    positive frequencies of HiPPO-LegS of size 2 N. The "softmax" variant divides b by a^L - 1, L
    the length it is trained on, so that Re Λ may be positive; it is another W, and ties the model
    to L: left out.

    Output: GELU, then a linear map. State: (B, D, N) complex.
    """

    FORMS = convolution.FORMS

    def __init__(self, d_model, *, d_state=64, dt_min=1e-3, dt_max=0.1, form="convolution"):
        super().__init__(d_model, form)
        rates = legs_dplr(2 * d_state)[0][:d_state]
        self.log_dt = nn.Parameter(draw_dt(d_model, dt_min, dt_max).log().float())
        self.A_log, self.A_imag = (
            nn.Parameter((-rates.real).log().float()),
            nn.Parameter(rates.imag.float()),
        )
        self.W = nn.Parameter(torch.randn(d_model, d_state, 2))
        self.skip = nn.Parameter(torch.randn(d_model))
        self.out = nn.Linear(d_model, d_model)

    def modes(self) -> tuple[Complex[Tensor, "D N"], Complex[Tensor, "D N"]]:
        """What y reads from each mode, and the log of its gate: (c, log_a)."""
        rates, dt = (
            torch.complex(-wide(self.A_log).exp(), wide(self.A_imag)),
            wide(self.log_dt).exp()[:, None],
        )
        return as_complex(self.W) * zero_order_hold(rates, dt)[1], dt * rates

    def forward(
        self, x: Float[Tensor, "B T D"], state: Complex[Tensor, "B D N"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], Complex[Tensor, "B D N"]]:
        y, state = self.in_form(x, *self.modes(), state)
        return self.out(F.gelu(y + self.skip * x)), state
