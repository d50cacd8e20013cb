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


class Mamba3State(NamedTuple):
    S: Float[Tensor, "B H V K"]
    angle: Float[Tensor, "B H A"]
    k: Float[Tensor, "B R H K"]
    v: Float[Tensor, "B R H V"]


class Mamba3(Mixer):
    """Mamba-3: trapezoidal steps, a state that turns, several inputs (Lahoti et al. 2026,
    arXiv:2603.15569).

    S_t = a_t S_{t-1} + (1 - λ_t) Δ_t a_t v_{t-1} k_{t-1}ᵀ + λ_t Δ_t v_t k_tᵀ
    y_t = S_t q_t + D v_t    a_t = exp(-Δ_t h(A_t)), h(u) = 1 + u above 0, 1 / (1 - u) below
    k_t = R(φ_t) (norm(B_t) + b)    q_t = R(φ_t) (norm(C_t) + c)    φ_t = φ_{t-1} + π Δ_t tanh(ω_t)

    The differences from Mamba-2: an integral over a step takes both of its ends, weighted by λ_t =
    σ(·), so each token also writes its neighbour; A_t is chosen by the token, too; the state turns
    by an angle that the token chooses (R turns pairs of key channels, in `rope_fraction` of them);
    B and C are normed and have a bias per head, and the short convolution is gone. With `rank` R
    above 1 (MIMO), each token has R keys, queries and values, v_r = x ⊙ m_r: the state is as
    large, but R writes share its traffic. Output: W_o Σ_r o_r ⊙ y_r ⊙ silu(z ⊙ n_r).

    For the core each token is 2 R writes, of which only the first decays; chunk_size counts those.
    Angles turn neighbouring channels, at any rank (the authors' MIMO kernels pair halves). State:
    S, the angles φ, the last k and v. Starts are the authors': 1 for b, c, D and n, 1/R for m and
    o, Δ's bias as in Mamba-2. Their optional norm before W_o is left out, as by default in theirs.
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
        rank: int = 1,
        rope_fraction: float = 0.5,
        rate_floor: float = 1e-4,
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
        self.n_heads, self.n_groups, self.rank = n_heads, n_groups, rank
        self.rate_floor, self.eps = rate_floor, eps
        self.n_angles = int(d_state * rope_fraction) // 2
        d_inner, d_keys = n_heads * d_head, rank * n_groups * d_state
        # [z | x | B | C | Δ | A | λ | ω]
        self.widths = [d_inner] * 2 + [d_keys] * 2 + [n_heads] * 3 + [self.n_angles]
        self.in_proj = nn.Linear(d_model, sum(self.widths), bias=False)
        self.dt_bias = nn.Parameter(softplus_inverse(draw_dt(n_heads)).float())
        self.B_norm = nn.Parameter(torch.ones(d_state))
        self.C_norm = nn.Parameter(torch.ones(d_state))
        self.B_bias = nn.Parameter(torch.ones(n_heads, rank, d_state))
        self.C_bias = nn.Parameter(torch.ones(n_heads, rank, d_state))
        self.D = nn.Parameter(torch.ones(n_heads))
        if rank > 1:
            self.rank_x = nn.Parameter(torch.full((n_heads, rank, d_head), 1 / rank))
            self.rank_z = nn.Parameter(torch.ones(n_heads, rank, d_head))
            self.rank_out = nn.Parameter(torch.full((n_heads, rank, d_head), 1 / rank))
        self.out = nn.Linear(d_inner, d_model, bias=False)

    def forward(
        self, x: Float[Tensor, "B T D"], state: Mamba3State | None = None
    ) -> tuple[Float[Tensor, "B T D"], Mamba3State]:
        z, x, B, C, w, rate, trap, omega = self.in_proj(x).split(self.widths, dim=-1)
        dt = F.softplus(wide(w) + wide(self.dt_bias))  # (B, T, H)
        log_a = -dt * _heavy_tail(wide(rate)).clamp(min=self.rate_floor)
        turn = math.pi * dt[..., None] * wide(omega).tanh()[:, :, None]
        angle = turn.cumsum(1) if state is None else state.angle[:, None] + turn.cumsum(1)
        k = _turned(self._keys(B, self.B_norm, self.B_bias), angle).to(x.dtype)
        q = _turned(self._keys(C, self.C_norm, self.C_bias), angle).to(x.dtype)
        v = self._ranks(x, "rank_x")  # (B, T, R, H, V)
        y, S = self._recur(q, k, v, dt, torch.sigmoid(wide(trap)), log_a, state)
        y = (y + self.D[:, None] * v) * F.silu(self._ranks(z, "rank_z"))
        if self.rank > 1:
            y = y * rearrange(self.rank_out, "h r v -> r h v")
        y = rearrange(y.sum(2), "b t h v -> b t (h v)").to(x.dtype)
        last = angle[:, -1].remainder(2 * math.pi)
        return self.out(y), Mamba3State(S, last, k[:, -1], v[:, -1])

    def _recur(self, q, k, v, dt, mix, log_a, state):
        """S_t q_t for each of R queries (B, T, R, H, V), and the last S."""
        R = self.rank
        before = _before(k, None if state is None else state.k)
        both = torch.cat([before, k], dim=2)  # (B, T, 2R, H, K)
        a = log_a.exp()
        earlier = _before(v, None if state is None else state.v)
        earlier = ((1 - mix) * dt * a)[:, :, None, :, None] * earlier
        now = (mix * dt)[:, :, None, :, None] * v
        still = torch.zeros_like(log_a)[:, :, None].expand(-1, -1, 2 * R - 1, -1)
        inputs = {
            "q": torch.cat([torch.zeros_like(q), q], dim=2),
            "k": both,
            "v": torch.cat([earlier, now], dim=2).to(v.dtype),
            "log_a": torch.cat([log_a[:, :, None], still], dim=2)[..., None],
        }
        flat = {name: rearrange(u, "b t r h k -> b (t r) h k") for name, u in inputs.items()}
        y, S = self.in_form(**flat, state=None if state is None else state.S)
        y = rearrange(y, "b (t r) h v -> b t r h v", r=2 * R)[:, :, R:]
        # The read of query r came before the writes of ranks above r.
        scores = torch.einsum("btrhk, btshk -> bthrs", q, k).triu(1)
        return y + torch.einsum("bthrs, btshv -> btrhv", scores, now.to(v.dtype)), S

    def _keys(self, u, weight, bias):
        """B or C: normed, copied from its group to each of the group's heads, and biased."""
        u = rearrange(u, "b t (r g k) -> b t r g k", r=self.rank, g=self.n_groups)
        u = weight * rms_norm(u, eps=self.eps)
        u = repeat(u, "b t r g k -> b t r (g h) k", h=self.n_heads // self.n_groups)
        return wide(u + rearrange(bias, "h r k -> r h k"))

    def _ranks(self, u, name):
        """x or z in heads, once for each rank, scaled by that rank's own factors."""
        u = rearrange(u, "b t (h v) -> b t 1 h v", h=self.n_heads)
        return u * rearrange(getattr(self, name), "h r v -> r h v") if self.rank > 1 else u


def _heavy_tail(u: Tensor) -> Tensor:
    """1 + u above 0, 1 / (1 - u) below: positive, and it falls slowly."""
    return u.clamp(min=0) + 1 / (1 - u.clamp(max=0))


def _turned(k: Float[Tensor, "B T R H K"], angle: Float[Tensor, "B T H A"]) -> Tensor:
    """The first A pairs of channels of k, turned by their angles."""
    turning, rest = k.split([2 * angle.shape[-1], k.shape[-1] - 2 * angle.shape[-1]], dim=-1)
    a, b = turning.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angle.cos()[:, :, None], angle.sin()[:, :, None]
    turned = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)
    return torch.cat([turned, rest], dim=-1)


def _before(u: Tensor, first: Tensor | None) -> Tensor:
    """u one token late, with `first` or zeros in front."""
    first = torch.zeros_like(u[:, 0]) if first is None else first.to(u.dtype)
    return torch.cat([first[:, None], u[:, :-1]], dim=1)
