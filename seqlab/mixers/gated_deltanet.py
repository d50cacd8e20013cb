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
from seqlab.layers.norm import l2norm, rms_norm
from seqlab.layers.short_conv import ShortConv


class GatedDeltaNetState(NamedTuple):
    S: Float[Tensor, "B H V K"]
    conv: Float[Tensor, "B past E"]


class GatedDeltaNet(Mixer):
    """Gated DeltaNet (Yang, Kautz & Hatamizadeh 2024, arXiv:2412.06464).

    S̃ = a_t S_{t-1}        S_t = S̃ + β_t (v_t - S̃ k_t) k_tᵀ        y_t = S_t q_t
    a_t = exp(-A softplus(W_a x_t + b))        β_t = σ(W_β x_t)        one a, β and A > 0 per head

    The difference from DeltaNet: before each write, a_t fades the whole table S (Mamba-2's gate).
    So S can be cleared at once, and not only key by key. What the key returns is read after the
    fading.

    (q, k, v) = silu(conv(W x_t)), a short convolution of each channel; then q and k are normalised
    to length 1, and q is scaled by K^-1/2. `negative_eigenvalues` doubles β.
    Output: W_o(norm(y) silu(W_g x)), each head normed on its own, the norm before the gate.

    n_heads counts value heads. With fewer heads of q and k (`n_k_heads`), each serves several
    neighbouring value heads (Qwen3-Next). d_key and d_value are per head; by default, as in the
    authors' code, K = ¾ d_model / n_heads and V = 2 K. A starts as U(0, 16) (from 0.01, as log 0
    is not a number) and softplus(b) log-uniform in [0.001, 0.1]. Decays are float32 at least.
    State: S (B, H, V, K) and the convolution's last inputs.

    ValueError: n_k_heads does not divide n_heads.
    """

    FORMS = recurrence.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        n_k_heads: int | None = None,
        d_key: int | None = None,
        d_value: int | None = None,
        d_conv: int = 4,
        negative_eigenvalues: bool = False,
        conv_bias: bool = False,
        activation: Callable | None = F.silu,
        eps: float = 1e-5,
        form: str | Callable = "chunkwise",
        chunk_size: int = 64,
    ):
        super().__init__(d_model, form, chunk_size)
        d_key = head_width(3 * d_model, n_heads, d_key, parts=4, name="3 d_model")
        d_value = d_value or 2 * d_key
        n_k_heads = n_k_heads or n_heads
        if n_heads % n_k_heads:
            raise ValueError(
                f"n_heads is {n_heads}, n_k_heads is {n_k_heads}: "
                "the first must be a multiple of the second"
            )
        self.n_heads = n_heads
        self.n_k_heads = n_k_heads
        self.eps = eps
        self.beta_scale = 2 if negative_eigenvalues else 1
        self.widths = [n_k_heads * d_key, n_k_heads * d_key, n_heads * d_value]
        self.qkv = nn.Linear(d_model, sum(self.widths), bias=False)
        self.conv = ShortConv(sum(self.widths), d_conv, bias=conv_bias, activation=activation)
        self.beta, self.decay = (nn.Linear(d_model, n_heads, bias=False) for _ in range(2))
        self.dt_bias = nn.Parameter(softplus_inverse(draw_dt(n_heads)).float())
        self.A_log = nn.Parameter(torch.empty(n_heads).uniform_(0.01, 16).log())
        self.gate = nn.Linear(d_model, n_heads * d_value, bias=False)
        self.norm = nn.Parameter(torch.ones(d_value))
        self.out = nn.Linear(n_heads * d_value, d_model, bias=False)

    def _inputs(self, x, conv_state):
        """What the recurrence reads, and the convolution's new state."""
        qkv, conv_state = self.conv(self.qkv(x), conv_state)
        q, k, v = qkv.split(self.widths, dim=-1)
        q, k = (rearrange(u, "b t (h k) -> b t h k", h=self.n_k_heads) for u in (q, k))
        q, k = l2norm(q) * q.shape[-1] ** -0.5, l2norm(k)
        q, k = (u.repeat_interleave(self.n_heads // self.n_k_heads, dim=2) for u in (q, k))
        inputs = {
            "q": q,
            "k": k,
            "v": rearrange(v, "b t (h v) -> b t h v", h=self.n_heads),
            "log_a": self._log_decay(x)[..., None],
            "beta": self.beta_scale * self.beta(x).sigmoid(),
        }
        return inputs, conv_state

    def _log_decay(self, x):
        return -wide(self.A_log).exp() * F.softplus(wide(self.decay(x)) + wide(self.dt_bias))

    def project(
        self, x: Float[Tensor, "B T D"], state: GatedDeltaNetState | None = None
    ) -> dict[str, Tensor]:
        """What the recurrence reads: q, k, v, and for each head the log decay and the strength."""
        return self._inputs(x, None if state is None else state.conv)[0]

    def read(self, y: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """From S_t q_t to the head's output: divide by its root mean square."""
        return rms_norm(y, self.norm, self.eps)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], GatedDeltaNetState]:
        S, conv_state = (None, None) if state is None else state
        inputs, conv_state = self._inputs(x, conv_state)
        y, S = self.in_form(**inputs, state=S)
        y = rearrange(self.read(y), "b t h v -> b t (h v)") * F.silu(self.gate(x))
        return self.out(y), GatedDeltaNetState(S, conv_state)
