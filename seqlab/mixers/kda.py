from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import recurrence
from seqlab.core.discretize import draw_dt, softplus_inverse
from seqlab.core.inputs import wide
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.low_rank import low_rank
from seqlab.layers.norm import l2norm, rms_norm
from seqlab.layers.short_conv import ShortConv


class KDAState(NamedTuple):
    S: Float[Tensor, "B H V K"]
    conv: Float[Tensor, "B past E"]


class KDA(Mixer):
    """Kimi Delta Attention (Kimi Team 2025, arXiv:2510.26692).

    S̃ = S_{t-1} diag(a_t)        S_t = S̃ + β_t (v_t - S̃ k_t) k_tᵀ        y_t = S_t q_t
    a_t = exp(-A softplus(W_a U_a x_t + b))
    β_t = σ(W_β x_t)        β_t and A > 0: one number per head

    The difference from Gated DeltaNet: a_t is one decay per key channel, not one per head, so some
    columns of the table S fade while others stay (as in GLA). The map to the decays is low-rank:
    U_a down to `gate_rank` channels (K by default), W_a back up. So is the map to the output gate,
    a sigmoid: W_o(norm(y) σ(W_g U_g x)).

    (q, k, v) = silu(conv(W x_t)), a short convolution of each channel; then q and k are scaled to
    length 1, and q by K^-1/2. `negative_eigenvalues` doubles β. `gate_bias` adds a bias after W_g
    (the authors' layer has it, Kimi Linear does not). d_key and d_value are widths per head,
    K = V = d_model / n_heads by default. Chunks are short, 16 tokens, because a decay per channel
    costs C² K numbers a chunk. Decays are computed in float32 at least.

    A starts in U(1, 16), softplus(b) log-uniform in [0.001, 0.1], as in the authors' code. State:
    S (B, H, V, K) and the convolution's last inputs.
    """

    FORMS = recurrence.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        d_key: int | None = None,
        d_value: int | None = None,
        d_conv: int = 4,
        gate_rank: int | None = None,
        gate_bias: bool = False,
        negative_eigenvalues: bool = False,
        conv_bias: bool = False,
        activation: Callable = F.silu,
        eps: float = 1e-5,
        form: str | Callable = "chunkwise",
        chunk_size: int = 16,
    ):
        super().__init__(d_model, form, chunk_size)
        d_key = head_width(d_model, n_heads, d_key)
        d_value = d_value or d_key
        gate_rank = gate_rank or d_key
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

    def _inputs(self, x, past):
        """The recurrence's inputs, and the convolution's new state."""
        qkv, past = self.conv(self.qkv(x), past)
        qkv = qkv.split(self.widths, dim=-1)
        q, k, v = (rearrange(u, "b t (h k) -> b t h k", h=self.n_heads) for u in qkv)
        inputs = {
            "q": l2norm(q) * q.shape[-1] ** -0.5,
            "k": l2norm(k),
            "v": v,
            "log_a": self._log_decay(x),
            "beta": self.beta_scale * self.beta(x).sigmoid(),
        }
        return inputs, past

    def _log_decay(self, x):
        """(B, T, H, K), at most 0."""
        dt = F.softplus(wide(self.decay(x)) + wide(self.dt_bias))
        A = wide(self.A_log).exp()[:, None]  # (H, 1)
        return -A * rearrange(dt, "b t (h k) -> b t h k", h=self.n_heads)

    def project(
        self, x: Float[Tensor, "B T D"], state: KDAState | None = None
    ) -> dict[str, Tensor]:
        """The recurrence's inputs: q, k, v, each key channel's log decay, the write strength."""
        inputs, _ = self._inputs(x, None if state is None else state.conv)
        return inputs

    def read(self, y: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """The heads' output: each head's S_t q_t divided by its root mean square, with a weight."""
        return rms_norm(y, self.norm, self.eps)

    def forward(
        self, x: Float[Tensor, "B T D"], state: KDAState | None = None
    ) -> tuple[Float[Tensor, "B T D"], KDAState]:
        S, past = (None, None) if state is None else state
        inputs, past = self._inputs(x, past)
        y, S = self.in_form(**inputs, state=S)
        y = rearrange(self.read(y), "b t h v -> b t (h v)")
        return self.out(y * self.gate(x).sigmoid()), KDAState(S, past)
