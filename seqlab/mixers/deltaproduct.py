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


class DeltaProductState(NamedTuple):
    S: Float[Tensor, "B H V K"]
    conv: Float[Tensor, "B past E"]


class DeltaProduct(Mixer):
    """DeltaProduct (Siems et al. 2025, arXiv:2502.10297).

    S_{t,0} = a_t S_{t-1}        y_t = S_{t,n} q_t
    S_{t,j} = S_{t,j-1} + β_{t,j} (v_{t,j} - S_{t,j-1} k_{t,j}) k_{t,j}ᵀ,  j = 1 .. n

    The difference from DeltaNet: `n_steps` writes per token, each with its own key, value and
    strength, and one read after the last write. So a token turns the table S by a product of n
    reflections, and a rotation in a plane is a product of two: by default β is 2 σ(W_β x), up to 2.
    `forget` adds Gated DeltaNet's decay a_t, once per token, before its first write; without it
    a_t = 1. To the recurrence, a token is n short steps, and q is 0 at all but the last.

    The defaults are those of fla's layer, except for `forget`: n_steps = 2,
    K = ¾ d_model / n_heads, V = 2 K, output W_o(norm(y) silu(W_g x)). Everything else is as in
    Gated DeltaNet, the start of the decay too.
    State: S (B, H, V, K), whatever n_steps is, and the convolution's last inputs.

    ValueError: n_steps is below 1.
    """

    FORMS = recurrence.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        n_steps: int = 2,
        forget: bool = False,
        d_key: int | None = None,
        d_value: int | None = None,
        d_conv: int = 4,
        gate: bool = True,
        negative_eigenvalues: bool = True,
        conv_bias: bool = False,
        eps: float = 1e-5,
        form: str | Callable = "chunkwise",
        chunk_size: int = 64,
    ):
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
        """What the recurrence reads, (B, T n, H, ·) for n short steps a token; the conv's state."""
        n, H = self.n_steps, self.n_heads
        qkv, conv_state = self.conv(self.qkv(x), conv_state)
        q, k, v = qkv.split(self.widths, dim=-1)
        q = rearrange(q, "b t (h k) -> b t h k", h=H)
        k, v = (rearrange(u, "b t (n h k) -> b (t n) h k", n=n, h=H) for u in (k, v))
        beta = self.beta_scale * self.beta(x).sigmoid()
        inputs = {
            # Read after the last write.
            "q": among_zeros(l2norm(q) * q.shape[-1] ** -0.5, before=n - 1),
            "k": l2norm(k),
            "v": v,
            "beta": rearrange(beta, "b t (n h) -> b (t n) h", n=n),
        }
        if self.decay is not None:
            dt = F.softplus(wide(self.decay(x)) + wide(self.dt_bias))
            log_a = -wide(self.A_log).exp() * dt
            # Fade before the first write.
            inputs["log_a"] = among_zeros(log_a[..., None], after=n - 1)
        return inputs, conv_state

    def read(self, y: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """From S_t q_t to the head's output: divide by its root mean square."""
        return rms_norm(y, self.norm, self.eps)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], DeltaProductState]:
        S, conv_state = (None, None) if state is None else state
        inputs, conv_state = self.micro_steps(x, conv_state)
        y, S = self.in_form(**inputs, state=S)
        y = y[:, self.n_steps - 1 :: self.n_steps]
        y = rearrange(self.read(y), "b t h v -> b t (h v)")
        if self.gate is not None:
            y = y * F.silu(self.gate(x))
        return self.out(y), DeltaProductState(S, conv_state)


def among_zeros(u: Float[Tensor, "B T H K"], before: int = 0, after: int = 0) -> Tensor:
    """Each token's u as one short step among zeros: (B, T (before + 1 + after), H, K)."""
    return F.pad(u[:, :, None], (0, 0, 0, 0, before, after)).flatten(1, 2)
