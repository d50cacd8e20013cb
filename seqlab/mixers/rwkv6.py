from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import recurrence
from seqlab.core.shift import read_before_write, token_shift
from seqlab.layers.base import Mixer, check_layer, head_width


class RWKV6State(NamedTuple):
    last: Float[Tensor, "B D"]
    S: Float[Tensor, "B H V K"]


class RWKV6(Mixer):
    """RWKV-6 "Finch", its time mix (Peng et al. 2024, arXiv:2404.05892).

    y_t = (S_{t-1} + v_t (u k_t)ᵀ) q_t        S_t = S_{t-1} diag(a_t) + v_t k_tᵀ        a_t = exp(-exp(d_t))

    The difference from RWKV-5: the decay is chosen by the input, d_t = decay + B tanh(A x^w_t), and
    so is the mixing of neighbours: x^j_t = x_t + (x_{t-1} - x_t)(μ_j + m_j), m_j a low-rank
    function of x_t + (x_{t-1} - x_t) μ_x, for j = w, k, v, q, gate. Here μ is the share of x_{t-1}.
    The difference from GLA: the read comes before this token's decay and write, the token itself is
    weighted by the bonus u, and the gate may fall to 0 double-exponentially.

    q is RWKV's r. State: the last input and S. `mix_rank` and `decay_rank` are the widths of the
    low-rank maps (32 and 64 in the paper's smaller models). Starts as in the authors' code, from
    `layer` of `n_layers`, except that W_o starts as nn.Linear does: their 0 would make every output
    of a new mixer 0. A stack: [partial(RWKV6, layer=l, n_layers=L) for l in range(L)].
    """

    FORMS = recurrence.FORMS

    def __init__(
        self,
        d_model,
        n_heads=4,
        *,
        mix_rank=32,
        decay_rank=64,
        layer=0,
        n_layers=1,
        form="chunkwise",
        chunk_size=16,
    ):
        super().__init__(d_model, form, chunk_size)
        head_width(d_model, n_heads)
        check_layer(layer, n_layers)
        self.n_heads = n_heads
        depth, left = layer / max(n_layers - 1, 1), 1 - layer / n_layers
        channel = torch.arange(d_model)
        fraction, ramp = channel / max(d_model - 1, 1), channel / d_model
        self.decay = nn.Parameter(-6 + 5 * fraction ** (0.7 + 1.3 * depth))
        self.decay_down = nn.Parameter(torch.zeros(d_model, decay_rank))
        self.decay_up = nn.Parameter(torch.empty(decay_rank, d_model).uniform_(-0.01, 0.01))
        bonus = depth * (1 - fraction) + 0.1 * ((channel + 1) % 3 - 1)
        self.bonus = nn.Parameter(bonus.unflatten(0, (n_heads, -1)))
        powers = [left, left, left, left / 2, left / 2]
        mu = 1 - torch.stack([ramp**p for p in powers])  # of w, k, v, q and the gate
        mu[2] -= 0.3 * depth
        self.mu, self.mu_x = nn.Parameter(mu), nn.Parameter(1 - ramp**left)
        self.mix_down = nn.Parameter(torch.zeros(d_model, 5 * mix_rank))
        self.mix_up = nn.Parameter(torch.empty(5, mix_rank, d_model).uniform_(-0.01, 0.01))
        self.q, self.k, self.v, self.gate, self.out = (
            nn.Linear(d_model, d_model, bias=False) for _ in range(5)
        )
        for W, gain in ((self.q, 1), (self.k, 0.1), (self.v, 1), (self.gate, 0.1)):
            nn.init.orthogonal_(W.weight, gain)
        self.norm = nn.GroupNorm(n_heads, d_model, eps=64e-5)
        nn.init.constant_(self.norm.weight, ((layer + 1) / n_layers) ** 0.7)

    def _mix(self, x, last):
        """x_t mixed with x_{t-1} five times: for the decay, k, v, q and the gate (5, B, T, D)."""
        dx = token_shift(x, last) - x
        m = torch.tanh((x + dx * self.mu_x) @ self.mix_down)
        m = torch.einsum("btjr, jrd -> jbtd", m.unflatten(-1, (5, -1)), self.mix_up)
        return x + dx * (self.mu[:, None, None] + m)

    def _inputs(self, x_w, x_k, x_v, x_q):
        wide = torch.promote_types(x_w.dtype, torch.float32)
        d = self.decay.to(wide) + (torch.tanh(x_w @ self.decay_down) @ self.decay_up).to(wide)
        parts = self.q(x_q), self.k(x_k), self.v(x_v), -d.exp()
        q, k, v, log_a = (rearrange(u, "b t (h k) -> b t h k", h=self.n_heads) for u in parts)
        return {"q": q, "k": k, "v": v, "log_a": log_a, "bonus": self.bonus}

    def project(
        self, x: Float[Tensor, "B T D"], state: RWKV6State | None = None
    ) -> dict[str, Tensor]:
        """What `read_before_write` takes: q, k, v, the log decay of each key channel, and the
        bonus.
        """
        return self._inputs(*self._mix(x, None if state is None else state.last)[:4])

    def read(self, y: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """From what S returns to the head's output: mean and spread of each head are divided
        out.
        """
        return self.norm(rearrange(y, "b t h v -> (b t) (h v)")).view_as(y)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], RWKV6State]:
        last, S = (None, None) if state is None else state
        *mixed, x_gate = self._mix(x, last)
        y, S = read_before_write(self.in_form, **self._inputs(*mixed), state=S)
        y = rearrange(self.read(y), "b t h v -> b t (h v)") * F.silu(self.gate(x_gate))
        return self.out(y), RWKV6State(x[:, -1], S)
