"""A language model is a list of mixers.

`LanguageModel(256, 128, [partial(RetNet, n_heads=4)] * 4)` has four layers of RetNet.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from seqlab.core.inputs import wide
from seqlab.ffn import SwiGLU
from seqlab.layers.norm import RMSNorm

Make = Callable[[int], nn.Module]  # d_model -> module
MakeNorm = Callable[[int, float], nn.Module]  # (d_model, eps) -> module


def _mix(mixer, x, state, shared):
    return mixer(x, state, shared) if getattr(mixer, "shares", False) else mixer(x, state)


class Block(nn.Module):
    """x + mixer(norm(x)), then x + ffn(norm(x)): pre-norm, each part added to the residual stream.

    forward(x, state, shared) -> (x, state). The state is the mixer's. If the ffn has one too (class
    attribute `has_state = True`: forward(x, state) -> (y, state)), the state is the pair (mixer's,
    ffn's). A part with the class attribute `shares = True` is also given `shared`, a dict that all
    blocks see during one pass of the model. A subclass may connect its parts in another way, and be
    one of a LanguageModel's mixers itself.
    """

    def __init__(
        self,
        d_model: int,
        mixer: nn.Module,
        ffn: nn.Module | None = None,
        eps: float = 1e-6,
        norm: MakeNorm = RMSNorm,
    ):
        super().__init__()
        self.mixer_norm = norm(d_model, eps)
        self.mixer = mixer
        self.ffn_norm = None if ffn is None else norm(d_model, eps)
        self.ffn = ffn

    def forward(
        self, x: Float[Tensor, "B T D"], state: Any = None, shared: dict | None = None
    ) -> tuple[Float[Tensor, "B T D"], Any]:
        pair = getattr(self.ffn, "has_state", False)
        mixer_state, ffn_state = state if pair and state is not None else (state, None)
        x, mixer_state = self.add(x, "mixer", mixer_state, shared)
        if self.ffn is not None:
            x, ffn_state = self.add(x, "ffn", ffn_state, shared)
        return x, (mixer_state, ffn_state) if pair else mixer_state

    def add(self, x, name, state, shared):
        """The stream after the part called `name`, and the part's state."""
        y, state = self.run(name, getattr(self, f"{name}_norm")(x), state, shared)
        return x + y, state

    def run(self, name, x, state, shared):
        """The part called `name` on x: (y, state), with None for the state of a plain ffn."""
        part = getattr(self, name)
        if name == "ffn" and not getattr(part, "has_state", False):
            return part(x), None
        return _mix(part, x, state, shared)


class PostNormBlock(Block):
    """norm(α x + β part(x)) for mixer and ffn: the wiring of the 2017 Transformer.

    Vaswani et al. 2017, arXiv:1706.03762, has α = β = 1. The difference from Block: only normalised
    numbers are ever on the stream. A larger α keeps more of it: DeepNorm (arXiv:2203.00555).
    mixer_scale and ffn_scale are pairs (α, β). The last block ends with a norm, so the model needs
    no further one (`final_norm=False`).
    """

    def __init__(
        self,
        *args,
        mixer_scale: tuple[float, float] = (1.0, 1.0),
        ffn_scale: tuple[float, float] = (1.0, 1.0),
        **options,
    ):
        super().__init__(*args, **options)
        self.mixer_scale = mixer_scale
        self.ffn_scale = ffn_scale

    def add(self, x, name, state, shared):
        alpha, beta = getattr(self, f"{name}_scale")
        y, state = self.run(name, x, state, shared)
        return getattr(self, f"{name}_norm")(alpha * x + beta * y), state


class Parallel(nn.Module):
    """Several mixers side by side on the same input: the mean of norm_i(mixer_i(x)).

    Hymba (Dong et al. 2024, arXiv:2411.13676). The weights of the norms learn how much each mixer
    counts. The state is the list of the mixers' states.
    """

    shares = True

    def __init__(
        self, d_model: int, mixers: Sequence[Make], *, eps: float = 1e-6, norm: MakeNorm = RMSNorm
    ):
        super().__init__()
        self.mixers = nn.ModuleList(make(d_model) for make in _factories("mixers", mixers))
        self.norms = nn.ModuleList(norm(d_model, eps) for _ in mixers)

    def forward(
        self, x: Float[Tensor, "B T D"], state: list | None = None, shared: dict | None = None
    ) -> tuple[Float[Tensor, "B T D"], list]:
        states = state or [None] * len(self.mixers)
        outputs = [_mix(mixer, x, s, shared) for mixer, s in zip(self.mixers, states, strict=True)]
        normed = [norm(y) for norm, (y, _) in zip(self.norms, outputs, strict=True)]
        return reduce(torch.add, normed) / len(normed), [s for _, s in outputs]


class LanguageModel(nn.Module):
    """Embedding, blocks, norm, head. `mixers` holds one factory per block, called with d_model.

    The same factory four times makes four equal layers. A mixer whose start depends on its layer
    gets it from its factory: [partial(RWKV7, layer=l, n_layers=L) for l in range(L)] (all RWKV and
    LightningAttention; HGRN2 has lower_bound, Differential depth).

    ffn is a factory too (default SwiGLU; None for blocks of a mixer alone), or a list of them, one
    per block. A factory in `mixers` that returns a Block brings its own wiring and ffn; every other
    mixer is wrapped in `block`. norm is called with (d_model, eps): RMSNorm or nn.LayerNorm. tie:
    the head reuses the embedding. embedding_scale multiplies the embedding's output, embedding_norm
    normalises it. logit_cap c bends the logits to c tanh(logits / c).
    """

    def __init__(
        self,
        vocab: int,
        d_model: int,
        mixers: Sequence[Make],
        ffn: Make | Sequence[Make | None] | None = SwiGLU,
        *,
        block: Callable[..., Block] = Block,
        norm: MakeNorm = RMSNorm,
        eps: float = 1e-6,
        tie: bool = False,
        embedding_scale: float = 1.0,
        embedding_norm: bool = False,
        final_norm: bool = True,
        head_bias: bool = False,
        logit_cap: float | None = None,
    ):
        super().__init__()
        ffns = _one_per_block(ffn, mixers)
        self.embedding = nn.Embedding(vocab, d_model)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.embedding_norm = norm(d_model, eps) if embedding_norm else nn.Identity()
        self.embedding_scale = embedding_scale
        self.logit_cap = logit_cap
        self.blocks = nn.ModuleList()
        for make, make_ffn in zip(mixers, ffns, strict=True):
            made = make(d_model)
            if not isinstance(made, Block):
                made = block(d_model, made, make_ffn and make_ffn(d_model), eps, norm)
            self.blocks.append(made)
        self.norm = norm(d_model, eps) if final_norm else nn.Identity()
        self.head = nn.Linear(d_model, vocab, bias=head_bias)
        if tie:
            self.head.weight = self.embedding.weight

    def forward(
        self, tokens: Int[Tensor, "B T"], states: list | None = None
    ) -> tuple[Float[Tensor, "B T vocab"], list]:
        """Logits for the next token at each position, and the state of each block."""
        _check_tokens(tokens)
        return self.run(self.embedding(tokens), states)

    def run(
        self, x: Float[Tensor, "B T D"], states: list | None = None
    ) -> tuple[Float[Tensor, "B T vocab"], list]:
        """The model behind its embedding: x is what the embedding gave."""
        states = [None] * len(self.blocks) if states is None else states
        if len(states) != len(self.blocks):
            raise ValueError(
                f"there are {len(states)} states for {len(self.blocks)} blocks: "
                "give one each, or None"
            )
        x = self.embedding_norm(x * self.embedding_scale)
        shared = {"embedding": x}
        new_states = []
        for block, state in zip(self.blocks, states, strict=True):
            x, state = block(x, state, shared)
            new_states.append(state)
        logits = self.head(self.norm(x))
        if self.logit_cap is not None:
            logits = (logits / self.logit_cap).tanh() * self.logit_cap
        return logits, new_states


class VectorModel(LanguageModel):
    """The same model for sequences of vectors: a linear map in place of the embedding.

    n_in numbers a token come in, n_out go out; mixers and options are those of LanguageModel.
    """

    def __init__(self, n_in: int, n_out: int, d_model: int, mixers: Sequence[Make], *args, **how):
        super().__init__(n_out, d_model, mixers, *args, **how)
        self.embedding = nn.Linear(n_in, d_model)

    def forward(
        self, tokens: Float[Tensor, "B T n_in"], states: list | None = None
    ) -> tuple[Float[Tensor, "B T n_out"], list]:
        return self.run(self.embedding(tokens), states)


def _one_per_block(ffn, mixers) -> Sequence[Make | None]:
    """The list of the ffns' factories, after a check of both lists."""
    _factories("mixers", mixers)
    ffns = ffn if isinstance(ffn, Sequence) else [ffn] * len(mixers)
    if len(_factories("ffn", ffns)) != len(mixers):
        raise ValueError(
            f"ffn has {len(ffns)} entries, mixers has {len(mixers)}: one per block is needed"
        )
    return ffns


def _factories(name, given):
    """`given`, a list of callables that take d_model; TypeError names the entry that is not."""
    if not isinstance(given, Sequence):
        raise TypeError(
            f"{name} is {given!r}: give a list with one factory per block, such as [RetNet] * 4"
        )
    for i, make in enumerate(given):
        if isinstance(make, nn.Module):
            what = type(make).__name__
            raise TypeError(
                f"{name}[{i}] is already a module: give its factory, {what} or partial({what}, ...)"
            )
        if (make is not None and not callable(make)) or (make is None and name == "mixers"):
            raise TypeError(
                f"{name}[{i}] is {make!r}: "
                "give a class or function that makes a module from d_model"
            )
    return given


def _check_tokens(tokens, name="tokens"):
    if not isinstance(tokens, Tensor) or tokens.is_floating_point():
        what = f"of {tokens.dtype}" if isinstance(tokens, Tensor) else f"a {type(tokens).__name__}"
        raise TypeError(f"{name} is {what}: a tensor of integers (batch, time) is needed")
    if tokens.ndim != 2:
        raise ValueError(
            f"{name} has shape {tuple(tokens.shape)}: (batch, time) is needed; "
            "one sequence of T tokens is (1, T)"
        )


@torch.no_grad()
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

    temperature 0 takes the likeliest token; top_k samples among exactly the k likeliest. The model
    reads in eval mode, and each of its modules is returned to its own mode afterwards.
    """
    _check_sampling(prompt, n_tokens, temperature, top_k)
    _check_decodes(model)
    tokens = prompt
    states = None
    for _ in range(n_tokens):
        with _evaluating(model):
            logits, states = model(tokens, states)
        token = _sample(logits[:, -1], temperature, top_k, generator)
        yield token
        tokens = token[:, None]


def generate(
    model: LanguageModel, prompt: Int[Tensor, "B T"], n_tokens: int, **sampling: Any
) -> Int[Tensor, "B T_new"]:
    """The prompt continued by n_tokens tokens (B, T + n_tokens). Sampling options: see `stream`."""
    new = [token[:, None] for token in stream(model, prompt, n_tokens, **sampling)]
    return torch.cat([prompt, *new], dim=1)


@contextmanager
def _evaluating(model):
    """As after model.eval() (no dropout, jitter or counts); then each module's own mode again."""
    modes = {module: module.training for module in model.modules()} if model.training else {}
    if modes:
        model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _check_sampling(prompt, n_tokens, temperature, top_k):
    _check_tokens(prompt, "prompt")
    if prompt.shape[1] == 0:
        raise ValueError("the prompt is empty: give at least one token to continue from")
    if n_tokens < 0:
        raise ValueError(f"n_tokens is {n_tokens}: it must be 0 or more")
    if temperature < 0:
        raise ValueError(f"temperature is {temperature}: it must be 0 (greedy) or positive")
    if top_k is not None and top_k < 1:
        raise ValueError(
            f"top_k is {top_k}: at least 1 token must be left to choose from (None: all)"
        )


def _check_decodes(model):
    """A part that cannot be decoded has `causal = False`, or (a router) `per_token = False`."""
    for part in model.modules():
        name = type(part).__name__
        if not getattr(part, "causal", True):
            raise ValueError(
                f"{name} sees the whole sequence, later tokens too: "
                "a model with it cannot continue a text"
            )
        if not getattr(part, "per_token", True):
            warnings.warn(
                f"{name} counts places within what it is given, so token by token it drops none: "
                "the text may differ from the sequence read at once "
                "(capacity_factor=None has no places to count)",
                stacklevel=3,
            )


def _sample(
    logits: Float[Tensor, "B vocab"],
    temperature: float,
    top_k: int | None,
    generator: torch.Generator | None,
) -> Int[Tensor, " B"]:
    """One token per row, drawn from softmax(logits / temperature) over the top_k largest logits.

    The largest logit is subtracted before the division, in float64: so the largest quotient is 0,
    and a temperature however small gives neither ∞ - ∞ nor 0 / 0, but the argmax.
    """
    if temperature == 0 or len(logits) == 0:
        return logits.argmax(-1)
    logits = wide(logits)
    if top_k is not None:
        best = logits.topk(min(top_k, logits.shape[-1])).indices  # exactly top_k, also in a tie
        others = torch.ones_like(logits, dtype=torch.bool).scatter(-1, best, False)
        logits = logits.masked_fill(others, -torch.inf)
    below = logits - logits.amax(-1, keepdim=True)
    p = (below.double() / temperature).softmax(-1).to(logits.dtype)
    return torch.multinomial(p, 1, generator=generator)[:, 0]
