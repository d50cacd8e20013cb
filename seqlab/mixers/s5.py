import math

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from seqlab.core import scan
from seqlab.core.discretize import as_complex, as_pairs, draw_dt, legs_dplr, zero_order_hold
from seqlab.core.inputs import full_precision, wide
from seqlab.layers.base import Mixer


class S5(Mixer):
    """S5 (Smith et al. 2022, arXiv:2208.04933): one state space with D inputs and D outputs.

    h_t = a h_{t-1} + b (B x_t)        y_t = 2 Re(C h_t) + D x_t        a = exp(dt Λ),  b = (a - 1) / Λ

    The difference from S4D: not a state for each channel, but one of P numbers that all channels
    write to and read from (B and C are full matrices), so it is small enough to be scanned; dt is
    one per mode. S (1, P/2): S_t = S_{t-1} diag(a) + (b B x_t)ᵀ.

    Λ begins as n_blocks copies of the Λ of HiPPO-LegS, its low rank left out, and B as V* B of the
    same basis; half of the conjugate pairs is kept, hence 2 Re. The real part is -exp(·) here,
    where the authors leave it free or clip it. form: any order of the scan, or any function of (a,
    b, h0) (a kernel). Output: u = GELU(y), then u · sigmoid(W u). State: (B, P/2) complex.
    """

    FORMS = scan.FORMS

    def __init__(self, d_model, *, d_state=64, n_blocks=1, dt_min=1e-3, dt_max=0.1, form="scan"):
        super().__init__(d_model, form)
        if d_state % (2 * n_blocks):
            raise ValueError(
                f"d_state is {d_state}, n_blocks is {n_blocks}: each block needs an even number of modes"
            )
        size, half = d_state // n_blocks, d_state // n_blocks // 2
        rates, _, _, V = legs_dplr(size)
        rates, V = (
            rates[:half].repeat(n_blocks),
            torch.block_diag(*[V[:, :half]] * n_blocks),
        )  # (P/2), (P, P/2)
        B = torch.randn(d_state, d_model, dtype=torch.float64) / math.sqrt(d_model)
        C = torch.randn(d_model, d_state, dtype=torch.complex128) / math.sqrt(d_state)
        self.log_dt = nn.Parameter(draw_dt(d_state // 2, dt_min, dt_max).log().float())
        self.A_log, self.A_imag = (
            nn.Parameter((-rates.real).log().float()),
            nn.Parameter(rates.imag.float()),
        )
        self.B, self.C = nn.Parameter(as_pairs(V.mH @ B.to(V.dtype))), nn.Parameter(as_pairs(C @ V))
        self.skip = nn.Parameter(torch.randn(d_model))
        self.out = nn.Linear(d_model, d_model)

    def gates(self) -> tuple[Complex[Tensor, " half"], Complex[Tensor, " half"]]:
        """a and b."""
        return zero_order_hold(
            torch.complex(-wide(self.A_log).exp(), wide(self.A_imag)), wide(self.log_dt).exp()
        )

    def forward(
        self, x: Float[Tensor, "B T D"], state: Complex[Tensor, "B half"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], Complex[Tensor, "B half"]]:
        y, state = self.respond(x, state)
        u = F.gelu(y + self.skip * x)
        return u * torch.sigmoid(self.out(u)), state

    @full_precision
    def respond(self, x, state):
        """2 Re(C h_t) for all t, and the last h."""
        a, b = self.gates()
        B, C, u = as_complex(self.B), as_complex(self.C), wide(x)
        h = self.in_form(a[None, None], b * torch.complex(u @ B.real.mT, u @ B.imag.mT), state)
        y = 2 * (h.real @ C.real.mT - h.imag @ C.imag.mT).to(x.dtype)
        return y, h[:, -1].clone()  # a view would keep all T states
