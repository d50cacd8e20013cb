import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import recurrence
from seqlab.core.discretize import draw_dt, softplus_inverse
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.norm import rms_norm
from seqlab.layers.short_conv import ShortConv


class Mamba2State(NamedTuple):
    S: Float[Tensor, "B H V K"]
    conv: Float[Tensor, "B past E"]


class Mamba2(Mixer):
    """Mamba-2, the state-space dual (Dao & Gu 2024, arXiv:2405.21060).

    [z | x | B | C | w] = W u_t of the layer's input u; then [x | B | C] ← silu(conv([x | B | C])), a short convolution
    S_t = exp(Δ_t A) S_{t-1} + (Δ_t x_t) B_tᵀ        y_t = S_t C_t + D x_t        Δ_t = softplus(w_t + b) > 0

    The difference from Mamba: A is one negative number per head, not one per channel and state, so
    this is linear attention (q = C, k = B, v = Δ x) with a scalar gate a_t = exp(Δ_t A) that the
    input opens and closes, and chunks of it are matrix products. C is not scaled by K^-1/2. B and C
    are shared within each of `n_groups` groups of heads. Output: W_o norm(y silu(z)), gate before
    norm, a norm per group.

    K = d_state, V = d_head (default: expand · d_model / n_heads). dt_limit clips Δ in every form.
    State: S (B, H, V, K) and the convolution's last inputs. -A starts in U(1, 16), Δ log-uniform in
    [0.001, 0.1], as in the authors' code.
    """

    FORMS = recurrence.FORMS

    def __init__(
        self, d_model, n_heads=4, *, d_head=None, expand=2, d_state=128, n_groups=1, d_conv=4, bias=False,
        conv_bias=True, activation=F.silu, dt_limit=(0.0, math.inf), eps=1e-5, form="chunkwise", chunk_size=64,
    ):  # fmt: skip
        super().__init__(d_model, form, chunk_size)
        d_head = head_width(int(expand * d_model), n_heads, d_head, name="expand · d_model")
        if n_heads % n_groups:
            raise ValueError(
                f"n_heads is {n_heads}, n_groups is {n_groups}: each group needs the same number of heads"
            )
        self.n_heads, self.n_groups, self.dt_limit, self.eps = n_heads, n_groups, dt_limit, eps
        self.widths = d_inner, d_keys = n_heads * d_head, n_groups * d_state
        self.in_proj = nn.Linear(
            d_model, 2 * d_inner + 2 * d_keys + n_heads, bias=bias
        )  # [z | x | B | C | w]
        self.conv = ShortConv(d_inner + 2 * d_keys, d_conv, bias=conv_bias, activation=activation)
        self.A_log = nn.Parameter(torch.empty(n_heads).uniform_(1, 16).log())
        self.dt_bias = nn.Parameter(softplus_inverse(draw_dt(n_heads)).float())
        self.D = nn.Parameter(torch.ones(n_heads))
        self.norm = nn.Parameter(torch.ones(d_inner))
        self.out = nn.Linear(d_inner, d_model, bias=bias)

    def _split(self, x, conv_state):
        """What the recurrence reads; and beside it x (B, T, H, V), the gate z and the convolution's
        state.
        """
        d_inner, d_keys = self.widths
        gate, xBC, dt = self.in_proj(x).split([d_inner, d_inner + 2 * d_keys, self.n_heads], dim=-1)
        xBC, conv_state = self.conv(xBC, conv_state)
        x, k, q = xBC.split([d_inner, d_keys, d_keys], dim=-1)
        x = rearrange(x, "b t (h v) -> b t h v", h=self.n_heads)
        heads = self.n_heads // self.n_groups
        k, q = (repeat(u, "b t (g k) -> b t (g h) k", g=self.n_groups, h=heads) for u in (k, q))
        wide = torch.promote_types(x.dtype, torch.float32)  # the decays, even of a bfloat16 model
        dt = F.softplus(dt.to(wide) + self.dt_bias.to(wide)).clamp(*self.dt_limit)[
            ..., None
        ]  # (B, T, H, 1)
        log_a = -dt * self.A_log.to(wide).exp()[:, None]
        return {"q": q, "k": k, "v": (dt * x).to(x.dtype), "log_a": log_a}, x, gate, conv_state

    def project(
        self, x: Float[Tensor, "B T D"], state: Mamba2State | None = None
    ) -> dict[str, Tensor]:
        """What the recurrence reads: q = C, k = B, v = Δ x and log_a = Δ A."""
        return self._split(x, None if state is None else state.conv)[0]

    def read(self, y: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """S_t C_t as it is: the skip, the gate and the norm come after, from the token itself."""
        return y

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], Mamba2State]:
        S, conv_state = (None, None) if state is None else state
        inputs, x, gate, conv_state = self._split(x, conv_state)
        y, S = self.in_form(**inputs, state=S)
        y = rearrange(self.read(y) + self.D[:, None] * x, "b t h v -> b t (h v)") * F.silu(gate)
        y = rms_norm(rearrange(y, "b t (g e) -> b t g e", g=self.n_groups), eps=self.eps)
        return self.out(self.norm * rearrange(y, "b t g e -> b t (g e)")), Mamba2State(
            S, conv_state
        )
