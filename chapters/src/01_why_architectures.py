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
# **You need** PyTorch (and `einops.rearrange`, which names axes), and softmax attention as a formula.
#
# **Time** 95 minutes with the code, a minute to run.
#
# **Covers** attention · grouped-query attention · multi-query attention · RoPE · RMSNorm · MLP · SwiGLU · the KV
# cache · Transformer 2017 · Transformer 2026.
#
# ## 1 · A failure: the memory of a long text is larger than the model
#
# A transformer that writes a text keeps a key and a value for every token, in every layer. This **KV cache** is what
# it knows of the text. Llama 3.1 70B is a large model: 141 GB of weights in bfloat16. How large is its cache?
# (`recipe` belongs to the *zoo*, the course's list of published architectures; the sizes are from the papers under
# References.)

# %% tags=["nbval-check-output"]
from seqlab.zoo import recipe

llama = recipe("Transformer 2026").published["Llama 3.1 70B"]
weights = 2 * llama["total"]  # bfloat16: 2 bytes a number
d_head = llama["d_model"] // llama["n_heads"]
# Keys and values, of 2 bytes a number.
per_token = 2 * llama["n_layers"] * llama["n_kv_heads"] * d_head * 2
print(
    f"weights {weights / 1e9:6.0f} GB;  cache of one token {per_token / 2**10:.0f} KiB"
)
for tokens in (2**13, 2**17, 2**20):
    cache = tokens * per_token
    print(
        f"{tokens:9,} tokens: {cache / 1e9:6.1f} GB of cache,",
        f"{cache / weights:.0%} of the weights",
    )

# %% [markdown]
# At 8,000 tokens the cache is nothing. At a million it is more than twice the model, for *one* reader; and the
# weights are shared by all readers, the cache is not. All of it must also be read for every token that is written. So
# the price shows in time as well. Two small models write the next token, after texts of growing length: one with
# attention, one with a recurrence, the subject of this course. **Before you read on**, commit to an answer:

# %% tags=["measured"]
from functools import partial

import torch

from seqlab.course import predict
from seqlab.figures import timing_lines
from seqlab.mixers import Attention, RetNet
from seqlab.model import LanguageModel
from seqlab.train import best_seconds

torch.set_num_threads(1)  # one thread keeps the timings steady
AFTER = (128, 512, 2048, 8192)


@torch.inference_mode()
def writing(mixer):
    """{n: seconds for one more token after n} for two layers of width 256."""
    torch.manual_seed(0)
    model, seconds = LanguageModel(64, 256, [mixer] * 2), {}
    for n in AFTER:
        _, state = model(torch.randint(64, (1, n)))
        seconds[n] = best_seconds(partial(model, torch.randint(64, (1, 1)), state), 9)
    return seconds


next_token = {
    "attention": writing(partial(Attention, n_heads=4, form="sdpa")),
    "a recurrence (RetNet)": writing(partial(RetNet, n_heads=4)),
}
longest = {name: seconds[8192] for name, seconds in next_token.items()}
times = longest["attention"] / longest["a recurrence (RetNet)"]
predict(
    "01-next",
    "How much longer does the next token take after 8,192 tokens than after 128?",
    lambda: timing_lines(
        next_token,
        title=f"After 8,192 tokens attention takes {times:.0f} times as long as RetNet",
    ),
    choices=[
        "as long, in both",
        "64 times as long, in both",
        "longer in attention only",
    ],
)

# %% [markdown]
# *What to see.* Both axes are logarithmic. The third answer is right. What a recurrence knows has a fixed size, so
# its next token costs the same after any text. Attention reads its whole cache. It does not take 64 times as long,
# because the rest of the model (norms, feed-forward layers, the loop in Python) costs the same at any length, and at
# first costs more than the cache; only the slope at the right end tends to 1.
#
# ## 2 · Two styles
#
# Nearly every layer that mixes tokens is of one of two styles. (Long convolutions, chapter 12, are between them.)
#
# **It looks back at everything.** Attention compares the query of token $t$ with the key of every token $s \le t$ and
# takes a mean of the values, weighted by a softmax:
#
# $$y_t = \sum_{s \le t} p_{ts}\, v_s \qquad p_{ts} = \mathrm{softmax}_s\, \frac{q_t \cdot k_s}{\sqrt K}$$
#
# **It folds what it reads into a state.** A recurrence has three maps: what becomes of the old state, what a token
# writes, and what is read. Each of the three may depend on the token as well:
#
# $$S_t = f_A(S_{t-1}) + f_B(x_t) \qquad y_t = f_C(S_t)$$
#
# This course is about the second style. From chapter 03 on its state $S$ is a table of $K \times K$ numbers, and its
# equation $S_t = S_{t-1} A_t + v_t k_t^\top$: the matrix $A_t$ says what is kept. What do both cost? Derive it for
# one head of width $K$ and a text of $T$ tokens. Count multiplications; each comes with an addition.
#
# | | attention | recurrence, step by step | in chunks of $C$ (chapter 04) |
# |---|---|---|---|
# | work for the whole text | $2\,T^2 K$ | $2\,T K^2$ | about $2\,T K (C + K)$ |
# | depth: steps that must wait | 1 | $T$ | $T / C$ |
# | what is kept for the next token | $2\,T K$ numbers | $K^2$ numbers | $K^2$ numbers |
# | work for the next token | $2\,T K$ | $2\,K^2$ | $2\,K^2$ |
#
# Attention needs $T^2 K$ multiplications for its scores and as many for their product with the values. (A causal
# model needs half of them; the plain form computes all and masks.) Step by step, a token costs $K^2$ for its write
# $v_t k_t^\top$ and $K^2$ for its read. A chunk of $C$ tokens is attention inside, $2 C^2 K$, and one write and one
# read of the state for the whole chunk, $2 C K^2$; there are $T / C$ chunks. Now count, instead of believing. PyTorch
# counts the operations of matrix products, a multiplication and its addition as two, so we halve them. Outer products
# it does not count: step by step, only the reads are seen, and we add the writes.

# %% tags=["nbval-check-output"]
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
C = 64  # tokens in a chunk
derived = {
    "attention": lambda T: 2 * T * T * K,
    "step by step": lambda T: 2 * T * K * K,
    "in chunks": lambda T: 2 * T * K * (C + K),
}
unseen = {"attention": 0, "step by step": K * K, "in chunks": 0}  # writes, a token
print("multiplications: counted (with the writes that PyTorch does not see), derived")
for name, form in forms.items():
    for T in (256, 1024):
        n = counted(form, T) // 2 + T * unseen[name]
        print(f"{name:13} T = {T:5,} {n:13,} {derived[name](T):13,}")

# %% [markdown]
# Four times the text is sixteen times the work for attention and four times for the recurrence. In chunks of $C = K$
# a recurrence works twice as much as step by step, and waits $C$ times less often. The depth is the other side:
# attention computes all tokens at once, the plain recurrence waits $T$ times. Chapter 02 shows why that stopped the
# recurrent networks of the past, and chapters 03 to 07 how it was mended.
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


def with_gradients(y, inputs):
    return y, *torch.autograd.grad(y.sin().sum(), [*inputs])


@holds
def heads_are_small_attentions_that_add_up():
    layer, x = Attention(32, n_heads=4, rope_base=None).double(), randn(2, 9, 32)
    q, k, v = (heads(W(x), 4) for W in (layer.q, layer.k, layer.v))
    outs = layer.out.weight.split(8, dim=1)  # (D, K) for each head
    parts = (attention(q[:, h], k[:, h], v[:, h]) @ outs[h].mT for h in range(4))
    same(*(with_gradients(y, layer.parameters()) for y in (sum(parts), layer(x)[0])))


# %% [markdown]
# **Change 1: positions by rotation (RoPE).** A layer of attention sees a *set* of keys: shuffle the past, and its
# read stays the same. The first transformer added waves to its inputs, one pattern for each position. RoPE turns $q$
# and $k$ instead, each pair of channels $p$ by the angle $n\,\theta_p$ at position $n$, with
# $\theta_p = \text{base}^{-2p/K}$. Turning is a matrix, and $R_m^\top R_n = R_{n-m}$: so
# $(R_m q) \cdot (R_n k) = q \cdot R_{n-m}\, k$ depends on the positions only through their difference.


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


# %%
from seqlab.figures.position import turning

q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(2)).double()
turning(q, k, [3, 4, 5, 8, 16, 32, 64, 128], distance=3)

# %% [markdown]
# *What to see.* Move the slider. Each circle is one pair of channels, with the query (solid) at its position and a
# key (dotted) three tokens earlier. The first pair turns by a whole radian with each token, the last by a thousandth.
# Within a circle both arrows turn together, so the angle between them stays, and with it the score.
#
# **Change 2: fewer keys (GQA, MQA).** The cache holds keys and values, not queries. So let several query heads share
# one key head: *grouped-query attention*. With a single key head it is *multi-query attention*. The arithmetic is the
# same as if the shared keys were repeated; only the cache is smaller. Llama 3.1 70B has 64 query heads and 8 key
# heads: without groups, its cache would be eight times as large.


# %% tags=["nbval-check-output"]
@holds
def grouped_queries_are_attention_with_repeated_keys():
    for n_kv_heads in (4, 2, 1):
        sizes = [(2, 9, n, 8) for n in (4, n_kv_heads, n_kv_heads)]
        q, k, v = (randn(*size).requires_grad_() for size in sizes)
        shared = (u.repeat_interleave(4 // n_kv_heads, dim=2) for u in (k, v))
        ours = attention(*(u.transpose(1, 2) for u in (q, *shared))).transpose(1, 2)
        theirs = attend(q, k, v, causal=True)
        same(with_gradients(ours, (q, k, v)), with_gradients(theirs, (q, k, v)))


# %% [markdown]
# Here is what the three rows of the zoo keep, with the recurrence of section 1, all of width 64:

# %%
from seqlab.figures.state_space import curves
from seqlab.zoo import row

NAMES = ("attention", "grouped-query attention", "multi-query attention", "RetNet")
READ = [2**n for n in range(4, 15)]
kept_by = {
    name: (READ, torch.tensor([float(row(name).state_floats(T, 64)) for T in READ]))
    for name in NAMES
}
curves(
    kept_by,
    title="Fewer key heads are a lower line, but only a state is a flat one",
    x="tokens read (log scale)",
    y="numbers kept (log scale)",
    log="xy",
)

# %% [markdown]
# *What to see.* Four heads, two key heads and one key head: each halving moves the line down, and none changes its
# slope. RetNet keeps 2,048 numbers, as its values here are twice as wide as its keys. A text of 16 tokens takes as
# many: shorter ones are cheaper to keep than a state.
#
# **Change 3: norm before, and a simpler one.** LayerNorm subtracts the mean and divides by the standard deviation.
# *RMSNorm* only divides by the root mean square. And it moved: in 2017 each sum was normed,
# $\mathrm{norm}(x + f(x))$, today each *part* is given a normed input, $x + f(\mathrm{norm}(x))$, and one more norm
# closes the model. That leaves a path from the last layer to the first on which nothing is multiplied. Is it worth
# anything? Build untrained models of 1 to 24 layers of either kind, and of a third one, with the norm before and
# without the last norm. Start their matrices as in 2017 (Xavier's rule), and measure the gradient that reaches the
# first layer:

# %%
from torch import nn

from seqlab.model import PostNormBlock

WIRING = {
    "norm after, LayerNorm (2017)": {
        "block": PostNormBlock,
        "norm": nn.LayerNorm,
        "final_norm": False,
    },
    "norm before, RMSNorm (2026)": {},
}
NO_LAST = {"norm before, no last norm": {"final_norm": False}}
DEPTHS = (1, 2, 4, 8, 16, 24)


def xavier(model):
    """Start the matrices as in 2017; PyTorch's own start is smaller."""
    for part in model.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)


def gradient(wiring, depth, seed):
    """The norm of the first layer's gradient (of its values) before any training."""
    torch.manual_seed(seed)
    model = LanguageModel(64, 64, [Attention] * depth, **wiring)
    xavier(model)
    tokens = torch.randint(64, (8, 33))
    logits, _ = model(tokens[:, :-1])
    F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    return model.blocks[0].mixer.v.weight.grad.norm()


by_depth = {
    name: torch.stack(
        [torch.stack([gradient(w, d, s) for d in DEPTHS]) for s in range(3)]
    )
    for name, w in (WIRING | NO_LAST).items()
}

# %% tags=["measured"]
after, before, _ = (g.mean(0)[-1] / g.mean(0)[0] for g in by_depth.values())
curves(
    {name: (DEPTHS, g.mean(0)) for name, g in by_depth.items()},
    title=f"1 to 24 layers, gradient × {after:.0f} norm after, × {before:.1f} before",
    x="layers in the model",
    y="gradient of the first layer's W_V (log scale)",
    log="y",
    markers=True,
).update_yaxes(dtick="D2")

# %% [markdown]
# *What to see.* Means of three starts. With the norm after, the gradient of the first layer grows with the depth. In
# the model of 2026 it hardly does. But without the last norm the model with norms before grows the most: the sum of
# all layers becomes large, and it is the last norm that divides the gradient by that size.
#
# Does it matter for what is learned? Train the models of both years for 50 steps with AdamW: eight layers of width
# 64, on Python's help texts, byte by byte, 8 excerpts of 32 bytes a step. The learning rate rises to 0.003 in five
# steps and then falls like a cosine. Three seeds, and two starts: Xavier's, and the smaller matrices of PyTorch's
# own.

# %%
from seqlab.ffn import MLP
from seqlab.figures import loss_curves
from seqlab.tasks import Text, python_help
from seqlab.train import train

help_texts = python_help()
task = Text(help_texts, n_tokens=32)
PARTS = [partial(Attention, n_heads=4, form="sdpa")] * 8, partial(MLP, d_ff=128)


def learned(wiring, start, seed):
    torch.manual_seed(seed)
    model = LanguageModel(256, 64, *PARTS, **wiring)
    start(model)
    how = {"steps": 50, "batch_size": 8, "lr": 3e-3, "seed": seed}
    return train(model, task, **how, label="norms").loss


STARTS = {"Xavier": xavier, "PyTorch's start": lambda model: None}
losses = {
    f"{name}, {start}": [learned(w, begin, seed) for seed in range(3)]
    for start, begin in STARTS.items()
    for name, w in zip(("after", "before"), WIRING.values(), strict=True)
}

# %% tags=["measured"]
end = {name: [sum(loss[-10:]) / 10 for loss in seeds] for name, seeds in losses.items()}
mean = {name: f"{sum(ends) / 3:.2f}" for name, ends in end.items()}
p = torch.tensor(list(help_texts)).bincount() / len(help_texts)
print(f"the frequencies of the bytes alone: {-(p * p.log()).nansum():.2f} nats a byte")
for name, ends in end.items():
    print(f"norm {name}:", "  ".join(f"{loss:.2f}" for loss in ends), "nats a byte")
xaviers, own = (
    f"{mean[f'before, {start}']} norm before, {mean[f'after, {start}']} after"
    for start in STARTS
)
loss_curves(
    {
        f"norm {name}": [sum(at) / 3 for at in zip(*seeds, strict=True)]
        for name, seeds in losses.items()
    },
    title=f"The start decides. Xavier: {xaviers}. PyTorch's own: {own}",
)

# %% [markdown]
# *What to see.* The curves are means of three seeds; the printed numbers (nats: bits times ln 2) are those of each
# seed, over the last ten steps. From Xavier's start the model with its norms after is still near what the frequencies
# of the bytes alone give, and the one with its norms before is below it. From PyTorch's smaller start **it is the
# other way round**: here the older wiring learns faster. So "norm before trains better" is no law. What this shows is
# that the place of the norm and the start belong together. We changed three things at once, as history did (the place
# of the norm, its kind, and the last norm), and tried one learning rate, one depth and 50 steps. What speaks for the
# norm before at a hundred layers, and how the older wiring trains with a longer warm-up, is in Xiong et al.
# (References).
#
# **Change 4: a gated feed-forward layer (SwiGLU).** Beside attention each block has a layer for each token alone. The
# *MLP* of 2017 has two matrices, $D \times 4D$ and back: $8 D^2$ weights. *SwiGLU* has three, because one more map
# multiplies the other: $W_3(\mathrm{silu}(W_1 x) \odot W_2 x)$, with $\mathrm{silu}(z) = z\,\sigma(z)$; in the code
# they are `gate`, `up` and `down`. Three matrices $D \times w$ have as many weights as two of $4D$ if
# $w = \tfrac83 D$.


# %%
def swiglu(ffn, x):
    return ffn.down(F.silu(ffn.gate(x)) * ffn.up(x))


def rms_norm(x, weight, eps=1e-6):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


# %% [markdown]
# **Change 5: the KV cache.** Training computes all tokens at once. Writing computes one at a time, and the keys and
# values of the past do not change, since no token sees those after it. So keep them. It is a change of the program,
# not of the model: both give the same numbers.
#
# Now all together: the models of both years, inline. That of 2017 is a decoder alone (the paper's has an encoder
# beside it), and scales its embeddings by $\sqrt D$. That of 2026 follows Qwen3: it has a sixth change, a norm of
# each head's $q$ and $k$, which Llama has not; its base is a million, and its maps have no biases.


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
        both = ours(model, tokens), model(tokens)[0]
        same(*(with_gradients(y, model.parameters()) for y in both))


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
# The last theorem is the failure of section 1 seen from its good side: with the cache a token costs one row of scores
# in place of a whole matrix. The price is that every row is kept.
#
# ## 4 · How it grows, measured
#
# Section 2 counted. Now the clock, and the memory, of one head of width 64. There are two forms of attention. The
# *plain* form is the formula as it stands: it makes the $T \times T$ matrix. The *fused* form is PyTorch's
# `scaled_dot_product_attention`, which works through the matrix piece by piece and never has all of it (chapter 14).
# And there are two forms of a recurrence whose state is 64 × 64: token by token, and in chunks (chapter 04).

# %% tags=["measured"]
from seqlab.core.attention import attend_sdpa
from seqlab.figures.training import scaling_lines
from seqlab.measure import peak_bytes

FORMS = {
    "attention, plain": partial(attend, causal=True),
    "attention, fused": partial(attend_sdpa, causal=True),
    "recurrence, by token": recurrent,
    "recurrence, in chunks": chunkwise,
}
seconds, MIB = {name: {} for name in FORMS}, {name: {} for name in FORMS}
with torch.inference_mode():
    for T in (512, 1024, 2048, 4096, 8192):
        for name, form in FORMS.items():
            run = partial(form, *draw(T))
            rounds = 1 if T > 2048 and "plain" in name else 4
            seconds[name][T] = best_seconds(run, rounds)
            MIB[name][T] = peak_bytes(run) / 2**20

ratio = seconds["attention, fused"][8192] / seconds["recurrence, in chunks"][8192]
title = f"8,192 tokens: fused attention takes {ratio:.1f} times as long as chunks"
scaling_lines(seconds, title=title, y="seconds", fitted_from=2048).show()
most, least = (MIB[f"attention, {form}"][8192] for form in ("plain", "fused"))
title = f"8,192 tokens: {most:,.0f} MiB with the matrix, {least:.0f} MiB without"
scaling_lines(MIB, title=title, y="MiB at one time", fitted_from=2048)

# %% [markdown]
# *What to see.* Above, time: for long texts both forms of attention are close to the line of $T^2$ and both
# recurrences to that of $T$; the fitted slopes are in the legend, and noise on a busy machine moves them. Which one
# is faster at a given length is another question: token by token, Python waits for 8,192 small steps. Below, memory:
# the most that tensors take at one time, without the inputs; the outputs count, so every form grows with $T$. Only
# the plain form grows as $T^2$: it holds its matrix more than three times over (scores, masked scores, weights). So
# "attention needs quadratic memory" is true of the formula and false of the program that everybody runs; its *time*
# is quadratic in both. The numbers behind ± are standard errors of the fitted slopes, from three lengths. `python
# benchmarks/scaling.py` goes on to 32,768 tokens, shows its progress and can be stopped at any time. Its stored
# result:

# %%
from seqlab.course.paths import root

stored = root() / "benchmarks" / "results" / "scaling.md"
print(stored.read_text() if stored.exists() else "run python benchmarks/scaling.py")

# %% [markdown]
# ## 5 · A calculator of memories
#
# What does a published model keep of a text? `kept` answers from the sizes: it builds the real layers without numbers
# (on PyTorch's *meta* device, where a tensor is only a shape), lets two tokens pass, and looks at the states. What
# has grown in between is a cache; what has not is a state; a cache that only holds the last $W$ tokens is a window.
# The counts are numbers, not bytes: `fixed` is the state, `growing` what each token adds to the caches, `windows`
# what it adds to those of the last $W$. For Llama it must give what we computed by hand:

# %% tags=["nbval-check-output"]
from seqlab.zoo.memory import kept


@holds
def the_calculator_agrees_with_our_own_count():
    found = kept("Transformer 2026", "Llama 3.1 70B")
    assert (found.fixed, found.windows) == (0, {})
    assert found.bytes(2**20) == 2**20 * per_token


print("a hybrid:  ", kept("Jamba", "v0.1"))
print("a window:  ", kept("Griffin", "7B"))
print("a state:   ", kept("Falcon Mamba", "7B"))

# %% [markdown]
# Choose models of the zoo, the bytes of a number in its caches (2 for bfloat16, 1 for FP8; states are counted in
# float32, as they are usually kept), and how many texts are read at the same time:

# %%
from seqlab.figures.memory import MODELS, memory_of
from seqlab.widgets import explore

explore(memory_of, models=list(MODELS), bytes_per_number=[4, 2, 1], texts=(1, 64))

# %% [markdown]
# *What to see.* A cache is a straight line upwards, a state is flat, a window rises and then stays. Choose Jamba, a
# hybrid: few of its layers have a cache, so its line rises late. For short texts the state is the larger of the two.
# More texts lift every line by the same factor.
#
# ### In the wild: a table of the surveys, recomputed
#
# A table that goes round in surveys says what a context of 128K tokens costs a model "of 7B": 40 GB for full
# attention, and 8 GB, 2 GB, 200 MB and 150 MB for hybrids and recurrences; it names neither the models nor the format
# of the numbers. Here is what comes out for published models, with caches in bfloat16 and states in float32:

# %% tags=["nbval-check-output"]
print(f"{'at 128K tokens':32} {'numbers':>8} {'cache':>9} {'state':>7}")
for name, model in (
    ("Transformer 2026", "Llama 3.1 70B"),
    ("Transformer 2026", "Llama 3.1 8B"),
    ("DeepSeek-V3", "V3"),
    ("Jamba", "v0.1"),
    ("Griffin", "7B"),
    ("Codestral Mamba", "7B"),
    ("Falcon Mamba", "7B"),
):
    total, found = recipe(name).published[model]["total"], kept(name, model)
    cache, state = found.bytes(2**17, state=0), found.bytes(0)
    sizes = f"{total / 1e9:7,.0f}B {cache / 1e6:6,.0f} MB {state / 1e6:4,.0f} MB"
    print(f"{name + ', ' + model:32} {sizes}")

# %% [markdown]
# 40 GB is Llama's at **70B** (40 GiB, to be exact), not at 7B: at 8B it is 17 GB. Without groups the 8B model would
# need four times that, 69 GB. The 2 GB of a hybrid fit Jamba, which has one attention layer in eight, and 52 billion
# weights. 8 GB is near DeepSeek-V3, with 671 billion. No 7B model here keeps 150 or 200 MB: Codestral Mamba's state
# would be 138 MB in bfloat16 and is twice that in float32, Falcon Mamba's is 40 MB. So the order is right, and the
# numbers fit different models: between the ends of that table lies a factor of 267, and part of it is a factor of ten
# in the models' size.
#
# ### Fact check
#
# **"Attention needs quadratic memory."** The formula does, the fused kernel does not (section 4).
#
# **"Grouped queries make attention faster to compute."** The multiplications of scores and values are the same; count
# them. What shrinks is the maps that make keys and values, the cache, and with it the time to *read* it, which is
# what decoding waits for.


# %% tags=["nbval-check-output"]
@holds
def fewer_key_heads_do_not_save_multiplications():
    q, k, v = randn(1, 64, 8, 16), randn(1, 64, 8, 16), randn(1, 64, 8, 16)
    flops = []
    for n_kv_heads in (8, 2, 1):
        with FlopCounterMode(display=False) as counter:
            attend(q, k[:, :, :n_kv_heads], v[:, :, :n_kv_heads], causal=True)
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1] == flops[2] > 0


# %% [markdown]
# **"A recurrence needs constant memory."** While it writes, yes. While it is *trained*, it keeps something for every
# token, as any network does, because the backward pass needs it.
#
# ## 6 · Practise
#
# In a terminal, `seqlab start 01` puts your own copy of the exercises into `work/`.

# %% [markdown] tags=["exercises"]
# The table of exercises is made from their files.

# %% [markdown]
# The notebook is [exercises/01_why_architectures.ipynb](../exercises/01_why_architectures.ipynb); work on the copy in
# `work/`.
#
# ## Recap, in five lines
#
# 1. Attention keeps a row for every token and reads all rows for the next; a recurrence keeps a state of fixed size.
# 2. Attention's work is quadratic and waits for nothing; a recurrence's is linear and, token by token, waits $T$ times.
# 3. Five changes lead from 2017 to 2026: positions by rotation, fewer keys, a norm before each part, a gated
#    feed-forward layer, a cache.
# 4. Quadratic *memory* belongs to the plain form of attention only; quadratic *time* to every form.
# 5. A number of a survey means little without its model, its format and its length: compute it from published sizes.
#
# Next, chapter 02: a recurrence reads a text at the same price for each token. Why was it given up?
#
# ## References
#
# - A. Vaswani et al. [*Attention Is All You Need.*](https://arxiv.org/abs/1706.03762) 2017.
# - N. Shazeer. [*Fast Transformer Decoding: One Write-Head is All You Need*](https://arxiv.org/abs/1911.02150)
#   (multi-query attention). 2019.
# - B. Zhang, R. Sennrich. [*Root Mean Square Layer Normalization.*](https://arxiv.org/abs/1910.07467) 2019.
# - N. Shazeer. [*GLU Variants Improve Transformer*](https://arxiv.org/abs/2002.05202) (SwiGLU). 2020.
# - R. Xiong et al. [*On Layer Normalization in the Transformer Architecture.*](https://arxiv.org/abs/2002.04745) 2020.
# - J. Su et al. [*RoFormer: Enhanced Transformer with Rotary Position Embedding.*](https://arxiv.org/abs/2104.09864)
#   2021.
# - A. Grattafiori et al. [*The Llama 3 Herd of Models.*](https://arxiv.org/abs/2407.21783) 2024.
# - O. Lieber et al. [*Jamba: A Hybrid Transformer-Mamba Language Model.*](https://arxiv.org/abs/2403.19887) 2024.
# - S. De et al. [*Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient Language
#   Models.*](https://arxiv.org/abs/2402.19427) 2024.
# - J. Zuo et al. [*Falcon Mamba: The First Competitive Attention-free 7B Language
#   Model.*](https://arxiv.org/abs/2410.05355) 2024.
# - DeepSeek-AI. [*DeepSeek-V3 Technical Report.*](https://arxiv.org/abs/2412.19437) 2024.
# - J. Ainslie et al. [*GQA: Training Generalized Multi-Query Transformer Models from Multi-Head
#   Checkpoints.*](https://arxiv.org/abs/2305.13245) 2023.
# - A. Yang et al. [*Qwen3 Technical Report*](https://arxiv.org/abs/2505.09388) (the Transformer 2026 of the zoo). 2025.
