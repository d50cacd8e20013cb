from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import log_linear
from seqlab.core.discretize import draw_dt, softplus_inverse
from seqlab.core.inputs import wide
from seqlab.core.log_linear import Tables
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.norm import rms_norm
from seqlab.layers.short_conv import ShortConv


class LogLinearState(NamedTuple):
    tables: Tables
    conv: Float[Tensor, "B past E"]


class LogLinearAttention(Mixer):
    """Log-linear attention, on Mamba-2's gate (Guo et al. 2025, arXiv:2506.04761).

    y_t = Σ_l λ_t[l] S_t^(l) q_t        each S^(l) the table of some earlier tokens, faded by a_t
    a_t = exp(-A Δ_t)        Δ_t = softplus(W_Δ x_t + b)        λ_t = softplus(L W_λ x_t)

    The difference from Mamba-2: the past is not one table but one for each binary digit of t, the
    recent tokens in small ones (`seqlab.core.log_linear`), and the token chooses how much it reads
    of each. The state grows with log T. With all λ equal it is Mamba-2's recurrence.

    (q, k, v) = silu(conv(W x)), v times Δ_t; output W_o norm((y + D v) silu(W_z x)), one norm over
    all heads. L is one number per head and level, 1 at the start, A, Δ and D as in Mamba-2; each
    head has q and k of its own. State: the tables (B, n, H, V, K), n the number of ones among the
    binary digits of T, and the convolution's last inputs.
    """

    FORMS = log_linear.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        n_levels: int = 15,
        d_conv: int = 4,
        eps: float = 1e-5,
        form: str | Callable = "chunkwise",
        chunk_size: int = 64,
    ):
        super().__init__(d_model, form, chunk_size)
        head_width(d_model, n_heads)
        self.n_heads = n_heads
        self.eps = eps
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.conv = ShortConv(3 * d_model, d_conv)
        self.dt = nn.Linear(d_model, n_heads, bias=False)
        self.dt_bias = nn.Parameter(softplus_inverse(draw_dt(n_heads)).float())
        self.A_log = nn.Parameter(torch.empty(n_heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(n_heads))
        self.scales = nn.Linear(d_model, n_heads * n_levels, bias=False)
        self.L = nn.Parameter(torch.ones(n_heads, n_levels))
        self.z = nn.Linear(d_model, d_model, bias=False)
        self.norm = nn.Parameter(torch.ones(d_model))
        self.out = nn.Linear(d_model, d_model, bias=False)

    def _inputs(self, x, past):
        """What `seqlab.core.log_linear` takes; then v without Δ, and the convolution's state."""
        qkv, past = self.conv(self.qkv(x), past)
        q, k, v = (
            rearrange(u, "b t (h k) -> b t h k", h=self.n_heads) for u in qkv.chunk(3, dim=-1)
        )
        dt = F.softplus(wide(self.dt(x)) + wide(self.dt_bias))[..., None]
        by_level = rearrange(self.scales(x), "b t (h l) -> b t h l", h=self.n_heads)
        inputs = {
            "q": q,
            "k": k,
            "v": (dt * v).to(v.dtype),
            "log_a": -dt * wide(self.A_log).exp()[:, None],
            "scales": F.softplus(wide(self.L * by_level)),
        }
        return inputs, v, past

    def forward(
        self, x: Float[Tensor, "B T D"], state: LogLinearState | None = None
    ) -> tuple[Float[Tensor, "B T D"], LogLinearState]:
        tables, past = (None, None) if state is None else state
        inputs, v, past = self._inputs(x, past)
        y, tables = self.in_form(**inputs, state=tables)
        y = rearrange(y + self.D[:, None] * v, "b t h v -> b t (h v)").to(x.dtype)
        y = rms_norm(y * F.silu(self.z(x)), self.norm, self.eps)
        return self.out(y), LogLinearState(tables, past)
