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

    h_t = Ā h_{t-1} + B̄ x_t        y_t = 2 Re(C h_t) + D x_t
    Ā, B̄: the bilinear rule on A = Λ - P P* and B, with a dt per channel

    Each of the D channels is a state space of its own, V = 1: S_t = S_{t-1} Āᵀ + x_t B̄ᵀ. The
    difference from S4D: the low rank P P* lets the modes mix, as HiPPO requires. Then the kernel is
    no longer a sum of exponentials in known modes; it is computed from its generating function
    (`seqlab.core.rank_one`).

    That function is an infinite sum; for a kernel of length L, C (1 - Ā^L) replaces C in it. The
    authors train this product, which ties the weights to one L. Here C itself is trained, and the
    product is formed by squaring Ā for the L at hand: so any T works, and so does a state carried
    from part to part.

    Λ, P and B start as those of HiPPO-LegS, C as complex normal numbers of variance 1, dt as in
    S4D. form: "convolution", or "recurrent" (the step, in O(N); both forms use it for a single
    token). Output: GELU, a linear map to 2 D, GLU. State: (B, D, N/2) complex.
    """

    FORMS = ("convolution", "recurrent")

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        form: str = "convolution",
    ):
        super().__init__(d_model, form)
        rates, P, B, _ = legs_dplr(d_state)
        half = d_state // 2  # of each conjugate pair one is kept, hence 2 Re
        rates, P, B = (u[:half].repeat(d_model, 1) for u in (rates, P, B))
        self.log_dt = nn.Parameter(draw_dt(d_model, dt_min, dt_max).log().float())
        self.A_log = nn.Parameter((-rates.real).log().float())
        self.A_imag = nn.Parameter(rates.imag.float())
        self.P = nn.Parameter(as_pairs(P))
        self.B = nn.Parameter(as_pairs(B))
        self.C = nn.Parameter(torch.randn(d_model, half, 2) * 0.5**0.5)
        self.skip = nn.Parameter(torch.randn(d_model))
        self.out = nn.Linear(d_model, 2 * d_model)

    def system(self) -> System:
        """Λ, P, B, C and dt, as the parameters set them."""
        return System(
            rates=torch.complex(-wide(self.A_log).exp(), wide(self.A_imag)),
            P=as_complex(self.P),
            B=as_complex(self.B),
            C=as_complex(self.C),
            dt=wide(self.log_dt).exp()[:, None],
        )

    def forward(
        self, x: Float[Tensor, "B T D"], state: Complex[Tensor, "B D half"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], Complex[Tensor, "B D half"]]:
        by = by_steps if self.form == "recurrent" or x.shape[1] == 1 else by_convolution
        y, state = by(self.system(), wide(x), state)
        return F.glu(self.out(F.gelu((y.to(x.dtype) + self.skip * x).to(x.dtype)))), state
