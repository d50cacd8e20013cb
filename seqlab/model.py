"""A language model is a list of mixers: `LanguageModel(256, 128, [partial(RetNet, n_heads=4)] *
4)`.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from seqlab.ffn import SwiGLU
from seqlab.layers.norm import RMSNorm

Make = Callable[[int], nn.Module]  # d_model -> module


def _mix(mixer, x, state, shared):
    return mixer(x, state, shared) if getattr(mixer, "shares", False) else mixer(x, state)


class Block(nn.Module):
    """x + mixer(norm(x)), then x + ffn(norm(x)): pre-norm, each part added to the residual stream.

    forward(x, state, shared) -> (x, state). The state is the mixer's; with an ffn that has one too
    (class attribute `has_state = True`: forward(x, state) -> (y, state)), it is the pair (mixer's,
    ffn's). A part with the class attribute `shares = True` is given `shared` as well, the dict all
    blocks see during one pass of the model. A subclass may wire its parts otherwise, and stand for
    itself among a LanguageModel's mixers.
    """

    def __init__(
        self,
        d_model: int,
        mixer: nn.Module,
        ffn: nn.Module | None = None,
        eps: float = 1e-6,
        norm=RMSNorm,
    ):
        super().__init__()
        self.mixer_norm, self.mixer = norm(d_model, eps), mixer
        self.ffn_norm, self.ffn = (None, None) if ffn is None else (norm(d_model, eps), ffn)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None, shared: dict | None = None
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
    """norm(α x + β part(x)) for mixer and ffn: the wiring of the 2017 Transformer
    (arXiv:1706.03762), α = β = 1.

    Only normalised numbers are ever on the stream. Larger α keeps more of it: DeepNorm
    (arXiv:2203.00555). mixer_scale and ffn_scale are pairs (α, β). The last norm of the last block
    leaves no work for a final one (`final_norm=False`).
    """

    def __init__(self, *args, mixer_scale=(1.0, 1.0), ffn_scale=(1.0, 1.0), **options):
        super().__init__(*args, **options)
        self.mixer_scale, self.ffn_scale = mixer_scale, ffn_scale

    def add(self, x, name, state, shared):
        alpha, beta = getattr(self, f"{name}_scale")
        y, state = self.run(name, x, state, shared)
        return getattr(self, f"{name}_norm")(alpha * x + beta * y), state


class Parallel(nn.Module):
    """Several mixers side by side on the same input: the mean of norm_i(mixer_i(x)) (Hymba,
    arXiv:2411.13676).

    The norms' weights learn how much each counts. The state is the list of the mixers' states.
    """

    shares = True

    def __init__(self, d_model: int, mixers: Sequence[Make], *, eps: float = 1e-6, norm=RMSNorm):
        super().__init__()
        self.mixers = nn.ModuleList(make(d_model) for make in _factories("mixers", mixers))
        self.norms = nn.ModuleList(norm(d_model, eps) for _ in mixers)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None, shared=None
    ) -> tuple[Float[Tensor, "B T D"], list]:
        states = state or [None] * len(self.mixers)
        outputs = [_mix(mixer, x, s, shared) for mixer, s in zip(self.mixers, states, strict=True)]
        total = sum(norm(y) for norm, (y, _) in zip(self.norms, outputs, strict=True))
        return total / len(outputs), [s for _, s in outputs]


class LanguageModel(nn.Module):
    """Embedding, blocks, norm, head. `mixers` holds one factory per block, each called with
    d_model.

    Four times the same factory makes four equal layers. Mixers whose start depends on their place
    are told it by theirs: [partial(RWKV7, layer=l, n_layers=L) for l in range(L)] (all RWKV and
    LightningAttention; HGRN2 has lower_bound, Differential depth).

    ffn is a factory too (default SwiGLU; None for blocks of a mixer alone), or a list of them, one
    per block. A factory in `mixers` that returns a Block brings its own wiring and ffn; all others
    are wrapped in `block`. norm is called with (d_model, eps): RMSNorm or nn.LayerNorm. tie: the
    head reuses the embedding. embedding_scale multiplies the embedding's output, embedding_norm
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
        norm: Callable[[int, float], nn.Module] = RMSNorm,
        eps: float = 1e-6,
        tie: bool = False,
        embedding_scale: float = 1.0,
        embedding_norm: bool = False,
        final_norm: bool = True,
        head_bias: bool = False,
        logit_cap: float | None = None,
    ):
        super().__init__()
        ffns = ffn if isinstance(ffn, Sequence) else [ffn] * len(_factories("mixers", mixers))
        if len(_factories("ffn", ffns)) != len(mixers):
            raise ValueError(
                f"ffn has {len(ffns)} entries, mixers has {len(mixers)}: one per block is needed"
            )
        self.embedding = nn.Embedding(vocab, d_model)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.embedding_norm = norm(d_model, eps) if embedding_norm else nn.Identity()
        self.embedding_scale, self.logit_cap = embedding_scale, logit_cap
        self.blocks = nn.ModuleList()
        for make, make_ffn in zip(mixers, ffns, strict=True):
            made = make(d_model)
            is_block = isinstance(made, Block)
            self.blocks.append(
                made
                if is_block
                else block(d_model, made, make_ffn and make_ffn(d_model), eps, norm)
            )
        self.norm = norm(d_model, eps) if final_norm else nn.Identity()
        self.head = nn.Linear(d_model, vocab, bias=head_bias)
        if tie:
            self.head.weight = self.embedding.weight

    def forward(
        self, tokens: Int[Tensor, "B T"], states: list | None = None
    ) -> tuple[Float[Tensor, "B T vocab"], list]:
        """Logits for the next token at each position, and the state of each block."""
        _check_tokens(tokens)
        states = [None] * len(self.blocks) if states is None else states
        if len(states) != len(self.blocks):
            raise ValueError(
                f"there are {len(states)} states for {len(self.blocks)} blocks: give one each, or None"
            )
        x = self.embedding_norm(self.embedding(tokens) * self.embedding_scale)
        shared = {"embedding": x}
        new_states = []
        for block, state in zip(self.blocks, states, strict=True):
            x, state = block(x, state, shared)
            new_states.append(state)
        logits = self.head(self.norm(x))
        return (
            logits if self.logit_cap is None else self.logit_cap * (logits / self.logit_cap).tanh()
        ), new_states


def _factories(name, given):
    """`given`, a list of what can be called with d_model; TypeError names the entry that cannot."""
    if not isinstance(given, Sequence):
        raise TypeError(
            f"{name} is {given!r}: give a list with one factory per block, such as [RetNet] * 4"
        )
    for i, make in enumerate(given):
        if isinstance(make, nn.Module):
            what = type(make).__name__
            raise TypeError(
                f"{name}[{i}] is a {what} that is made already: give what makes it, {what} or partial({what}, ...)"
            )
        if (make is not None and not callable(make)) or (make is None and name == "mixers"):
            raise TypeError(
                f"{name}[{i}] is {make!r}: give a class or function that makes a module from d_model"
            )
    return given


def _check_tokens(tokens, name="tokens"):
    if not isinstance(tokens, Tensor) or tokens.is_floating_point():
        what = f"of {tokens.dtype}" if isinstance(tokens, Tensor) else f"a {type(tokens).__name__}"
        raise TypeError(f"{name} is {what}: a tensor of integers (batch, time) is needed")
    if tokens.ndim != 2:
        raise ValueError(
            f"{name} has shape {tuple(tokens.shape)}: (batch, time) is needed; one sequence of T tokens is (1, T)"
        )


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

    temperature 0 takes the likeliest token; top_k samples among the k likeliest. The model reads in
    eval mode, whatever mode it is in, and is left in its own.
    """
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
    _check_decodes(model)
    tokens, states = prompt, None
    for _ in range(n_tokens):
        with _evaluating(model):
            logits, states = model(tokens, states)
        token = _sample(logits[:, -1], temperature, top_k, generator)
        yield token
        tokens = token[:, None]


def generate(
    model: LanguageModel, prompt: Int[Tensor, "B T"], n_tokens: int, **sampling
) -> Int[Tensor, "B T_new"]:
    """The prompt continued by n_tokens tokens (B, T + n_tokens). Sampling options: see `stream`."""
    return torch.cat(
        [prompt, *(token[:, None] for token in stream(model, prompt, n_tokens, **sampling))], dim=1
    )


@contextmanager
def _evaluating(model):
    """Without dropout, jitter or counts, as after model.eval(); then each module is in its own mode
    again.
    """
    modes = {module: module.training for module in model.modules()} if model.training else {}
    if modes:
        model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _check_decodes(model):
    """Parts say of themselves what stands in the way: `causal = False`, or (routers) `per_token =
    False`.
    """
    for part in model.modules():
        name = type(part).__name__
        if not getattr(part, "causal", True):
            raise ValueError(
                f"{name} sees the whole sequence, later tokens too: a model with it cannot continue a text"
            )
        if not getattr(part, "per_token", True):
            warnings.warn(
                f"{name} counts places within what it is given, so token by token it drops none: the text may differ"
                " from the sequence read at once (capacity_factor=None has no places to count)",
                stacklevel=3,
            )


def _sample(logits, temperature, top_k, generator):
    if temperature == 0:
        return logits.argmax(-1)
    if top_k is not None:
        floor = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < floor, -torch.inf)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
