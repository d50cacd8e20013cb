"""What a model keeps of the text it has read: bytes of cache and of state, from its sizes."""

from functools import cache
from typing import Any, NamedTuple

import torch

from seqlab.layers.base import tensors_in
from seqlab.model import Block
from seqlab.zoo import recipe
from seqlab.zoo.row import COUNTED


class Kept(NamedTuple):
    """Numbers that a model keeps for one sequence.

    fixed: the states, whatever the length. growing: per token, in caches without an end.
    windows: {W: numbers per token} in caches of the last W tokens.
    """

    fixed: int
    growing: int
    windows: dict[int, int]

    def numbers(self, n_tokens: int) -> int:
        """After n_tokens: fixed + growing · n + Σ_W windows[W] · min(n, W)."""
        return self.fixed + self._cached(n_tokens)

    def bytes(self, n_tokens: int, *, cache: int = 2, state: int = 4) -> int:
        """`cache` and `state` are bytes per number: caches in bfloat16, states in float32."""
        return state * self.fixed + cache * self._cached(n_tokens)

    def _cached(self, n_tokens: int) -> int:
        inside = (per * min(n_tokens, W) for W, per in self.windows.items())
        return self.growing * n_tokens + sum(inside)


@cache
def kept(name: str, model: str) -> Kept:
    """What `model` of the recipe `name` keeps: its real layers, run without numbers.

    >>> kept("Transformer 2026", "Llama 3.1 8B").bytes(2**17) / 2**30
    16.0
    """
    made_of = recipe(name)
    if model not in made_of.published:
        raise ValueError(f"{name} has no {model}: it has {', '.join(made_of.published)}")
    sizes = {k: v for k, v in made_of.published[model].items() if k not in COUNTED}
    if "n_experts" in sizes:  # experts keep nothing, and hundreds take long to make
        sizes["n_experts"] = min(sizes["n_experts"], 16)
    with torch.device("meta"):
        layers = made_of.build(**sizes)
    for block in layers.modules():
        if isinstance(block, Block) and not getattr(
            getattr(block, "ffn", None), "has_state", False
        ):
            block.ffn = None  # keeps nothing, and a mixture cannot run without numbers
    return kept_by(layers)


def kept_by(model: Any) -> Kept:
    """What this LanguageModel keeps; what a second token adds to its state is cache.

    Of blocks with the same parts and sizes only the first is run.
    """
    token = torch.zeros(1, 1, dtype=torch.long, device=model.embedding.weight.device)
    fixed, growing, windows, known = 0, 0, {}, {}
    with torch.inference_mode():
        x = model.embedding(token)
        passes = {"embedding": x}, {"embedding": x}  # what the blocks share, token by token
        for block in model.blocks:
            kind = _kind(block)
            if kind not in known:
                _, first = block(x, None, passes[0])
                _, second = block(x, first, passes[1])
                known[kind] = [_numbers(state) for state in (first, second)]
            one, two = known[kind]
            fixed += one - (two - one)
            parts = block.modules()
            limits = {w for m in parts if isinstance(w := getattr(m, "window", None), int)}
            for limit in limits:
                windows[limit] = windows.get(limit, 0) + two - one
            growing += 0 if limits else two - one
    return Kept(fixed, growing, windows)


def _numbers(state: Any) -> int:
    return sum(x.numel() for x in tensors_in(state))


def _kind(block: Any) -> tuple:
    """The classes, options and sizes of all parts: equal for blocks that keep the same."""
    options = (
        (type(part), *((name, x) for name, x in vars(part).items() if isinstance(x, int | tuple)))
        for part in block.modules()
    )
    return tuple(options), tuple(weight.shape for weight in block.parameters())
