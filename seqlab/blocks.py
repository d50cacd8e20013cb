"""Zamba's wiring: one transformer, called again and again between Mamba layers, each time on [stream ; embedding]."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.model import Block
from seqlab.norm import RMSNorm


class Adapted(nn.Module):
    """A shared linear map, and a change of low rank that only one of its users makes: W x + B A x (arXiv:2106.09685).

    A starts as any linear map, B at zero: at first all users agree. Several maps of the same x may share one A.
    """

    def __init__(self, shared: nn.Linear, down: nn.Linear):
        super().__init__()
        self.shared, self.down = shared, down
        self.up = nn.Linear(down.out_features, shared.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B E"]:
        return self.shared(x) + self.up(self.down(x))


class SharedTransformer(nn.Module):
    """ffn(norm(attention(norm([x ; embedding])))): an attention of twice the width, an ffn of the model's; no residual.

    attention is called with (2 d_model, d_out=d_model). Zamba scales its scores by (K/2)^-1/2.
    """

    def __init__(self, d_model: int, attention: Callable[..., nn.Module], ffn: Callable[[int], nn.Module], eps=1e-5):
        super().__init__()
        self.norm, self.attention = RMSNorm(2 * d_model, eps), attention(2 * d_model, d_out=d_model)
        self.ffn_norm, self.ffn = RMSNorm(d_model, eps), ffn(d_model)

    def forward(self, x: Float[Tensor, "B T D"], embedding: Float[Tensor, "B T D"], state=None):
        y, state = self.attention(self.norm(torch.cat([x, embedding], dim=-1)), state)
        return self.ffn(self.ffn_norm(y)), state

    def adapted(self, rank: int, *, attention: bool = False) -> Self:
        """One user's view: the same weights, and low-rank changes of its own in the ffn (and of q, k and v)."""
        view = deepcopy(self, {id(p): p for p in self.parameters()})  # new modules around the same parameters
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
    """x + mixer(norm(x + W transformer([x ; embedding]))) (Zamba, Glorioso et al. 2024, arXiv:2405.16712).

    The transformer, the same object (or `adapted` views of it, Zamba2, arXiv:2411.15242) in many blocks, writes not to
    the stream but to the mixer's input; W belongs to the block. Parameters are shared, keys and values are not: each
    block has a cache of its own. State: the pair (mixer's, transformer's).
    """

    def __init__(self, d_model: int, mixer: nn.Module, transformer: SharedTransformer, eps: float = 1e-5):
        super().__init__(d_model, mixer, None, eps)
        self.transformer, self.out = transformer, nn.Linear(d_model, d_model, bias=False)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None, shared: dict | None = None
    ) -> tuple[Float[Tensor, "B T D"], Any]:
        mixer_state, cache = (None, None) if state is None else state
        y, cache = self.transformer(x, shared["embedding"], cache)
        y, mixer_state = self.mixer(self.mixer_norm(x + self.out(y)), mixer_state)
        return x + y, (mixer_state, cache)
