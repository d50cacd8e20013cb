import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import recurrence
from seqlab.core.discretize import draw_dt, softplus_inverse
from seqlab.core.inputs import wide
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.norm import rms_norm
from seqlab.layers.short_conv import ShortConv


class Mamba2State(NamedTuple):
    S: Float[Tensor, "B H V K"]
    conv: Float[Tensor, "B past E"]


class Mamba2(Mixer):
    """Mamba-2, the state-space dual (Dao & Gu 2024, arXiv:2405.21060).

    [z | x | B | C | w] = W u_t of the layer's input u;  [x | B | C] ← silu(conv([x | B | C]))
    S_t = exp(Δ_t A) S_{t-1} + (Δ_t x_t) B_tᵀ        y_t = S_t C_t + D x_t
    Δ_t = softplus(w_t + b) > 0        A < 0 and D: one number per head

    The difference from Mamba: A is one number per head, not one per channel and state. So this is
    linear attention (q = C, k = B, v = Δ x) with a scalar gate a_t = exp(Δ_t A) that the input
    opens and closes, and chunks of it are matrix products. The short convolution and its silu cover
    q, k and v. C is not scaled by K^-1/2. Each of `n_groups` groups of heads shares one B and one
    C. Output: W_o norm(y silu(z)): the gate, then the norm, one norm per group.

    K = d_state, V = d_head (default: expand · d_model / n_heads). dt_limit clips Δ in every form.
    State: S (B, H, V, K) and the convolution's last inputs. -A starts in U(1, 16), Δ's bias at a
    step log-uniform in [0.001, 0.1], D at 1, as in the authors' code; the convolution's bias starts
    at 0 (in their code uniform, PyTorch's default).
    """

    FORMS = recurrence.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        d_head: int | None = None,
        expand: float = 2,
        d_state: int = 128,
        n_groups: int = 1,
        d_conv: int = 4,
        bias: bool = False,
        conv_bias: bool = True,
        activation: Callable = F.silu,
        dt_limit: tuple[float, float] = (0.0, math.inf),
        eps: float = 1e-5,
        form: str | Callable = "chunkwise",
        chunk_size: int = 64,
    ):
        super().__init__(d_model, form, chunk_size)
        d_head = head_width(int(expand * d_model), n_heads, d_head, name="expand · d_model")
        if n_heads % n_groups:
            raise ValueError(
                f"n_heads is {n_heads}, n_groups is {n_groups}: "
                "each group needs the same number of heads"
            )
        self.n_heads = n_heads
        self.n_groups = n_groups
        self.dt_limit = dt_limit
        self.eps = eps
        d_inner = n_heads * d_head
        d_keys = n_groups * d_state
        self.widths = d_inner, d_keys
        d_conved = d_inner + 2 * d_keys  # [x | B | C]
        self.in_proj = nn.Linear(d_model, d_inner + d_conved + n_heads, bias=bias)
        self.conv = ShortConv(d_conved, d_conv, bias=conv_bias, activation=activation)
        self.A_log = nn.Parameter(torch.empty(n_heads).uniform_(1, 16).log())
        self.dt_bias = nn.Parameter(softplus_inverse(draw_dt(n_heads)).float())
        self.D = nn.Parameter(torch.ones(n_heads))
        self.norm = nn.Parameter(torch.ones(d_inner))
        self.out = nn.Linear(d_inner, d_model, bias=bias)

    def _split(self, u, past):
        """The recurrence's inputs; then x in heads, the gate z and the convolution's new state."""
        d_inner, d_keys = self.widths
        z, xBC, w = self.in_proj(u).split([d_inner, d_inner + 2 * d_keys, self.n_heads], dim=-1)
        xBC, past = self.conv(xBC, past)
        x, B, C = xBC.split([d_inner, d_keys, d_keys], dim=-1)
        x = rearrange(x, "b t (h v) -> b t h v", h=self.n_heads)
        dt = F.softplus(wide(w) + wide(self.dt_bias)).clamp(*self.dt_limit)[..., None]
        inputs = {
            "q": self._per_head(C),
            "k": self._per_head(B),
            "v": (dt * x).to(x.dtype),
            "log_a": -dt * wide(self.A_log).exp()[:, None],  # (B, T, H, 1)
        }
        return inputs, x, z, past

    def _per_head(self, u):
        """B or C, copied from its group to each of the group's heads."""
        heads = self.n_heads // self.n_groups
        return repeat(u, "b t (g k) -> b t (g h) k", g=self.n_groups, h=heads)

    def project(
        self, x: Float[Tensor, "B T D"], state: Mamba2State | None = None
    ) -> dict[str, Tensor]:
        """The recurrence's inputs: q = C, k = B, v = Δ x and log_a = Δ A."""
        inputs, *_ = self._split(x, None if state is None else state.conv)
        return inputs

    def read(self, y: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """S_t C_t unchanged: the skip, the gate and the norm come after, from the token itself."""
        return y

    def forward(
        self, x: Float[Tensor, "B T D"], state: Mamba2State | None = None
    ) -> tuple[Float[Tensor, "B T D"], Mamba2State]:
        S, past = (None, None) if state is None else state
        inputs, x, z, past = self._split(x, past)
        y, S = self.in_form(**inputs, state=S)
        y = (self.read(y) + self.D[:, None] * x).to(x.dtype)
        y = rearrange(y, "b t h v -> b t (h v)") * F.silu(z)
        y = rms_norm(rearrange(y, "b t (g e) -> b t g e", g=self.n_groups), eps=self.eps)
        y = (self.norm * rearrange(y, "b t g e -> b t (g e)")).to(x.dtype)
        return self.out(y), Mamba2State(S, past)
