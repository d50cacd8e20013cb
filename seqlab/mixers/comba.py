from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import dplr
from seqlab.core.discretize import draw_dt, softplus_inverse
from seqlab.core.inputs import wide
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.norm import l2norm, rms_norm
from seqlab.layers.short_conv import ShortConv


class CombaState(NamedTuple):
    S: Float[Tensor, "B H V K"]
    conv: Float[Tensor, "B past E"]


class Comba(Mixer):
    """Comba (Hu et al. 2025, arXiv:2506.02475).

    S_t = a_t S_{t-1} + β_t (v_t - S_{t-1} p_t) k_tᵀ        y_t = S_t q_t
    p_t = σ(b) k_t        q_t is what W_q gives, less d σ(b) times what W_k gives
    a_t = exp(-A softplus(W_a x_t + bias))        β_t = σ(W_β x_t)        b, d and A: one per head

    Two corrections, in the words of control theory: the state is corrected by what it returned
    (feedback, the delta rule), and the query by the key. Two differences from Gated DeltaNet: what
    the key returned is read before the fading, not after, and only a learnt part σ(b) of it is
    removed. So the transition is a_t I - β_t σ(b) k kᵀ, "scalar plus low rank".

    The rest is Gated DeltaNet's: (q, k, v) = silu(conv(W x)); then q and k have length 1, and q is
    scaled by K^-1/2; output W_o(norm(y) σ(W_g x)); K = ¾ d_model / n_heads and V = 2 K by default.
    b and d start at 1; the authors also recommend d = 0.02 for small models (`correction`). Their
    layer lets the kernel scale p to length 1 too, which takes σ(b) out of p again; here it stays.
    State: S (B, H, V, K) and the convolution's last inputs.
    """

    FORMS = dplr.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        d_key: int | None = None,
        d_value: int | None = None,
        d_conv: int = 4,
        correction: float = 1.0,
        eps: float = 1e-5,
        form: str | Callable = "chunkwise",
        chunk_size: int = 16,
    ):
        super().__init__(d_model, form, chunk_size)
        d_key = head_width(3 * d_model, n_heads, d_key, parts=4, name="3 d_model")
        d_value = d_value or 2 * d_key
        self.n_heads = n_heads
        self.eps = eps
        self.widths = [n_heads * d_key, n_heads * d_key, n_heads * d_value]
        self.qkv = nn.Linear(d_model, sum(self.widths), bias=False)
        self.conv = ShortConv(sum(self.widths), d_conv)
        self.beta, self.decay = (nn.Linear(d_model, n_heads, bias=False) for _ in range(2))
        self.dt_bias = nn.Parameter(softplus_inverse(draw_dt(n_heads)).float())
        self.A_log = nn.Parameter(torch.empty(n_heads).uniform_(0.01, 16).log())
        self.b = nn.Parameter(torch.ones(n_heads))
        self.d = nn.Parameter(torch.full((n_heads,), correction))
        self.gate = nn.Linear(d_model, n_heads * d_value, bias=False)
        self.norm = nn.Parameter(torch.ones(d_value))
        self.out = nn.Linear(n_heads * d_value, d_model, bias=False)

    def _inputs(self, x, past):
        """What `seqlab.core.dplr` takes, and the convolution's new state."""
        qkv, past = self.conv(self.qkv(x), past)
        q, k, v = (
            rearrange(u, "b t (h k) -> b t h k", h=self.n_heads)
            for u in qkv.split(self.widths, dim=-1)
        )
        share = self.b.sigmoid()[:, None]
        q = l2norm(q - self.d[:, None] * share * k) * q.shape[-1] ** -0.5
        k = l2norm(k)
        beta = self.beta(x).sigmoid()[..., None]
        dt = F.softplus(wide(self.decay(x)) + wide(self.dt_bias))
        log_a = (-wide(self.A_log).exp() * dt)[..., None]
        inputs = {"q": q, "k": k, "v": beta * v, "e": -beta * share * k, "f": k, "log_a": log_a}
        return inputs, past

    def project(
        self, x: Float[Tensor, "B T D"], state: CombaState | None = None
    ) -> dict[str, Tensor]:
        """What `seqlab.core.dplr` takes: q, k, β v, log a, and two more keys.

        The old table is read under e = -β p, and the answer is written under f = k.
        """
        return self._inputs(x, None if state is None else state.conv)[0]

    def read(self, y: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """The heads' output: each head's S_t q_t divided by its root mean square, with a weight."""
        return rms_norm(y, self.norm, self.eps)

    def forward(
        self, x: Float[Tensor, "B T D"], state: CombaState | None = None
    ) -> tuple[Float[Tensor, "B T D"], CombaState]:
        S, past = (None, None) if state is None else state
        inputs, past = self._inputs(x, past)
        y, S = self.in_form(**inputs, state=S)
        y = rearrange(self.read(y), "b t h v -> b t (h v)")
        return self.out(y * self.gate(x).sigmoid()), CombaState(S, past)
