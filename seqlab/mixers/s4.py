import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from seqlab.core.discretize import as_complex, as_pairs, draw_dt, legs_dplr
from seqlab.core.inputs import wide
from seqlab.core.rank_one import System, by_convolution, by_steps
from seqlab.layers.base import Mixer


class S4(Mixer):
    """S4 (Gu et al. 2021, arXiv:2111.00396): A is HiPPO-LegS, kept as diagonal plus low rank.

    h_t = Ā h_{t-1} + B̄ x_t        y_t = 2 Re(C h_t) + D x_t        Ā, B̄: the bilinear rule on A = Λ - P P*

    Each of the D channels is a state space of its own, V = 1: S_t = S_{t-1} Āᵀ + x_t B̄ᵀ. The
    difference from S4D: the low rank P P* lets the modes mix, as HiPPO wants it; the kernel is then
    no sum of exponentials in known modes, and comes from its generating function instead
    (`seqlab.core.rank_one`).

    That function is a sum without end; for a kernel of length L, C (1 - Ā^L) must stand for C. The
    authors train this product as it is, which ties the weights to one L. Here C is trained, and the
    product formed by squaring Ā for whatever L is asked: so any T works, and so does a state
    carried from part to part.

    form: "convolution", or "recurrent" (the step, in O(N); what a single token takes in either
    form). Output: GELU, a linear map to 2 D, GLU. State: (B, D, N/2) complex.
    """

    FORMS = ("convolution", "recurrent")

    def __init__(self, d_model, *, d_state=64, dt_min=1e-3, dt_max=0.1, form="convolution"):
        super().__init__(d_model, form)
        rates, P, B = (u[: d_state // 2].repeat(d_model, 1) for u in legs_dplr(d_state)[:3])
        self.log_dt = nn.Parameter(draw_dt(d_model, dt_min, dt_max).log().float())
        self.A_log, self.A_imag = (
            nn.Parameter((-rates.real).log().float()),
            nn.Parameter(rates.imag.float()),
        )
        self.P, self.B = nn.Parameter(as_pairs(P)), nn.Parameter(as_pairs(B))
        self.C = nn.Parameter(torch.randn(d_model, d_state // 2, 2))
        self.skip = nn.Parameter(torch.randn(d_model))
        self.out = nn.Linear(d_model, 2 * d_model)

    def system(self) -> System:
        rates = torch.complex(-wide(self.A_log).exp(), wide(self.A_imag))
        return System(
            rates,
            *(as_complex(u) for u in (self.P, self.B, self.C)),
            wide(self.log_dt).exp()[:, None],
        )

    def forward(
        self, x: Float[Tensor, "B T D"], state: Complex[Tensor, "B D half"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], Complex[Tensor, "B D half"]]:
        recurrent = self.form == "recurrent" or x.shape[1] == 1
        y, state = (by_steps if recurrent else by_convolution)(self.system(), wide(x), state)
        return F.glu(self.out(F.gelu(y.to(x.dtype) + self.skip * x))), state
