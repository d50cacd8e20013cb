"""A language model is a list of mixers: `LanguageModel(256, 128, [partial(RetNet, n_heads=4)] * 4)`."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from seqlab.ffn import SwiGLU
from seqlab.norm import RMSNorm


class Block(nn.Module):
    """x + mixer(norm(x)), then x + ffn(norm(x)): pre-norm, each part added to the residual stream."""

    def __init__(self, d_model: int, mixer: nn.Module, ffn: nn.Module | None = None, eps: float = 1e-6):
        super().__init__()
        self.mixer_norm, self.mixer = RMSNorm(d_model, eps), mixer
        self.ffn_norm, self.ffn = (None, None) if ffn is None else (RMSNorm(d_model, eps), ffn)

    def forward(self, x: Float[Tensor, "B T D"], state=None) -> tuple[Float[Tensor, "B T D"], Any]:
        y, state = self.mixer(self.mixer_norm(x), state)
        x = x + y
        return x if self.ffn is None else x + self.ffn(self.ffn_norm(x)), state


class LanguageModel(nn.Module):
    """Embedding, blocks, norm, head. `mixers` holds one factory per block, each called with d_model.

    ffn is a factory too (default SwiGLU; None for blocks of a mixer alone). tie: the head reuses the embedding.
    """

    def __init__(
        self,
        vocab: int,
        d_model: int,
        mixers: Sequence[Callable[[int], nn.Module]],
        ffn: Callable[[int], nn.Module] | None = SwiGLU,
        *,
        tie: bool = False,
        eps: float = 1e-6,
    ):
        super().__init__()
        self.embedding = nn.Embedding(vocab, d_model)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(d_model, make(d_model), ffn and ffn(d_model), eps) for make in mixers)
        self.norm = RMSNorm(d_model, eps)
        self.head = nn.Linear(d_model, vocab, bias=False)
        if tie:
            self.head.weight = self.embedding.weight

    def forward(
        self, tokens: Int[Tensor, "B T"], states: list | None = None
    ) -> tuple[Float[Tensor, "B T vocab"], list]:
        """Logits for the next token at each position, and the state of each block."""
        x = self.embedding(tokens)
        new_states = []
        for block, state in zip(self.blocks, states or [None] * len(self.blocks), strict=True):
            x, state = block(x, state)
            new_states.append(state)
        return self.head(self.norm(x)), new_states


@torch.inference_mode()
def stream(
    model: LanguageModel,
    prompt: Int[Tensor, "B T"],
    n_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Int[Tensor, " B"]]:
    """Yield n_tokens new tokens one by one.

    temperature 0 takes the likeliest token; top_k samples among the k likeliest.
    """
    if prompt.shape[1] == 0:
        raise ValueError("the prompt is empty: give at least one token to continue from")
    if temperature < 0:
        raise ValueError(f"temperature is {temperature}: it must be 0 (greedy) or positive")
    logits, states = model(prompt)
    for i in range(n_tokens):
        token = _sample(logits[:, -1], temperature, top_k, generator)
        yield token
        if i + 1 < n_tokens:
            logits, states = model(token[:, None], states)


def generate(model: LanguageModel, prompt: Int[Tensor, "B T"], n_tokens: int, **sampling) -> Int[Tensor, "B T_new"]:
    """The prompt continued by n_tokens tokens (B, T + n_tokens). Sampling options: see `stream`."""
    return torch.cat([prompt, *(token[:, None] for token in stream(model, prompt, n_tokens, **sampling))], dim=1)


def _sample(logits, temperature, top_k, generator):
    if temperature == 0:
        return logits.argmax(-1)
    if top_k is not None:
        floor = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < floor, -torch.inf)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
