import math
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import recurrence
from seqlab.core.discretize import draw_dt, softplus_inverse
from seqlab.core.inputs import full_precision
from seqlab.core.scan import linear_scan
from seqlab.layers.base import Mixer
from seqlab.layers.norm import RMSNorm, rms_norm
from seqlab.layers.short_conv import ShortConv


class MambaState(NamedTuple):
    S: Float[Tensor, "B E 1 N"]
    conv: Float[Tensor, "B past E"]


class Mamba(Mixer):
    """Mamba, the selective state space S6 (Gu & Dao 2023, arXiv:2312.00752).

    [x | z] = W u_t of the layer's input u;  x ← silu(conv(x)), a short convolution;  Δ_t = softplus(W_Δ U_Δ x_t + b)
    h_t = exp(Δ_t A) * h_{t-1} + (Δ_t x_t) B_t        y_t = C_t·h_t + D x_t        one h (N numbers) per channel of x

    The difference from S4D: Δ, B and C are read off the input, so each token opens (Δ large) or
    closes (Δ ≈ 0) the memory, and no fixed kernel can be convolved: the form is a scan. Output:
    W_o(y silu(z)). In the course's equation every channel is a head with V = 1, K = d_state, q = C,
    k = B, v = Δ x and a gate per key channel, log a = Δ A. A is held (zero-order hold), B is not:
    Euler's Δ B in place of A⁻¹(exp(Δ A) - 1) B, as in the authors' code.

    A starts at -1 .. -N in every channel, Δ log-uniform in [0.001, 0.1]. norm_eps: RMS norms on Δ,
    B and C, without weights (Falcon Mamba) or with (`norm_weight`, Jamba). State: S (B, E, 1, N)
    for E = d_inner channels and the convolution's last inputs. form: "scan", a form of
    `seqlab.core.recurrence` by its name, or any function with the signature of `selective_scan` (a
    kernel); the scan works through chunk_size tokens at a time.
    """

    FORMS = recurrence.FORMS | {"scan": None}

    def __init__(
        self, d_model, *, d_inner=None, expand=2, d_state=16, d_conv=4, dt_rank=None, bias=False, conv_bias=True,
        activation=F.silu, norm_eps=None, norm_weight=False, form="scan", chunk_size=128,
    ):  # fmt: skip
        super().__init__(d_model, form, chunk_size)
        d_inner, dt_rank = d_inner or expand * d_model, dt_rank or math.ceil(d_model / 16)
        self.widths, self.form, self.chunk_size = (dt_rank, d_state, d_state), form, chunk_size
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
            self.norms = [
                nn.Identity() if norm_eps is None else partial(rms_norm, eps=norm_eps)
            ] * 3

    def _select(self, x):
        """Δ, A, B and C, from x after its convolution. Δ and A stay in float32 or wider."""
        parts = self.x_proj(x).split(self.widths, dim=-1)
        dt, B, C = (norm(part) for norm, part in zip(self.norms, parts, strict=True))
        wide = torch.promote_types(x.dtype, torch.float32)
        dt = F.softplus(F.linear(dt, self.dt_proj.weight).to(wide) + self.dt_proj.bias.to(wide))
        return dt, -self.A_log.to(wide).exp(), B, C

    def _recurrence(self, x, dt, A, B, C):
        """The same in the course's letters: a head per channel, all of them with the same q and
        k.
        """
        q, k = (repeat(u, "b t n -> b t e n", e=x.shape[-1]) for u in (C, B))
        return {"q": q, "k": k, "v": (dt * x).to(x.dtype)[..., None], "log_a": dt[..., None] * A}

    def project(
        self, x: Float[Tensor, "B T D"], state: MambaState | None = None
    ) -> dict[str, Tensor]:
        """What the recurrence reads: q = C, k = B, v = Δ x and log_a = Δ A."""
        x, _ = self.conv(self.in_proj(x).chunk(2, dim=-1)[0], None if state is None else state.conv)
        return self._recurrence(x, *self._select(x))

    def read(self, y: Float[Tensor, "B T E 1"]) -> Float[Tensor, "B T E 1"]:
        """C_t·h_t as it is: the skip and the gate come after, from the token itself."""
        return y

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], MambaState]:
        S, conv_state = (None, None) if state is None else state
        x, gate = self.in_proj(x).chunk(2, dim=-1)
        x, conv_state = self.conv(x, conv_state)
        if self.form == "scan" or callable(self.form):
            scan = selective_scan if self.form == "scan" else self.form
            y, S = scan(x, *self._select(x), state=S, chunk_size=self.chunk_size)
        else:
            y, S = self.in_form(**self._recurrence(x, *self._select(x)), state=S)
        y = rearrange(self.read(y), "b t e 1 -> b t e") + self.D * x
        return self.out(y * self.activation(gate)), MambaState(S, conv_state)


@full_precision
def selective_scan(x, dt, A, B, C, *, state=None, chunk_size=128):
    """Every h_t of every channel by a parallel scan, a chunk at a time: all of them at once would
    leave the cache.
    """
    h = x.new_zeros(x.shape[0], *A.shape, dtype=dt.dtype) if state is None else state[:, :, 0]
    ys, chunks = (
        [],
        zip(*(u.split(chunk_size, dim=1) for u in (dt * x, dt, B.to(dt), C.to(dt))), strict=True),
    )
    for v, step, k, q in chunks:
        hs = linear_scan(
            (step[..., None] * A).exp(), v[..., None] * k[:, :, None], h
        )  # (B, C, E, N)
        h = hs[:, -1]
        ys.append(hs @ q[..., None])
    return torch.cat(ys, dim=1).to(x.dtype), h[:, :, None]
