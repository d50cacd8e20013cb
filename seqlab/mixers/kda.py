from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import recurrence
from seqlab.core.discretize import draw_dt, softplus_inverse
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.norm import l2norm, rms_norm
from seqlab.layers.short_conv import ShortConv


class KDAState(NamedTuple):
    S: Float[Tensor, "B H V K"]
    conv: Float[Tensor, "B past E"]


class KDA(Mixer):
    """Kimi Delta Attention (Kimi Team 2025, arXiv:2510.26692).

    S̃ = S_{t-1} diag(a_t)        S_t = S̃ + β_t (v_t - S̃ k_t) k_tᵀ        y_t = S_t q_t
    a_t = exp(-A softplus(W_a U_a x_t + b))        β_t = σ(W_β x_t)        β_t and A > 0: one number per head

    The difference from Gated DeltaNet: a_t is one decay per key channel, not per head, so some
    columns of the table S fade while others stay (as in GLA). Its map is low-rank, U_a to
    `gate_rank` channels (K by default) and W_a back; so is that of the output gate, which is a
    sigmoid: W_o(norm(y) σ(W_g U_g x)).

    (q, k, v) = silu(conv(W x_t)), a short convolution of each channel; then q and k have length 1
    and q is scaled by K^-1/2. `negative_eigenvalues` doubles β. `gate_bias`: a bias after W_g (in
    the authors' layer, not in Kimi Linear's). d_key and d_value are per head, K = V = d_model /
    n_heads by default. Chunks of 16: a decay per channel costs C² K numbers a chunk. Decays are
    computed in float32 at least; A starts in U(1, 16), softplus(b) log-uniform in [0.001, 0.1].
    State: S (B, H, V, K) and the convolution's last inputs.
    """

    FORMS = recurrence.FORMS

    def __init__(
        self, d_model, n_heads=4, *, d_key=None, d_value=None, d_conv=4, gate_rank=None, gate_bias=False,
        negative_eigenvalues=False, conv_bias=False, activation=F.silu, eps=1e-5, form="chunkwise", chunk_size=16,
    ):  # fmt: skip
        super().__init__(d_model, form, chunk_size)
        d_key = head_width(d_model, n_heads, d_key)
        d_value, gate_rank = d_value or d_key, gate_rank or d_key
        self.n_heads = n_heads
        self.eps = eps
        self.beta_scale = 2 if negative_eigenvalues else 1
        self.widths = [n_heads * d_key, n_heads * d_key, n_heads * d_value]
        self.qkv = nn.Linear(d_model, sum(self.widths), bias=False)
        self.conv = ShortConv(sum(self.widths), d_conv, bias=conv_bias, activation=activation)
        self.beta = nn.Linear(d_model, n_heads, bias=False)
        self.decay = low_rank(d_model, gate_rank, n_heads * d_key)
        self.dt_bias = nn.Parameter(softplus_inverse(draw_dt(n_heads * d_key)).float())
        self.A_log = nn.Parameter(torch.empty(n_heads).uniform_(1, 16).log())
        self.gate = low_rank(d_model, gate_rank, n_heads * d_value, bias=gate_bias)
        self.norm = nn.Parameter(torch.ones(d_value))
        self.out = nn.Linear(n_heads * d_value, d_model, bias=False)

    def _inputs(self, x, conv_state):
        """What the recurrence reads, and the convolution's new state."""
        qkv, conv_state = self.conv(self.qkv(x), conv_state)
        q, k, v = (
            rearrange(u, "b t (h k) -> b t h k", h=self.n_heads)
            for u in qkv.split(self.widths, dim=-1)
        )
        q = l2norm(q) * q.shape[-1] ** -0.5
        beta = self.beta_scale * self.beta(x).sigmoid()
        return {
            "q": q,
            "k": l2norm(k),
            "v": v,
            "log_a": self._log_decay(x),
            "beta": beta,
        }, conv_state

    def _log_decay(self, x):
        """(B, T, H, K), at most 0."""
        wide = torch.promote_types(x.dtype, torch.float32)
        dt = F.softplus(self.decay(x).to(wide) + self.dt_bias.to(wide))
        return -self.A_log.to(wide).exp()[:, None] * rearrange(
            dt, "b t (h k) -> b t h k", h=self.n_heads
        )

    def project(
        self, x: Float[Tensor, "B T D"], state: KDAState | None = None
    ) -> dict[str, Tensor]:
        """What the recurrence reads: q, k, v, the log decay of each key channel and the strength of
        each write.
        """
        return self._inputs(x, None if state is None else state.conv)[0]

    def read(self, y: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """From S_t q_t to the head's output: its root mean square is divided out."""
        return rms_norm(y, self.norm, self.eps)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], KDAState]:
        S, conv_state = (None, None) if state is None else state
        inputs, conv_state = self._inputs(x, conv_state)
        y, S = self.in_form(**inputs, state=S)
        y = rearrange(self.read(y), "b t h v -> b t (h v)") * self.gate(x).sigmoid()
        return self.out(y), KDAState(S, conv_state)


def low_rank(d_in, rank, d_out, bias=False):
    """W U: two thin matrices for one."""
    return nn.Sequential(nn.Linear(d_in, rank, bias=False), nn.Linear(rank, d_out, bias=bias))
