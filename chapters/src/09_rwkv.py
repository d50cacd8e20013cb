# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 09 · RWKV
#
# **After this chapter you can**
#
# - find two faults in a loop that is copied from tutorial to tutorial, and derive the form that has neither;
# - write the four generations of RWKV, each as a small change to the one before it;
# - read a half-life from a decay parameter, and say what token shift, bonus and channel mix are for;
# - say what RWKV-7 erases, under which key, and how much of it;
# - bound the eigenvalues of its gate, and say which counting they allow.
#
# **You need** chapter 03 (linear attention) and chapter 05 (gates). Chapter 07 (chunks) helps.
#
# **Time** 60 minutes to read, a minute to run.
#
# **Covers** RWKV-4 · RWKV-5 Eagle · RWKV-6 Finch · RWKV-7 Goose · RWKV channel mix · RWKV World3.
#
# **RWKV** ("RwaKuv") is a family of recurrent language models by Bo Peng and a community around
# him. Each generation changes one part of the same recurrence, so the family can be read as one long argument about
# what a memory needs. It begins with a memory of two numbers per channel.
#
# ## 1 · A failure: one loud token
#
# In RWKV-4 every channel looks back on its own. Token $s$ has a key $k_s$ and a value $v_s$, each *one number* per
# channel. The read at token $t$ is a mean of all values so far, and the weight of a value is an exponential:
#
# $$y_t = \frac{\sum_{s<t} e^{(t-1-s)\,w + k_s}\, v_s + e^{u + k_t}\, v_t}
#              {\sum_{s<t} e^{(t-1-s)\,w + k_s} + e^{u + k_t}}$$
#
# - $w < 0$ is the channel's **decay**: with each further token the exponent of an old value falls by $|w|$.
# - $u$ is the **bonus**: the newest token does not decay, it gets $u$ instead.
#
# Both sums are recurrences. $e^{k}$ overflows easily, so one divides the sums by $e^{m}$ with a running maximum
# $m$. The following loop, in several variants, is in many tutorials:

# %%
import torch

torch.set_num_threads(1)


def copied(w, u, k, v):
    """RWKV-4's read, as it is often copied. w and u (D,), k and v (T, D)."""
    num = den = torch.zeros_like(k[0])
    m, ys = torch.full_like(k[0], -torch.inf), []
    for k_t, v_t in zip(k, v, strict=True):
        top = torch.maximum(m, k_t)
        old, new = (m - top).exp(), (k_t - top).exp()
        num, den, m = old * num, old * den, top
        bonus = u.exp() * new
        ys.append((num + bonus * v_t) / (den + bonus))
        num = w.exp() * num + new * v_t
        den = w.exp() * den + new
    return torch.stack(ys)


def direct(w, u, k, v):
    """The formula: a softmax over the past, for every channel."""
    t = torch.arange(len(k))[:, None]
    logits = (t - 1 - t.T)[..., None] * w + k  # (t, s, D)
    logits = logits.masked_fill((t <= t.T)[..., None], -torch.inf)
    logits = torch.where((t == t.T)[..., None], u + k, logits)
    return (logits.softmax(1) * v).sum(1)


# %% [markdown]
# Break it with one input. All keys are 0, but the first is *loud*. The first value is 5, all later ones are 0. After
# 300 tokens the loud token should be long forgotten, and the read should be 0.

# %% tags=["nbval-check-output"]
T = 300
v = torch.zeros(T, 1).double()
v[0] = 5.0
print("type      loud key   w      u    the last read   should be")
for dtype, loud, w, u in (
    (torch.float32, 60.0, -0.5, 0.0),
    (torch.float32, 110.0, -0.5, 0.0),
    (torch.float32, 110.0, -1.0, 0.0),
    (torch.float16, 20.0, -0.5, 0.0),
    (torch.float16, 0.0, -0.5, 12.0),
):
    k = torch.zeros(T, 1).double()
    k[0] = loud
    w, u = torch.tensor([w]).double(), torch.tensor([u]).double()
    y = copied(*(x.to(dtype) for x in (w, u, k, v)))[-1].item()
    right = direct(w, u, k, v)[-1].item()
    name = str(dtype).removeprefix("torch.")
    print(f"{name:9}{loud:8.0f}{w.item():7.1f}{u.item():7.0f}{y:14.2f}{right:14.2f}")

# %% [markdown]
# The loop has two faults.
#
# **The maximum does not move with the decay.** The sums fade, but $m$ stays at the loudest key ever seen. A later
# key of 0 is written as $e^{0 - 110}$, which float32 rounds to 0: after the loud token nothing is ever stored
# again. What is left fades until both sums are the smallest number above 0. For $w = -0.5$ they stay there (that
# number times 0.61 rounds to itself), and the read is 1, a value that was never in the text. For $w = -1$ they
# round to 0, and the read is 0/0.
#
# **The bonus is not in the maximum.** $e^{u}$ is computed on its own. In float16 that overflows for $u > 11.1$, in
# float32 only for $u > 88.7$.
#
# In exact arithmetic the loop is right. It fails as a program.

# %%
from seqlab.figures import rwkv as figures

figures.units([0, 40, 80, 100, 110, 140], start=4)

# %% [markdown]
# *What to see.* Move the slider. The loop stores the true sum (solid) divided by its unit (dashed). Where the sum
# is below the dotted line, nothing of it can be stored. A unit that falls with the decay (green) stays beside the
# sum.
#
# ## 2 · The stable form
#
# Let $p_t$ and $q_t$ be the two sums after token $t$, and keep $p' = e^{-m} p$ and $q' = e^{-m} q$. Two exponents
# are in play when token $t$ is written: that of the old sums, which has just fallen by $|w|$, and that of the new
# token. Let the unit follow the larger one:
#
# $$m_t = \max(m_{t-1} + w,\; k_t) \qquad
#   p'_t = e^{m_{t-1} + w - m_t}\, p'_{t-1} + e^{k_t - m_t}\, v_t$$
#
# and $q'$ likewise with 1 in place of $v_t$. Both factors are at most 1, and one of them is exactly 1, so
# $q' \ge 1$. The read has exponents of its own: the sums *before* they fade, and the token with its bonus. It needs
# a unit of its own, $\max(m_{t-1},\, u + k_t)$:


# %%
def stable(w, u, k, v):
    p = q = torch.zeros_like(k[0])
    m, ys = torch.full_like(k[0], -torch.inf), []
    for k_t, v_t in zip(k, v, strict=True):
        top = torch.maximum(m, u + k_t)  # the unit of the read
        old, new = (m - top).exp(), (u + k_t - top).exp()
        ys.append((old * p + new * v_t) / (old * q + new))
        m, before = torch.maximum(m + w, k_t), m + w  # the unit of the sums
        old, new = (before - m).exp(), (k_t - m).exp()
        p, q = old * p + new * v_t, old * q + new
    return torch.stack(ys)


# %% tags=["nbval-check-output"]
from seqlab.course import holds

rng = torch.Generator().manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def with_gradients(run, *inputs):
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = run(*leaves)
    return y, *torch.autograd.grad(y.sin().sum(), leaves)


@holds
def the_stable_loop_is_a_softmax_over_the_past():
    for size in (1, 300):
        inputs = -randn(5).exp(), randn(5), size * randn(40, 5), randn(40, 5)
        same(with_gradients(stable, *inputs), with_gradients(direct, *inputs))


@holds
def it_reads_on_after_a_loud_token():
    for dtype, loud in ((torch.float16, 20.0), (torch.float32, 110.0)):
        k = torch.zeros(T, 1, dtype=dtype)
        k[0] = loud
        w = torch.tensor([-0.5], dtype=dtype)
        assert stable(w, 0 * w, k, v.to(dtype))[-1].abs() < 1e-6


# %% [markdown]
# This is the sLSTM's stabiliser (chapter 10) with a constant forget gate, and the online softmax of chapter 14 with
# a decay. As there, $m$ unrolls to a running maximum that is known for all tokens at once (exercise 09.4), so the
# sums can be scanned.
#
# ## 3 · The layer around it
#
# Three more ideas make this a layer, and all later generations keep them.
#
# **Token shift.** Before each matrix, every channel of $x_t$ is mixed with the same channel of the token before it:
# $\mu\, x_t + (1 - \mu)\, x_{t-1}$, with a learned $\mu$ for each channel. It is the shortest possible convolution.
# It lets one layer bind a word to the one before it, so a pair "key, value" in two tokens can be written as one
# pair.
#
# **Receptance.** $r$, behind a sigmoid, gates what the read hands on: the R of RWKV; W, K and V are $w$, $k$ and
# $v$.
#
# **Channel mix.** In place of an MLP: $\sigma(r)\, W_v\, \mathrm{relu}(W_k\, \cdot)^2$, on shifted inputs as well.
# So this part of the block has a state too, one input. RWKV-7 drops its $\sigma(r)$.

# %% tags=["nbval-check-output"]
from seqlab.ffn import ChannelMix
from seqlab.mixers import RWKV4, RWKV5, RWKV6, RWKV7


def shifted(x, mu):
    """mu is the share of x_t. x (T, D)."""
    before = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
    return mu * x + (1 - mu) * before


def time_mix(layer, x):
    mu_r, mu_k, mu_v = layer.mu
    r = shifted(x, mu_r) @ layer.r.weight.T
    k = shifted(x, mu_k) @ layer.k.weight.T
    v = shifted(x, mu_v) @ layer.v.weight.T
    y = stable(-layer.decay.exp(), layer.bonus, k, v)
    return (r.sigmoid() * y) @ layer.out.weight.T


def channel_mix(layer, x):
    k = (shifted(x, layer.mu_k) @ layer.k.weight.T).relu() ** 2
    r = shifted(x, layer.mu_r) @ layer.r.weight.T
    return r.sigmoid() * (k @ layer.v.weight.T)


@holds
def these_are_seqlabs_rwkv4_and_its_channel_mix():
    x = randn(9, 12)
    for ours, theirs in (
        (time_mix, RWKV4(12).double()),
        (channel_mix, ChannelMix(12).double()),
    ):
        found = with_gradients(lambda x, f=ours, m=theirs: f(m, x), x)
        same(found, with_gradients(lambda x, m=theirs: m(x[None])[0][0], x))


# %% [markdown]
# ### What a decay parameter means
#
# The learned number is not $w$ but $d$, with $w = -e^{d}$, so that $w$ is negative whatever $d$ is. The weight of a
# value falls to one half after $\ln 2 / e^{d}$ tokens: its **half-life**. The start of a layer is chosen by hand,
# and it depends on the depth:


# %%
import math


def lives(make):
    """Half-life of each channel of layers 1, 4 and 8 of 8, before training."""
    layers = {f"layer {n + 1} of 8": make(64, layer=n, n_layers=8) for n in (0, 3, 7)}
    return {
        name: math.log(2) / m.decay.detach().flatten().exp()
        for name, m in layers.items()
    }


figures.half_lives(
    {"RWKV-4": lives(RWKV4), "RWKV-5": lives(RWKV5)},
    title="At the start, deeper layers remember longer, and RWKV-5 longer than RWKV-4",
)

# %% [markdown]
# *What to see.* Each line is a layer, its channels sorted. All layers span the same range; a deeper one has more of
# its channels at the long end. In the first layer of RWKV-4 more than half of the channels start below one token:
# those see hardly more than the newest token, through the bonus, and the one before it, which has not decayed yet.
#
# ## 4 · From 4 to 5: a table instead of two numbers
#
# A channel of RWKV-4 can only *vote*. All values of the past are in one mean, whose weights depend on keys and
# ages; no query asks for one of them. RWKV-5 (**Eagle**) gives each head a table $S$ and a query $q$ (the
# receptance's new job), as in chapter 03:
#
# $$y_t = \left(S_{t-1} + v_t\, (u \odot k_t)^\top\right) q_t \qquad S_t = S_{t-1}\, \mathrm{diag}(a) + v_t k_t^\top
#   \qquad a = e^{-e^{d}}$$
#
# Keys are no exponents any more, so nothing overflows, and the normaliser goes: a norm of each head takes its
# place, with a gate behind it. What stays is RWKV-4's order: a token is read *before* its decay and its write, and
# counts itself through the bonus $u$, now one number per key channel.


# %%
def eagle(q, k, v, a, u):
    """One head. q, k and the decays a (T, K), v (T, V), u (K,)."""
    S, ys = torch.zeros(v.shape[1], k.shape[1], dtype=v.dtype), []
    for q_t, k_t, v_t, a_t in zip(q, k, v, a, strict=True):
        ys.append((S + torch.outer(v_t, u * k_t)) @ q_t)
        S = S * a_t + torch.outer(v_t, k_t)
    return torch.stack(ys)


# %% tags=["nbval-check-output"]
from seqlab.core import dplr
from seqlab.core.recurrence import chunkwise
from seqlab.core.shift import read_before_write


def one_head(*xs):
    """(T, K) as (B, T, H, K)."""
    return [x[None, :, None] for x in xs]


@holds
def eagle_is_seqlabs_core_read_one_step_early():
    def by_seqlab(q, k, v, a, u):
        q, k, v, log_a = one_head(q, k, v, a.log())
        return read_before_write(chunkwise, q, k, v, log_a, u[None])[0][0, :, 0]

    inputs = randn(20, 4), randn(20, 4), randn(20, 3), randn(20, 4).sigmoid(), randn(4)
    same(with_gradients(eagle, *inputs), with_gradients(by_seqlab, *inputs))


# %% [markdown]
# ## 5 · From 5 to 6: the token chooses the decay
#
# In RWKV-6 (**Finch**) the recurrence stays, and $a$ becomes $a_t$, so the loop above computes it already. The
# decay parameter gets a part that depends on the token, through a thin matrix in the middle (rank 64 in the smaller
# models), so that it costs little:
#
# $$d_t = d + B \tanh(A\, x^d_t) \qquad a_t = e^{-e^{d_t}}$$
#
# The shares of the token shift get such a part as well. A token can now say "forget the past here" or "keep it".


# %% tags=["nbval-check-output"]
def finch_decays(layer, x):
    """log a_t (T, D) from the layer's input x (T, D)."""
    dx = shifted(x, 0.0) - x
    low = ((x + dx * layer.mu_x) @ layer.mix_down).tanh().view(len(x), 5, -1)
    x_d = x + dx * (layer.mu[0] + low[:, 0] @ layer.mix_up[0])
    return -(layer.decay + (x_d @ layer.decay_down).tanh() @ layer.decay_up).exp()


@holds
def these_are_the_decays_of_seqlabs_rwkv6():
    layer, x = RWKV6(12, n_heads=2, mix_rank=3, decay_rank=4).double(), randn(9, 12)
    for weight in (layer.mix_down, layer.decay_down):  # they start at 0
        weight.data = randn(*weight.shape)
    found = with_gradients(lambda x: finch_decays(layer, x), x)
    same(
        found,
        with_gradients(lambda x: layer.project(x[None])["log_a"][0].flatten(1), x),
    )


# %% [markdown]
# ## 6 · From 6 to 7: erase under one key, write under another
#
# A decay clears a whole *column* of the table, and every pair has a bit of itself in every column. To replace the
# value of one key, one has to ask what the table returns under that key, and take away exactly that. Let $\kappa$
# have length 1. The table returns $S\kappa$, and
#
# $$\left(S - (S\kappa)\,\kappa^\top\right)\kappa = S\kappa - S\kappa = 0$$
#
# while a read under any key at right angles to $\kappa$ is as before. RWKV-7 (**Goose**) does this at each token,
# with a strength $a$ between 0 and 1 for each channel, the **in-context learning rate**:
#
# $$S_t = S_{t-1}\left(\mathrm{diag}(w_t) - \kappa_t\, (a_t \odot \kappa_t)^\top\right) + v_t k_t^\top
#   \qquad y_t = S_t q_t$$
#
# This is the delta rule of chapter 08 with three more liberties. It fades each channel by its own $w_t$. It erases
# under $\kappa$ and writes under $k$, and the two may differ: a token may erase something that it does not write.
# And $a$ differs from channel to channel. Both keys come from one vector $k$:
#
# $$\kappa = \frac{k \odot k_\kappa}{\lVert k \odot k_\kappa \rVert} \text{ in each head,}\qquad
#   k \leftarrow k \odot (1 + (a - 1) \odot k_a)$$
#
# With $k_a = 1$ the second becomes $a \odot k$: where a token erases little it also writes little. Learned vectors
# $k_\kappa$ and $k_a$ decide. The decay is $w = e^{-e^{-1/2}\, \sigma(d)}$, which keeps it above 0.545, and the
# read now comes *after* the write, so the bonus moved out of the table, to a term $(q \cdot r_k \odot k)\, v$
# beside it.


# %% tags=["nbval-check-output"]
def goose(q, k, v, w, kappa, a):
    """One head. All (T, K), v (T, V); kappa of length 1."""
    S, ys = torch.zeros(v.shape[1], k.shape[1], dtype=v.dtype), []
    for q_t, k_t, v_t, w_t, e_t, a_t in zip(q, k, v, w, kappa, a, strict=True):
        S = S * w_t - torch.outer(S @ e_t, a_t * e_t) + torch.outer(v_t, k_t)
        ys.append(S @ q_t)
    return torch.stack(ys)


def some_gates(T=20, K=4):
    kappa = torch.nn.functional.normalize(randn(T, K), dim=1)
    return (
        (-(math.exp(-0.5)) * randn(T, K).sigmoid()).exp(),
        kappa,
        randn(T, K).sigmoid(),
    )


@holds
def goose_is_seqlabs_recurrence_with_two_more_keys():
    def by_seqlab(q, k, v, w, kappa, a, form=dplr.chunkwise):
        q, k, v, e, f, log_w = one_head(q, k, v, -kappa, a * kappa, w.log())
        return form(q, k, v, e, f, log_w)[0][0, :, 0]

    inputs = randn(20, 4), randn(20, 4), randn(20, 3), *some_gates()
    same(with_gradients(goose, *inputs), with_gradients(by_seqlab, *inputs))


@holds
def without_erasing_goose_is_eagle_read_late():
    q, k, v, (w, kappa, a) = randn(20, 4), randn(20, 4), randn(20, 3), some_gates()
    next_q = torch.cat([q[:1], q[:-1]])  # token t + 1 asks what token t asked
    read = eagle(next_q, k, v, w, 0 * q[0])
    same(goose(q, k, v, w, kappa, 0 * a)[:-1], read[1:])


# %% [markdown]
# ## 7 · Four generations at one task
#
# Each token of this task writes a pair, a key with a value. Keys are written again and again, and then each is asked
# for: the *latest* value counts. There are 4 keys, 8 values and 12 pairs. **Before you read on**, commit to an
# answer. Each model has one layer of width 32 (two heads of 16; RWKV-4 has 32 channels), no channel mix, and is
# trained three times (seeds 0, 1, 2) on 150 batches of 16 texts with a learning rate of 0.01.

# %%
from functools import partial

from seqlab.model import LanguageModel
from seqlab.tasks import Recall
from seqlab.train import accuracy, train

SEEDS = (0, 1, 2)
heads = {"n_heads": 2, "chunk_size": 24}
generations = {
    "RWKV-4": RWKV4,
    "RWKV-5": partial(RWKV5, **heads),
    "RWKV-6": partial(RWKV6, mix_rank=8, decay_rank=8, **heads),
    "RWKV-7": partial(RWKV7, ranks=(8, 8, 8, 8), **heads),
}


def fresh(mixer, task, seed):
    torch.manual_seed(seed)
    return LanguageModel(task.vocab, 32, [mixer], ffn=None)


def trained(mixer, task, seed):
    model = fresh(mixer, task, seed)
    label = type(task).__name__.lower()
    train(model, task, steps=150, batch_size=16, lr=0.01, seed=seed, label=label)
    return model


task = Recall(n_keys=4, n_values=8, n_pairs=12)
models = {n: [trained(m, task, s) for s in SEEDS] for n, m in generations.items()}

# %% tags=["measured"]
from seqlab.course import predict

exam = task.batch(256, torch.Generator().manual_seed(10_000))
right = {name: [accuracy(m, exam) for m in seeds] for name, seeds in models.items()}
predict(
    "09-generations",
    "Which change gains most?",
    lambda: figures.by_seed(
        right, title="The table gains most, erasing the rest", chance=task.chance
    ),
    choices=["the table, 4 → 5", "the chosen decay, 5 → 6", "erasing, 6 → 7"],
)

# %% [markdown]
# *What to see.* Marks are seeds. The table more than doubles RWKV-4's score: with two numbers a channel cannot keep
# four values apart. The chosen decay adds a little, at this size and on this task. Erasing does the rest: each
# RWKV-7 is right nearly always. A usual guess is the chosen decay. But a decay can favour the present over the past
# only for all keys alike, or for whole channels; the task asks for it key by key.
#
# Is that how the models do it? For each token that writes a pair, ask what its gate $G_t$ leaves of an earlier
# pair: of one under the same key, and of one under another. If $\hat k$ is the earlier key at length 1, that is
# $\hat k^\top G_t\, \hat k$.

# %% tags=["measured"]
text = exam.tokens[:1]
names = [task.word(n) for n in text[0].tolist()]
letters = [name[0] for name in names[: task.n_pairs]]


def seen(model):
    """What the recurrence of the model's only layer reads for our text."""
    block = model.blocks[0]
    with torch.no_grad():
        return block.mixer.project(block.mixer_norm(model.embedding(text)))


gates = {
    name: [seen(m) for m in seeds] for name, seeds in models.items() if name != "RWKV-4"
}
untrained = [seen(fresh(generations["RWKV-7"], task, seed)) for seed in SEEDS]
left = {
    name: [
        figures.survival(g["k"][0], figures.transitions(g), list(map(ord, letters)))
        for g in seeds
    ]
    for name, seeds in (gates | {"RWKV-7, untrained": untrained}).items()
}
own, other = (sum(x) / len(x) for x in zip(*left["RWKV-7"], strict=True))
figures.survivors(
    left,
    title=f"RWKV-7 leaves {own:.0%} under a token's own key, {other:.0%} under others",
)

# %% [markdown]
# *What to see.* Each mark is a model, three for each name. RWKV-5 and RWKV-6 are on the dotted line: what they take
# from the old value of their own key they take from every other key as well. RWKV-7 is far to the left of it: it
# takes most of the old pair away and leaves the others nearly whole. It starts out near the line, so training has
# moved it.
#
# What each head still holds, pair by pair, follows from the same gates. A read under token $s$'s key, after token
# $t$, finds the share $\hat k_s^\top G_{s+1} \cdots G_t\, \hat k_s$ of its value:

# %%
from seqlab.figures import attention_matrix
from seqlab.widgets import explore

n = task.n_pairs


def holdings(model="RWKV-7", head=0):
    g = gates[model][0]
    W = figures.held(g["k"][0, :n, head], figures.transitions(g)[:n, head])
    title = f"{model}, head {head}: what is left of each pair"
    fig = attention_matrix(W, names[:n], title=title)
    return fig.update_layout(yaxis_title="after token t", xaxis_title="pair s")


explore(holdings, model=list(gates), head=(0, 1))

# %% [markdown]
# *What to see.* Each column is a pair; go down from the diagonal to see it fade. Letters are keys. In RWKV-5 a
# column fades evenly, faster in one head than in the other. In RWKV-7 it drops where its letter is written again.
#
# **Erase and write.** RWKV-7 has two directions per token. Do they agree?

# %% tags=["measured"]
pages = {}
for seed, g in enumerate(gates["RWKV-7"]):
    for head in (0, 1):
        pages[f"seed {seed}, head {head}"] = (-g["e"][0, :n, head], g["k"][0, :n, head])
figures.directions(pages, names[:n])

# %% [markdown]
# *What to see.* Rows are erase keys $\kappa$, columns are write keys $k$, both sorted by letter. What counts is the
# size of the cosine: erasing under $-\kappa$ is erasing under $\kappa$, and a pair under $-k$ with $-v$ is the same
# pair. A token's own two directions agree from the start, for $k_\kappa$ and $k_a$ start nearly constant. What
# training has found are the blocks: one direction for each letter, and different letters far apart. So a token
# erases just where its own letter was written. Move through seeds and heads: some keep the letters further apart
# than others.
#
# ## 8 · What its eigenvalues can track
#
# A gate with eigenvalues between 0 and 1 only lets things fade. Tasks such as **parity** (is the number of ones so
# far odd?) need a gate that *turns over* what is there: an eigenvalue of $-1$ ([Grazzi et
# al.](https://arxiv.org/abs/2411.12537)). What are those of $G = \mathrm{diag}(w) - \kappa (a \odot \kappa)^\top$?
#
# $G$ is not symmetric. But with $D = \mathrm{diag}(\sqrt a)$ the matrix
# $D\, G\, D^{-1} = \mathrm{diag}(w) - c\, c^\top$ with $c = \sqrt a \odot \kappa$ is, and it has the same
# eigenvalues. So they are real. Subtracting $c\, c^\top$ lowers them, by at most
# $\lVert c \rVert^2 \le \max a < 1$, and only one can fall below all of $w$ (they interlace). As $w > 0.545$, every
# eigenvalue is in $(-0.455,\, 1)$.

# %% tags=["nbval-check-output"]


@holds
def the_eigenvalues_are_real_and_above_minus_0_455():
    w, kappa, a = some_gates(T=500, K=6)
    G = w.diag_embed() - kappa[..., None] * (a * kappa)[:, None]
    values = torch.linalg.eigvals(G)
    assert values.imag.abs().max() < 1e-9
    assert values.real.min() > figures.LOWEST - 1 and values.real.max() < 1
    assert ((values.real < w.amin(1, keepdim=True)).sum(1) <= 1).all()


# %%
explore(
    figures.spectrum_at,
    factor=(1.0, 2.0, 0.1),
    lowest=(0.55, 1.0, 0.05),
    highest=(0.55, 1.0, 0.05),
)

# %% [markdown]
# *What to see.* The eigenvalues of one gate, against $a$. With `factor` at 1 and decays near 1 the smallest one
# stops near 0: the gate can erase, and not turn over. With strong decays it gets to $-0.45$, but then all else
# fades as well. Turn `factor` up to 2, which no RWKV-7 has: the gate becomes a reflection.
#
# So one layer of RWKV-7 can turn a sign over, but each time it loses more than half of it. Does training find a way?
# The same layer, and the same with its erasing doubled, on parity of 16 bits (seeds and rates as above):


# %%
from seqlab.tasks import Parity


class Doubled(RWKV7):
    def _inputs(self, *mixes, shared):
        inputs = super()._inputs(*mixes, shared=shared)
        return inputs | {"f": 2 * inputs["f"]}


layers = {
    "RWKV-7": generations["RWKV-7"],
    "RWKV-7, erasing doubled": partial(Doubled, ranks=(8, 8, 8, 8), **heads),
}
counters = {n: [trained(m, Parity(16), s) for s in SEEDS] for n, m in layers.items()}

# %% tags=["measured"]
from seqlab.figures.retention import accuracy as accuracy_figure

BITS = [4, 16, 64, 256]
tests = [Parity(n).batch(64, torch.Generator().manual_seed(1)) for n in BITS]
accuracy_figure(
    {
        name: (BITS, [[accuracy(m, b) for b in tests] for m in seeds])
        for name, seeds in counters.items()
    },
    title="One layer of RWKV-7 does not learn parity; with its erasing doubled it does",
    x="bits in the text (log scale)",
    chance=1 / 2,
    log=True,
    marks={"length in training": 16},
)

# %% [markdown]
# *What to see.* RWKV-7 guesses beyond a few bits. The doubled one has learned parity from 16 bits and is still
# right after sixteen times as many. This is one layer, one width and one learning rate. The paper states that RWKV-7
# can recognise all regular languages. That is about what some choice of weights can do in several layers, and not
# about what one layer learns here.
#
# ## 9 · The memory, seen
#
# The microscope sees RWKV from outside: it runs the layer token by token, and lists every number of its state.

# %% tags=["measured"]
from seqlab import figures as course_figures
from seqlab.microscope import observe

traces = {}
for name, (model, *_) in models.items():
    block = model.blocks[0]
    x = block.mixer_norm(model.embedding(text[:, :n])).detach()
    traces[name] = observe(block.mixer, x, names[:n])


def memory(generation="RWKV-7", t=11):
    return course_figures.microscope(traces[generation], t)


explore(memory, generation=list(traces), t=(0, 11))

# %% [markdown]
# *What to see.* RWKV-4 holds its last input, two sums and a unit: 128 numbers. The others hold the last input and
# two tables of 16 × 16. "Changed now" shows which of them the token has rewritten. From outside one cannot tell a
# key from a value; that is why the pictures before this one were made from the gates.
#
# ## 10 · In the wild
#
# The paper's four RWKV-7 models have 0.19 to 2.9 billion parameters; all heads are 64 wide.

# %% tags=["nbval-check-output"]
from seqlab.zoo import recipe
from seqlab.zoo.memory import kept

world = recipe("RWKV World3")
for name in world.published:
    count = sum(p.numel() for p in world.full(name).parameters())
    print(f"RWKV World3 {name}: {count / 1e9:.2f} billion parameters")
print("MiB kept of        1,024 tokens   1,048,576 tokens")
for label, name, model in (
    ("RWKV World3 2.9B", "RWKV World3", "2.9B"),
    ("Llama 3.1 8B", "Transformer 2026", "Llama 3.1 8B"),
):
    held = [kept(name, model).bytes(2**n) / 2**20 for n in (10, 20)]
    print(f"{label:17}{held[0]:14,.0f}{held[1]:19,.0f}")

# %% [markdown]
# (States in float32, the cache in bfloat16.) The table of a head has 64 × 64 numbers whatever the length of the
# text.
#
# One more thing changed in RWKV-7: each later layer mixes its $v$ with the $v$ of the *first* layer, by a learned
# share for each token and channel. The whole layer is [seqlab/mixers/rwkv7.py](../seqlab/mixers/rwkv7.py).
#
# **Real weights.** A folder with weights of RWKV-4 in the format of `transformers` is read by
# `seqlab.hub.from_pretrained(folder)`; the tests try it with small random models, and no released weights were
# tried. There is no reader for the later generations. Their layers are tested against the authors' own package,
# [`rwkv`](https://pypi.org/project/rwkv/).
#
# ### Fact check
#
# **"RWKV is attention without softmax."** RWKV-4 *is* a softmax over the past, one for each channel (section 2).
# What it lacks is a query.
#
# **"The copied loop is mathematically wrong."** It is right, and it fails in floating point (section 1).
#
# **"RWKV-7 can do all state tracking."** What some weights can do in several layers, one layer need not learn
# (section 8).
#
# **"RWKV-6 is GLA."** They share the table and a decay per key channel. RWKV-6 reads before it writes, has a bonus
# and a token shift, and its decay is $e^{-e^{d}}$ in place of a root of a sigmoid.
#
# ## 11 · Practise
#
# In a terminal, `seqlab start 09` puts your own copy of the exercises into `work/`.

# %% [markdown] tags=["exercises"]
# The table of exercises is made from their files.

# %% [markdown]
# The notebook is [exercises/09_rwkv.ipynb](../exercises/09_rwkv.ipynb); work on the copy in `work/`.
#
# ## Recap, in five lines
#
# 1. RWKV-4: a softmax over the past for each channel; its unit must fall with the decay and include the bonus.
# 2. RWKV-5: a table for each head, a decay for each key channel, a read before the write.
# 3. RWKV-6: the token chooses the decay. It still takes from all keys alike.
# 4. RWKV-7: erase under $\kappa$, write under $k$. On our task it took away the old value of a key and kept the
#    others.
# 5. Its gate has real eigenvalues in $(-0.455, 1)$: one layer did not learn parity, with a factor of 2 it did.
#
# Next, chapter 10: the LSTM comes back with exponential gates.
#
# ## References
#
# - B. Peng et al. [*RWKV: Reinventing RNNs for the Transformer Era.*](https://arxiv.org/abs/2305.13048) 2023.
# - B. Peng et al. [*Eagle and Finch: RWKV with Matrix-Valued States and Dynamic
#   Recurrence.*](https://arxiv.org/abs/2404.05892) 2024.
# - B. Peng et al. [*RWKV-7 "Goose" with Expressive Dynamic State Evolution.*](https://arxiv.org/abs/2503.14456)
#   2025.
# - R. Grazzi et al. [*Unlocking State-Tracking in Linear RNNs Through Negative
#   Eigenvalues.*](https://arxiv.org/abs/2411.12537) 2024.
# - BlinkDL. [*RWKV-LM*, the authors' code.](https://github.com/BlinkDL/RWKV-LM)
