from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float, Inexact
from torch import Tensor, nn

from seqlab.core import convolution, discretize
from seqlab.core.discretize import as_complex, as_pairs, draw_dt, zero_order_hold
from seqlab.core.inputs import wide
from seqlab.layers.base import Mixer


class S4D(Mixer):
    """S4D (Gu et al. 2022, arXiv:2206.11893): S4 with a diagonal A.

    h_t = a h_{t-1} + b x_t        y_t = 2 Re(C h_t) + D x_t
    a = exp(dt A)        b = (a - 1) / A

    Each of the D channels is a state space of its own, with V = 1 row and N columns:
    S_t = S_{t-1} diag(a) + x_t bᵀ. The difference from S4: without the low rank the modes never
    mix, so the kernel is a sum of exponentials, K_l = 2 Re Σ_n C_n b_n a_n^l, and either a
    convolution or a scan gives y. The decays do not depend on the input.

    Modes form conjugate pairs, of which one half is kept; hence 2 Re. B is part of C, as in the
    authors' minimal version; b is applied at the read, so the state is Σ a^(t-s) x_s. init: "lin",
    "inv", "legs", or "real" (N real modes). C starts as (complex) normal numbers of variance 1, log
    dt uniform from log dt_min to log dt_max. Output: GELU, a linear map to 2 D, GLU. State:
    (B, D, N/2) complex, or (B, D, N) real.
    """

    FORMS = convolution.FORMS

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        init: str = "lin",
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        form: str | Callable = "convolution",
    ):
        super().__init__(d_model, form)
        if init not in discretize.S4D:
            raise ValueError(f"init is {init!r}: choose one of {', '.join(discretize.S4D)}")
        if d_state % 2 and init != "real":
            raise ValueError(f"d_state is {d_state}: conjugate pairs need an even number of modes")
        A = discretize.S4D[init](d_state).repeat(d_model, 1)
        self.log_dt = nn.Parameter(draw_dt(d_model, dt_min, dt_max).log().float())
        self.A_log = nn.Parameter((-A.real).log().float())
        self.A_imag = nn.Parameter(A.imag.float()) if A.is_complex() else None
        C = torch.randn(A.shape, dtype=A.dtype)
        self.C = nn.Parameter(as_pairs(C) if C.is_complex() else C.float())
        self.skip = nn.Parameter(torch.randn(d_model))
        self.out = nn.Linear(d_model, 2 * d_model)

    def modes(self) -> tuple[Inexact[Tensor, "D N"], Inexact[Tensor, "D N"]]:
        """What y reads from each mode, and the log of its gate: (c, log_a).

        (D, N/2) complex, or (D, N) real.
        """
        A = -wide(self.A_log).exp()
        dt = wide(self.log_dt).exp()[:, None]
        if self.A_imag is None:
            _, b = zero_order_hold(A, dt)
            return wide(self.C) * b, dt * A
        A = torch.complex(A, wide(self.A_imag))
        _, b = zero_order_hold(A, dt)
        return 2 * as_complex(self.C) * b, dt * A

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: Complex[Tensor, "B D N"] | Float[Tensor, "B D N"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], Inexact[Tensor, "B D N"]]:
        c, log_a = self.modes()
        y, h = self.in_form(x, c, log_a, state)
        return F.glu(self.out(F.gelu((y + self.skip * x).to(x.dtype)))), h
