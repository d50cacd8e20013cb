import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core import dplr
from seqlab.core.inputs import wide
from seqlab.core.shift import token_shift
from seqlab.layers.base import Mixer, check_layer, head_width


class RWKV7State(NamedTuple):
    last: Float[Tensor, "B D"]
    S: Float[Tensor, "B H V K"]


class RWKV7(Mixer):
    """The time mix of RWKV-7 "Goose" (Peng et al. 2025, arXiv:2503.14456).

    S_t = S_{t-1} (diag(w_t) - κ_t (a_t κ_t)ᵀ) + v_t k_tᵀ        y_t = S_t q_t
    w_t = exp(-e^{-1/2} σ(d_t))        κ = k k_k / ‖k k_k‖, then k ← k (1 + (a - 1) k_a)
    Output: W_o(g (norm(y) + (Σ q r_k k) v)), the norm and the sum per head

    Each of q (RWKV's r), d, k, v, a and g has its own mix x_t + μ (x_{t-1} - x_t), with one μ per
    channel, the share of x_{t-1}. q, k and v are linear in it; d, a = σ(·) and the output gate g
    are low-rank functions of it. The v of every later layer (layer > 0) takes a low-rank share of
    `v_first`, the v of the first layer, which the model hands on in `shared`; without `shared`,
    each layer counts as its own first.

    The difference from Gated DeltaNet and KDA: what is erased (κ, of length 1) and what is written
    (k) have keys of their own, and the strength of erasing, a_t, is one number per channel: the
    in-context learning rate. S is read under κ before it fades, and w_t stays in (0.545, 1). The
    difference from RWKV-6: y_t is read after the write, not before.

    Separate erase and write keys do not fit `seqlab.core.recurrence`; `seqlab.core.dplr` has them.
    `ranks` are those of d, a, the share of v_first, and g (see `default_ranks`). Starts are those
    of the authors' code, from `layer` of `n_layers`; except W_o, which starts as nn.Linear does:
    the authors' 0 would make every output of a new mixer 0. A stack:
    [partial(RWKV7, layer=l, n_layers=L) for l in range(L)]. State: the last input and S.
    """

    FORMS = dplr.FORMS

    shares = True

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        ranks: tuple[int, int, int, int] | None = None,
        layer: int = 0,
        n_layers: int = 1,
        form: str | Callable = "chunkwise",
        chunk_size: int = 16,
    ):
        super().__init__(d_model, form, chunk_size)
        K = head_width(d_model, n_heads)
        check_layer(layer, n_layers)
        self.n_heads = n_heads
        d_rank, a_rank, v_rank, g_rank = ranks or default_ranks(d_model)
        mu, d, a, v_share, k_k = starts(d_model, K, layer, n_layers)
        self.mu = nn.Parameter(mu)  # of q, d, k, v, a and g
        self.d = LowRank(d_model, d_rank, d, torch.tanh)
        self.a = LowRank(d_model, a_rank, a)
        self.v_share = LowRank(d_model, v_rank, v_share) if layer else None
        self.g = LowRank(d_model, g_rank, None, torch.sigmoid)
        self.k_k = nn.Parameter(k_k)
        self.k_a = nn.Parameter(torch.full((d_model,), 1.02))
        self.r_k = nn.Parameter(torch.full((n_heads, K), -0.04))
        maps = (nn.Linear(d_model, d_model, bias=False) for _ in range(4))
        self.q, self.k, self.v, self.out = maps
        for W, bound in ((self.q, 0.5), (self.k, 0.05), (self.v, 0.5)):
            nn.init.uniform_(W.weight, -bound * d_model**-0.5, bound * d_model**-0.5)
        self.norm = nn.GroupNorm(n_heads, d_model, eps=64e-5)
        nn.init.constant_(self.norm.weight, ((layer + 1) / n_layers) ** 0.7)

    def _mix(self, x, last):
        """x_t mixed with x_{t-1} six times: for q, d, k, v, a and g, each (B, T, D)."""
        dx = token_shift(x, last) - x
        return (x + dx * self.mu[:, None, None]).unbind()

    def _inputs(self, x_q, x_d, x_k, x_v, x_a, *, shared):
        """What `seqlab.core.dplr` takes, each (B, T, H, ·)."""
        q, k, v = self.q(x_q), self.k(x_k), self.v(x_v)
        a = self.a(x_a).sigmoid()
        log_w = -math.exp(-0.5) * wide(self.d(x_d)).sigmoid()
        v_first = v if shared is None else shared.setdefault("v_first", v)
        if self.v_share is not None:
            v = v + (v_first - v) * self.v_share(x_v).sigmoid()
        kappa = k * self.k_k
        k = k * (1 + (a - 1) * self.k_a)
        parts = q, k, v, kappa, a, log_w
        split = (rearrange(u, "b t (h k) -> b t h k", h=self.n_heads) for u in parts)
        q, k, v, kappa, a, log_w = split
        kappa = F.normalize(kappa, dim=-1)
        return {"q": q, "k": k, "v": v, "e": -kappa, "f": kappa * a, "log_a": log_w}

    def project(
        self, x: Float[Tensor, "B T D"], state: RWKV7State | None = None, shared=None
    ) -> dict[str, Tensor]:
        """What `seqlab.core.dplr` takes: q, k, v, log w, and two more keys.

        The old table is read under e = -κ, and the answer is written under f = a κ.
        """
        *mixes, _ = self._mix(x, None if state is None else state.last)
        return self._inputs(*mixes, shared=shared)

    def read(self, y: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """From what S returns to the head's output: a norm with mean and variance per head."""
        return self.norm(rearrange(y, "b t h v -> (b t) (h v)")).view_as(y)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None, shared=None
    ) -> tuple[Float[Tensor, "B T D"], RWKV7State]:
        last, S = (None, None) if state is None else state
        *mixes, x_g = self._mix(x, last)
        inputs = self._inputs(*mixes, shared=shared)
        y, S = self.in_form(**inputs, state=S)
        q, k, v = inputs["q"], inputs["k"], inputs["v"]
        y = self.read(y) + (q * self.r_k * k).sum(-1, keepdim=True) * v
        y = rearrange(y, "b t h v -> b t (h v)") * self.g(x_g)
        return self.out(y), RWKV7State(x[:, -1], S)


class LowRank(nn.Module):
    """bias + act(x W₁) W₂. W₁ starts at 0, so the output starts as bias + act(0) W₂."""

    def __init__(self, d_model: int, rank: int, bias: Tensor | None, act: Callable | None = None):
        super().__init__()
        self.down = nn.Parameter(torch.zeros(d_model, rank))
        self.up = nn.Parameter(torch.empty(rank, d_model))
        nn.init.orthogonal_(self.up, 0.1 * max(1, rank / d_model) ** 0.5)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.act = act

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        low = x @ self.down
        y = (low if self.act is None else self.act(low)) @ self.up
        return y if self.bias is None else self.bias + y


def default_ranks(D: int) -> tuple[int, int, int, int]:
    """The released models' ranks of d, a, the share of v_first, and g.

    They are multiples of 32 that grow as √D, and for g as D^0.8.

    At D = 768 they are 64, 64, 32 and 128. The authors' training code now suggests 2.5 √D, 2.5 √D,
    1.7 √D and 5 √D, rounded alike: the same at 768, (128, 128, 64, 224) instead of
    (96, 96, 64, 256) at 2048. Pass those as `ranks`.
    """
    sizes = (1.8 * D**0.5, 1.8 * D**0.5, 1.3 * D**0.5, 0.6 * D**0.8)
    d, a, v_share, g = (max(32, round(size / 32) * 32) for size in sizes)
    return d, a, v_share, g


def starts(d_model: int, K: int, layer: int, n_layers: int) -> tuple[Tensor, ...]:
    """μ (6, D); the biases of d, a and the share of v_first, and k_k, each (D)."""
    depth = layer / max(n_layers - 1, 1)  # 0 in the first layer, 1 in the last
    left = 1 - layer / n_layers  # 1 in the first layer, near 0 in the last
    channel = torch.arange(d_model)
    fraction = channel / max(d_model - 1, 1)
    linear = fraction - 0.5  # -½ to ½ over the layer
    place = (channel % K - (K - 1) / 2) / max((K - 1) / 2, 0.5)
    zigzag = place * place.abs()  # -1 to 1 over each head, flat in the middle
    ramp = channel / d_model
    powers = {"q": 0.2, "d": 0.9, "k": 0.7, "v": 0.7, "a": 0.9, "g": 0.2}
    mu = torch.stack([1 - ramp ** (power * left) for power in powers.values()])
    d = -5.5 + 6 * fraction ** (1 + depth**0.3) + 2.5 * zigzag
    a = -0.19 + 0.3 * zigzag + 0.4 * linear
    v_share = 0.73 - 0.4 * linear
    k_k = 0.71 - 0.1 * linear
    return mu, d, a, v_share, k_k
