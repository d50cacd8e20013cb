import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import recurrence
from seqlab.core.discretize import draw_dt, softplus_inverse
from seqlab.core.inputs import full_precision, wide
from seqlab.core.scan import linear_scan
from seqlab.layers.base import Mixer
from seqlab.layers.norm import RMSNorm, rms_norm
from seqlab.layers.short_conv import ShortConv


class MambaState(NamedTuple):
    S: Float[Tensor, "B E 1 N"]
    conv: Float[Tensor, "B past E"]


@full_precision
def selective_scan(x, dt, A, B, C, *, state=None, chunk_size=128):
    """h_t = exp(Δ_t A) * h_{t-1} + Δ_t x_t B_t and y_t = C_t·h_t, one h (N numbers) per channel.

    x and dt (B, T, E), A (E, N), B and C (B, T, N), state (B, E, 1, N). Returns y (B, T, E) and the
    last state. A parallel scan, chunk by chunk: all h_t at once would not fit in the cache.
    """
    h = x.new_zeros(x.shape[0], *A.shape, dtype=dt.dtype) if state is None else state[:, :, 0]
    inputs = dt * x, dt, B.to(dt), C.to(dt)
    ys = []
    for dtx, dt, B, C in zip(*(u.split(chunk_size, dim=1) for u in inputs), strict=True):
        decays = (dt[..., None] * A).exp()
        hs = linear_scan(decays, dtx[..., None] * B[:, :, None], h)  # (B, C, E, N)
        h = hs[:, -1]
        ys.append(hs @ C[..., None])
    return torch.cat(ys, dim=1).to(x.dtype), h[:, :, None]


class Mamba(Mixer):
    """Mamba, the selective state space S6 (Gu & Dao 2023, arXiv:2312.00752).

    [x | z] = W u_t of the layer's input u;  x ← silu(conv(x)), a short convolution
    h_t = exp(Δ_t A) * h_{t-1} + (Δ_t x_t) B_t        one h (N numbers) per channel of x
    y_t = C_t·h_t + D x_t        Δ_t = softplus(W_Δ U_Δ x_t + b);  B_t and C_t linear in x_t

    The difference from S4D: Δ, B and C depend on the input, so each token opens (Δ large) or closes
    (Δ ≈ 0) the memory. So there is no fixed kernel to convolve with: the form is a scan. Output:
    W_o(y silu(z)). In the course's equation every channel is a head with V = 1, K = d_state, q = C,
    k = B, v = Δ x and a gate per key channel, log a = Δ A. A is discretised by zero-order hold, B
    by Euler: Δ B in place of A⁻¹(exp(Δ A) - 1) B, as in the authors' code.

    A starts at -1 .. -N in every channel, Δ's bias at a step log-uniform in [0.001, 0.1], W_Δ
    uniform within ±dt_rank^-1/2, D at 1, as in the authors' code; the convolution's bias starts at
    0 (in their code uniform, PyTorch's default). dt_rank is ⌈d_model / 16⌉ by default.
    norm_eps: RMS norms on Δ, B and C, without weights (Falcon Mamba) or with (`norm_weight`,
    Jamba). State: S (B, E, 1, N) for E = d_inner channels, and the convolution's last inputs. form:
    "scan", the name of a form of `seqlab.core.recurrence`, or any function with the signature of
    `selective_scan` (a kernel); the scan works through chunk_size tokens at a time.
    """

    FORMS = recurrence.FORMS | {"scan": selective_scan}

    def __init__(
        self,
        d_model: int,
        *,
        d_inner: int | None = None,
        expand: int = 2,
        d_state: int = 16,
        d_conv: int = 4,
        dt_rank: int | None = None,
        bias: bool = False,
        conv_bias: bool = True,
        activation: Callable = F.silu,
        norm_eps: float | None = None,
        norm_weight: bool = False,
        form: str | Callable = "scan",
        chunk_size: int = 128,
    ):
        super().__init__(d_model, form, chunk_size)
        d_inner = d_inner or expand * d_model
        dt_rank = dt_rank or math.ceil(d_model / 16)
        self.widths = (dt_rank, d_state, d_state)
        self.activation = activation
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=bias)  # [x | z]
        self.conv = ShortConv(d_inner, d_conv, bias=conv_bias, activation=activation)
        self.x_proj = nn.Linear(d_inner, sum(self.widths), bias=False)  # [Δ | B | C]
        self.dt_proj = nn.Linear(dt_rank, d_inner)
        nn.init.uniform_(self.dt_proj.weight, -(dt_rank**-0.5), dt_rank**-0.5)
        self.dt_proj.bias.data = softplus_inverse(draw_dt(d_inner)).float()
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        self.out = nn.Linear(d_inner, d_model, bias=bias)
        if norm_weight:
            self.norms = nn.ModuleList(RMSNorm(n, norm_eps or 1e-6) for n in self.widths)
        else:
            norm = nn.Identity() if norm_eps is None else partial(rms_norm, eps=norm_eps)
            self.norms = [norm, norm, norm]

    def _select(self, x):
        """Δ, A, B and C, from x after its convolution. Δ and A are in float32 at least."""
        parts = self.x_proj(x).split(self.widths, dim=-1)
        dt, B, C = (norm(part) for norm, part in zip(self.norms, parts, strict=True))
        dt = F.softplus(wide(F.linear(dt, self.dt_proj.weight)) + wide(self.dt_proj.bias))
        return dt, -wide(self.A_log).exp(), B, C

    def _recurrence(self, x, dt, A, B, C):
        """The same as the course's equation: a head per channel, all with the same q and k."""
        q, k = (repeat(u, "b t n -> b t e n", e=x.shape[-1]) for u in (C, B))
        return {"q": q, "k": k, "v": (dt * x).to(x.dtype)[..., None], "log_a": dt[..., None] * A}

    def project(
        self, x: Float[Tensor, "B T D"], state: MambaState | None = None
    ) -> dict[str, Tensor]:
        """The recurrence's inputs: q = C, k = B, v = Δ x and log_a = Δ A."""
        x, _ = self.in_proj(x).chunk(2, dim=-1)
        x, _ = self.conv(x, None if state is None else state.conv)
        return self._recurrence(x, *self._select(x))

    def read(self, y: Float[Tensor, "B T E 1"]) -> Float[Tensor, "B T E 1"]:
        """C_t·h_t unchanged: the skip and the gate come after, from the token itself."""
        return y

    def forward(
        self, x: Float[Tensor, "B T D"], state: MambaState | None = None
    ) -> tuple[Float[Tensor, "B T D"], MambaState]:
        S, past = (None, None) if state is None else state
        x, z = self.in_proj(x).chunk(2, dim=-1)
        x, past = self.conv(x, past)
        if self.form in recurrence.FORMS:
            y, S = self.in_form(**self._recurrence(x, *self._select(x)), state=S)
        else:
            y, S = self.in_form(x, *self._select(x), state=S, chunk_size=self.chunk_size)
        y = (rearrange(self.read(y), "b t e 1 -> b t e") + self.D * x).to(x.dtype)
        return self.out(y * self.activation(z)), MambaState(S, past)
