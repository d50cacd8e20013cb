from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Complex, Float
from torch import Tensor, nn

from seqlab.core import convolution
from seqlab.core.convolution import causal_conv
from seqlab.core.discretize import as_complex, draw_dt, s4d_lin, zero_order_hold
from seqlab.core.inputs import wide
from seqlab.layers.base import Mixer


class H3State(NamedTuple):
    h: Complex[Tensor, "B H V K N"]  # N complex modes for every cell of v kᵀ
    shift: Float[Tensor, "B past D"]


class H3(Mixer):
    """Hungry Hungry Hippos (Fu et al. 2022, arXiv:2212.14052).

    k̃_t = shift(k)_t + D_k k_t        y_t = (SSM(v k̃ᵀ)_t + D v_t k̃_tᵀ) q_t

    The difference from linear attention: in S_t = Σ_s K_{t-s} v_s k̃_sᵀ each write is weighted by
    its age, with the kernel of a diagonal state space with complex rates, instead of summed. And k
    first passes through the shift SSM, whose state is the last d_state inputs themselves: a learned
    convolution of d_state taps. Together they compare a token with those before it: "after this key
    comes that value". Neither SSM looks at its input to choose what to forget.

    d_head = 1 as in the authors' code: every channel of k gates one of v, and the state is a
    vector. The diagonal SSM has d_state / 2 conjugate pairs and one kernel per head. Its rates
    start as S4D-Lin, its steps log-uniform in [0.001, 0.1], C with mean square 1, D and D_k as
    N(0, 1). The input is held for a step, where their code has the bilinear rule. The input vector
    of the shift is the first unit vector, fixed; theirs starts there and is learned, which adds no
    new kernels. Its taps start as those of nn.Conv1d, as in their code.

    form: "convolution" (through the FFT) or "scan". State: H3State, with d_state - 1 inputs of the
    shift. ValueError: d_head does not divide d_model.
    """

    FORMS = convolution.FORMS

    def __init__(
        self,
        d_model: int,
        *,
        d_head: int = 1,
        d_state: int = 64,
        form: str | Callable = "convolution",
    ):
        super().__init__(d_model, form)
        if d_model % d_head:
            raise ValueError(
                f"d_model is {d_model}, d_head is {d_head}: "
                "the first must be a multiple of the second"
            )
        n_heads = d_model // d_head
        rates = s4d_lin(d_state)
        self.d_head = d_head
        self.q, self.k, self.v, self.out = (nn.Linear(d_model, d_model) for _ in range(4))
        # As in nn.Conv1d, shift[:, -1] multiplies the newest token.
        bound = d_state**-0.5
        self.shift = nn.Parameter(torch.empty(d_model, d_state).uniform_(-bound, bound))
        self.D_k = nn.Parameter(torch.randn(d_model))
        self.log_dt = nn.Parameter(draw_dt(n_heads).log().float())
        self.log_rate = nn.Parameter((-rates.real).log().float().repeat(n_heads, 1))
        self.frequency = nn.Parameter(rates.imag.float().repeat(n_heads, 1))
        # Real and imaginary part.
        self.C = nn.Parameter(torch.randn(n_heads, d_state // 2, 2) * 0.5**0.5)
        self.D = nn.Parameter(torch.randn(n_heads))

    def kernel(self) -> tuple[Complex[Tensor, "H N"], Complex[Tensor, "H N"]]:
        """What reads the modes, 2 C b (2 for the conjugates), and the log of their gates."""
        rates = torch.complex(-wide(self.log_rate).exp(), wide(self.frequency))
        dt = wide(self.log_dt).exp()[:, None]
        _, gain = zero_order_hold(rates, dt)
        return 2 * as_complex(self.C) * gain, dt * rates

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], H3State]:
        h, past = (None, None) if state is None else state
        q, k, v = self.q(x), self.k(x), self.v(x)
        shifted, past = causal_conv(k, self.shift, state=past)
        k = (shifted + self.D_k * k).to(x.dtype)
        q, k, v = (rearrange(u, "b t (h k) -> b t h k", k=self.d_head) for u in (q, k, v))
        # Every cell of v kᵀ is a sequence of its own.
        writes = rearrange(v[..., :, None] * k[..., None, :], "b t h v k -> (b v k) t h")
        if h is not None:
            h = rearrange(h, "b h v k n -> (b v k) h n")
        y, h = self.in_form(writes, *self.kernel(), h)
        S = (y + self.D * writes).to(x.dtype)
        S = rearrange(S, "(b v k) t h -> b t h v k", b=len(x), v=self.d_head)
        h = rearrange(h, "(b v k) h n -> b h v k n", b=len(x), v=self.d_head)
        y = rearrange(S @ q[..., None], "b t h v 1 -> b t (h v)")
        return self.out(y), H3State(h, past)
