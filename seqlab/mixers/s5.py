from collections.abc import Callable

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

    h_t = a h_{t-1} + b (B x_t)        y_t = 2 Re(C h_t) + D x_t
    a = exp(dt Λ)        b = (a - 1) / Λ

    The difference from S4D: instead of a state per channel, one state of P numbers that all
    channels write to and read from (B and C are full matrices), so it is small enough to be
    scanned; dt is one per mode. S (1, P/2): S_t = S_{t-1} diag(a) + (b B x_t)ᵀ.

    Λ starts as n_blocks copies of the Λ of HiPPO-LegS without its low rank, B and C as V* B and C V
    in the same basis V. As in the authors' code B is real, and B and both parts of C have variance
    1/P before the change of basis (theirs are normals cut off at 2σ). Of each conjugate pair one is
    kept, hence 2 Re. The real part of Λ is -exp(·) here; the authors leave it free, or clip it.

    form: any order of the scan, or any function of (a, b, h0) (a kernel). Output: u = GELU(y), then
    u · sigmoid(W u). State: (B, P/2) complex.
    """

    FORMS = scan.FORMS

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        n_blocks: int = 1,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        form: str | Callable = "scan",
    ):
        super().__init__(d_model, form)
        if d_state % (2 * n_blocks):
            raise ValueError(
                f"d_state is {d_state}, n_blocks is {n_blocks}: "
                "each block needs an even number of modes"
            )
        rates, _, _, V = legs_dplr(d_state // n_blocks)
        half = d_state // n_blocks // 2
        rates = rates[:half].repeat(n_blocks)  # (P/2)
        V = torch.block_diag(*[V[:, :half]] * n_blocks)  # (P, P/2)
        B = torch.randn(d_state, d_model, dtype=torch.float64) * d_state**-0.5
        C = torch.randn(d_model, d_state, dtype=torch.complex128) * (2 / d_state) ** 0.5
        self.log_dt = nn.Parameter(draw_dt(d_state // 2, dt_min, dt_max).log().float())
        self.A_log = nn.Parameter((-rates.real).log().float())
        self.A_imag = nn.Parameter(rates.imag.float())
        self.B = nn.Parameter(as_pairs(V.mH @ B.to(V.dtype)))
        self.C = nn.Parameter(as_pairs(C @ V))
        self.skip = nn.Parameter(torch.randn(d_model))
        self.out = nn.Linear(d_model, d_model)

    def gates(self) -> tuple[Complex[Tensor, " half"], Complex[Tensor, " half"]]:
        """a and b."""
        rates = torch.complex(-wide(self.A_log).exp(), wide(self.A_imag))
        return zero_order_hold(rates, wide(self.log_dt).exp())

    def forward(
        self, x: Float[Tensor, "B T D"], state: Complex[Tensor, "B half"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], Complex[Tensor, "B half"]]:
        y, h = self.respond(x, state)
        u = F.gelu((y + self.skip * x).to(x.dtype))
        return u * torch.sigmoid(self.out(u)), h

    @full_precision
    def respond(self, x, state):
        """2 Re(C h_t) for all t, and the last h."""
        a, b = self.gates()
        B, C, u = as_complex(self.B), as_complex(self.C), wide(x)
        # Real products: x is real, and of C h only the real part is needed.
        Bu = torch.complex(u @ B.real.mT, u @ B.imag.mT)
        h = self.in_form(a[None, None], b * Bu, state)
        y = 2 * (h.real @ C.real.mT - h.imag @ C.imag.mT)
        return y.to(x.dtype), h[:, -1].clone()  # a view would keep all T states
