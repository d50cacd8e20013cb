import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from seqlab.core import convolution
from seqlab.core.discretize import zero_order_hold
from seqlab.layers.base import Mixer


class GSS(Mixer):
    """Gated state space (Mehta et al. 2022, arXiv:2206.13947).

    u = gelu(W_u x)        v = norm(gelu(W_v x))        y_t = Re Σ_n C_n (e^{λ_n} - 1)/λ_n h_t,n + D v_t
    h_t = e^λ h_{t-1} + v_t        output: W_o(u * W_c y)

    The difference from DSS: a narrow v (d_inner = d_model / 4) goes through the state space and a
    wide gate u (4 d_model) does the rest, so the costly part is small. One set of N rates λ =
    -exp(a) + i exp(b) serves every channel, the step is 1, and all of it starts at random: no
    HiPPO. The norm on v and the skip D follow a public implementation of the paper's listing.

    form: "convolution" (through the FFT) or "scan". State: h (B, d_inner, N), complex.
    """

    FORMS = convolution.FORMS

    def __init__(self, d_model, *, d_inner=None, expand=4, d_state=512, form="convolution"):
        super().__init__(d_model, form)
        d_inner, self.form = d_inner or max(d_model // 4, 1), form
        self.u, self.v = nn.Linear(d_model, expand * d_model), nn.Linear(d_model, d_inner)
        self.norm = nn.LayerNorm(d_inner)
        self.log_rate, self.log_frequency = (
            nn.Parameter(torch.randn(1, d_state)) for _ in range(2)
        )
        self.C = nn.Parameter(torch.randn(d_inner, d_state, 2))  # real and imaginary part
        self.D = nn.Parameter(torch.randn(d_inner))
        self.context = nn.Linear(d_inner, expand * d_model)
        self.out = nn.Linear(expand * d_model, d_model)

    def kernel(self) -> tuple[Complex[Tensor, "E N"], Complex[Tensor, "1 N"]]:
        """C, with the gain of an input held for one step, and λ."""
        wide = torch.promote_types(self.C.dtype, torch.float32)
        lam = torch.complex(-self.log_rate.to(wide).exp(), self.log_frequency.to(wide).exp())
        _, gain = zero_order_hold(lam, torch.ones((), dtype=wide, device=lam.device))
        return torch.view_as_complex(self.C.to(wide)) * gain, lam

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], Tensor]:
        u, v = F.gelu(self.u(x)), self.norm(F.gelu(self.v(x)))
        y, state = self.in_form(v, *self.kernel(), state)
        return self.out(u * self.context(y + self.D * v)), state
