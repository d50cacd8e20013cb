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


class DeltaProductState(NamedTuple):
    S: Float[Tensor, "B H V K"]
    conv: Float[Tensor, "B past E"]


class DeltaProduct(Mixer):
    """DeltaProduct (Siems et al. 2025, arXiv:2502.10297).

    S_{t,0} = a_t S_{t-1}        S_{t,j} = S_{t,j-1} + β_{t,j} (v_{t,j} - S_{t,j-1} k_{t,j}) k_{t,j}ᵀ,  j = 1 .. n
    y_t = S_{t,n} q_t

    The difference from DeltaNet: `n_steps` writes per token, each with its own key, value and
    strength, and one read after the last. So a token turns the table S by a product of n
    reflections, and a rotation in a plane is a product of two: β is 2 σ(W_β x), up to 2, by
    default. `forget` adds Gated DeltaNet's decay a_t, once per token, before its first write;
    without it a_t = 1. To the recurrence, a token is n short steps: q is 0 at all but the last of
    them.

    Defaults as in fla's layer, but for `forget`: n_steps = 2, K = ¾ d_model / n_heads, V = 2 K,
    W_o(norm(y) silu(W_g x)). State: S (B, H, V, K) and the convolution's last inputs; n_steps does
    not enlarge S. The rest is as in Gated DeltaNet.
    """

    FORMS = recurrence.FORMS

    def __init__(
        self, d_model, n_heads=4, *, n_steps=2, forget=False, d_key=None, d_value=None, d_conv=4, gate=True,
        negative_eigenvalues=True, conv_bias=False, eps=1e-5, form="chunkwise", chunk_size=64,
    ):  # fmt: skip
        super().__init__(d_model, form, chunk_size)
        if n_steps < 1:
            raise ValueError(f"n_steps is {n_steps}: each token needs at least 1 write")
        d_key = head_width(3 * d_model, n_heads, d_key, parts=4, name="3 d_model")
        d_value = d_value or 2 * d_key
        self.n_heads = n_heads
        self.n_steps = n_steps
        self.eps = eps
        self.beta_scale = 2 if negative_eigenvalues else 1
        self.widths = [n_heads * d_key, n_steps * n_heads * d_key, n_steps * n_heads * d_value]
        self.qkv = nn.Linear(d_model, sum(self.widths), bias=False)
        self.conv = ShortConv(sum(self.widths), d_conv, bias=conv_bias)
        self.beta = nn.Linear(d_model, n_steps * n_heads, bias=False)
        self.decay = nn.Linear(d_model, n_heads, bias=False) if forget else None
        if forget:
            self.dt_bias = nn.Parameter(softplus_inverse(draw_dt(n_heads)).float())
            self.A_log = nn.Parameter(torch.empty(n_heads).uniform_(0.01, 16).log())
        self.gate = nn.Linear(d_model, n_heads * d_value, bias=False) if gate else None
        self.norm = nn.Parameter(torch.ones(d_value))
        self.out = nn.Linear(n_heads * d_value, d_model, bias=False)

    def micro_steps(
        self, x: Float[Tensor, "B T D"], conv_state=None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """What the recurrence reads, n_steps short steps a token (B, T n, H, ·), and the
        convolution's new state.
        """
        n, H = self.n_steps, self.n_heads
        qkv, conv_state = self.conv(self.qkv(x), conv_state)
        q, k, v = qkv.split(self.widths, dim=-1)
        k, v = (rearrange(u, "b t (n h k) -> b (t n) h k", n=n, h=H) for u in (k, v))
        beta = rearrange(self.beta_scale * self.beta(x).sigmoid(), "b t (n h) -> b (t n) h", n=n)
        q = l2norm(rearrange(q, "b t (h k) -> b t 1 h k", h=H)) * k.shape[-1] ** -0.5
        q = F.pad(q, (0, 0, 0, 0, n - 1, 0)).flatten(1, 2)  # read after the last step
        inputs = {"q": q, "k": l2norm(k), "v": v, "beta": beta}
        if self.decay is not None:
            log_a = rearrange(self._log_decay(x), "b t h -> b t 1 h 1")
            inputs["log_a"] = F.pad(log_a, (0, 0, 0, 0, 0, n - 1)).flatten(
                1, 2
            )  # fade before the first
        return inputs, conv_state

    def _log_decay(self, x):
        wide = torch.promote_types(x.dtype, torch.float32)
        return -self.A_log.to(wide).exp() * F.softplus(
            self.decay(x).to(wide) + self.dt_bias.to(wide)
        )

    def read(self, y: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """From S_t q_t to the head's output: its root mean square is divided out."""
        return rms_norm(y, self.norm, self.eps)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], DeltaProductState]:
        S, conv_state = (None, None) if state is None else state
        inputs, conv_state = self.micro_steps(x, conv_state)
        y, S = self.in_form(**inputs, state=S)
        y = rearrange(self.read(y[:, self.n_steps - 1 :: self.n_steps]), "b t h v -> b t (h v)")
        return self.out(y if self.gate is None else y * F.silu(self.gate(x))), DeltaProductState(
            S, conv_state
        )
