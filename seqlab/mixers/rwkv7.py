import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import dplr
from seqlab.core.shift import token_shift
from seqlab.layers.base import Mixer, check_layer, head_width


class RWKV7State(NamedTuple):
    last: Float[Tensor, "B D"]
    S: Float[Tensor, "B H V K"]


class RWKV7(Mixer):
    """RWKV-7 "Goose", its time mix (Peng et al. 2025, arXiv:2503.14456).

    S_t = S_{t-1} (diag(w_t) - κ_t (a_t κ_t)ᵀ) + v_t k_tᵀ        y_t = S_t q_t        w_t = exp(-e^{-1/2} σ(d_t))

    d, a = σ(·) and the output gate g are low-rank functions of x_t + μ (x_{t-1} - x_t): μ, one per
    channel and use, is the share of x_{t-1}. q (RWKV's r), k and v are linear in such a mix. κ = k
    k_k / ‖k k_k‖, then k ← k (1 + (a - 1) k_a). The v of each later layer (layer > 0) takes a
    low-rank share of `v_first`, the first layer's v, which travels in `shared`; without it a layer
    is its own first. Output: W_o(g (norm(y) + (Σ q r_k k) v)), a norm per head.

    The difference from Gated DeltaNet and KDA: what is erased (κ, of length 1) and what is written
    (k) have keys of their own, and the strength a_t of erasing is a number per channel: the
    in-context learning rate. What S returns under κ is taken before it fades; w_t stays in (0.545,
    1). The read comes after the write, not before as in RWKV-6.

    Erase and write keys do not fit `seqlab.core.recurrence`: `seqlab.core.dplr`. State: the last
    input and S. `ranks`: of d, a, the share of v_first, and g (`default_ranks`). Starts as in the
    authors' code, except that W_o starts as nn.Linear does: their 0 would make every output 0. A
    stack: [partial(RWKV7, layer=l, n_layers=L) for l in range(L)].
    """

    FORMS = dplr.FORMS

    shares = True

    def __init__(
        self,
        d_model,
        n_heads=4,
        *,
        ranks=None,
        layer=0,
        n_layers=1,
        form="chunkwise",
        chunk_size=16,
    ):
        super().__init__(d_model, form, chunk_size)
        K = head_width(d_model, n_heads)
        check_layer(layer, n_layers)
        self.n_heads = n_heads
        depth, left = layer / max(n_layers - 1, 1), 1 - layer / n_layers
        d_rank, a_rank, v_rank, g_rank = ranks or default_ranks(d_model)
        channel = torch.arange(d_model)
        fraction, place = (
            channel / max(d_model - 1, 1),
            (channel % K - (K - 1) / 2) / max((K - 1) / 2, 1),
        )
        linear, zigzag = fraction - 0.5, place * place.abs()  # over the layer, over each head
        powers = torch.tensor([0.2, 0.9, 0.7, 0.7, 0.9, 0.2]) * left
        self.mu = nn.Parameter(1 - (channel / d_model) ** powers[:, None])  # of q, d, k, v, a and g
        self.d = LowRank(d_model, d_rank, -5.5 + 6 * fraction ** (1 + depth**0.3) + 2.5 * zigzag)
        self.a = LowRank(d_model, a_rank, -0.19 + 0.3 * zigzag + 0.4 * linear)
        self.v_share = LowRank(d_model, v_rank, 0.73 - 0.4 * linear) if layer else None
        self.g = LowRank(d_model, g_rank)
        self.k_k, self.k_a = (
            nn.Parameter(0.71 - 0.1 * linear),
            nn.Parameter(torch.full((d_model,), 1.02)),
        )
        self.r_k = nn.Parameter(torch.full((n_heads, K), -0.04))
        self.q, self.k, self.v, self.out = (
            nn.Linear(d_model, d_model, bias=False) for _ in range(4)
        )
        for W, bound in ((self.q, 0.5), (self.k, 0.05), (self.v, 0.5)):
            nn.init.uniform_(W.weight, -bound * d_model**-0.5, bound * d_model**-0.5)
        self.norm = nn.GroupNorm(n_heads, d_model, eps=64e-5)
        nn.init.constant_(self.norm.weight, ((layer + 1) / n_layers) ** 0.7)

    def _mix(self, x, last):
        """x_t mixed with x_{t-1} six times: for q, d, k, v, a and g (6, B, T, D)."""
        return x + (token_shift(x, last) - x) * self.mu[:, None, None]

    def _inputs(self, x_q, x_d, x_k, x_v, x_a, shared):
        """What `seqlab.core.dplr` takes, each (B, T, H, ·)."""
        k, v, a = self.k(x_k), self.v(x_v), self.a(x_a).sigmoid()
        v_first = v if shared is None else shared.setdefault("v_first", v)
        if self.v_share is not None:
            v = v + (v_first - v) * self.v_share(x_v).sigmoid()
        d = self.d(x_d, torch.tanh).to(torch.promote_types(x_d.dtype, torch.float32))
        parts = (
            self.q(x_q),
            k * (1 + (a - 1) * self.k_a),
            v,
            k * self.k_k,
            a,
            -math.exp(-0.5) * d.sigmoid(),
        )
        q, k, v, erase, a, log_w = (
            rearrange(u, "b t (h k) -> b t h k", h=self.n_heads) for u in parts
        )
        erase = F.normalize(erase, dim=-1)
        return {"q": q, "k": k, "v": v, "e": -erase, "f": erase * a, "log_a": log_w}

    def project(
        self, x: Float[Tensor, "B T D"], state: RWKV7State | None = None, shared=None
    ) -> dict[str, Tensor]:
        """What `seqlab.core.dplr` takes: q, k, v, the key e that reads the old table, f that writes
        the answer, log w.
        """
        return self._inputs(*self._mix(x, None if state is None else state.last)[:5], shared)

    def read(self, y: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """From what S returns to the head's output: mean and spread of each head are divided
        out.
        """
        return self.norm(rearrange(y, "b t h v -> (b t) (h v)")).view_as(y)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None, shared=None
    ) -> tuple[Float[Tensor, "B T D"], RWKV7State]:
        last, S = (None, None) if state is None else state
        *mixed, x_g = self._mix(x, last)
        inputs = self._inputs(*mixed, shared)
        y, S = self.in_form(**inputs, state=S)
        q, k, v = inputs["q"], inputs["k"], inputs["v"]
        y = rearrange(
            self.read(y) + (q * self.r_k * k).sum(-1, keepdim=True) * v, "b t h v -> b t (h v)"
        )
        return self.out(y * self.g(x_g, torch.sigmoid)), RWKV7State(x[:, -1], S)


class LowRank(nn.Module):
    """bias + act(x W₁) W₂: at the start the bias alone (act(0) W₂ without one), as W₁ is 0."""

    def __init__(self, d_model, rank, bias=None):
        super().__init__()
        self.down, self.up = (
            nn.Parameter(torch.zeros(d_model, rank)),
            nn.Parameter(torch.empty(rank, d_model)),
        )
        nn.init.orthogonal_(self.up, 0.1 * max(1, rank / d_model) ** 0.5)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x, act=lambda u: u):
        y = act(x @ self.down) @ self.up
        return y if self.bias is None else self.bias + y


def default_ranks(D):
    """Ranks of d, a, the share of v_first and g: multiples of 32 that grow as √D, and as D^0.8 for
    g.

    At D = 768 the authors' 64, 64, 32 and 128; at larger D their training code now suggests larger
    ones.
    """
    return tuple(
        max(32, round(u / 32) * 32)
        for u in (1.8 * D**0.5, 1.8 * D**0.5, 1.3 * D**0.5, 0.6 * D**0.8)
    )
