"""Blocks with wiring of their own: Zamba's shared transformer, YOCO's shared cache, sinusoids."""

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
    """W x + B A x: a shared linear map, and a change of low rank that only one of its users makes.

    Hu et al. 2021, arXiv:2106.09685. A starts like any linear map, B at zero, so at first all users
    agree. Several maps of the same x may share one A.
    """

    def __init__(self, shared: nn.Linear, down: nn.Linear):
        super().__init__()
        self.shared = shared
        self.down = down
        self.up = nn.Linear(down.out_features, shared.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B E"]:
        return self.shared(x) + self.up(self.down(x))


class SharedTransformer(nn.Module):
    """ffn(norm(attention(norm([x ; embedding])))), without residuals.

    attention has twice the model's width and is called with (2 d_model, d_out=d_model); the ffn has
    the model's. Zamba scales the scores by (K/2)^-½.
    """

    def __init__(
        self,
        d_model: int,
        attention: Callable[..., nn.Module],
        ffn: Callable[[int], nn.Module],
        eps: float = 1e-5,
    ):
        super().__init__()
        self.norm = RMSNorm(2 * d_model, eps)
        self.attention = attention(2 * d_model, d_out=d_model)
        self.ffn_norm = RMSNorm(d_model, eps)
        self.ffn = ffn(d_model)

    def forward(
        self, x: Float[Tensor, "B T D"], embedding: Float[Tensor, "B T D"], state: Any = None
    ) -> tuple[Float[Tensor, "B T D"], Any]:
        y, state = self.attention(self.norm(torch.cat([x, embedding], dim=-1)), state)
        return self.ffn(self.ffn_norm(y)), state

    def adapted(self, rank: int, *, attention: bool = False) -> "SharedTransformer":
        """One user's view: the same weights, with low-rank changes of its own in the ffn.

        attention=True: in q, k and v too.
        """
        # New modules around the same parameters.
        view = deepcopy(self, {id(p): p for p in self.parameters()})
        view.ffn.gate, view.ffn.up = adapt([getattr(self.ffn, x) for x in ("gate", "up")], rank)
        if attention:
            for name in "qkv":
                (adapted,) = adapt([getattr(self.attention, name)], rank)
                setattr(view.attention, name, adapted)
        return view


def adapt(maps: list[nn.Linear], rank: int) -> list[Adapted]:
    """Each map Adapted; all share one A."""
    down = nn.Linear(maps[0].in_features, rank, bias=False)
    return [Adapted(W, down) for W in maps]


class SharedBlock(Block):
    """x + mixer(norm(x + W transformer([x ; embedding]))).

    Zamba (Glorioso et al. 2024, arXiv:2405.16712). The transformer is the same object in many
    blocks, or `adapted` views of it (Zamba2, arXiv:2411.15242). It writes to the mixer's input, not
    to the stream; W belongs to the block. Parameters are shared, keys and values are not: each
    block has a cache of its own. State: the pair (mixer's, transformer's).
    """

    def __init__(
        self, d_model: int, mixer: nn.Module, transformer: SharedTransformer, eps: float = 1e-5
    ):
        super().__init__(d_model, mixer, None, eps)
        self.transformer = transformer
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(
        self, x: Float[Tensor, "B T D"], state: Any = None, shared: dict | None = None
    ) -> tuple[Float[Tensor, "B T D"], Any]:
        mixer_state, cache = (None, None) if state is None else state
        y, cache = self.transformer(x, noted(shared)["embedding"], cache)
        y, mixer_state = self.mixer(self.mixer_norm(x + self.out(y)), mixer_state)
        return x + y, (mixer_state, cache)


class SharedCache(Block):
    """YOCO's one cache (Sun et al. 2024, arXiv:2405.05254): k and v of norm(x), read by all above.

    The stream passes unchanged; shared["kv"] holds k, turned by its position (RetNet's angles), and
    v. State: KVCache, the only state of the upper half that grows. The layers above are blocks of
    `CrossAttention`.
    """

    def __init__(self, d_model: int, n_kv_heads: int, d_head: int, *, eps: float = 1e-6):
        nn.Module.__init__(self)
        self.norm = RMSNorm(d_model, eps)
        self.d_head = d_head
        self.k = nn.Linear(d_model, n_kv_heads * d_head, bias=False)
        self.v = nn.Linear(d_model, n_kv_heads * d_head, bias=False)
        self.theta = rope_frequencies(d_head, inclusive=True)

    def forward(
        self, x: Float[Tensor, "B T D"], state: KVCache | None = None, shared: dict | None = None
    ) -> tuple[Float[Tensor, "B T D"], KVCache]:
        u = self.norm(x)
        k, v = (rearrange(W(u), "b t (h k) -> b t h k", k=self.d_head) for W in (self.k, self.v))
        start = 0 if state is None else state.position
        end = start + x.shape[1]
        positions = torch.arange(start, end, device=x.device)
        k = rotate(k, positions, self.theta, interleaved=True)
        if state is not None:
            k = torch.cat([state.k, k], dim=1)
            v = torch.cat([state.v, v], dim=1)
        noted(shared)["kv"] = k, v
        return x, KVCache(k, v, end)


class CrossAttention(nn.Module):
    """Attention with queries only: the keys and values are those of the `SharedCache` below.

    It keeps no state.
    """

    shares = True

    def __init__(self, d_model: int, n_heads: int, d_head: int, *, form: str | Callable = "sdpa"):
        super().__init__()
        choose(form, FORMS)
        self.d_head = d_head
        self.form = form
        self.theta = rope_frequencies(d_head, inclusive=True)
        self.q = nn.Linear(d_model, n_heads * d_head, bias=False)
        self.out = nn.Linear(n_heads * d_head, d_model, bias=False)

    def forward(
        self, x: Float[Tensor, "B T D"], state: None = None, shared: dict | None = None
    ) -> tuple[Float[Tensor, "B T D"], None]:
        k, v = noted(shared)["kv"]
        q = rearrange(self.q(x), "b t (h k) -> b t h k", k=self.d_head)
        end = k.shape[1]
        positions = torch.arange(end - x.shape[1], end, device=x.device)
        q = rotate(q, positions, self.theta, interleaved=True)
        y = choose(self.form, FORMS)(q, k, v, causal=True)
        return self.out(rearrange(y, "b t h v -> b t (h v)")), None


def noted(shared: dict | None) -> dict:
    """`shared`, which a LanguageModel gives to each block; ValueError without it."""
    if shared is None:
        raise ValueError(
            "shared is None: this block reads or writes what the blocks of a LanguageModel share, "
            "so call it with that dict"
        )
    return shared


class Sinusoids(Block):
    """x_t + [sin t θ_0, cos t θ_0, sin t θ_1, ..], θ_i = 10000^(-2i/D).

    The positions of the first Transformer (Vaswani et al. 2017, arXiv:1706.03762); no parameters.
    State: the number of tokens so far.
    """

    def __init__(self, d_model: int):
        nn.Module.__init__(self)
        self.theta = rope_frequencies(d_model)

    def forward(
        self, x: Float[Tensor, "B T D"], state: int | None = None, shared: dict | None = None
    ) -> tuple[Float[Tensor, "B T D"], int]:
        start = state or 0
        end = start + x.shape[1]
        angle = torch.arange(start, end, device=x.device)[:, None] * self.theta.to(x.device)
        waves = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # (T, D)
        return x + waves.to(x.dtype), end
