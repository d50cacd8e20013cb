from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import recurrence
from seqlab.core.shift import read_before_write, token_shift
from seqlab.layers.base import Mixer, check_layer, head_width


class RWKV5State(NamedTuple):
    last: Float[Tensor, "B D"]
    S: Float[Tensor, "B H V K"]


class RWKV5(Mixer):
    """RWKV-5 "Eagle", its time mix (Peng et al. 2024, arXiv:2404.05892).

    y_t = (S_{t-1} + v_t (u k_t)ᵀ) q_t        S_t = S_{t-1} diag(a) + v_t k_tᵀ        a = exp(-exp(decay))

    The difference from RWKV-4: heads with a table S each in place of two numbers per channel, keys
    as they are in place of their exponents, so no normaliser and no overflow; a norm of each head
    instead. The difference from RetNet: one constant decay per key channel, and a read before the
    write, the token itself weighted by the bonus u. q (RWKV's r), k, v and the gate come from x_t
    mixed with x_{t-1}; `mu` is the share of x_t, as in the authors' code (the paper writes the
    share of x_{t-1}). Output: W_o(norm(y) silu(gate)). Version 5.2, with a decay per channel.

    State: the last input and S. Decays, bonus and mixes start as in the authors' code, from `layer`
    of `n_layers`. W_o starts as nn.Linear does, not at the authors' 0, which would make every
    output of a new mixer 0. A stack: [partial(RWKV5, layer=l, n_layers=L) for l in range(L)].
    """

    FORMS = recurrence.FORMS

    def __init__(self, d_model, n_heads=4, *, layer=0, n_layers=1, form="chunkwise", chunk_size=16):
        super().__init__(d_model, form, chunk_size)
        head_width(d_model, n_heads)
        check_layer(layer, n_layers)
        self.n_heads = n_heads
        depth, left = layer / max(n_layers - 1, 1), 1 - layer / n_layers
        channel = torch.arange(d_model)
        fraction, ramp = channel / max(d_model - 1, 1), channel / d_model
        self.decay = nn.Parameter(
            (-6 + 5 * fraction ** (0.7 + 1.3 * depth)).unflatten(0, (n_heads, -1))
        )
        bonus = depth * (1 - fraction) + 0.1 * ((channel + 1) % 3 - 1)
        self.bonus = nn.Parameter(bonus.unflatten(0, (n_heads, -1)))
        mu = [ramp ** (left / 2), ramp**left, ramp**left + 0.3 * depth, ramp ** (left / 2)]
        self.mu = nn.Parameter(torch.stack(mu))  # of q, k, v and the gate
        self.q, self.k, self.v, self.gate, self.out = (
            nn.Linear(d_model, d_model, bias=False) for _ in range(5)
        )
        for W, gain in ((self.q, 1), (self.k, 0.1), (self.v, 1), (self.gate, 0.1)):
            nn.init.orthogonal_(W.weight, gain)
        self.norm = nn.GroupNorm(n_heads, d_model, eps=64e-5)
        nn.init.constant_(self.norm.weight, ((layer + 1) / n_layers) ** 0.7)

    def _mix(self, x, last):
        """q, k, v and the gate, each from its own mix of x_t and x_{t-1}."""
        before, maps = token_shift(x, last), (self.q, self.k, self.v, self.gate)
        return [W(before + (x - before) * mu) for W, mu in zip(maps, self.mu, strict=True)]

    def _inputs(self, q, k, v):
        q, k, v = (rearrange(u, "b t (h k) -> b t h k", h=self.n_heads) for u in (q, k, v))
        decay = self.decay.to(torch.promote_types(q.dtype, torch.float32))
        return {
            "q": q,
            "k": k,
            "v": v,
            "log_a": (-decay.exp()).expand(*q.shape),
            "bonus": self.bonus,
        }

    def project(
        self, x: Float[Tensor, "B T D"], state: RWKV5State | None = None
    ) -> dict[str, Tensor]:
        """What `read_before_write` takes: q, k, v, the constant log decay of each key channel, and
        the bonus.
        """
        return self._inputs(*self._mix(x, None if state is None else state.last)[:3])

    def read(self, y: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """From what S returns to the head's output: mean and spread of each head are divided
        out.
        """
        return self.norm(rearrange(y, "b t h v -> (b t) (h v)")).view_as(y)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], RWKV5State]:
        last, S = (None, None) if state is None else state
        *qkv, gate = self._mix(x, last)
        y, S = read_before_write(self.in_form, **self._inputs(*qkv), state=S)
        y = rearrange(self.read(y), "b t h v -> b t (h v)") * F.silu(gate)
        return self.out(y), RWKV5State(x[:, -1], S)
