"""Blocks with wiring of their own: Zamba's shared transformer, YOCO's one cache for many layers,
sinusoids.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.attention import FORMS
from seqlab.core.inputs import choose
from seqlab.core.position import rope_frequencies, rotate
from seqlab.layers.norm import RMSNorm
from seqlab.mixers.attention import KVCache
from seqlab.model import Block


class Adapted(nn.Module):
    """A shared linear map, and a change of low rank that only one of its users makes: W x + B A x
    (arXiv:2106.09685).

    A starts as any linear map, B at zero: at first all users agree. Several maps of the same x may
    share one A.
    """

    def __init__(self, shared: nn.Linear, down: nn.Linear):
        super().__init__()
        self.shared, self.down = shared, down
        self.up = nn.Linear(down.out_features, shared.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B E"]:
        return self.shared(x) + self.up(self.down(x))


class SharedTransformer(nn.Module):
    """ffn(norm(attention(norm([x ; embedding])))): an attention of twice the width, an ffn of the
    model's; no residual.

    attention is called with (2 d_model, d_out=d_model). Zamba scales its scores by (K/2)^-1/2.
    """

    def __init__(
        self,
        d_model: int,
        attention: Callable[..., nn.Module],
        ffn: Callable[[int], nn.Module],
        eps=1e-5,
    ):
        super().__init__()
        self.norm, self.attention = RMSNorm(2 * d_model, eps), attention(2 * d_model, d_out=d_model)
        self.ffn_norm, self.ffn = RMSNorm(d_model, eps), ffn(d_model)

    def forward(self, x: Float[Tensor, "B T D"], embedding: Float[Tensor, "B T D"], state=None):
        y, state = self.attention(self.norm(torch.cat([x, embedding], dim=-1)), state)
        return self.ffn(self.ffn_norm(y)), state

    def adapted(self, rank: int, *, attention: bool = False) -> "SharedTransformer":
        """One user's view: the same weights, and low-rank changes of its own in the ffn (and of q,
        k and v).
        """
        view = deepcopy(
            self, {id(p): p for p in self.parameters()}
        )  # new modules around the same parameters
        view.ffn.gate, view.ffn.up = self._adapted([self.ffn.gate, self.ffn.up], rank)
        if attention:
            for name in "qkv":
                (adapted,) = self._adapted([getattr(self.attention, name)], rank)
                setattr(view.attention, name, adapted)
        return view

    def _adapted(self, maps, rank):
        down = nn.Linear(maps[0].in_features, rank, bias=False)
        return [Adapted(W, down) for W in maps]


class SharedBlock(Block):
    """x + mixer(norm(x + W transformer([x ; embedding]))) (Zamba, Glorioso et al. 2024,
    arXiv:2405.16712).

    The transformer, the same object (or `adapted` views of it, Zamba2, arXiv:2411.15242) in many
    blocks, writes not to the stream but to the mixer's input; W belongs to the block. Parameters
    are shared, keys and values are not: each block has a cache of its own. State: the pair
    (mixer's, transformer's).
    """

    def __init__(
        self, d_model: int, mixer: nn.Module, transformer: SharedTransformer, eps: float = 1e-5
    ):
        super().__init__(d_model, mixer, None, eps)
        self.transformer, self.out = transformer, nn.Linear(d_model, d_model, bias=False)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None, shared: dict | None = None
    ) -> tuple[Float[Tensor, "B T D"], Any]:
        mixer_state, cache = (None, None) if state is None else state
        y, cache = self.transformer(x, shared["embedding"], cache)
        y, mixer_state = self.mixer(self.mixer_norm(x + self.out(y)), mixer_state)
        return x + y, (mixer_state, cache)


class SharedCache(Block):
    """The hinge of YOCO (Sun et al. 2024, arXiv:2405.05254): k and v of norm(x), written once, read
    by all above.

    The stream passes unchanged; shared["kv"] holds k, turned by its position (RetNet's angles), and
    v. State: KVCache, the only one that grows. The layers above are blocks of `CrossAttention`.
    """

    def __init__(self, d_model: int, n_kv_heads: int, d_head: int, *, eps: float = 1e-6):
        nn.Module.__init__(self)
        self.norm, self.d_head = RMSNorm(d_model, eps), d_head
        self.k, self.v = (nn.Linear(d_model, n_kv_heads * d_head, bias=False) for _ in range(2))
        self.theta = rope_frequencies(d_head, inclusive=True)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None, shared=None
    ) -> tuple[Float[Tensor, "B T D"], KVCache]:
        u, start = self.norm(x), 0 if state is None else state.position
        k, v = (rearrange(W(u), "b t (h k) -> b t h k", k=self.d_head) for W in (self.k, self.v))
        k = rotate(
            k,
            torch.arange(start, start + x.shape[1], device=x.device),
            self.theta,
            interleaved=True,
        )
        if state is not None:
            k, v = torch.cat([state.k, k], dim=1), torch.cat([state.v, v], dim=1)
        shared["kv"] = k, v
        return x, KVCache(k, v, start + x.shape[1])


class CrossAttention(nn.Module):
    """Attention with queries only: keys and values are those a `SharedCache` below has left. It
    keeps no state.
    """

    shares = True

    def __init__(self, d_model: int, n_heads: int, d_head: int, *, form="sdpa"):
        super().__init__()
        choose(form, FORMS)
        self.d_head, self.form, self.theta = d_head, form, rope_frequencies(d_head, inclusive=True)
        self.q = nn.Linear(d_model, n_heads * d_head, bias=False)
        self.out = nn.Linear(n_heads * d_head, d_model, bias=False)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None, shared=None
    ) -> tuple[Float[Tensor, "B T D"], None]:
        k, v = shared["kv"]
        q, end = rearrange(self.q(x), "b t (h k) -> b t h k", k=self.d_head), k.shape[1]
        q = rotate(
            q, torch.arange(end - x.shape[1], end, device=x.device), self.theta, interleaved=True
        )
        return self.out(
            rearrange(choose(self.form, FORMS)(q, k, v, causal=True), "b t h v -> b t (h v)")
        ), None


class Sinusoids(Block):
    """x_t + [sin t θ_0, cos t θ_0, sin t θ_1, ..] (Vaswani et al. 2017, arXiv:1706.03762), θ_i =
    10000^(-2i/D).

    What told the first Transformer where a token stands; no parameters. State: how many tokens
    there were.
    """

    def __init__(self, d_model: int):
        nn.Module.__init__(self)
        self.theta = rope_frequencies(d_model)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None, shared=None
    ) -> tuple[Float[Tensor, "B T D"], int]:
        start, end = state or 0, (state or 0) + x.shape[1]
        angle = torch.arange(start, end, device=x.device)[:, None] * self.theta.to(x.device)
        return x + torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).to(x.dtype), end
