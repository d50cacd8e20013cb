from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import recurrence
from seqlab.core.inputs import wide
from seqlab.core.shift import read_before_write, token_shift
from seqlab.layers.base import Mixer, check_layer, head_width


class RWKV6State(NamedTuple):
    last: Float[Tensor, "B D"]
    S: Float[Tensor, "B H V K"]


class RWKV6(Mixer):
    """The time mix of RWKV-6 "Finch" (Peng et al. 2024, arXiv:2404.05892).

    y_t = (S_{t-1} + v_t (u k_t)ᵀ) q_t        S_t = S_{t-1} diag(a_t) + v_t k_tᵀ
    a_t = exp(-exp(d_t)),  d_t = decay + B tanh(A x^d_t)
    x^j_t = x_t + (x_{t-1} - x_t) (μ_j + m_j)        for j = d, k, v, q, gate

    The difference from RWKV-5: the input chooses the decay, and also how neighbours are mixed: m_j
    is a low-rank function of x_t + (x_{t-1} - x_t) μ_x. Here μ is the share of x_{t-1}. The
    difference from GLA: the read comes before this token's decay and write, the token itself counts
    through the bonus u, and the gate can fall to 0 double-exponentially. q is RWKV's r.

    `mix_rank` and `decay_rank` are the ranks of m and of d (32 and 64 in the paper's smaller
    models). Starts are those of the authors' code, from `layer` of `n_layers`: A and its like for m
    are 0, so at first neither decay nor mix depends on the input. Except W_o, which starts as
    nn.Linear does: the authors' 0 would make every output of a new mixer 0. A stack:
    [partial(RWKV6, layer=l, n_layers=L) for l in range(L)]. State: the last input and S.
    """

    FORMS = recurrence.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        mix_rank: int = 32,
        decay_rank: int = 64,
        layer: int = 0,
        n_layers: int = 1,
        form: str | Callable = "chunkwise",
        chunk_size: int = 16,
    ):
        super().__init__(d_model, form, chunk_size)
        head_width(d_model, n_heads)
        check_layer(layer, n_layers)
        self.n_heads = n_heads
        decay, bonus, mu, mu_x = starts(d_model, layer, n_layers)
        self.decay = nn.Parameter(decay)
        self.decay_down = nn.Parameter(torch.zeros(d_model, decay_rank))
        self.decay_up = nn.Parameter(torch.empty(decay_rank, d_model).uniform_(-0.01, 0.01))
        self.bonus = nn.Parameter(bonus.unflatten(0, (n_heads, -1)))
        self.mu = nn.Parameter(mu)  # of d, k, v, q and the gate
        self.mu_x = nn.Parameter(mu_x)
        self.mix_down = nn.Parameter(torch.zeros(d_model, 5 * mix_rank))
        self.mix_up = nn.Parameter(torch.empty(5, mix_rank, d_model).uniform_(-0.01, 0.01))
        maps = (nn.Linear(d_model, d_model, bias=False) for _ in range(5))
        self.q, self.k, self.v, self.gate, self.out = maps
        for W, gain in ((self.q, 1), (self.k, 0.1), (self.v, 1), (self.gate, 0.1)):
            nn.init.orthogonal_(W.weight, gain)
        self.norm = nn.GroupNorm(n_heads, d_model, eps=64e-5)
        nn.init.constant_(self.norm.weight, ((layer + 1) / n_layers) ** 0.7)

    def _mix(self, x, last):
        """x_t mixed with x_{t-1} five times: for d, k, v, q and the gate, each (B, T, D)."""
        dx = token_shift(x, last) - x
        low = torch.tanh((x + dx * self.mu_x) @ self.mix_down).unflatten(-1, (5, -1))
        m = torch.einsum("btjr, jrd -> jbtd", low, self.mix_up)
        return (x + dx * (self.mu[:, None, None] + m)).unbind()

    def _inputs(self, x_d, x_k, x_v, x_q):
        d = wide(self.decay) + wide(torch.tanh(x_d @ self.decay_down) @ self.decay_up)
        parts = self.q(x_q), self.k(x_k), self.v(x_v), -d.exp()
        q, k, v, log_a = (rearrange(u, "b t (h k) -> b t h k", h=self.n_heads) for u in parts)
        return {"q": q, "k": k, "v": v, "log_a": log_a, "bonus": self.bonus}

    def project(
        self, x: Float[Tensor, "B T D"], state: RWKV6State | None = None
    ) -> dict[str, Tensor]:
        """What `read_before_write` takes: q, k, v, log a of each key channel, and the bonus."""
        x_d, x_k, x_v, x_q, _ = self._mix(x, None if state is None else state.last)
        return self._inputs(x_d, x_k, x_v, x_q)

    def read(self, y: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """From what S returns to the head's output: a norm with mean and variance per head."""
        return self.norm(rearrange(y, "b t h v -> (b t) (h v)")).view_as(y)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], RWKV6State]:
        last, S = (None, None) if state is None else state
        x_d, x_k, x_v, x_q, x_gate = self._mix(x, last)
        y, S = read_before_write(self.in_form, **self._inputs(x_d, x_k, x_v, x_q), state=S)
        y = rearrange(self.read(y), "b t h v -> b t (h v)") * F.silu(self.gate(x_gate))
        return self.out(y), RWKV6State(x[:, -1], S)


def starts(d_model: int, layer: int, n_layers: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """decay (D), bonus (D), μ of d, k, v, q and the gate (5, D), and μ_x (D)."""
    depth = layer / max(n_layers - 1, 1)  # 0 in the first layer, 1 in the last
    left = 1 - layer / n_layers  # 1 in the first layer, near 0 in the last
    channel = torch.arange(d_model)
    fraction = channel / max(d_model - 1, 1)
    decay = -6 + 5 * fraction ** (0.7 + 1.3 * depth)
    bonus = depth * (1 - fraction) + 0.1 * ((channel + 1) % 3 - 1)
    ramp = channel / d_model
    mu_x = mu_d = mu_k = 1 - ramp**left
    mu_v = 1 - ramp**left - 0.3 * depth
    mu_q = mu_gate = 1 - ramp ** (left / 2)
    return decay, bonus, torch.stack([mu_d, mu_k, mu_v, mu_q, mu_gate]), mu_x
