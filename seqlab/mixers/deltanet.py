from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import recurrence
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.norm import l2norm, rms_norm
from seqlab.layers.short_conv import ShortConv


class DeltaNetState(NamedTuple):
    S: Float[Tensor, "B H V K"]
    conv: Float[Tensor, "B past E"]


class DeltaNet(Mixer):
    """DeltaNet (Yang et al. 2024, arXiv:2406.06484).

    S_t = S_{t-1} + β_t (v_t - S_{t-1} k_t) k_tᵀ        y_t = S_t q_t        β_t = σ(W_β x_t)
        = S_{t-1} (I - β_t k_t k_tᵀ) + β_t v_t k_tᵀ

    The difference from linear attention: a write first removes what its key returned, so the value
    of a key can be overwritten. That is the delta rule of Schlag et al. 2021 (arXiv:2102.11174).

    q, k and v pass through a short convolution (one for all channels: it is depthwise) and silu.
    Then q and k are normalised to length 1, so β_t is the share of the old value that is replaced:
    the eigenvalues of I - β k kᵀ are 1 and 1 - β. `negative_eigenvalues` doubles β, so 1 - β
    reaches -1, a reflection, which tracking a state such as parity needs (arXiv:2411.12537).

    q is scaled by K^-1/2 as in the authors' code; the norm of each head cancels the scale, up to
    eps. d_key and d_value are per head, d_model / n_heads by default. gate: the normed head times
    silu(W_g x). State: S (B, H, V, K) and the convolution's last d_conv - 1 inputs.
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
        gate: bool = False,
        negative_eigenvalues: bool = False,
        conv_bias: bool = False,
        eps: float = 1e-5,
        form: str | Callable = "chunkwise",
        chunk_size: int = 64,
    ):
        super().__init__(d_model, form, chunk_size)
        d_key = head_width(d_model, n_heads, d_key)
        d_value = d_value or d_key
        self.n_heads = n_heads
        self.eps = eps
        self.beta_scale = 2 if negative_eigenvalues else 1
        self.widths = [n_heads * d_key, n_heads * d_key, n_heads * d_value]
        self.qkv = nn.Linear(d_model, sum(self.widths), bias=False)
        self.conv = ShortConv(sum(self.widths), d_conv, bias=conv_bias)
        self.beta = nn.Linear(d_model, n_heads, bias=False)
        self.gate = nn.Linear(d_model, n_heads * d_value, bias=False) if gate else None
        self.norm = nn.Parameter(torch.ones(d_value))
        self.out = nn.Linear(n_heads * d_value, d_model, bias=False)

    def _inputs(self, x, conv_state):
        """What the recurrence reads, and the convolution's new state."""
        qkv, conv_state = self.conv(self.qkv(x), conv_state)
        q, k, v = (
            rearrange(u, "b t (h k) -> b t h k", h=self.n_heads)
            for u in qkv.split(self.widths, dim=-1)
        )
        inputs = {
            "q": l2norm(q) * q.shape[-1] ** -0.5,
            "k": l2norm(k),
            "v": v,
            "beta": self.beta_scale * self.beta(x).sigmoid(),
        }
        return inputs, conv_state

    def project(
        self, x: Float[Tensor, "B T D"], state: DeltaNetState | None = None
    ) -> dict[str, Tensor]:
        """What the recurrence reads: q of length K^-1/2, k of length 1, v, and the strength β."""
        return self._inputs(x, None if state is None else state.conv)[0]

    def read(self, y: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """From S_t q_t to the head's output: divide by its root mean square."""
        return rms_norm(y, self.norm, self.eps)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], DeltaNetState]:
        S, conv_state = (None, None) if state is None else state
        inputs, conv_state = self._inputs(x, conv_state)
        y, S = self.in_form(**inputs, state=S)
        y = rearrange(self.read(y), "b t h v -> b t (h v)")
        if self.gate is not None:
            y = y * F.silu(self.gate(x))
        return self.out(y), DeltaNetState(S, conv_state)
