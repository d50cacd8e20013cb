# ---
# jupyter:
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
# - explain a rotation of q and k as relative position;
# - say what a constant decay buys, and what it costs.
#
# **You need** chapter 03: the state as a table, and the three forms.
#
# **Time** 50 minutes to read, a minute to run.
#
# **Covers** RetNet: parallel, recurrent, chunkwise · multi-scale decay · rotation and xPos.
#
# The question of the course was: *what should the memory forget?* Chapter 03 answered "nothing". This chapter answers
# "everything, a little, all the time":
#
# $$S_t = \gamma\, S_{t-1} + v_t k_t^\top \qquad\qquad y_t = S_t q_t$$
#
# ## 1 · A failure: a memory that cannot tell new from old
#
# The task is a notebook with corrections. Each token writes one pair: `a7` writes value 7 under key a. There are 8
# keys, 8 values and 24 pairs, so keys are written again. Then each key is asked for once. Only the value written
# *last* counts.

# %% tags=["nbval-check-output"]
import torch

from seqlab.tasks import IGNORE, Recall

torch.set_num_threads(1)  # one thread keeps the timings steady
task = Recall(n_keys=8, n_values=8, n_pairs=24)
example = task.batch(1, torch.Generator().manual_seed(0))
print(" ".join(task.word(token) for token in example.tokens[0].tolist()))
last = [task.word(token) for token in example.targets[0].tolist() if token != IGNORE]
print("the answers:", " ".join(last))

# %% [markdown]
# Two small models learn it: linear attention, and RetNet, the subject of this chapter. Both have one layer, width 32,
# two heads, and a state of the same size up to linear attention's normaliser row. One token holds a whole pair and
# there is no feed-forward layer, so only the memory is tested. Each is trained three times, with seeds 0, 1 and 2: 300
# steps, learning rate 0.01. Guessing scores 1 in 8.

# %%
from functools import partial

from seqlab.mixers import LinearAttention, RetNet
from seqlab.model import LanguageModel
from seqlab.train import evaluate, train

SEEDS, STEPS = (0, 1, 2), 300


def model_with(mixer, seed):
    torch.manual_seed(seed)
    mixer = partial(mixer, n_heads=2, form="parallel")
    return LanguageModel(task.vocab, 32, [mixer], ffn=None)


def trained(name, make):
    models = [make(seed) for seed in SEEDS]
    how = {"steps": STEPS, "batch_size": 24, "lr": 0.01, "label": name}
    runs = [
        train(model, task, seed=seed, **how)
        for seed, model in zip(SEEDS, models, strict=True)
    ]
    return models, runs


# V = K, as linear attention has it; the paper takes V = 2 K
mixers = {"linear attention": LinearAttention, "RetNet": partial(RetNet, expand_v=1)}
models, losses = {}, {}
for name, mixer in mixers.items():
    models[name], runs = trained(name, partial(model_with, mixer))
    losses[name] = runs[0].loss

# %% tags=["measured"]
from seqlab.figures import loss_curves

loss_curves(losses, title="RetNet goes on learning where linear attention stops")

# %% [markdown]
# *What to see.* Both losses soon reach ln 8, about 2.1, which is a guess among the 8 values. Then linear attention
# comes down a little and lies flat, far above RetNet. Does it need more steps, or is something missing? The next cells
# answer without training any further. A hint: a sum does not know the order of its terms.

# %% tags=["nbval-check-output"]
from seqlab.course import holds

rng = torch.Generator().manual_seed(0)


@holds
def linear_attention_cannot_see_the_order_of_the_pairs():
    tokens, n = task.batch(4, rng).tokens, task.n_pairs
    order = torch.randperm(n, generator=rng)
    shuffled = torch.cat([tokens[:, order], tokens[:, n:]], dim=1)
    with torch.inference_mode():
        for model in models["linear attention"]:
            answers, others = (model(x)[0][:, n:] for x in (tokens, shuffled))
            # float32 sums, added in another order
            torch.testing.assert_close(answers, others, rtol=0, atol=1e-3)


# %% [markdown]
# Reading any model of this kind, we can only learn *which* values stand under a key, and how often each. The last one
# is any of them with equal chance. So the best answer is the most frequent value: a vote. It is right as often as its
# share of the votes, and apart from chance, no amount of training can beat it. `task.vote` computes this ceiling from
# the data, without a model. **Before you read on**, commit to an answer:

# %%
from seqlab.course import predict
from seqlab.figures import retention as figures
from seqlab.train import accuracy_by

CHANCE, VOTE = 1 / task.n_values, "a vote among all values"
overwritten = range(8)


def scores(models):
    """One list per model: right answers by the number of older values under the key."""
    found = (evaluate(model, task) for model in models)
    return [accuracy_by(right, b, b.overwrites, overwritten) for b, right in found]


curves = {name: (overwritten, scores(runs)) for name, runs in models.items()}
first_two = dict(curves)  # section 9 adds more


def against_the_vote():
    batch, _ = evaluate(models["RetNet"][0], task)
    ceiling = accuracy_by(task.vote(batch), batch, batch.overwrites, overwritten)
    return figures.accuracy(
        {VOTE: (overwritten, [ceiling])} | first_two,
        title="RetNet beats the vote, which linear attention cannot",
        x="older values under the same key",
        chance=CHANCE,
        bound=VOTE,
    )


predict(
    "04-vote",
    "Two values stand under a key. How often does linear attention name the newer one?",
    against_the_vote,
    choices=["nearly always", "about half of the time", "about 1 time in 8"],
)

# %% [markdown]
# *What to see.* About half of the time: find 1 on the horizontal axis. The usual guess, "nearly always", forgets that a
# sum keeps no order. The grey band is the ceiling of a vote, and linear attention lies on it: it has learned all that
# it can learn. The more often a key was corrected, the worse the answer. **Old pairs drown the new.** RetNet, with a
# state of the same size, goes far above the band. (Points are means of three seeds; bars reach from the lowest to the
# highest. A point may leave the band by a few per cent, which is sampling noise.)
#
# Look also at the left end, where nothing was overwritten: RetNet is *worse* there. Section 9 asks for the price.
#
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
import math

from seqlab.widgets import explore

figures.mask([1, 2, 4, 8, 16, 32, 64, math.inf])

# %% [markdown]
# *What to see.* Move the slider. Left: row $i$ is a reader, column $j$ what it reads. A short half-life leaves a
# narrow band along the diagonal; at ∞ the whole triangle is full, and that is linear attention. Right: the bottom row
# of the mask, as a curve over age. In a running notebook, `explore` takes any half-life:

# %%
explore(lambda half_life=10.0: figures.mask_at(half_life), half_life=(1.0, 64.0, 0.5))

# %% [markdown]
# *What to see.* However short the half-life, the newest pair has the weight 1, and no weight is ever exactly 0.
#
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
    D = decay_mask(gamma, len(q))
    # in S, the last row of D: how much of each write is left
    return (q @ k.mT * D) @ v, v.mT @ (D[-1, :, None] * k)


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
        error = (factored_mask(gamma, T) - decay_mask(gamma, T)).abs().max()
        said = "accurate to 1e-4" if error < 1e-4 else "inf and nan in the mask"
        print(f"half-life {half_life:4.1f}, T = {T:5,}: {said}")

# %% [markdown]
# The largest float32 is just below $2^{128}$. The factor $\gamma^{-j}$ doubles with each half-life, so it is infinite
# after 128 of them. The other factor, $\gamma^i$, is tiny by then, and soon exactly 0. Tiny times $\infty$ is $\infty$;
# $0 \cdot \infty$ is not a number. And the product that we want is a harmless number between 0 and 1.
#
# So the rule of this course: **form the difference first, then the exponential.** $\exp(G_i - G_j)$, never
# $\exp(G_i) \cdot \exp(-G_j)$. For $i \ge j$ the exponent is at most 0, and nothing can overflow. With decays chosen by
# the input (chapter 05) a model can spend 128 half-lives in a few hundred tokens.
#
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
        pairs = (qc @ kc.mT * decay_mask(gamma, n)) @ vc
        ys.append(pairs + gamma ** (i + 1) * (qc @ S.mT))
        S = gamma**n * S + vc.mT @ (gamma ** (n - 1 - i) * kc)
    return torch.cat(ys), S


# %% tags=["nbval-check-output"]
import seqlab.core.recurrence as core


def randn(*shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


T, K, V, gamma = 48, 5, 3, 1 - 2**-5
q, k, v = (randn(T, width).requires_grad_() for width in (K, K, V))


def everything(form, *args):
    """The reads, the last state, and the gradients of q, k and v."""
    y, S = form(q, k, v, *args)
    return y, S, *torch.autograd.grad(y.sin().sum() + S.cos().sum(), (q, k, v))


def of_seqlab(q, k, v, form=core.recurrent):
    log_a = torch.full((1, T, 1, 1), math.log(gamma), dtype=torch.float64)
    y, S = form(*(u[None, :, None] for u in (q, k, v)), log_a=log_a)
    return y[0, :, 0], S[0, 0]


@holds
def the_three_forms_give_one_answer():
    same(everything(parallel, gamma), everything(recurrent, gamma))
    for C in (1, 5, 16, 31, T, 2 * T):  # 5 and 31 leave a short last chunk
        same(everything(chunkwise, gamma, C), everything(recurrent, gamma))


@holds
def these_are_the_forms_of_seqlab():
    for form in (core.recurrent, core.parallel, core.chunkwise):
        same(everything(of_seqlab, form), everything(recurrent, gamma))


@holds
def two_calls_with_the_state_carried_over_are_one():
    first, S = chunkwise(q[:20], k[:20], v[:20], gamma, 16)
    second, S = chunkwise(q[20:], k[20:], v[20:], gamma, 16, S)
    same((torch.cat([first, second]), S), recurrent(q, k, v, gamma))


# %% [markdown]
# `seqlab.core.recurrence` takes `log_a` instead of γ, one for each token: a constant decay is the special case in which
# they are all equal. Now the price of each form. Four heads, width 64, one thread; only the length grows.

# %% tags=["measured"]
import time

from tqdm.auto import tqdm

from seqlab.figures import timing_lines

FORMS = {
    "recurrent": core.recurrent,
    "parallel": core.parallel,
    "chunkwise, C = 64": core.chunkwise,
}


def seconds(form, T, repeats=3):
    """The best of a few runs, after one to warm up."""
    x = dict(zip("qkv", torch.randn(3, 1, T, 4, 64, generator=rng), strict=True))
    decay = torch.log1p(-(2.0 ** -(5 + torch.arange(4))))[:, None]
    took = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        form(**x, log_a=decay.expand(1, T, 4, 1))
        took.append(time.perf_counter() - start)
    return min(took[1:])


with torch.inference_mode():
    times = {  # the parallel form's mask alone is H T² numbers
        name: {T: seconds(form, T) for T in (128, 256, 512, 1024, 2048, 4096)}
        if name != "parallel"
        else {T: seconds(form, T) for T in (128, 256, 512, 1024)}
        for name, form in tqdm(FORMS.items())
    }
gain = times["recurrent"][4096] / times["chunkwise, C = 64"][4096]
timing_lines(
    times, title=f"At T = 4,096 chunkwise is {gain:.0f} times as fast as recurrent"
)

# %% [markdown]
# *What to see.* Both axes are logarithmic, so a power of $T$ is a straight line; its slope is the exponent in the
# legend. Recurrent and chunkwise rise with slope near 1, a constant factor apart: the same growth, but a few large
# products for each chunk instead of small ones for each token. The parallel form starts near the chunkwise one and soon
# costs more than both: its arithmetic grows with $T^2$.
#
# | you want to | use | because |
# |---|---|---|
# | derive, test, or run a few hundred tokens | parallel | one product, easy to see through |
# | train, or read a prompt | chunkwise | linear in $T$, made of large products |
# | write the next token | recurrent | one step, the same price after 10 tokens or 10 million |
#
# The chunk length is a dial between the other two forms. Turn it at a fixed $T$:

# %% tags=["measured"]
with torch.inference_mode():
    dial = {
        C: seconds(partial(core.chunkwise, chunk_size=C), 1024, repeats=2)
        for C in tqdm([1, 4, 16, 32, 64, 128, 256, 1024])
    }
best = min(dial, key=dial.get)
figures.chunk_dial(dial, title=f"T = 1,024: the best chunk here has {best} tokens")

# %% [markdown]
# *What to see.* A valley. At the left end there are too many small products, at the right end too many pairs. The
# bottom depends on the machine.
#
# ## 5 · Many heads, many half-lives
#
# One γ cannot suit all purposes. RetNet gives each head its own, and does not train them:
#
# $$\gamma_h = 1 - 2^{-5-h} \qquad h = 0, 1, \dots, H - 1$$
#
# Since $1 - \gamma$ halves from head to head, the half-life doubles. It is close to $\ln 2 \cdot 2^{5+h}$.

# %%
gammas = 1 - 2.0 ** (-5 - torch.arange(8, dtype=torch.float64))
figures.head_decays(gammas)

# %% [markdown]
# *What to see.* The same curve, shifted to the right by a factor of 2 for each head. Eight heads cover half-lives from
# some 20 to some 3,000 tokens: a phrase, a paragraph, a few pages. Beyond that, everything fades, whatever it was.
#
# A head that remembers longer adds up more. With random unit-variance pairs, the square of $y$ grows like
# $\sum_n \gamma^{2n} = 1 / (1 - \gamma^2)$, which nearly doubles from head to head: head 7 would be about $2^{7/2}$
# times as loud as head 0. So RetNet divides each head by its own root mean square before the heads are joined. The
# paper calls it GroupNorm; in the authors' code it is an RMSNorm of each head, without weights. It has a second use:
# any positive factor on $y$ disappears in it, so the paper may rescale its parallel form to keep half-precision
# numbers small, and still get the same answer.

# %% tags=["nbval-check-output"]
from seqlab.core.position import rope_frequencies, rotate


def head_norm(y, eps=1e-6):
    return y / (y.square().mean(-1, keepdim=True) + eps).sqrt()


@holds
def a_positive_factor_on_a_head_changes_nothing():
    y, factor = randn(2, 7, 4, 16), randn(2, 7, 4, 1).exp()
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
# $\gamma e^{\pm i\theta}$, a length and an angle. RetNet takes the same length $\gamma$ for all pairs of a head, and
# different angles $\theta_p$.
#
# In this section $i = \sqrt{-1}$, and pair $p$ of channels, $(2p, 2p + 1)$, is one complex number
# $q_{2p} + i\, q_{2p+1}$. A bar turns $i$ into $-i$, and $\mathrm{Re}$ takes the real part, so
# $\mathrm{Re}[\,q \cdot \overline{k}\,]$ is the plain dot product. What was written $n - m$ steps ago is read with the
# score
#
# $$\mathrm{Re}\Bigl[\, q_n \cdot \overline{k_m} \;\bigl(\gamma e^{i\theta}\bigr)^{n-m} \Bigr]
# = \gamma^{\,n-m}\; \mathrm{Re}\Bigl[\, q_n e^{i n \theta} \cdot \overline{k_m e^{i m \theta}} \Bigr]$$
#
# The length $\gamma$ forgets. The angle $\theta$ turns $q$ and $k$, each by its *own* position. Yet the score depends
# on the difference $n - m$ alone. (The turning may be split into two factors, since $|e^{-im\theta}| = 1$ can never
# overflow. The decay may not, as section 3 showed.)


# %%
def turned(x, positions, theta):
    """Channels (2p, 2p + 1) of x (…, T, K) as one complex number, times e^{i n θ_p}."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))  # (…, T, K/2)
    turn = torch.exp(1j * positions[:, None] * theta)
    return torch.view_as_real(pairs * turn).flatten(-2)


T, K, n = 64, 16, torch.arange(64)
theta = 10000 ** -torch.linspace(0, 1, K // 2, dtype=torch.float64)
one_q, one_k = randn(1, K).expand(T, K), randn(1, K).expand(T, K)

# %% tags=["nbval-check-output"]


@holds
def turning_is_seqlabs_rotate():
    x = randn(1, T, 1, K)
    ours = turned(x[0, :, 0], n, theta)
    same(ours, rotate(x, n, theta, interleaved=True)[0, :, 0])


@holds
def the_score_depends_on_the_distance_alone():
    """The same q and k at every position, and all of them 1,000 positions later."""
    here, later = (
        turned(one_q, m, theta) @ turned(one_k, m, theta).mT for m in (n, n + 1000)
    )
    same(here, later)
    for distance in range(T):
        diagonal = here.diagonal(-distance)
        same(diagonal, diagonal[:1].expand_as(diagonal))


# %%
placed = turned(one_q, n, theta)  # one vector, as query and as key
faded = (placed @ placed.mT) * 0.5 ** ((n[:, None] - n).clamp(min=0) / 22)
figures.rotation(placed @ placed.mT, faded)

# %% [markdown]
# *What to see.* Left: one vector, placed as a query and as a key at every pair of positions. Every diagonal has one
# colour: only the distance counts. Right: the score along the distance, highest where the two are not turned against
# each other. Each pair of channels turns at its own speed, and the sum of these waves is a pattern that a model can
# shape. The decay (half-life 22, as in head 0) pulls it towards zero.
#
# ## 7 · The whole layer
#
# Project. Turn $q$ and $k$. Decay, write, read. Norm each head. Multiply by a gate, $\mathrm{silu}(x W_G)$, and project
# back. The norm rescales every read to the same size, even a read that found nothing; the gate then lets each token
# turn that read down, channel by channel. And $k$ is scaled by $1/\sqrt K$, as in attention.

# %% tags=["nbval-check-output"]
import torch.nn.functional as F
from einops import rearrange


def our_retnet(layer, x):
    """RetNet's forward, in terms of this chapter: only the weights are `layer`'s."""
    T, H = x.shape[1], layer.n_heads
    maps = (layer.q, layer.k, layer.v)
    q, k, v = (rearrange(W(x), "b t (h k) -> b h t k", h=H) for W in maps)
    K, n = q.shape[-1], torch.arange(T)
    theta = 10000 ** -torch.linspace(0, 1, K // 2, dtype=x.dtype)
    q, k = turned(q, n, theta), turned(k * K**-0.5, n, theta)
    D = torch.stack([decay_mask(1 - 2.0 ** (-5 - h), T) for h in range(H)])  # (H, T, T)
    y = rearrange(head_norm((q @ k.mT * D) @ v), "b h t v -> b t (h v)")
    return layer.out(F.silu(layer.g(x)) * y)


torch.manual_seed(0)
layer, x = RetNet(d_model=32, n_heads=4).double(), randn(2, 50, 32)


@holds
def our_layer_is_the_layer_of_seqlab():
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
# Here are two models of section 1, trained, reading the same 14 tokens. Key `a` is written three times, `b` twice, the
# others once.

# %% tags=["measured"]
from seqlab.widgets import microscope

story = ["a1", "b4", "c2", "d6", "a5", "e0", "f3", "b7", "g1", "a2", "h4"]
story += ["c?", "b?", "a?"]


def inside(model):
    """The mixer, and what it gets: the tokens' embeddings, normed (1, T, D)."""
    tokens = torch.tensor([[task.token(word) for word in story]])
    block = model.blocks[0]
    return block.mixer, block.mixer_norm(model.embedding(tokens)).detach()


microscope(*inside(models["linear attention"][0]), story)

# %% tags=["measured"]
microscope(*inside(models["RetNet"][0]), story)

# %% [markdown]
# *What to see.* Compare the last row (`a?`) of the panel "Weight of token s in read t". In linear attention the three
# writes of `a` have similar colours: the read is a mean of them. The line at the very bottom says why: nothing decays.
# RetNet has two half-lives there, one for each head, and its weights have both signs: a head can *subtract* an old
# value.
#
# ## 9 · What did it, and what did it cost?
#
# RetNet differs from linear attention in two places, the decay and the rotation, and both break the symmetry between
# old and new. Take RetNet and remove one or the other. All have the same number of parameters, the same norm and the
# same gate. One more thing is not fair to the decay: the paper's first two half-lives are 22 and 44 tokens, made for
# texts of thousands, and our sequences have 32. So a third variant gets half-lives that fit them: 1 and 8 tokens.


# %%
def variant(seed, half_lives=None, rotation=True):
    model = model_with(mixers["RetNet"], seed)
    mixer = model.blocks[0].mixer
    if half_lives is not None:
        mixer.log_gamma = math.log(0.5) / torch.tensor(half_lives).double()
    if not rotation:
        mixer.theta = torch.zeros_like(mixer.theta)
    return model


variants = {
    "rotation only": partial(variant, half_lives=[math.inf, math.inf]),
    "decay only, half-lives 22, 44": partial(variant, rotation=False),
    "decay only, half-lives 1, 8": partial(
        variant, half_lives=[1.0, 8.0], rotation=False
    ),
}
for name, make in variants.items():
    models[name], _ = trained(name, make)
    curves[name] = (overwritten, scores(models[name]))

# %% tags=["measured"]
from seqlab.train import accuracy

held_out = task.batch(1000, torch.Generator().manual_seed(10_000))
print(f"{'right answers, seeds 0, 1, 2':34}")
for name, runs in models.items():
    print(f"{name:34}", "  ".join(f"{accuracy(m, held_out):.0%}" for m in runs))

# %% tags=["measured"]
figures.accuracy(
    curves,
    title="A decay that fits the length does more than the rotation",
    x="older values under the same key",
    chance=CHANCE,
)

# %% [markdown]
# *What to see.* Every variant beats linear attention. With the paper's half-lives and no rotation, nothing is lost
# where nothing was overwritten, so what RetNet loses there is the price of its rotation. But that decay falls quickly
# as corrections pile up, because over 32 tokens $\gamma^n$ is nearly flat. **With half-lives that fit the length, the
# decay alone is best**, in all three seeds, and above RetNet itself.
#
# This is one task, one width, one learning rate and a short training. It shows that half-lives must suit the length of
# the text. It does not show that a rotation is useless: nothing here asks for an exact distance.
#
# Two probes show what a decay buys and costs, without further training. **Gap**: a value is written under `a`, then
# pairs of other keys, then another value under `a`. Does the newer value win? **Age**: a value is written once, then
# pairs of other keys follow. Does it still come back?

# %%
shown = ("linear attention", "RetNet", "decay only, half-lives 1, 8")
GAPS, AGES = [1, 2, 4, 8, 16], [1, 2, 4, 8, 16, 31, 64, 128]


def probed(xs, older):
    batches = [task.probe(x - 1, older=older) for x in xs]
    return {
        name: (xs, [[accuracy(m, b) for b in batches] for m in models[name]])
        for name in shown
    }


# %% tags=["measured"]
figures.accuracy(
    probed(GAPS, older=True),
    title="Bought: the newer of two values wins, if they lie far enough apart",
    x="tokens from the older value to the newer (log scale)",
    chance=CHANCE,
    log=True,
)

# %% tags=["measured"]
figures.accuracy(
    probed(AGES, older=False),
    title="Paid: a value that was never overwritten is lost as well",
    x="age of the value in tokens (log scale)",
    chance=CHANCE,
    log=True,
    marks={"longest age in training": task.n_pairs + task.n_keys - 1},
)

# %% [markdown]
# *What to see, bought.* Linear attention names the newer value about half of the time at any gap: two values, one vote
# each. With a decay the newer one wins, the more so the longer the gap; short half-lives need a shorter gap.
#
# *What to see, paid.* Linear attention still knows a value that is far older than any in training. Both decays lose it,
# and the short half-lives lose it first. Nobody overwrote that value. It faded because *time passed*, whatever the
# token was: a name that the text will need again, or a comma.
#
# **The failure of section 1 is mended**: a state of the same size now prefers the new to the old. Two wishes remain.
# The model should choose *when* to forget (chapter 05). And to correct a key it should remove that key's old value, and
# leave all others alone (chapter 08).
#
# ## 10 · In the wild
#
# The RetNet paper trained models of 1.3B, 2.7B and 6.7B parameters. The authors' code has presets up to 65B, all with a
# key width of 256 a head, so the number of heads grows with the model, and with it the longest half-life.

# %% tags=["nbval-check-output"]
presets = {  # name: layers, d_model, heads, width of all values together
    "retnet_xl": (24, 2048, 8, 3456),
    "retnet_7b": (32, 4096, 16, 6912),
    "retnet_65b": (64, 8192, 32, 13824),
}
print("preset      heads   longest half-life   state, millions   as tokens of cache")
for name, (layers, d_model, heads, d_value) in presets.items():
    half_life = float(f"{math.log(0.5) / math.log1p(-(2.0 ** (-4 - heads))):.2g}")
    state = layers * d_model // heads * d_value
    # softmax attention keeps a key and a value of width d_model per token and layer
    tokens = state / (layers * 2 * d_model)
    print(f"{name:11} {heads:5} {half_life:19,.0f} {state / 1e6:17.0f} {tokens:20.0f}")

# %% [markdown]
# A half-life of millions or billions of tokens means that such a head does not decay, for any text that it will see.
# The state is worth a few hundred tokens of KV cache, for any length of text. That is the bargain.
#
# Two descendants: **MiniMax-Text-01** (456B parameters, 2025) uses "lightning attention" in 70 of its 80 layers: linear
# attention with one constant decay per head, which also depends on the layer. **YOCO** (2024), from the group behind
# RetNet, replaces the constant by *gated* retention: γ becomes a number that each token chooses. That is chapter 05.
#
# ### Fact check
#
# **"RetNet uses RoPE."** It rotates, but its angles are not RoPE's. RoPE's exponents stop one step short of 1;
# RetNet's reach it. And RetNet turns neighbouring channels $(2p, 2p+1)$, where Llama's code turns $(p, p + K/2)$. Load
# weights with the wrong convention, and the model is silently broken.

# %% tags=["nbval-check-output"]
for name, inclusive in (("RoPE", False), ("RetNet", True)):
    turn = 2 * math.pi / rope_frequencies(256, inclusive=inclusive)[-1]
    print(f"{name:6} slowest pair of 256 channels: 1 turn in {turn:,.0f} tokens")


@holds
def head_20_needs_log1p():
    forgotten = 2.0 ** -torch.tensor(25.0)
    assert torch.log(1 - forgotten) == 0
    assert torch.log1p(-forgotten) < 0


# %% [markdown]
# **"All heads decay."** Not in float32, if you compute $1 - 2^{-5-h}$ first, as the authors' code does: from head 20
# on it rounds to exactly 1, while `log1p` keeps it. (The harm is small: such a head has a half-life of 23 million
# tokens.)
#
# ## 11 · Practise
#
# In a terminal, `seqlab start 04` puts your own copy of the exercises into `work/`. `check("04.4", decay_mask)` in that
# notebook tells you which mistake you made, not only that there is one (these functions take all heads at once).

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
# 4. Each head has its own γ, and its own norm. On the task of this chapter a decay helps most when its half-lives suit
#    the length of the text.
# 5. A constant decay forgets by the clock: the old and the important alike.
#
# Next, chapter 05: let the token decide how much to forget.
#
# ## Further: xPos, and where it went
#
# Rotation alone is RoPE (chapter 16). [xPos](https://arxiv.org/abs/2212.10554) adds a magnitude: pair $p$ of the query
# is multiplied by $\zeta_p^{\,n}$ and pair $p$ of the key by $\zeta_p^{-m}$, so distant tokens count less. That is a
# decay, with one rate for each pair. RetNet takes one rate for all pairs of a head and calls it $\gamma$; do not add
# xPos's magnitudes to it. (This check factors the decay into two exponentials. That is safe here: 64 tokens, in
# float64.)


# %% tags=["nbval-check-output"]
@holds
def xpos_with_one_magnitude_for_all_pairs_is_the_decay_mask():
    zeta = 0.9 ** n.double()[:, None]
    q, k = turned(one_q, n, theta), turned(one_k, n, theta)
    same(((q * zeta) @ (k / zeta).mT).tril(), q @ k.mT * decay_mask(0.9, T))


# %% [markdown]
# ## References
#
# - Y. Sun et al. [*Retentive Network: A Successor to Transformer for Large Language
#   Models.*](https://arxiv.org/abs/2307.08621) 2023. Presets, angles, decays and masks from microsoft/torchscale.
# - Y. Sun et al. [*A Length-Extrapolatable Transformer*](https://arxiv.org/abs/2212.10554) (xPos). 2022.
# - J. Su et al. [*RoFormer: Enhanced Transformer with Rotary Position Embedding.*](https://arxiv.org/abs/2104.09864)
#   2021.
# - A. Katharopoulos et al. [*Transformers are RNNs.*](https://arxiv.org/abs/2006.16236) 2020.
# - Y. Sun et al. [*You Only Cache Once*](https://arxiv.org/abs/2405.05254) (YOCO, gated retention). 2024.
# - MiniMax. [*MiniMax-01: Scaling Foundation Models with Lightning Attention.*](https://arxiv.org/abs/2501.08313) 2025.
# - S. Arora et al. [*Zoology*](https://arxiv.org/abs/2312.04927) (associative recall as a test of memory). 2023.
