# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 01 · Why architectures
#
# **After this chapter you can**
#
# - compute what a long text costs a transformer in memory, and measure what it costs in time;
# - say what the two styles of sequence layer are, and count the work, depth and memory of each;
# - turn the transformer of 2017 into that of 2026 by five changes, and prove what each keeps;
# - measure how time and memory grow with the length of a text, and say which memory you mean;
# - check a survey's table of memory costs against published sizes.
#
# **You need** PyTorch, and softmax attention as a formula.
#
# **Time** 50 minutes to read, a minute to run.
#
# **Covers** attention · grouped-query attention · multi-query attention · RoPE · RMSNorm · MLP · SwiGLU · the KV cache
# · Transformer 2017 · Transformer 2026.
#
# ## 1 · A failure: the memory of a long text is larger than the model
#
# A transformer that writes a text keeps a key and a value for every token, in every layer. This **KV cache** is what it
# knows of the text. Llama 3.1 70B is a large model: 141 GB of weights in bfloat16. How large is its cache?

# %% tags=["nbval-check-output"]
from seqlab.zoo import recipe

llama = recipe("Transformer 2026").published["Llama 3.1 70B"]
weights = 2 * llama["total"]  # bfloat16: 2 bytes a number
d_head = llama["d_model"] // llama["n_heads"]
per_token = 2 * llama["n_layers"] * llama["n_kv_heads"] * d_head * 2  # keys and values
print(
    f"weights {weights / 1e9:6.0f} GB;  cache of one token {per_token / 2**10:.0f} KiB"
)
for tokens in (2**13, 2**17, 2**20):
    cache = tokens * per_token
    print(
        f"{tokens:9,} tokens: {cache / 1e9:6.1f} GB of cache, {cache / weights:.0%} of the weights"
    )

# %% [markdown]
# At 8,000 tokens the cache is nothing. At a million it is more than twice the model, for *one* reader; and the weights
# are shared by all readers, the cache is not. All of it must also be read for every token that is written. So the price
# shows in time as well. Two small models write the next token, after texts of growing length: one with attention, one
# with a recurrence, the subject of this course.

# %%
import torch

from seqlab.mixers import Attention, RetNet
from seqlab.model import LanguageModel
from seqlab.train import best_seconds

torch.set_num_threads(1)  # one thread keeps the timings steady
LENGTHS = (256, 1024, 4096, 16384)


def writing(mixer):
    """n -> seconds for one more token after n tokens; the model has two layers of width 256."""
    torch.manual_seed(0)
    model, seconds = LanguageModel(64, 256, [mixer] * 2), {}
    with torch.inference_mode():
        for n in LENGTHS:
            _, state = model(torch.randint(64, (1, n)))
            token = torch.randint(64, (1, 1))
            seconds[n] = best_seconds(lambda: model(token, state))
    return seconds


from seqlab.figures import timing_lines

decoding = {"attention": writing(Attention), "a recurrence (RetNet)": writing(RetNet)}

# %% tags=["measured"]
longest = LENGTHS[-1]
times = decoding["attention"][longest] / decoding["a recurrence (RetNet)"][longest]
timing_lines(
    decoding,
    title=f"After {longest:,} tokens, attention takes {times:.0f} times as long for the next",
)

# %% [markdown]
# *What to see.* Both axes are logarithmic. The recurrence takes the same time after any text, because what it knows has
# a fixed size. Attention starts at the same level and then grows with the length: it reads its whole cache.
#
# ## 2 · Two styles
#
# Every layer that mixes tokens is of one of two styles.
#
# **It looks back at everything.** Attention compares the query of token $t$ with the key of every token $s \le t$ and
# takes a mean of the values, weighted by a softmax:
#
# $$y_t = \sum_{s \le t} p_{ts}\, v_s \qquad p_{ts} = \mathrm{softmax}_s\, \frac{q_t \cdot k_s}{\sqrt K}$$
#
# **It folds what it reads into a state.** A recurrence has three maps: what becomes of the old state, what a token
# writes, and what is read:
#
# $$H_t = f_A(H_{t-1}) + f_B(x_t) \qquad y_t = f_C(H_t)$$
#
# This course is about the second style; its equation, from chapter 03 on, has a table for $H$:
# $S_t = S_{t-1} A_t + v_t k_t^\top$. What do both cost? Derive it for one head of width $K$ and a text of $T$ tokens,
# in multiplications and additions:
#
# | | attention | recurrence, step by step | in chunks of $C$ (chapter 04) |
# |---|---|---|---|
# | work for the whole text | $2\,T^2 K$ | $2\,T K^2$ | about $2\,T K (C + K)$ |
# | depth: steps that must wait | 1 | $T$ | $T / C$ |
# | what is kept for the next token | $2\,T K$ numbers | $K^2$ numbers | $K^2$ numbers |
# | work for the next token | $2\,T K$ | $2\,K^2$ | $2\,K^2$ |
#
# (Scores are $T^2 K$ multiplications with their additions, and so is their product with the values. A causal model needs
# half of them; the plain form computes all and masks.) Now count, instead of believing. PyTorch counts the operations of
# matrix products, one multiplication and one addition as two; a state's numbers we count ourselves:

# %% tags=["nbval-check-output"]
import math
from functools import partial

from torch.utils.flop_counter import FlopCounterMode

from seqlab.core.attention import attend
from seqlab.core.recurrence import chunkwise, recurrent

K = 64


def draw(T):
    return torch.randn(3, 1, T, 1, K, generator=torch.Generator().manual_seed(0))


def counted(form, T):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        form(*draw(T))
    return counter.get_total_flops()


forms = {"attention": attend, "step by step": recurrent, "in chunks": chunkwise}
derived = {
    "attention": lambda T: 4 * T * T * K,
    "step by step": lambda T: (
        2 * T * K * K
    ),  # the reads; each write is an outer product
    "in chunks": lambda T: 4 * T * K * (64 + K),
}
print("operations of matrix products, counted and derived")
for name, form in forms.items():
    cells = [f"{counted(form, T):13,} {derived[name](T):13,}" for T in (256, 1024)]
    print(f"{name:13}", *cells)

# %% [markdown]
# Four times the text is sixteen times the work for attention and four times for the recurrence. The depth is the other
# side: attention computes all tokens at once, the plain recurrence waits $T$ times. Chapter 02 shows why that stopped
# the recurrent networks of the past, and chapters 03 to 07 how it was mended.
#
# ## 3 · From 2017 to 2026, in five changes
#
# The transformer that today's recurrences are measured against is not that of 2017. Five changes lie between.
#
# **First: heads.** (They are in the first transformer already, but everything else needs them.) $D$ channels are cut
# into $H$ heads of width $K = D / H$. Each head has its own weights $p$. So $H$ heads are $H$ small attentions beside
# each other, and the last matrix adds them up.


# %%
import torch.nn.functional as F
from einops import rearrange


def attention(q, k, v):
    """q (…, T, K), k and v (…, S, K): the queries belong to the last T of S tokens."""
    T, S = q.shape[-2], k.shape[-2]
    later = torch.ones(T, S).triu(S - T + 1).bool()
    scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(later, -torch.inf)
    return scores.softmax(-1) @ v


def heads(x, H):
    return rearrange(x, "b t (h k) -> b h t k", h=H)


# %% tags=["nbval-check-output"]
from seqlab.course import holds

rng = torch.Generator().manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def with_gradients(y, module):
    return y, *torch.autograd.grad(y.sin().sum(), [*module.parameters()])


@holds
def heads_are_small_attentions_that_add_up():
    layer, x = Attention(32, n_heads=4, rope_base=None).double(), randn(2, 9, 32)
    q, k, v = (heads(W(x), 4) for W in (layer.q, layer.k, layer.v))
    outs = layer.out.weight.split(8, dim=1)  # (D, K) for each head
    parts = (attention(q[:, h], k[:, h], v[:, h]) @ outs[h].mT for h in range(4))
    same(with_gradients(sum(parts), layer), with_gradients(layer(x)[0], layer))


# %% [markdown]
# **Change 1: positions by rotation (RoPE).** Attention sees a *set* of keys: shuffle the past, and nothing changes. The
# first transformer added waves to its inputs, one pattern for each position. RoPE turns $q$ and $k$ instead, each pair
# of channels by an angle that grows with the position. A dot product of two turned vectors knows only the *difference*
# of their angles, so the score knows the distance and not the place.


# %%
def turned(x, positions, base=10000.0):
    """Channels (p, p + K/2) of x (…, T, K), turned by position · base^(-2p/K)."""
    K = x.shape[-1]
    theta = base ** -(torch.arange(0, K, 2, dtype=torch.float64) / K)
    angle = positions[:, None] * theta
    a, b = x.chunk(2, dim=-1)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


# %% tags=["nbval-check-output"]
from seqlab.core.position import rope_frequencies, rotate


@holds
def our_rotation_is_that_of_seqlab():
    x, n = randn(2, 9, 3, 8), torch.arange(9)
    ours = turned(x.transpose(1, 2), n).transpose(1, 2)
    same(ours, rotate(x, n, rope_frequencies(8)))


@holds
def a_score_knows_only_the_distance():
    q, k, n = randn(1, 16), randn(1, 16), torch.arange(20)
    early, late = (
        turned(q.expand(20, 16), m) @ turned(k.expand(20, 16), m).mT
        for m in (n, n + 1000)
    )
    same(early, late)
    for distance in range(20):
        diagonal = early.diagonal(-distance)
        same(diagonal, diagonal[:1].expand_as(diagonal))


# %% [markdown]
# **Change 2: fewer keys (GQA, MQA).** The cache holds keys and values, not queries. So let several query heads share one
# key head: *grouped-query attention*. With a single key head it is *multi-query attention*. The arithmetic is the same as
# if the shared keys were repeated; only the cache is smaller. Llama 3.1 70B has 64 query heads and 8 key heads: without
# groups, its cache would be eight times as large.


# %% tags=["nbval-check-output"]
@holds
def grouped_queries_are_attention_with_repeated_keys():
    x, sizes = randn(2, 9, 32), {}
    for n_kv_heads in (4, 2, 1):
        grouped = Attention(32, n_heads=4, n_kv_heads=n_kv_heads).double()
        full = Attention(32, n_heads=4).double()
        full.load_state_dict(
            grouped.state_dict()
            | {
                f"{name}.weight": rearrange(
                    getattr(grouped, name).weight, "(h k) d -> h k d", h=n_kv_heads
                )
                .repeat_interleave(4 // n_kv_heads, dim=0)
                .flatten(0, 1)
                for name in ("k", "v")
            }
        )
        y, cache = grouped(x)
        same(y, full(x)[0])
        sizes[n_kv_heads] = cache.k.numel() + cache.v.numel()
    assert sizes[4] == 2 * sizes[2] == 4 * sizes[1]


# %% [markdown]
# **Change 3: norm before, and a simpler one.** LayerNorm subtracts the mean and divides by the standard deviation.
# *RMSNorm* only divides by the root mean square. And it moved: in 2017 each sum was normed, $\mathrm{norm}(x + f(x))$,
# today each *part* is given a normed input, $x + f(\mathrm{norm}(x))$. That leaves a path from the last layer to the
# first on which nothing is multiplied. Is it worth anything? Build untrained models of 1 to 24 layers of either kind, start
# their matrices as in 2017 (Xavier's rule), and measure the gradient that reaches the first layer:

# %%
from torch import nn

from seqlab.figures.state_space import curves
from seqlab.model import PostNormBlock

WIRING = {
    "norm after, LayerNorm (2017)": {
        "block": PostNormBlock,
        "norm": nn.LayerNorm,
        "final_norm": False,
    },
    "norm before, RMSNorm (2026)": {},
}
DEPTHS = (1, 2, 4, 8, 16, 24)


def gradient(wiring, depth, seed):
    """The norm of the first layer's gradient (of its values) before any training."""
    torch.manual_seed(seed)
    model = LanguageModel(64, 64, [Attention] * depth, **wiring)
    for part in model.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
    tokens = torch.randint(64, (8, 33))
    logits, _ = model(tokens[:, :-1])
    F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    return model.blocks[0].mixer.v.weight.grad.norm()


by_depth = {
    name: torch.stack(
        [torch.stack([gradient(w, d, s) for d in DEPTHS]) for s in range(3)]
    )
    for name, w in WIRING.items()
}

# %% tags=["measured"]
after, before = (g.mean(0)[-1] / g.mean(0)[0] for g in by_depth.values())
curves(
    {name: (DEPTHS, g.mean(0)) for name, g in by_depth.items()},
    title=f"From 1 layer to 24, the gradient grows {after:.0f}-fold with the norm after the sum, "
    f"{before:.1f}-fold with it before",
    x="layers in the model",
    y="gradient of the first layer's W_V (log scale)",
    log="y",
    markers=True,
)

# %% [markdown]
# *What to see.* Means of three starts. With the norm before, a model of any depth begins with about the same gradient:
# one learning rate fits all. With the norm after, the gradient grows with the depth; this is why the first transformers
# needed a warm-up, steps with a tiny learning rate. The finding belongs to the start as well as to the norm: with the
# smaller matrices of PyTorch's own start the same measurement gives a far smaller rise.
#
# **Change 4: a gated feed-forward layer (SwiGLU).** Beside attention each block has a layer for each token alone. The
# *MLP* of 2017 has two matrices, $D \times 4D$ and back: $8 D^2$ weights. *SwiGLU* has three, because one more map
# multiplies the other: $W_3(\mathrm{silu}(W_1 x) \odot W_2 x)$. At equal weights its width is $\tfrac83 D$.


# %%
def swiglu(ffn, x):
    return ffn.down(F.silu(ffn.gate(x)) * ffn.up(x))


def rms_norm(x, weight, eps=1e-6):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


# %% [markdown]
# **Change 5: the KV cache.** Training computes all tokens at once. Writing computes one at a time, and the keys and values
# of the past do not change, since no token sees those after it. So keep them. It is a change of the program, not of the
# model: both give the same numbers.
#
# Now all together: the models of both years, inline.


# %%
def attend_2026(layer, x, positions, cache=None):
    """Grouped, normed and turned; the cache is (k, v), (B, h, S, K)."""
    K = layer.d_head
    q, k, v = (
        rearrange(W(x), "b t (h k) -> b h t k", k=K)
        for W in (layer.q, layer.k, layer.v)
    )
    q, k = rms_norm(q, layer.q_norm.weight), rms_norm(k, layer.k_norm.weight)
    q, k = turned(q, positions, 1e6), turned(k, positions, 1e6)
    if cache is not None:
        k, v = torch.cat([cache[0], k], dim=2), torch.cat([cache[1], v], dim=2)
    groups = q.shape[1] // k.shape[1]
    shared = (u.repeat_interleave(groups, dim=1) for u in (k, v))
    y = rearrange(attention(q, *shared), "b h t k -> b t (h k)")
    return layer.out(y), (k, v)


def transformer_2026(model, tokens, start=0, caches=None):
    x, new = model.embedding(tokens), []
    positions = torch.arange(start, start + tokens.shape[1])
    for n, block in enumerate(model.blocks):
        u = rms_norm(x, block.mixer_norm.weight)
        y, cache = attend_2026(block.mixer, u, positions, caches and caches[n])
        x = x + y
        x = x + swiglu(block.ffn, rms_norm(x, block.ffn_norm.weight))
        new.append(cache)
    return model.head(rms_norm(x, model.norm.weight)), new


def transformer_2017(model, tokens):
    D, n = model.embedding.weight.shape[1], torch.arange(tokens.shape[1])
    angle = n[:, None] * 10000 ** -(torch.arange(0, D, 2).double() / D)
    x = model.embedding(tokens) * D**0.5
    x = x + torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
    for block in list(model.blocks)[1:]:  # the first adds the waves
        layer, ffn = block.mixer, block.ffn
        H = D // layer.d_head
        y = attention(*(heads(W(x), H) for W in (layer.q, layer.k, layer.v)))
        x = block.mixer_norm(x + layer.out(rearrange(y, "b h t k -> b t (h k)")))
        x = block.ffn_norm(x + ffn.down(F.relu(ffn.up(x))))
    return model.head(x)


# %% tags=["nbval-check-output"]
@holds
def these_are_the_transformers_of_2017_and_2026():
    tokens = torch.randint(256, (2, 12), generator=rng)
    for name, ours in (
        ("Transformer 2017", transformer_2017),
        ("Transformer 2026", lambda model, tokens: transformer_2026(model, tokens)[0]),
    ):
        model = recipe(name).build().double()
        same(
            with_gradients(ours(model, tokens), model),
            with_gradients(model(tokens)[0], model),
        )


@holds
def with_a_cache_each_token_is_computed_once():
    model = recipe("Transformer 2026").build().double()
    tokens = torch.randint(256, (2, 12), generator=rng)
    whole, _ = transformer_2026(model, tokens)
    caches, logits = None, []
    for t in range(12):
        y, caches = transformer_2026(model, tokens[:, t : t + 1], t, caches)
        logits.append(y)
    same(torch.cat(logits, dim=1), whole)


# %% [markdown]
# ## 5 · A table of the surveys, recomputed
#
# Surveys print what a context of 128K tokens costs a model of 7 billion parameters: 40 GB for full attention, 200 MB,
# 150 MB, 8 GB and 2 GB for its rivals, without saying for which model, in which numbers. Sizes are published, so compute.
