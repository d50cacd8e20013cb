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


class RWKV5State(NamedTuple):
    last: Float[Tensor, "B D"]
    S: Float[Tensor, "B H V K"]


class RWKV5(Mixer):
    """The time mix of RWKV-5 "Eagle" (Peng et al. 2024, arXiv:2404.05892).

    y_t = (S_{t-1} + v_t (u k_t)ᵀ) q_t        S_t = S_{t-1} diag(a) + v_t k_tᵀ
    a = exp(-exp(decay))

    The difference from RWKV-4: each head has a table S instead of two numbers per channel, and keys
    are used directly, not as exponents; so nothing overflows, and a norm of each head replaces the
    normaliser. The difference from RetNet: one constant decay per key channel, and a read before
    the write, in which the token itself counts through the bonus u. q (RWKV's r), k, v and the gate
    are linear in x_t mixed with x_{t-1}; `mu` is the share of x_t, as in the authors' code (the
    paper writes the share of x_{t-1}). Output: W_o(norm(y) silu(gate)). This is version 5.2, with a
    decay per channel.

    Decay, bonus, mixes and matrices start as in the authors' code, from `layer` of `n_layers`;
    except W_o, which starts as nn.Linear does: the authors' 0 would make every output of a new
    mixer 0. A stack: [partial(RWKV5, layer=l, n_layers=L) for l in range(L)]. State: the last input
    and S.
    """

    FORMS = recurrence.FORMS

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        layer: int = 0,
        n_layers: int = 1,
        form: str | Callable = "chunkwise",
        chunk_size: int = 16,
    ):
        super().__init__(d_model, form, chunk_size)
        head_width(d_model, n_heads)
        check_layer(layer, n_layers)
        self.n_heads = n_heads
        depth = layer / max(n_layers - 1, 1)  # 0 in the first layer, 1 in the last
        left = 1 - layer / n_layers  # 1 in the first layer, near 0 in the last
        channel = torch.arange(d_model)
        fraction = channel / max(d_model - 1, 1)
        decay = -6 + 5 * fraction ** (0.7 + 1.3 * depth)
        bonus = depth * (1 - fraction) + 0.1 * ((channel + 1) % 3 - 1)
        self.decay = nn.Parameter(decay.unflatten(0, (n_heads, -1)))
        self.bonus = nn.Parameter(bonus.unflatten(0, (n_heads, -1)))
        ramp = channel / d_model
        mu_q = mu_gate = ramp ** (left / 2)
        mu_k = ramp**left
        mu_v = ramp**left + 0.3 * depth
        self.mu = nn.Parameter(torch.stack([mu_q, mu_k, mu_v, mu_gate]))
        maps = (nn.Linear(d_model, d_model, bias=False) for _ in range(5))
        self.q, self.k, self.v, self.gate, self.out = maps
        for W, gain in ((self.q, 1), (self.k, 0.1), (self.v, 1), (self.gate, 0.1)):
            nn.init.orthogonal_(W.weight, gain)
        self.norm = nn.GroupNorm(n_heads, d_model, eps=64e-5)
        nn.init.constant_(self.norm.weight, ((layer + 1) / n_layers) ** 0.7)

    def _mix(self, x, last):
        """q, k, v and the gate, each from its own mix of x_t and x_{t-1}."""
        before = token_shift(x, last)
        maps = self.q, self.k, self.v, self.gate
        return [W(before + (x - before) * mu) for W, mu in zip(maps, self.mu, strict=True)]

    def _inputs(self, q, k, v):
        q, k, v = (rearrange(u, "b t (h k) -> b t h k", h=self.n_heads) for u in (q, k, v))
        log_a = (-wide(self.decay).exp()).expand(*q.shape)
        return {"q": q, "k": k, "v": v, "log_a": log_a, "bonus": self.bonus}

    def project(
        self, x: Float[Tensor, "B T D"], state: RWKV5State | None = None
    ) -> dict[str, Tensor]:
        """What `read_before_write` takes: q, k, v, log a of each key channel, and the bonus."""
        q, k, v, _ = self._mix(x, None if state is None else state.last)
        return self._inputs(q, k, v)

    def read(self, y: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """From what S returns to the head's output: a norm with mean and variance per head."""
        return self.norm(rearrange(y, "b t h v -> (b t) (h v)")).view_as(y)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], RWKV5State]:
        last, S = (None, None) if state is None else state
        q, k, v, gate = self._mix(x, last)
        y, S = read_before_write(self.in_form, **self._inputs(q, k, v), state=S)
        y = rearrange(self.read(y), "b t h v -> b t (h v)") * F.silu(gate)
        return self.out(y), RWKV5State(x[:, -1], S)
