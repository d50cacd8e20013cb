# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 · RetNet
#
# **After this chapter you can**
#
# - say what a memory without forgetting gets wrong, and compute the best score it can reach;
# - turn a decay γ into a half-life, and say why each head has its own;
# - derive the parallel and the chunkwise form from the recurrent one, and say which is fast when;
# - write the decay mask without overflow;
# - explain a rotation of q and k as relative position, and why γ and xPos are one idea;
# - say what a constant decay buys, and what it costs.
#
# **You need** chapter 03: the state as a table, and the three forms.
#
# **Time** 50 minutes to read, under a minute to run.
#
# **Covers** RetNet: parallel, recurrent, chunkwise · multi-scale decay · rotation and xPos.
#
# The question of the course was: *what should the memory forget?* Chapter 03 answered "nothing". This chapter answers
# "everything, a little, all the time":
#
# $$S_t = \gamma\, S_{t-1} + v_t k_t^\top \qquad\qquad y_t = S_t q_t$$

# %%
import math
import time
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from tqdm.auto import tqdm

import seqlab.core.recurrence
from seqlab.core.position import rope_frequencies, rotate
from seqlab.figures import loss_curves, timing_lines
from seqlab.figures import retention as figures
from seqlab.microscope import observe
from seqlab.mixers import LinearAttention, RetNet
from seqlab.model import LanguageModel
from seqlab.tasks import IGNORE, Recall
from seqlab.train import evaluate, train
from seqlab.widgets import explore, microscope

# small matrices: more threads gain nothing here, and one keeps the timings steady
torch.set_num_threads(1)
rng = torch.Generator().manual_seed(0)


def holds(theorem):
    """Run a claim as soon as it is defined. The name of the function is the claim."""
    theorem()
    print("holds:", theorem.__name__.replace("_", " "))


def randn(*shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


# %% [markdown]
# ## 1 · A failure: a memory that cannot tell new from old
#
# The task is a notebook with corrections. Each token writes one pair: a key and a value. There are 8 keys, 8 values
# and 32 pairs, so keys are written again. Then each key is asked for once. Only the value written *last* counts.

# %% tags=["nbval-check-output"]
task = Recall(n_keys=8, n_values=8, n_pairs=32)


def readable(token):
    """a7: write value 7 under key a.  a?: ask for key a."""
    n_writes = task.n_keys * task.n_values
    if token < n_writes:
        return "abcdefgh"[token // task.n_values] + str(token % task.n_values)
    return "abcdefgh"[token - n_writes] + "?"


example = task.batch(1, torch.Generator().manual_seed(0))
print(" ".join(readable(int(token)) for token in example.tokens[0]))
first_answer = (
    int(example.targets[0, task.n_pairs]) - task.n_keys * task.n_values - task.n_keys
)
print(
    f"The first question is {readable(int(example.tokens[0, task.n_pairs]))} and its answer is {first_answer}."
)

# %% [markdown]
# Two tiny models learn it: linear attention of chapter 03, and RetNet, the subject of this chapter. Both have one
# layer, the same width, four heads, and a state of the same size (up to linear attention's normaliser row). They see
# the same batches, for the same number of steps, with the same learning rate. One token holds a whole pair and there
# is no feed-forward layer, so only the memory is tested. Guessing scores 1 in 8.

# %%
# try STEPS = 1000 or SEEDS = (0, 1, 2): two minutes
WIDTH, HEADS = 64, 4
STEPS, SEEDS = 300, (0,)


def model_with(mixer, seed):
    torch.manual_seed(seed)
    return LanguageModel(task.vocab, WIDTH, [mixer], ffn=None)


def trained(name, make):
    """One trained model per seed, and the history of each."""
    models = {seed: make(seed) for seed in SEEDS}
    runs = [
        train(model, task, steps=STEPS, seed=seed, label=name)
        for seed, model in models.items()
    ]
    return list(models.values()), runs


mixers = {
    "linear attention": partial(LinearAttention, n_heads=HEADS),
    # V = K, as linear attention has it; the paper takes V = 2 K
    "RetNet": partial(RetNet, n_heads=HEADS, expand_v=1),
}
models, histories = {}, {}
for name, mixer in mixers.items():
    models[name], histories[name] = trained(name, partial(model_with, mixer))

for name, (model, *_) in models.items():
    print(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters")

# %% tags=["measured"]
loss_curves(
    {name: runs[0].loss for name, runs in histories.items()},
    title="RetNet goes on learning where linear attention stops",
)

# %% [markdown]
# *What to see.* Both losses first come down to ln 8, about 2.1: that is guessing among 8 values. Linear attention waits
# there for a while. Then it learns something, and for the last third of the run it lies flat, far above RetNet. Does it
# need more steps, or is something missing? The next cells answer without training any further. (RetNet's 64 x 64 more
# parameters are its gate, section 7.)
#
# ### Predict
#
# A key has been written four times, with four different values. You ask for it. **What does linear attention return?
# And how often is that right?** Decide before you look at the next figure.
#
# Here is a hint. A sum does not know the order of its terms:


# %% tags=["nbval-check-output"]
@holds
def linear_attention_cannot_see_the_order_of_the_pairs():
    tokens = task.batch(4, rng).tokens
    shuffled = torch.cat(
        [
            tokens[:, torch.randperm(task.n_pairs, generator=rng)],
            tokens[:, task.n_pairs :],
        ],
        dim=1,
    )
    with torch.inference_mode():
        for model in models["linear attention"]:
            answers, others = (
                model(x)[0][:, task.n_pairs :] for x in (tokens, shuffled)
            )
            # float32 sums, added in another order
            torch.testing.assert_close(answers, others, rtol=0, atol=1e-3)


# %% [markdown]
# Reading any model of this kind, we can only learn *which* values stand under a key, and how often each. The last one
# is any of them with equal chance. So the best answer is the most frequent value: a vote. It is right as often as its
# share of the votes. Apart from chance, no amount of training can beat this vote. We compute this ceiling from the
# data, without a model.


# %%
def order_blind_ceiling(batch):
    """For each question: the share of the most frequent value among all values written under that key (B, T)."""
    writes, questions = batch.tokens.split([task.n_pairs, task.n_keys], dim=1)
    # (B,K,V)
    counts = (
        F.one_hot(writes, task.n_keys * task.n_values)
        .sum(1)
        .unflatten(1, (task.n_keys, task.n_values))
    )
    share = counts.amax(-1) / counts.sum(-1).clamp(min=1)
    asked_key = questions - task.n_keys * task.n_values
    return F.pad(share.gather(1, asked_key), (task.n_pairs, 0))


def by(what, batch, scores, buckets):
    """Mean of `scores` over the questions whose `what` lies in each bucket (low, high)."""
    asked = batch.targets != IGNORE
    return [
        scores[asked & (what >= low) & (what <= high)].float().mean().item()
        for low, high in buckets
    ]


overwritten = [(n, n) for n in range(9)]
# the sequences that `evaluate` takes
batch = task.batch(1000, torch.Generator().manual_seed(10_000))
ceiling = order_blind_ceiling(batch)
curves = {
    "a vote among all values: the ceiling without order": (
        range(9),
        [by(batch.overwrites, batch, ceiling, overwritten)],
    )
}
right = {
    name: [evaluate(model, task)[1] for model in runs] for name, runs in models.items()
}
for name, runs in right.items():
    curves[name] = (
        range(9),
        [by(batch.overwrites, batch, r, overwritten) for r in runs],
    )


def overall(scores):
    return scores[batch.targets != IGNORE].float().mean().item()


def mean(xs):
    return sum(xs) / len(xs)


# %% tags=["nbval-check-output"]
shares = ceiling[batch.targets != IGNORE]
# two standard deviations of the vote's own score
noise = 2 * (shares * (1 - shares)).sum().sqrt() / len(shares)
print(
    f"sampling noise moves a score on these {len(batch.tokens):,} sequences by up to about {noise:.0%}"
)

# %% tags=["measured"]
scores = {name: mean([overall(r) for r in runs]) for name, runs in right.items()} | {
    "vote": overall(ceiling)
}
figures.accuracy(
    curves,
    title="Right answers: linear attention {linear attention:.0%}, a vote {vote:.0%}, RetNet {RetNet:.0%}".format(
        **scores
    ),
    x="older values under the same key",
    chance=1 / task.n_values,
    bound="a vote among all values: the ceiling without order",
)

# %% [markdown]
# *What to see.* The grey band is the ceiling of a vote; linear attention lies on it. With no older value it is always
# right. With one, it is right about half of the time. The more often a key is corrected, the worse the answer. It
# has learned all that it can learn: the number in the title may differ from the vote by a point or so, which is the
# sampling noise printed above. **Old pairs drown the new.**
#
# One training of each, to save your time. With `SEEDS = (0, 1)` thin bars reach from the lower to the higher of two
# trainings; most are too short to see.
#
# RetNet, with a state of the same size, goes far above that ceiling. Look also at the left end: where nothing was
# overwritten RetNet is *worse* than linear attention. Sections 9 and 10 ask for the price.
#
# ### Predict again
#
# RetNet multiplies its state by γ before each write, with γ a little below 1. Write down two numbers, in tokens. They
# will appear in the figures of section 10.
#
# - Two values were written under one key, the newer some tokens after the older (1: right after it). How many steps of
#   decay does it take for the newer value to win almost every time?
# - One value was written once and never again. How many tokens later is it gone?

# %%
my_gap = None  # your first number, for example 5
my_age = None  # your second number

# %% [markdown]
# ## 2 · Derive: one number
#
# Take chapter 03's equation and put one factor in front of the old state:
#
# $$S_t = \gamma\, S_{t-1} + v_t k_t^\top \qquad\qquad y_t = S_t q_t \qquad\qquad 0 < \gamma < 1$$
#
# In the course's equation, $A_t = \gamma I$. For one head, with `q`, `k` of shape `(T, K)` and `v` of shape
# `(T, V)`:


# %%
def recurrent(q, k, v, gamma):
    S, ys = q.new_zeros(v.shape[1], k.shape[1]), []
    for t in range(len(q)):
        S = gamma * S + torch.outer(v[t], k[t])  # decay, then write
        ys.append(S @ q[t])  # read
    return torch.stack(ys), S


# %% [markdown]
# Follow one pair. At step $s$ it is written whole. One step later it weighs $\gamma$, then $\gamma^2$. At step $t$ it
# weighs $\gamma^{t-s}$. So, unrolled,
#
# $$y_t = \sum_{s \le t} \gamma^{\,t-s}\, (q_t \cdot k_s)\; v_s$$
#
# How long does a pair live? It never quite dies, so we ask for its **half-life** $\tau$:
#
# $$\gamma^\tau = \tfrac12 \quad\Longleftrightarrow\quad \tau = \frac{\ln \frac12}{\ln \gamma}
#   \qquad\qquad \gamma = 2^{-1/\tau}$$
#
# All the factors together form a lower-triangular matrix, the **decay mask**:
#
# $$D_{ij} = \gamma^{\,i-j} \;\text{ for } j \le i, \qquad 0 \;\text{ for } j > i$$

# %%
figures.mask([1, 2, 4, 8, 16, 32, 64, math.inf])

# %% [markdown]
# *What to see.* Move the slider. Left: row $i$ is a reader, column $j$ what it reads. A short half-life leaves a
# narrow band along the diagonal; at ∞ the whole triangle is full, and that is linear attention. Right: the bottom row
# of the mask, as a curve over age. This slider needs no kernel. With a kernel, `explore` takes any half-life:

# %%
explore(lambda half_life=10.0: figures.mask_at(half_life), half_life=(1.0, 64.0, 0.5))

# %% [markdown]
# ## 3 · All pairs at once, without overflow
#
# The unrolled sum is a matrix product. Multiply the scores by the mask, element by element:
#
# $$Y = (Q K^\top \odot D)\, V$$
#
# No softmax, no division. The only care is in $D$. We write $D_{ij} = \exp\bigl((i-j) \ln\gamma\bigr)$, and set the
# exponent to $-\infty$ above the diagonal *before* the exponential:


# %%
def decay_mask(gamma, T):
    n = torch.arange(T)
    distance = (n[:, None] - n).double()
    # (T, T)
    return (distance * math.log(gamma)).masked_fill(distance < 0, -torch.inf).exp()


def parallel(q, k, v, gamma):
    T = len(q)
    y = (q @ k.mT * decay_mask(gamma, T)) @ v
    # the last row: how much of each write is left
    S = v.mT @ (decay_mask(gamma, T)[-1, :, None] * k)
    return y, S


# %% tags=["nbval-check-output"]
T, K, V, gamma = 48, 5, 3, 1 - 2**-5
q, k, v = randn(T, K), randn(T, K), randn(T, V)


@holds
def the_parallel_form_is_the_recurrent_form():
    for g in (0.5, 0.9, gamma, 1 - 1e-6):
        same(parallel(q, k, v, g), recurrent(q, k, v, g))


@holds
def a_decay_of_one_is_linear_attention():
    theirs, S = seqlab.core.recurrence.parallel(
        q[None, :, None], k[None, :, None], v[None, :, None]
    )
    same(parallel(q, k, v, 1.0), (theirs[0, :, 0], S[0, 0]))


# %% [markdown]
# ### The tempting shortcut
#
# $\gamma^{i-j} = \gamma^i \cdot \gamma^{-j}$. So one could scale the queries by $\gamma^i$ and the keys by
# $\gamma^{-j}$, and forget about the mask. On paper this is the same. In float32 it is not:


# %% tags=["nbval-check-output"]
def factored_mask(gamma, T):
    G = torch.arange(T) * torch.tensor(gamma).log()  # float32, as in training
    return (G.exp()[:, None] * (-G).exp()).tril()


for gamma in (0.5, 1 - 2**-5):
    half_life = math.log(0.5) / math.log(gamma)
    for T in (round(100 * half_life), round(160 * half_life)):
        D, exact = factored_mask(gamma, T), decay_mask(gamma, T)
        broken = not D.isfinite().all()
        assert broken or (D - exact).abs().max() < 1e-4
        verdict = "inf and nan in the mask" if broken else "accurate to 1e-4"
        print(
            f"half-life {half_life:4.1f}, T = {T:5,} = {T / half_life:3.0f} half-lives: {verdict}"
        )

# %% [markdown]
# The largest float32 is just below $2^{128}$. The factor $\gamma^{-j}$ doubles with each half-life, so it is infinite
# after 128 of them. The other factor, $\gamma^i$, is tiny by then, and soon exactly 0. Tiny times $\infty$ is $\infty$;
# $0 \cdot \infty$ is not a number. And the product that we want is a harmless number between 0 and 1.
#
# So the rule of this course: **form the difference first, then the exponential.** $\exp(G_i - G_j)$, never
# $\exp(G_i) \cdot \exp(-G_j)$. For $i \ge j$ the exponent is at most 0, and nothing can overflow. The first head of
# RetNet would fail after 2,795 tokens. With decays chosen by the input (chapter 05) a model can spend 128 half-lives
# in a few hundred tokens, and in bfloat16 the limit is the same (it has float32's exponent range).


# %% tags=["nbval-check-output"]
@holds
def the_factored_form_dies_after_128_half_lives():
    gamma = 1 - 2**-5
    first_infinite = (
        (-torch.arange(4000) * torch.tensor(gamma).log())
        .exp()
        .isinf()
        .nonzero()[0]
        .item()
    )
    assert first_infinite == math.ceil(128 * math.log(0.5) / math.log(gamma)) == 2795


@holds
def the_difference_form_never_dies():
    D = decay_mask(1 - 2**-5, 4000).float()
    assert D.isfinite().all() and D.max() == 1 and D.triu(1).abs().max() == 0


# %% [markdown]
# ## 4 · Chunk by chunk
#
# Cut the sequence into chunks of $C$ tokens. Inside a chunk, use pairs. What came before the chunk is in $S$. Count
# the decays: token $i$ of a chunk (from 0) stands $i + 1$ steps after the state was stored. Token $j$ will be
# $n - 1 - j$ steps old when the chunk ends; $n$ is its number of tokens, $C$ or fewer in the last chunk.
#
# $$Y = (Q K^\top \odot D)\, V + \gamma^{\,i+1} \odot Q\, S^\top \qquad\qquad
#   S \leftarrow \gamma^{\,n} S + V^\top (\gamma^{\,n-1-j} \odot K)$$


# %%
def chunkwise(q, k, v, gamma, C, S=None):
    S, ys = q.new_zeros(v.shape[1], k.shape[1]) if S is None else S, []
    for qc, kc, vc in zip(q.split(C), k.split(C), v.split(C), strict=True):
        n = len(qc)
        i = torch.arange(n, dtype=q.dtype)[:, None]
        ys.append(
            (qc @ kc.mT * decay_mask(gamma, n)) @ vc + gamma ** (i + 1) * (qc @ S.mT)
        )
        S = gamma**n * S + vc.mT @ (gamma ** (n - 1 - i) * kc)
    return torch.cat(ys), S


# %% tags=["nbval-check-output"]
T, gamma = 48, 1 - 2**-5


@holds
def every_chunk_length_gives_the_recurrent_answer():
    for C in (1, 5, 16, 31, T, 2 * T):  # 5 and 31 leave a short last chunk
        same(chunkwise(q, k, v, gamma, C), recurrent(q, k, v, gamma))


@holds
def two_calls_with_the_state_carried_over_are_one():
    first, S = chunkwise(q[:20], k[:20], v[:20], gamma, 16)
    second, S = chunkwise(q[20:], k[20:], v[20:], gamma, 16, S)
    same((torch.cat([first, second]), S), recurrent(q, k, v, gamma))


@holds
def these_are_the_forms_of_seqlab():
    ours = [
        recurrent(q, k, v, gamma),
        parallel(q, k, v, gamma),
        chunkwise(q, k, v, gamma, 16),
    ]
    log_a = torch.full((1, T, 1, 1), math.log(gamma), dtype=torch.float64)
    core = [
        partial(seqlab.core.recurrence.chunkwise, chunk_size=16),
        seqlab.core.recurrence.parallel,
        seqlab.core.recurrence.recurrent,
    ]
    for (y, S), form in zip(ours, reversed(core), strict=True):
        theirs, S_T = form(
            q[None, :, None], k[None, :, None], v[None, :, None], log_a=log_a
        )
        same((y, S), (theirs[0, :, 0], S_T[0, 0]))


# %% [markdown]
# `seqlab.core.recurrence` takes `log_a` instead of γ, one for each token: a constant decay is the special case in which
# they are all equal. From here on we use it.
#
# ### Three forms, one answer, three prices
#
# How far apart are the three, and how long does each take? First the answers, in float64, at the length where two of
# them are still quick:

# %% tags=["nbval-check-output"]
FORMS = {
    "recurrent": seqlab.core.recurrence.recurrent,
    "parallel": seqlab.core.recurrence.parallel,
    "chunkwise, C = 64": seqlab.core.recurrence.chunkwise,
}


def retention_inputs(T, H=4, K=64, V=64, dtype=torch.float32):
    q, k, v = (
        torch.randn(1, T, H, width, generator=rng, dtype=dtype) for width in (K, K, V)
    )
    log_a = torch.log1p(-(2.0 ** -(5 + torch.arange(H, dtype=dtype))))
    return {
        "q": q * K**-0.5,
        "k": k,
        "v": v,
        "log_a": log_a[:, None].expand(1, T, H, 1),
    }


inputs = retention_inputs(512, dtype=torch.float64)
answers = {name: form(**inputs)[0] for name, form in FORMS.items()}
for name, y in answers.items():
    difference = (y - answers["recurrent"]).abs().max().item()
    print(
        f"{name:18} differs from the recurrent form by {'0' if difference == 0 else 'less than 1e-12'}"
    )
    assert difference < 1e-12

# %% [markdown]
# Now the time. One head count, one width, one thread; only the length grows.


# %%
def seconds(form, inputs, repeats=3):
    """The best of a few runs, after one to warm up."""
    best = math.inf
    for _ in range(repeats + 1):
        start = time.perf_counter()
        form(**inputs)
        best = min(best, time.perf_counter() - start)
    return best


LENGTHS = [128, 256, 512, 1024, 2048, 4096]
LONGEST = {"parallel": 1024}  # its mask alone is H T² numbers


# %% tags=["measured"]
with torch.inference_mode():
    times = {
        name: {
            T: seconds(form, retention_inputs(T))
            for T in LENGTHS
            if LONGEST.get(name, T) >= T
        }
        for name, form in tqdm(FORMS.items())
    }
gain = times["recurrent"][4096] / times["chunkwise, C = 64"][4096]
timing_lines(
    times,
    title=f"At T = 4,096 chunkwise is {gain:.0f} times as fast as recurrent",
)

# %% [markdown]
# *What to see.* Both axes are logarithmic, so a power of $T$ is a straight line; its slope is the exponent in the
# legend. Recurrent and chunkwise rise with slope near 1. They are parallel lines, a constant factor apart: the same
# growth, but a few large products for each chunk instead of small ones for each token. The parallel form starts near
# the chunkwise one and soon costs more than both. Its arithmetic grows with $T^2$; the measured slope can be steeper,
# once $T^2$ numbers no longer fit into the processor's cache.
#
# | you want to | use | because |
# |---|---|---|
# | derive, test, or run a few hundred tokens | parallel | one product, easy to see through |
# | train, or read a prompt | chunkwise | linear in $T$, made of large products |
# | write the next token | recurrent | one step, the same price after 10 tokens or 10 million |
#
# The chunk length is a dial between the other two forms. Turn it at a fixed $T$:

# %% tags=["measured"]
T = 1024
with torch.inference_mode():
    inputs = retention_inputs(T)
    dial = {
        C: seconds(
            partial(seqlab.core.recurrence.chunkwise, chunk_size=C), inputs, repeats=2
        )
        for C in tqdm([1, 4, 16, 32, 64, 128, 256, T])
    }
figures.chunk_dial(
    dial, title=f"T = {T:,}: the best chunk here has {min(dial, key=dial.get)} tokens"
)

# %% [markdown]
# *What to see.* A valley. At the left end there are too many small products, at the right end too many pairs. The
# bottom depends on the machine. For GPUs the authors' code takes 512 by default, other libraries 64 (chapter 25).
#
# ## 5 · Many heads, many half-lives
#
# One γ cannot suit all purposes. RetNet gives each head its own, and does not train them:
#
# $$\gamma_h = 1 - 2^{-5-h} \qquad h = 0, 1, \dots, H - 1$$
#
# Since $1 - \gamma$ halves from head to head, the half-life doubles. It is close to $\ln 2 \cdot 2^{5+h}$.

# %% tags=["nbval-check-output"]
gammas = 1 - 2.0 ** (-5 - torch.arange(8, dtype=torch.float64))
half_lives = math.log(0.5) / gammas.log()
print("half-lives in tokens:", ", ".join(f"{tau:,.1f}" for tau in half_lives))


@holds
def each_head_remembers_about_twice_as_long_as_the_one_before():
    torch.testing.assert_close(
        half_lives[1:] / half_lives[:-1],
        torch.full((7,), 2.0, dtype=torch.float64),
        rtol=0.01,
        atol=0,
    )


# %%
figures.head_decays(gammas)

# %% [markdown]
# *What to see.* The same curve, shifted to the right by a factor of 2 for each head. Eight heads cover half-lives from
# some 20 to some 3,000 tokens: a phrase, a paragraph, a few pages. Beyond that, everything fades, whatever it was.
#
# ### Why each head is normed
#
# A head that remembers longer adds up more. With random unit-variance pairs, the square of $y$ grows like
# $\sum_n \gamma^{2n} = 1 / (1 - \gamma^2)$. For γ near 1, $1 - \gamma^2 \approx 2\,(1 - \gamma)$, and
# $1 - \gamma$ halves from head to head. So $y^2$ doubles from head to head, and head 7 would be louder
# than head 0 by about $2^{7/2}$:

# %% tags=["nbval-check-output"]
inputs = retention_inputs(8192, H=8, K=16, V=16, dtype=torch.float64)
y, _ = seqlab.core.recurrence.chunkwise(**inputs)
# root mean square of each head, once it has settled
loud = y[0, -2048:].square().mean((0, 2)).sqrt()
expected = (1 - gammas**2).rsqrt()
print(
    "head 7 is",
    round((loud[7] / loud[0]).item()),
    "times as loud as head 0; expected about",
    round((expected[7] / expected[0]).item()),
)

# %% [markdown]
# RetNet divides each head by its own root mean square before the heads are joined. The paper calls it GroupNorm, with
# one group per head. In the authors' code it is an RMSNorm of each head, without weights. It has a second use: any
# positive factor on $y$ disappears in it. That is why the paper may rescale its parallel form to keep half-precision
# numbers small, and still get the same answer.


# %% tags=["nbval-check-output"]
def head_norm(y, eps=1e-6):
    return y / (y.square().mean(-1, keepdim=True) + eps).sqrt()


@holds
def a_positive_factor_on_a_head_changes_nothing():
    y = randn(2, 7, 4, 16)  # (B, T, H, V)
    factor = torch.rand(2, 7, 4, 1, generator=rng, dtype=torch.float64) + 0.5
    # eps is not scaled
    torch.testing.assert_close(head_norm(factor * y), head_norm(y), rtol=0, atol=1e-4)
    same(head_norm(factor * y, eps=0), head_norm(y, eps=0))


# %% [markdown]
# ## 6 · The decay turns: rotation as relative position
#
# Where does γ come from? The paper starts from a general linear memory, $S_t = S_{t-1} A + v_t k_t^\top$, with any
# matrix $A$. Diagonalise it: $A = P \Lambda P^{-1}$. Unrolled, the read is
#
# $$y_n = \sum_{m \le n} v_m\, k_m^\top A^{\,n-m} q_n
#       = \sum_{m \le n} v_m\, (P^\top k_m)^\top\, \Lambda^{n-m}\, (P^{-1} q_n)$$
#
# So $P^\top$ can join the matrix that makes $k$, and $P^{-1}$ the one that makes $q$: both are learned anyway. What
# stays is $\Lambda$, the eigenvalues. Those of a real matrix are real, or come in complex pairs
# $\gamma e^{\pm i\theta}$, a length and an angle; a positive real one has $\theta = 0$. RetNet takes the same length
# $\gamma$ for all pairs of a head, and different angles $\theta_p$.
#
# In this section $i = \sqrt{-1}$, and pair $p$ of channels, $(2p, 2p + 1)$, is one complex number
# $q_{2p} + i\, q_{2p+1}$. A bar turns $i$ into $-i$, and $\mathrm{Re}$ takes the real part:
# $\mathrm{Re}[\,q \cdot \overline{k}\,]$ is the plain dot product of the real vectors. What was
# written $n - m$ steps ago is read with the score
#
# $$\mathrm{Re}\Bigl[\, q_n \cdot \overline{k_m} \;\bigl(\gamma e^{i\theta}\bigr)^{n-m} \Bigr]
# = \gamma^{\,n-m}\; \mathrm{Re}\Bigl[\, q_n e^{i n \theta} \cdot \overline{k_m e^{i m \theta}} \Bigr]$$
#
# The length $\gamma$ forgets. The angle $\theta$ turns $q$ and $k$, each by its *own* position. Yet the score depends
# on the difference $n - m$ alone. The turning may be split into two factors, since $|e^{-im\theta}| = 1$ can never
# overflow. The decay may not, as section 3 showed.


# %%
def turned(x, positions, theta):
    """Channels (2p, 2p + 1) of x (T, K) as one complex number, times e^{i n θ_p}."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))  # (T, K/2)
    angle = positions[:, None] * theta
    return torch.view_as_real(
        pairs * torch.polar(torch.ones_like(angle), angle)
    ).flatten(-2)


# %% tags=["nbval-check-output"]
T, K = 64, 16
theta = 10000 ** -torch.linspace(0, 1, K // 2, dtype=torch.float64)
# the same q and k at every position
one_q, one_k = randn(1, K).expand(T, K), randn(1, K).expand(T, K)
n = torch.arange(T)


@holds
def turning_is_seqlabs_rotate():
    x = randn(T, K)
    same(
        turned(x, n, theta),
        rotate(x[None, :, None], n, theta, interleaved=True)[0, :, 0],
    )


@holds
def the_score_depends_on_the_distance_alone():
    here, there = (
        turned(one_q, n + shift, theta) @ turned(one_k, n + shift, theta).mT
        for shift in (0, 1000)
    )
    same(here, there)
    for distance in range(T):
        diagonal = here.diagonal(-distance)
        same(diagonal, diagonal[:1].expand_as(diagonal))


@holds
def turning_keeps_lengths():
    same(turned(one_q, n, theta).norm(dim=-1), one_q.norm(dim=-1))


# %%
placed = turned(one_q, n, theta)  # one vector, as query and as key
scores = placed @ placed.mT
figures.rotation(scores, scores * 0.5 ** ((n[:, None] - n).clamp(min=0) / 22))

# %% [markdown]
# *What to see.* Left: one vector, placed as a query and as a key at every pair of positions. Every diagonal has one
# colour: only the distance counts. Right: the score along the distance, highest where the two are not turned against
# each other. Each pair of channels turns at its own speed, from 1 radian per token down to 1/10,000, and the sum of
# these waves is a pattern that a model can shape. The decay (half-life 22, as in head 0) pulls it towards zero.
#
# ### xPos, and where it went
#
# Rotation alone is RoPE (chapter 16). xPos (Sun et al. 2022) adds a magnitude to it: pair $p$ of the query is
# multiplied by $\zeta_p^{\,n}$ and pair $p$ of the key by $\zeta_p^{-m}$, up to a constant in the exponent. Their
# product has $\zeta_p^{\,n-m}$: distant tokens count less. That is a decay, with one rate for each pair of channels.
# RetNet keeps the idea, takes one rate for all pairs of a head, and calls it $\gamma$.


# %% tags=["nbval-check-output"]
@holds
def xpos_with_one_magnitude_for_all_pairs_is_the_decay_mask():
    gamma, lower = 0.9, torch.ones(T, T, dtype=torch.float64).tril()
    q, k, zeta = (
        turned(one_q, n, theta),
        turned(one_k, n, theta),
        gamma ** n.double()[:, None],
    )
    same((q * zeta) @ (k / zeta).mT * lower, q @ k.mT * decay_mask(gamma, T))


# %% [markdown]
# So do not add xPos's magnitudes to RetNet: the decay is already there. (This check factors the decay into two
# exponentials. That is safe here: 64 tokens, in float64.)
#
# ## 7 · The whole layer
#
# Project. Turn $q$ and $k$. Decay, write, read. Norm each head. Multiply by a gate, $\mathrm{silu}(x W_G)$, and project
# back. The norm rescales every read to the same size, even a read that found nothing. The gate then lets each token
# turn that read down, channel by channel. And $k$ is scaled by $1/\sqrt K$, as in attention: the norm cancels it, up
# to its eps.


# %%
def our_retnet(layer, x):
    """RetNet's forward, in terms of this chapter: only the weights are `layer`'s."""
    T, H = x.shape[1], layer.n_heads
    q, k, v = (
        rearrange(W(x), "b t (h k) -> b t h k", h=H)
        for W in (layer.q, layer.k, layer.v)
    )
    K, n = q.shape[-1], torch.arange(T)
    theta = 10000 ** -torch.linspace(0, 1, K // 2, dtype=x.dtype)
    # (T, 1, K/2)
    turn = torch.polar(torch.ones(T, K // 2, dtype=x.dtype), n[:, None] * theta)[
        :, None
    ]
    q, k = (
        torch.view_as_real(
            torch.view_as_complex(u.unflatten(-1, (-1, 2))) * turn
        ).flatten(-2)
        for u in (q, k * K**-0.5)
    )
    D = torch.stack([decay_mask(1 - 2.0 ** (-5 - h), T) for h in range(H)])  # (H, T, T)
    y = torch.einsum("bihk, bjhk, hij, bjhv -> bihv", q, k, D, v)
    return layer.out(
        F.silu(layer.g(x)) * rearrange(head_norm(y), "b t h v -> b t (h v)")
    )


# %% tags=["nbval-check-output"]
torch.manual_seed(0)
layer = RetNet(d_model=32, n_heads=4).double()
x = randn(2, 50, 32)


@holds
def our_layer_is_the_layer_of_seqlab():
    for form in ("recurrent", "parallel", "chunkwise"):
        layer.form = form
        same(our_retnet(layer, x), layer(x)[0])


@holds
def one_token_at_a_time_is_the_whole_sequence():
    state, ys = None, []
    for t in range(x.shape[1]):
        y, state = layer(x[:, t : t + 1], state)
        ys.append(y)
    same(torch.cat(ys, dim=1), our_retnet(layer, x))


# %% [markdown]
# The last check is decoding. The state carries $S$ and the position, because the next query must know how far to turn.
#
# ## 8 · See: two memories under the microscope
#
# Here are the two models of section 1, trained, reading the same 14 tokens. Key `a` is written three times, `b` twice,
# the others once.

# %% tags=["measured"]
story = [
    "a1",
    "b4",
    "c2",
    "d6",
    "a5",
    "e0",
    "f3",
    "b7",
    "g1",
    "a2",
    "h4",
    "c?",
    "b?",
    "a?",
]


def token(name):
    key = "abcdefgh".index(name[0])
    return (
        task.n_keys * task.n_values + key
        if name[1] == "?"
        else key * task.n_values + int(name[1])
    )


def seen_by(model):
    """What the mixer gets: the tokens' embeddings, normed (1, T, D)."""
    with torch.inference_mode():
        return (
            model.blocks[0]
            .mixer_norm(
                model.embedding(torch.tensor([[token(name) for name in story]]))
            )
            .clone()
        )


linear, retnet = (models[name][0] for name in ("linear attention", "RetNet"))
microscope(linear.blocks[0].mixer, seen_by(linear), story)

# %% tags=["measured"]
microscope(retnet.blocks[0].mixer, seen_by(retnet), story)

# %% [markdown]
# *What to see.* Compare the panel "Weight of token s in read t", bottom left. In linear attention's last row (`a?`)
# the three writes of `a` have the same colour: the read is their mean. The line at the very bottom says why: nothing
# decays. RetNet has four half-lives there, one for each head, and its weights have both signs.
#
# The panel bottom right asks which tokens their own keys still return. The titles count them, and are no score: the
# three questions are counted too, and old and new count alike. With a running kernel, move the slider from token 3 to
# token 4: when `a5` is written, the bar of `a1` goes down, in both models. Two values under one key disturb each other,
# decay or not.
#
# Now all four heads, and only the read of `a?`:

# %%
from_a = {
    name: torch.stack(
        [observe(mixer, x, story, head=h).weights[-1] for h in range(HEADS)]
    )
    for name, mixer, x in (
        ("linear attention", linear.blocks[0].mixer, seen_by(linear)),
        ("RetNet", retnet.blocks[0].mixer, seen_by(retnet)),
    )
}

# %% tags=["nbval-check-output"]
writes = torch.tensor([story.index(name) for name in ("a1", "a5", "a2")])


@holds
def linear_attention_weighs_all_values_of_a_key_alike_and_retnet_does_not():
    spread = {
        name: (W[:, writes].amax(-1) - W[:, writes].amin(-1)) / W.abs().amax(-1)
        for name, W in from_a.items()
    }
    assert spread["linear attention"].max() < 0.5 < spread["RetNet"].max()


# %% tags=["measured"]
figures.reads(
    from_a,
    story,
    title="The read of a?: linear attention mixes a1, a5, a2 alike; RetNet does not",
)

# %% [markdown]
# *What to see.* A row is a head; orange adds a value, blue subtracts it. In linear attention the three writes of `a`
# have a similar colour in every head. In RetNet they differ, in size and even in sign. A head can *subtract* an old
# value from a new one. A decay alone cannot do that, since $\gamma^n$ is positive. The rotation can.
#
# ## 9 · What did it: the decay or the rotation?
#
# RetNet differs from linear attention in two places. Both break the symmetry between old and new. Which one passed the
# test of section 1? Take RetNet and remove one or the other. All three have the same number of parameters, the same
# norm and the same gate.


# %%
def without(part, seed):
    model = model_with(partial(RetNet, n_heads=HEADS, expand_v=1), seed)
    mixer = model.blocks[0].mixer
    if part == "rotation":
        mixer.theta = torch.zeros_like(mixer.theta)
    else:
        mixer.log_gamma.zero_()
    return model


for name, part in (("decay only", "rotation"), ("rotation only", "decay")):
    models[name], histories[name] = trained(name, partial(without, part))
    right[name] = [evaluate(model, task)[1] for model in models[name]]
    curves[name] = (
        range(9),
        [by(batch.overwrites, batch, r, overwritten) for r in right[name]],
    )

# %% tags=["measured"]
scores = {name: mean([overall(r) for r in runs]) for name, runs in right.items()}
figures.accuracy(
    curves,
    title="Right answers: decay only {decay only:.0%}, rotation only {rotation only:.0%}, both {RetNet:.0%}".format(
        **scores
    ),
    x="older values under the same key",
    chance=1 / task.n_values,
    bound="a vote among all values: the ceiling without order",
)

# %% [markdown]
# *What to see.* Both parts lift the model above the vote. They do it in different ways.
#
# - **Decay only** stays perfect where nothing was overwritten. So what RetNet loses there, the left end of the curves,
#   is the price of the rotation and not of γ. Decay only falls as corrections pile up: two old votes for the same
#   value, of weight 0.9 each, outvote a new one of weight 1. Its weights have one shape, $\gamma^n$, and at half-lives
#   of 22 tokens and more that shape is nearly flat over a few tokens.
# - **Rotation only** has no γ at all. It is worse where nothing was overwritten, and much better where many values
#   were. Several waves of different speeds can be added up to a window: high for the last few tokens, low or negative
#   before. This is more than the name "position" promises.
# - **Both** together are best overall.
#
# So the usual story, "RetNet is linear attention with a decay", leaves out the rotation; and by the numbers in the
# title the rotation alone answers more of these questions than the decay alone.

# %% [markdown]
# ## 10 · What a decay buys, and what it costs
#
# Two probes, for all four models, without training them again. **Gap**: a value is written under `a`, then a second
# one, with some pairs of other keys between the two; then `a?`. Does the newer value win? **Age**: a value is
# written once under `a`, then pairs of other keys follow; then `a?`. Does it still come back?


# %%
def others(n, rng, size=250):
    """n pairs with keys b to h."""
    return torch.randint(
        task.n_values, task.n_keys * task.n_values, (size, n), generator=rng
    )


def asked_for_a(model, before, after, value):
    """Share of right answers to: before, value under a, after, then `a?`."""
    question = torch.full_like(value, task.n_keys * task.n_values)
    with torch.inference_mode():
        logits, _ = model(torch.cat([before, value, after, question], dim=1))
    return (
        (logits[:, -1:].argmax(-1) == value + task.n_keys * (task.n_values + 1))
        .float()
        .mean()
        .item()
    )


def newer_wins(model, gap):
    rng = torch.Generator().manual_seed(1)
    old = torch.randint(task.n_values, (250, 1), generator=rng)
    # another value
    new = (
        old + torch.randint(1, task.n_values, (250, 1), generator=rng)
    ) % task.n_values
    return asked_for_a(
        model, torch.cat([old, others(gap - 1, rng)], dim=1), others(0, rng), new
    )


def comes_back(model, age):
    rng = torch.Generator().manual_seed(2)
    value = torch.randint(task.n_values, (250, 1), generator=rng)
    return asked_for_a(model, others(0, rng), others(age - 1, rng), value)


GAPS, AGES = [1, 2, 4, 8, 16, 32], [4, 8, 16, 32, 64, 128, 256]
newer, older = (
    {
        name: (xs, [[probe(model, x) for x in xs] for model in runs])
        for name, runs in models.items()
    }
    for probe, xs in ((newer_wins, GAPS), (comes_back, AGES))
)

# %% tags=["measured"]
figures.accuracy(
    newer,
    title="Bought: the newer of two values wins, if they lie far enough apart",
    x="tokens from the older value to the newer (log scale)",
    chance=1 / task.n_values,
    log=True,
    marks={"your guess": my_gap},
)

# %% tags=["measured"]
figures.accuracy(
    older,
    title="Paid: a value that was never overwritten is lost as well",
    x="age of the value in tokens (log scale)",
    chance=1 / task.n_values,
    log=True,
    marks={
        "longest age in training": task.n_pairs + task.n_keys - 1,
        "your guess": my_age,
    },
)

# %% [markdown]
# *What to see, bought.* Linear attention answers half of the questions right at any gap: two values, one vote each.
# With decay only, the newer value wins when the gap is long enough for γ to matter. Written one token apart, the two
# weigh $\gamma^0$ and $\gamma^1$, and no model here can tell them apart well. RetNet gets there earliest.
#
# *What to see, paid.* Linear attention still knows the value after 256 tokens: with keys that hardly overlap, nothing
# disturbs it. RetNet and "decay only" lose it, and end near guessing. Nobody overwrote that value. With decay only it
# faded because *time passed*. That takes longer than the sequences of training: up to their length this curve stays at
# the top, and what RetNet has lost by then is the price of the rotation again.
#
# Two honest remarks. First, values older than 32 tokens are rare in training: a key stays unwritten that long with
# probability $(7/8)^{32}$, about 1 in 70. So the models with rotation learn early that old values seldom matter. Look
# at how "rotation only" loses values *within* the trained length, and goes up and down beyond it: waves come back, and
# γ calms them. Second, the curve "decay only" is the clean one, and here is its arithmetic:

# %% tags=["nbval-check-output"]
for age in (8, 32, 128):
    left = [(1 - 2.0 ** (-5 - h)) ** age for h in range(HEADS)]
    print(
        f"after {age:3} tokens the four heads keep", ", ".join(f"{x:.0%}" for x in left)
    )

# %% [markdown]
# What is left must stand out against all newer pairs, at their full weight. And every head fades, at its own pace,
# whatever the token was: a name that the text will need again, or a comma.
#
# **The failure of section 1 is mended**: a state of the same size now prefers the new to the old. Two wishes remain.
# The model should choose *when* to forget (chapter 05). And to correct a key it should remove that key's old value, and
# leave all others alone (chapter 08).
#
# ## 11 · In the wild
#
# The RetNet paper trained models of 1.3B, 2.7B and 6.7B parameters. The authors' code has presets up to 65B. These
# all have a key width of 256 a head, so the number of heads grows with the model, and with it the longest half-life.
# The state is counted in millions of numbers.

# %% tags=["nbval-check-output"]
presets = {  # name: layers, d_model, heads, width of all values together
    "retnet_xl": (24, 2048, 8, 3456),
    "retnet_3b": (32, 2560, 10, 4280),
    "retnet_7b": (32, 4096, 16, 6912),
    "retnet_13b": (40, 5120, 20, 8560),
    "retnet_65b": (64, 8192, 32, 13824),
}
print(
    "preset      layers  heads  K x V   longest half-life      state as tokens of cache"
)
for name, (layers, d_model, heads, d_value) in presets.items():
    K, V = d_model // heads, d_value // heads
    # two digits will do
    half_life = float(f"{math.log(0.5) / math.log1p(-(2.0 ** (-4 - heads))):.2g}")
    state = layers * heads * K * V
    # softmax attention keeps a key and a value of width d_model per token and layer
    cache = layers * 2 * d_model
    print(
        f"{name:11} {layers:5}  {heads:5}  {K}x{V}  {half_life:14,.0f} {state / 1e6:8.0f} M  {state / cache:12.0f}"
    )

# %% [markdown]
# A half-life of millions or billions of tokens means that such a head does not decay, for any text that it will see.
#
# The state is worth a few hundred tokens of KV cache, for any length of text. That is the bargain. The paper reports,
# for its 7B model at 8,192 tokens, 8.4 times the decoding speed and 70 % less memory than a Transformer with a KV
# cache, on the authors' machines.
#
# Two descendants:
#
# - **MiniMax-Text-01** (456B parameters, 2025) uses "lightning attention" in 70 of its 80 layers: linear attention with
#   one constant decay per head. There the decay also depends on the layer: later layers forget more slowly. In layer
#   0, the 64 heads have $\gamma_h = \exp(-2^{-(h+1)/8})$.
# - **YOCO** (2024), from the group behind RetNet, replaces the constant by *gated* retention: γ becomes a number that
#   each token chooses. That is chapter 05.

# %% tags=["nbval-check-output"]
# -log γ of MiniMax-Text-01's first layer
rates = 2.0 ** (-(torch.arange(64) + 1.0) / 8)
print(
    f"half-lives in its first layer: from {math.log(2) / rates[0]:.2f} to {math.log(2) / rates[-1]:.0f} tokens"
)

# %% [markdown]
# ### Fact check
#
# **"GroupNorm."** The paper says GroupNorm. The code runs an RMSNorm over each head, with no weights and no mean
# taken away (section 5).
#
# **"RetNet uses RoPE."** It rotates, but its angles are not RoPE's. RoPE's exponents stop one step short of 1;
# RetNet's reach it. And RetNet turns neighbouring channels $(2p, 2p+1)$, where Llama's code turns $(p, p + K/2)$. Load
# weights with the wrong convention, and the model is silently broken.

# %% tags=["nbval-check-output"]
for name, inclusive in (("RoPE", False), ("RetNet", True)):
    theta = rope_frequencies(256, inclusive=inclusive)
    print(
        f"{name:6} slowest pair of 256 channels: 1 turn in {2 * math.pi / theta[-1]:,.0f} tokens"
    )


# %% [markdown]
# **"RetNet uses xPos."** Its rotation and decay come from there. But xPos's magnitude *is* γ. Code that applies both
# decays twice (section 6).
#
# **"The value width is 2 d."** In the paper. In the presets above it is about 1.7 d.
#
# **"All heads decay."** Not in float32, if you compute $1 - 2^{-5-h}$ first, as the authors' code does. From head 20
# on it rounds to exactly 1. `log1p` keeps it. (The harm is small: such a head has a half-life of 23 million tokens.)


# %% tags=["nbval-check-output"]
@holds
def head_20_needs_log1p():
    forgotten = 2.0 ** -torch.tensor(25.0)
    assert torch.log(1 - forgotten) == 0
    assert torch.log1p(-forgotten) < 0


# %% [markdown]
# **"Retention is attention with a decay."** There is no softmax. Weights may be negative, and the heads above use that.
#
# ## 12 · Practise
#
# In a terminal, `seqlab start 04` puts your own copy of the exercises into `work/`. `check("04.4", decay_mask)` in that
# notebook tells you which mistake you made, not only that there is one (these functions take all heads at once). Less
# than two hours for all of them.

# %% [markdown] tags=["exercises"]
# The table of exercises is made from their files.

# %% [markdown]
# The notebook is [exercises/04_retnet.ipynb](../exercises/04_retnet.ipynb); work on the copy in `work/`.
#
# ## Recap, in five lines
#
# 1. A sum has no order. Linear attention can only vote among all values of a key, and that vote is its ceiling.
# 2. One factor gives the memory an age: $S_t = \gamma S_{t-1} + v_t k_t^\top$. Unrolled, a pair $n$ tokens old weighs
#    $\gamma^n$, and half of it is left after $\ln\frac12 / \ln\gamma$ tokens.
# 3. Parallel with the mask $D_{ij} = \gamma^{i-j}$, recurrent to decode, chunkwise to train. Differences first, then
#    the exponential.
# 4. Each head has its own γ, and its own norm. The rotation is the other half of the same complex number, and makes
#    scores depend on distance.
# 5. A constant decay forgets by the clock: the old and the important alike.
#
# Next, chapter 05: let the token decide how much to forget.
#
# ## References
#
# - Y. Sun, L. Dong, S. Huang, S. Ma, Y. Xia, J. Xue, J. Wang, F. Wei. *Retentive Network: A Successor to Transformer
#   for Large Language Models.* 2023. arXiv:2307.08621; presets from `examples/fairseq/models/retnet.py` and angles,
#   decays and masks from `torchscale/architecture/retnet.py` in microsoft/torchscale
# - Y. Sun et al. *A Length-Extrapolatable Transformer* (xPos). 2022. arXiv:2212.10554
# - J. Su et al. *RoFormer: Enhanced Transformer with Rotary Position Embedding.* 2021. arXiv:2104.09864
# - A. Katharopoulos, A. Vyas, N. Pappas, F. Fleuret. *Transformers are RNNs: Fast Autoregressive Transformers with
#   Linear Attention.* 2020. arXiv:2006.16236
# - Y. Sun et al. *You Only Cache Once: Decoder-Decoder Architectures for Language Models* (YOCO, gated retention).
#   2024. arXiv:2405.05254
# - MiniMax. *MiniMax-01: Scaling Foundation Models with Lightning Attention.* 2025. arXiv:2501.08313; decay rates from
#   `modeling_minimax.py` in huggingface/transformers
# - S. Arora et al. *Zoology: Measuring and Improving Recall in Efficient Language Models* (associative recall as a test
#   of memory). 2023. arXiv:2312.04927
