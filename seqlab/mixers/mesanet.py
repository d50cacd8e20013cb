import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import least_squares
from seqlab.core.inputs import wide
from seqlab.core.least_squares import Sums
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.norm import l2norm, rms_norm
from seqlab.layers.short_conv import ShortConv


class MesaNetState(NamedTuple):
    sums: Sums
    conv: Float[Tensor, "B past E"]


class MesaNet(Mixer):
    """MesaNet (von Oswald et al. 2025, arXiv:2506.05233).

    S_t = a_t S_{t-1} + β_t v_t k_tᵀ        R_t = a_t R_{t-1} + β_t k_t k_tᵀ
    y_t = S_t (R_t + Λ)⁻¹ q_t
    a_t = σ(W_a x_t + b_a)        β_t = σ(W_β x_t + b_β), one per head
    Λ = diag(¼ + softplus(λ)), one number per key channel, 1 at the start

    The difference from the delta rule: no step towards the written value, but the best table for
    all pairs so far, by least squares. So the state also holds R, the sum of k kᵀ, and a read is a
    system of K equations. The authors solve it by some 30 steps of conjugate gradients, with which
    one multiplies in chunks; here it is solved exactly, which at the widths of a lesson costs less.

    (q, k) = silu(conv(W x)), of length 1; v = W_v x. Output: W_o norm(y), one norm per head.
    State: S (B, H, V, K), R (B, H, K, K) and the convolution's last inputs.
    """

    FORMS = least_squares.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        d_conv: int = 4,
        ridge: float = 1.0,
        lower: float = 0.25,
        eps: float = 1e-5,
        form: str | Callable = "chunkwise",
        chunk_size: int = 32,
    ):
        super().__init__(d_model, form, chunk_size)
        d_head = head_width(d_model, n_heads)
        self.n_heads = n_heads
        self.lower = lower
        self.eps = eps
        self.qk = nn.Linear(d_model, 2 * d_model, bias=False)
        self.v, self.out = (nn.Linear(d_model, d_model, bias=False) for _ in range(2))
        self.conv = ShortConv(2 * d_model, d_conv)
        self.decay, self.beta = (nn.Linear(d_model, n_heads) for _ in range(2))
        start = math.log(math.expm1(ridge - lower))
        self.ridge = nn.Parameter(torch.full((n_heads, d_head), start))
        self.norm = nn.Parameter(torch.ones(d_head))

    def _inputs(self, x, past):
        """What `seqlab.core.least_squares` takes, and the convolution's new state."""
        qk, past = self.conv(self.qk(x), past)
        parts = *qk.chunk(2, dim=-1), self.v(x)
        q, k, v = (rearrange(u, "b t (h k) -> b t h k", h=self.n_heads) for u in parts)
        inputs = {
            "q": l2norm(q),
            "k": l2norm(k),
            "v": v,
            "log_a": F.logsigmoid(wide(self.decay(x)))[..., None],
            "beta": wide(self.beta(x)).sigmoid(),
            "ridge": self.lower + F.softplus(wide(self.ridge)),
        }
        return inputs, past

    def forward(
        self, x: Float[Tensor, "B T D"], state: MesaNetState | None = None
    ) -> tuple[Float[Tensor, "B T D"], MesaNetState]:
        sums, past = (None, None) if state is None else state
        inputs, past = self._inputs(x, past)
        y, sums = self.in_form(**inputs, state=sums)
        y = rms_norm(y, self.norm, self.eps)
        return self.out(rearrange(y, "b t h v -> b t (h v)")), MesaNetState(sums, past)
