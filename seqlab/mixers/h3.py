from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Complex, Float
from torch import Tensor, nn

from seqlab.core import convolution
from seqlab.core.convolution import causal_conv
from seqlab.core.discretize import draw_dt, s4d_lin, zero_order_hold
from seqlab.layers.base import Mixer


class H3State(NamedTuple):
    h: Complex[
        Tensor, "B H V K N"
    ]  # for each head, a state of N complex modes in every cell of v kᵀ
    shift: Float[Tensor, "B past D"]


class H3(Mixer):
    """Hungry Hungry Hippos (Fu et al. 2022, arXiv:2212.14052).

    k̃_t = shift(k)_t + D_k k_t        y_t = (SSM(v k̃ᵀ)_t + D v_t k̃_tᵀ) q_t

    The difference from linear attention: S_t = Σ_s v_s k̃_sᵀ is weighted by the age of each write,
    K_{t-s} of a diagonal state space with complex rates, instead of summed; and k first passes the
    shift SSM, whose state is the last d_state inputs themselves: a learned convolution of d_state
    taps. Together they compare a token with those before it: "after this key comes that value".
    Neither SSM reads its input to choose what to forget.

    d_head = 1 as in the authors' code: every channel of k gates one of v, and the state is a
    vector. The diagonal SSM has d_state / 2 conjugate pairs, S4D-Lin at first, one kernel per head;
    the input is held for a step, where their code has the bilinear rule. The shift's input vector
    is the first unit vector, fixed (theirs starts there and is learned, which adds no new kernels).
    form: "convolution" (through the FFT) or "scan". State: H3State, d_state - 1 inputs of the
    shift.
    """

    FORMS = convolution.FORMS

    def __init__(self, d_model, *, d_head=1, d_state=64, form="convolution"):
        super().__init__(d_model, form)
        if d_model % d_head:
            raise ValueError(
                f"d_model is {d_model}, d_head is {d_head}: the first must be a multiple of the second"
            )
        n_heads = d_model // d_head
        self.d_head = d_head
        self.q, self.k, self.v, self.out = (nn.Linear(d_model, d_model) for _ in range(4))
        # shift[:, -1] meets the newest token, as in nn.Conv1d, whose start it has too.
        self.shift = nn.Parameter(
            torch.empty(d_model, d_state).uniform_(-(d_state**-0.5), d_state**-0.5)
        )
        self.D_k = nn.Parameter(torch.randn(d_model))
        A = s4d_lin(d_state)
        self.log_dt = nn.Parameter(draw_dt(n_heads).log().float())
        self.log_rate = nn.Parameter((-A.real).log().float().repeat(n_heads, 1))
        self.frequency = nn.Parameter(A.imag.float().repeat(n_heads, 1))
        self.C = nn.Parameter(
            torch.randn(n_heads, d_state // 2, 2) * 0.5**0.5
        )  # real and imaginary part
        self.D = nn.Parameter(torch.randn(n_heads))

    def kernel(self) -> tuple[Complex[Tensor, "H N"], Complex[Tensor, "H N"]]:
        """What reads the modes, and the log of what each keeps of itself per token. 2 Re: for the
        conjugates.
        """
        wide = torch.promote_types(self.C.dtype, torch.float32)
        A = torch.complex(-self.log_rate.to(wide).exp(), self.frequency.to(wide))
        dt = self.log_dt.to(wide).exp()[:, None]
        return 2 * torch.view_as_complex(self.C.to(wide)) * zero_order_hold(A, dt)[1], dt * A

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], H3State]:
        B, h, past = len(x), *((None, None) if state is None else state)
        k = self.k(x)
        shifted, past = causal_conv(k, self.shift, state=past)
        k = shifted + self.D_k * k
        q, k, v = (
            rearrange(u, "b t (h k) -> b t h k", k=self.d_head) for u in (self.q(x), k, self.v(x))
        )
        writes = rearrange(
            v[..., :, None] * k[..., None, :], "b t h v k -> (b v k) t h"
        )  # every cell is a sequence
        h = None if h is None else rearrange(h, "b h v k n -> (b v k) h n")
        y, h = self.in_form(writes, *self.kernel(), h)
        S = rearrange(y + self.D * writes, "(b v k) t h -> b t h v k", b=B, v=self.d_head)
        h = rearrange(h, "(b v k) h n -> b h v k n", b=B, v=self.d_head)
        return self.out(rearrange((S @ q[..., None])[..., 0], "b t h v -> b t (h v)")), H3State(
            h, past
        )
