# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 · Linear attention
#
# **After this chapter you can**
#
# - say why an RNN cannot be trained in parallel over time, and measure it;
# - derive linear attention from softmax attention by moving one bracket;
# - read its state as a table: one column per key direction, written by an outer product, read by a product;
# - compute it in three forms, and say which one to use when;
# - predict when a read returns the wrong value, and how many pairs a state can hold;
# - choose a feature map, and say what the normaliser does.
#
# **You need** PyTorch and softmax attention. Chapter 02 helps, but is not needed.
#
# **Time** 50 minutes to read, under a minute to run.
#
# **Covers** linear attention · feature maps (elu + 1, random features, Taylor) · normaliser · fast weight
# programmers · Linformer.
#
# The whole course asks one question of one equation:
#
# $$S_t = S_{t-1} A_t + v_t k_t^\top \qquad\qquad y_t = S_t q_t$$
#
# *What should the memory forget?* The $K \times K$ matrix $A_t$ says what is kept of the columns. In this chapter the
# answer is: nothing is forgotten. $A_t$ is the identity.

# %%
import math
import time

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from tqdm.auto import tqdm

import seqlab.core.recurrence
from seqlab.figures import linear_attention as figures
from seqlab.figures import microscope_frames, timing_lines
from seqlab.layers.feature_maps import Elu, Identity, RandomFeatures, Taylor
from seqlab.microscope import observe
from seqlab.mixers import LinearAttention
from seqlab.widgets import explore, microscope

# the timings below compare work with depth; one thread keeps them steady. Try your number of cores.
THREADS = 1
torch.set_num_threads(THREADS)
rng = torch.Generator().manual_seed(0)


def holds(theorem):
    """Run a claim as soon as it is defined. The name of the function is the claim."""
    theorem()
    print("holds:", theorem.__name__.replace("_", " "))


def randn(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=rng, dtype=dtype)


# %% [markdown]
# ## 1 · A failure: the RNN waits for itself
#
# A recurrent network reads one token, updates its state, and reads the next:
#
# $$h_t = \tanh(W h_{t-1} + U x_t)$$
#
# Step $t$ needs $h_{t-1}$. So a sequence of $T$ tokens is a chain of $T$ steps, however many cores you own. That
# chain is the **depth** of the computation. The number of multiplications is its **work**. More cores help with work.
# They do not help with depth.
#
# To see depth alone, we hold the work fixed. Every run below trains on the same 4,096 tokens. Only the cut changes:
# 32 sequences of 128 tokens, or 16 of 256, up to one sequence of 4,096.

# %%
D, TOKENS, LENGTHS = 64, 4096, [128, 256, 512, 1024, 2048, 4096]


class RNN(nn.Module):
    """h_t = tanh(W h_{t-1} + U x_t)."""

    def __init__(self, d):
        super().__init__()
        self.W, self.U = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)

    def forward(self, x):
        h, ys = torch.zeros(x.shape[0], x.shape[2]), []
        # all U x_t at once: only W h_{t-1} has to wait
        for u in self.U(x).unbind(dim=1):
            h = torch.tanh(u + self.W(h))
            ys.append(h)
        return torch.stack(ys, dim=1)


class GRU(nn.GRU):
    """PyTorch's own, written in C++: so that we time the waiting and not Python."""

    def forward(self, x):
        return super().forward(x)[0]


def training_step(model, x):
    """Seconds for one forward and backward pass."""
    start = time.perf_counter()
    model(x).square().mean().backward()
    return time.perf_counter() - start


def time_against_length(models, rounds=4):
    """name -> {T: seconds per training step on TOKENS tokens cut into sequences of T}: the best of some rounds."""
    batches = {T: torch.randn(TOKENS // T, T, D) for T in LENGTHS}
    seconds = {name: dict.fromkeys(LENGTHS, math.inf) for name in models}
    for _ in tqdm(range(rounds)):
        for name, model in models.items():
            for T, x in batches.items():
                seconds[name][T] = min(seconds[name][T], training_step(model, x))
    return seconds


# %% tags=["measured"]
torch.manual_seed(0)
seconds = time_against_length(
    {"RNN, a loop": RNN(D), "GRU, PyTorch's own": GRU(D, D, batch_first=True)}
)

timing_lines(
    seconds,
    title="The same 4,096 tokens cost an RNN more when cut into longer sequences",
    y="seconds per training step",
)

# %% [markdown]
# *What to see.* Both lines rise, and towards the right they rise in proportion to $T$ (the exponents in the legend
# are fitted slopes: 1 would be exactly proportional). The work is the same in every run. What grows is the number of
# steps that wait for the step before. With 32 sequences, one step multiplies a matrix by a matrix. With one sequence,
# it multiplies a matrix by a single vector, 4,096 times in a row.
#
# PyTorch's own GRU is written in C++, and its line has the same shape. So this is not about Python. It lies higher,
# because a GRU is more work: two gates and a candidate, three matrices where this RNN has one. Compare the slopes,
# not the heights.
#
# ### Predict
#
# Linear attention, too, will carry a state from token to token. **Before you read on, draw its line into the figure
# above, in your mind: does it rise, fall, or stay flat?** Section 4 measures it.

# %% [markdown]
# ## 2 · Derive: move one bracket
#
# Why must the RNN wait? Each step puts $h_{t-1}$ through $W$ and a $\tanh$. Such steps cannot be merged into one. Keep
# the state as it is instead, and add a term that depends on *the new token alone*. Then the state is a plain sum. A sum
# can be taken in any order, and all of its terms can be computed at the same time.
#
# Which sum? Start from what attention does. Softmax attention reads a weighted mean of the values:
#
# $$y_i = \frac{\sum_{j \le i} \exp(q_i \cdot k_j / \sqrt K)\; v_j}{\sum_{j \le i} \exp(q_i \cdot k_j / \sqrt K)}$$
#
# The trouble is the $\exp$: it ties $q_i$ and $k_j$ together, so every pair needs a number of its own. Replace it by
# a product of two parts that do not know of each other, $\varphi(q_i) \cdot \varphi(k_j)$. The function $\varphi$ is
# called a **feature map**. Then $\varphi(q_i)$ can leave the sum (we write the numerator; section 7 adds the rest):
#
# $$\sum_{j \le i} v_j \,\bigl(\varphi(k_j)^\top \varphi(q_i)\bigr)
#   \;=\; \Bigl(\underbrace{\sum_{j \le i} v_j\, \varphi(k_j)^\top}_{S_i}\Bigr)\, \varphi(q_i)$$
#
# That is the whole idea. On the left, a score for each pair of tokens. On the right, a table $S_i$ of fixed size
# $V \times K$ that never looks at a query until it is read. From here on, $q$ and $k$ stand for $\varphi(q)$ and
# $\varphi(k)$.

# %%
T, K, V = 12, 4, 3
q, k, v = randn(T, K), randn(T, K), randn(T, V)


def scores_first(i):
    return sum(v[j] * (k[j] @ q[i]) for j in range(i + 1))


def state_first(i):
    S = sum(torch.outer(v[j], k[j]) for j in range(i + 1))
    return S @ q[i]


# %% tags=["nbval-check-output"]
@holds
def moving_the_bracket_changes_nothing():
    for i in range(T):
        torch.testing.assert_close(scores_first(i), state_first(i), rtol=0, atol=1e-9)


# %% [markdown]
# ### The state is a table
#
# $S$ has one row per value channel and one column per key channel. Writing adds the outer product $v_t k_t^\top$:
# each column $c$ receives the whole value, times $k_t[c]$. Reading multiplies by $q_t$: the answer is a mix of the
# columns, weighted by $q_t$.
#
# Take the simplest keys, each with a single 1. Then a write fills one column, and a read returns one column. The
# sequence below stores four pairs, then asks for them in another order. (In a model each token does both: it writes
# with its $k, v$ and reads with its $q$.)

# %%
K = V = 6
stored_k, stored_v = torch.eye(K)[:4], randn(4, V, dtype=torch.float32)
asked = [2, 0, 3, 1]
nothing = torch.zeros(4, K)

memory_q = torch.cat([nothing, stored_k[asked]])
memory_k = torch.cat([stored_k, nothing])
memory_v = torch.cat([stored_v, torch.zeros(4, V)])
labels = [f"write pair {j}" for j in range(4)] + [f"read pair {j}" for j in asked]

figures.memory(memory_q, memory_k, memory_v, labels, start=3)

# %% [markdown]
# *What to see.* The figure opens at token 3. Move the slider. For the first four tokens, the write (left table)
# appears as one new column of the state (right table, outlined in orange). For the last four nothing is written:
# $q_t$ picks a column (outlined in blue), and $y_t$ is a copy of it. The state never grows.
#
# In a running notebook you can also choose the keys. `angle` turns every key a little towards its neighbour. At 0 you
# have the figure above. Turn it up, and look at $y_t$ while a pair is read: it no longer copies one column, since a
# value now lies spread over two. Section 5 is about what that costs.


# %%
def turned(token=4, angle=30):
    a = math.radians(angle)
    keys = math.cos(a) * stored_k + math.sin(a) * stored_k.roll(1, dims=1)
    return figures.memory_at(
        torch.cat([nothing, keys[asked]]),
        torch.cat([keys, nothing]),
        memory_v,
        token,
        labels,
    )


explore(turned, token=(0, 7), angle=(0, 45))

# %% [markdown]
# ## 3 · Three forms, one answer
#
# The bracket gives a choice. Where we put it decides what the computation costs.
#
# | form | what it does | work | steps in a row | used for |
# |---|---|---|---|---|
# | recurrent | keep $S$, one token at a time | $T \cdot 2KV$ | $T$ | decoding |
# | parallel | a score for each pair, masked | $T^2 (K + V)$ | 1 | deriving, short $T$ |
# | chunkwise | pairs inside chunks of $C$, state between | $T(C(K + V) + 2KV)$ | at most $T / C$ | training |
#
# Here they are, with the course's shapes: `q`, `k` are `(B, T, H, K)`, `v` is `(B, T, H, V)`, and the state is
# `(B, H, V, K)`. First, the equation as it stands:


# %%
def recurrent(q, k, v):
    B, T, H, K = q.shape
    S, ys = q.new_zeros(B, H, v.shape[-1], K), []
    for t in range(T):
        S = S + v[:, t, :, :, None] * k[:, t, :, None, :]  # write: v kᵀ
        ys.append((S @ q[:, t, :, :, None])[..., 0])  # read: S q
    return torch.stack(ys, dim=1), S


# %% [markdown]
# Second, all pairs at once. It is attention without the softmax:


# %%
def parallel(q, k, v):
    q, k, v = (rearrange(u, "b t h w -> b h t w") for u in (q, k, v))
    y = (q @ k.mT).tril() @ v  # tril: token i reads tokens j ≤ i
    return rearrange(y, "b h t v -> b t h v"), v.mT @ k


# %% [markdown]
# The third form combines the two. Inside a chunk, token $i$ reads token $j$ as a pair. It reads everything before the
# chunk through the state. The state at the start of a chunk is the sum of what all earlier chunks wrote, a cumulative
# sum, so not even the chunks have to wait for one another.


# %%
def chunkwise(q, k, v, C=64):
    q, k, v = (rearrange(u, "b (n c) h w -> b h n c w", c=C) for u in (q, k, v))
    written = v.mT @ k  # (B, H, N, V, K): what each chunk adds
    S = written.cumsum(dim=2) - written  # what each chunk finds
    y = q @ S.mT + (q @ k.mT).tril() @ v
    return rearrange(y, "b h n c v -> b (n c) h v"), written.sum(dim=2)


# %% tags=["nbval-check-output"]
B, T, H, K, V = 2, 48, 2, 5, 3
q, k, v = (randn(B, T, H, width).requires_grad_() for width in (K, K, V))
CHUNKS = [C for C in range(1, T + 1) if T % C == 0]


def with_gradients(form, *args, **kwargs):
    """Everything a form gives: the reads, the last state, and the gradients of q, k and v."""
    y, S = form(q, k, v, *args, **kwargs)
    return y, S, *torch.autograd.grad(y.sin().sum() + S.cos().sum(), (q, k, v))


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@holds
def the_three_forms_give_one_answer():
    same(with_gradients(parallel), with_gradients(recurrent))
    for C in CHUNKS:
        same(with_gradients(chunkwise, C), with_gradients(recurrent))


@holds
def chunks_of_one_or_of_all_are_the_other_two_forms():
    same(chunkwise(q, k, v, C=1), recurrent(q, k, v))
    same(chunkwise(q, k, v, C=T), parallel(q, k, v))


@holds
def these_are_the_forms_of_seqlab():
    same(with_gradients(recurrent), with_gradients(seqlab.core.recurrence.recurrent))
    same(with_gradients(parallel), with_gradients(seqlab.core.recurrence.parallel))
    for C in CHUNKS:
        same(
            with_gradients(chunkwise, C),
            with_gradients(seqlab.core.recurrence.chunkwise, chunk_size=C),
        )


# %% [markdown]
# The tolerance is 1e-9 in float64, for outputs, states and gradients. `seqlab.core.recurrence` has the same three
# functions. Its chunkwise form carries the state from chunk to chunk, so that it also works with the decays of the
# next chapters; and it takes any $T$ and a first state.
#
# One slider turns the three forms into each other:

# %%
figures.forms(T=16, chunks=[1, 2, 4, 8, 16], K=4, V=4)

# %% [markdown]
# *What to see.* Left: which way token $i$ learns of token $j$. Purple cells are computed pair by pair, blue ones
# through the state. At $C = 1$ nearly everything goes through the state: little work, but 16 steps one after the
# other. At $C = 16$ everything is a pair: one step, and the most work. In between lies what training uses.
#
# The bars count the chunkwise row of the table at every $C$. So at both ends they hold a little more than the pure
# forms: at $C = 1$ each token still meets itself as a pair, and at $C = 16$ an empty state is read and a last one
# written. The grey bar is the number of chunks: so many steps if they are walked one after the other, as
# `seqlab.core.recurrence` does. A cumulative sum needs fewer.
#
# ## 4 · The failure, mended
#
# Now the prediction of section 1. Same tokens, same width, same measurement. Compare your line with "all chunks at
# once": it is the form that can use every core. The other two forms are there to tell depth from work.


# %%
class Linear(nn.Module):
    """q, k, v by three matrices, then one of the forms with a single head."""

    def __init__(self, d, form):
        super().__init__()
        self.qkv, self.form = nn.Linear(d, 3 * d, bias=False), form

    def forward(self, x):
        q, k, v = self.qkv(x)[:, :, None].chunk(3, dim=-1)
        return self.form(q, k, v)[0]


# %% tags=["measured"]
torch.manual_seed(0)
seconds |= time_against_length(
    {
        "linear attention, parallel": Linear(D, parallel),
        "linear attention, chunk after chunk": Linear(
            D, seqlab.core.recurrence.chunkwise
        ),
        "linear attention, all chunks at once": Linear(D, chunkwise),
    }
)
growth = {name: times[4096] / times[128] for name, times in seconds.items()}
ours = "linear attention, all chunks at once"

timing_lines(
    seconds,
    title=f"From T = 128 to 4,096: RNN {growth['RNN, a loop']:.0f} times the time, chunks {growth[ours]:.1f} times",
    y="seconds per training step",
)

# %% [markdown]
# *What to see.* The line of "all chunks at once" is nearly flat: it does the same work at every length, in a handful
# of large products. "Chunk after chunk" rises, but later and less than the RNN: its chain has $T / 64$ links instead
# of $T$. The parallel form rises too, for another reason: its *work* grows with $T$.
#
# **What this shows, and what it does not.** With one thread there is nothing to run side by side, so a flat line here
# means constant work in few, large operations. The RNN does constant work in many small ones, and each pays for being
# started. On a GPU the gap has one more cause: thousands of arithmetic units share each operation, and a vector times
# a small matrix leaves most of them idle, step after step. How large that gap is depends on the GPU, so this page
# gives no number for it. Chapter 25 measures it. And one thing stays true everywhere: a *longer* sequence with the
# batch held fixed is more work for every method. Flat means "no price for depth", not "free".

# %% tags=["measured"]
print(f"{'training step, T = 4,096':40} {'ms':>8}  {'against T = 128':>16}")
for name, times in seconds.items():
    print(f"{name:40} {1000 * times[4096]:8.1f}  {growth[name]:15.1f}×")

# %% [markdown]
# ## 5 · What it costs: keys that are not orthogonal smear
#
# One table for everything cannot be free. Store $N$ pairs, then read with the key of pair $i$. Put the definition in,
# and move the bracket back:
#
# $$S k_i = \sum_j v_j\,(k_j \cdot k_i) = \underbrace{v_i\,(k_i \cdot k_i)}_{\text{what we asked for}}
#   + \underbrace{\sum_{j \ne i} v_j\,(k_j \cdot k_i)}_{\text{smear}}$$
#
# With unit keys the first part is exactly $v_i$. The second part vanishes, whatever the values, only if all other
# keys are orthogonal to $k_i$. For two pairs, the smear is $\cos(\text{angle}) \cdot v_2$:

# %%
figures.smear(stored_v[0], stored_v[1], range(0, 181, 15), start=4)

# %% [markdown]
# *What to see.* At 90° the blue bars (returned) equal the green ones (stored). As the keys close up, a growing share
# of $v_2$ is added. At 0° both pairs share one key, and the read is $v_1 + v_2$: the memory cannot overwrite, it only
# adds. Beyond 90° the smear is subtracted.


# %% tags=["nbval-check-output"]
@holds
def a_read_returns_v1_plus_cos_v2():
    v1, v2, angle = randn(V), randn(V), torch.tensor(1.1, dtype=torch.float64)
    k1, k2 = (
        torch.eye(2, dtype=torch.float64)[0],
        torch.stack([angle.cos(), angle.sin()]),
    )
    S = torch.outer(v1, k1) + torch.outer(v2, k2)
    same(S @ k1, v1 + angle.cos() * v2)


@holds
def orthonormal_keys_read_back_exactly():
    K = 8
    # K rows, each a unit vector orthogonal to the others
    keys = torch.linalg.qr(randn(K, K)).Q
    values = randn(K, V)
    S = values.mT @ keys  # Σ v kᵀ
    same(keys @ S.mT, values)


# %% [markdown]
# ### Predict
#
# In $K$ dimensions there are at most $K$ orthogonal directions. A model does not choose its keys one by one, so
# suppose they are random unit vectors. **You store $N = K$ pairs under random unit keys and read one back. How large
# is the error, relative to the value: about 10 %, about 50 %, or about 100 %?**
#
# <details><summary><b>Answer, with the reason</b></summary>
#
# About 100 %. The square of the cosine between two random directions in $K$ dimensions is $1/K$ on average. The
# $N - 1$ smears have independent signs, so their squares add: error² ≈ $(N - 1)/K$. At $N = K$ the noise is as large
# as the value. In mean square, answering 0 every time would have done just as well.
#
# </details>


# %%
def random_keys(N, K):
    return F.normalize(torch.randn(N, K, generator=rng), dim=-1)


def typical_error(keys):
    """Root mean square of the read error, for values of length 1."""
    return math.sqrt(
        sum(
            figures.recall_error(k, random_keys(len(k), 32)).square().mean()
            for k in keys
        )
        / len(keys)
    )


def curve(loads, K, make_keys):
    """(N / K, error) for each load: the same measurement with N pairs, repeated with new keys and values."""
    return loads, [
        typical_error([make_keys(round(load * K), K) for _ in range(4096 // K)])
        for load in loads
    ]


loads = [0.125, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4]
capacity = {
    "orthonormal keys, K = 64": curve(loads[:5], 64, lambda N, K: torch.eye(K)[:N]),
    "random unit keys, K = 16": curve(loads, 16, random_keys),
    "random unit keys, K = 64": curve(loads, 64, random_keys),
    "random unit keys, K = 256": curve(loads, 256, random_keys),
}
figures.capacity(capacity, law=math.sqrt)

# %% [markdown]
# *What to see.* Orthonormal keys (green circles) have no error at all, but they end at $N = K$: there is no further
# direction. Random keys follow $\sqrt{N / K}$ for every $K$. With few pairs they lie below, since it is really
# $\sqrt{(N - 1) / K}$: the first square, $N = 2$ at $K = 16$, should be at 0.25 and not at 0.35.
# There is no cliff. A state that is twice as wide does not make reads exact. It halves the squared error.
#
# This is the price of a state of fixed size. No form changes it, and no faster code. The delta rule (chapter 08) cleans
# up before it writes. Decay and gates (chapters 04 and 05), numbers below 1 that multiply the state, forget. Hybrids
# (chapter 18) keep some softmax attention.
#
# In a running notebook, watch single reads. The left table is all there is to see: row $i$ says which other values
# get mixed into read $i$.


# %%
def stored_together(pairs=12, K=32):
    own = torch.Generator().manual_seed(1)
    keys, values = (
        torch.randn(pairs, K, generator=own),
        torch.randn(pairs, 16, generator=own),
    )
    return figures.recall_of_each_pair(F.normalize(keys, dim=-1), values)


explore(stored_together, pairs=(1, 64), K=[8, 16, 32, 64, 128])

# %% [markdown]
# ## 6 · Feature maps: what stands in for exp
#
# The derivation needs $\varphi(q) \cdot \varphi(k)$ where softmax has $\exp(s)$, with $s = q \cdot k / \sqrt K$. Four
# choices, all in `seqlab.layers.feature_maps`:
#
# | name | $\varphi(x)$ | features | $\varphi(q)\cdot\varphi(k)$ | from |
# |---|---|---|---|---|
# | identity | $x$ | $K$ | $q \cdot k$, any sign | Schmidhuber 1992; RetNet, GLA |
# | elu + 1 | $\mathrm{elu}(x) + 1$ | $K$ | positive, rather flat | Katharopoulos et al. 2020 |
# | random | $\exp(w_i \cdot \hat x - \lVert \hat x \rVert^2 / 2) / \sqrt F$ | $F$ | $\exp(s)$ on average | Performer |
# | Taylor | $[1,\; \hat x,\; \hat x \otimes \hat x / \sqrt 2]$ | $1 + K + K^2$ | $1 + s + s^2/2$ | Based |
#
# In the last two, $\hat x = x / K^{1/4}$, so that $\hat q \cdot \hat k = s$. Each $w_i$ is drawn from the standard
# normal distribution in $K$ dimensions. In formulas $F$ is the number of features; in code `F` is
# `torch.nn.functional`. As ten lines of code:


# %%
def elu_plus_one(x):
    return torch.where(x > 0, x + 1, x.clamp(max=0).exp())  # see the lesson below


def random_features(x, w):  # w: (F, K)
    x = x / x.shape[-1] ** 0.25
    return (x @ w.mT - x.square().sum(-1, keepdim=True) / 2).exp() / len(w) ** 0.5


def taylor(x):
    x = x / x.shape[-1] ** 0.25
    pairs = (x[..., :, None] * x[..., None, :]).flatten(-2)
    return torch.cat([torch.ones_like(x[..., :1]), x, pairs / 2**0.5], dim=-1)


# %% tags=["nbval-check-output"]
q, k = randn(200, 16), randn(200, 16)
s = (q * k).sum(-1) / 4  # q·k / √K


@holds
def these_are_the_feature_maps_of_seqlab():
    performer = RandomFeatures(d_head=16, n_features=64).double()
    same(elu_plus_one(q), Elu()(q))
    same(taylor(q), Taylor()(q))
    same(random_features(q, performer.w), performer(q))


@holds
def elu_plus_one_has_a_finite_slope_everywhere():
    x = torch.tensor([-100.0, 0.0, 100.0], requires_grad=True)
    (slope,) = torch.autograd.grad(elu_plus_one(x).sum(), x)
    same(slope, torch.tensor([0.0, 1.0, 1.0]))


@holds
def taylor_features_multiply_to_the_second_order_polynomial():
    same((taylor(q) * taylor(k)).sum(-1), 1 + s + s**2 / 2)


@holds
def random_features_give_exp_on_average():
    w = randn(20_000, 16)
    q, k = randn(16) / 2, randn(16) / 2
    estimate = random_features(q, w) @ random_features(k, w)
    torch.testing.assert_close(estimate, (q @ k / 4).exp(), rtol=0.05, atol=0)


# %% [markdown]
# *A lesson in passing.* Why the `clamp`? `where` chooses between two results, but backward goes through both branches.
# In float32 `exp(100)` is infinite, and the slope of the branch not taken becomes 0 · ∞ = NaN. Keep every branch of a
# `where` finite.
#
# Where does each one fail? Draw $\varphi(q) \cdot \varphi(k)$ against $s$, on a logarithmic scale, for queries and
# keys with entries of growing size. On the line, the map *is* the exponential. A constant factor would cancel in the
# normaliser, so each cloud is first moved, as a whole, onto the line.

# %%
MAPS = {
    "identity": Identity(),
    "elu + 1": Elu(),
    "Taylor (F = 273)": Taylor(),
    "random (F = 64)": RandomFeatures(16, 64),
}


def against_exp(size):
    own = torch.Generator().manual_seed(0)
    q, k = size * torch.randn(2, 120, 16, generator=own)
    dots = {name: (phi(q) * phi(k)).sum(-1) for name, phi in MAPS.items()}
    return figures.kernels_at(
        (q * k).sum(-1) / 4,
        dots,
        f"φ(q)·φ(k) against exp(s), entries of size {size:g}, K = 16",
    )


figures.flip_book(
    {f"{size:g}": against_exp(size) for size in (0.25, 0.5, 1, 1.5, 2)},
    "size of the entries",
    start=2,
)

# %% [markdown]
# The same in numbers. A *span* is the largest weight over the smallest. *Typically off by* is a median: half of the
# pairs are off by more than this factor.

# %% tags=["nbval-check-output"]
print(
    "size of entries    span of exp(s)    span of elu + 1    typically off by: elu + 1    random"
)
for size in (1, 2):
    q, k = size * torch.randn(2, 120, 16, generator=torch.Generator().manual_seed(0))
    exact = (q * k).sum(-1) / 4
    logs = {
        name: (phi(q) * phi(k)).sum(-1).log()
        for name, phi in MAPS.items()
        if phi.positive
    }
    spans = [(x.max() - x.min()).exp() for x in (exact, logs["elu + 1"])]
    off = [x - exact for x in (logs["elu + 1"], logs["random (F = 64)"])]
    typically = [(x - x.median()).abs().median().exp() for x in off]
    print(
        f"{size:15} {spans[0]:17.0e} {spans[1]:18.0f} {typically[0]:28.0f} {typically[1]:9.0f}"
    )

# %% [markdown]
# *What to see.*
#
# - **Identity** puts half of the scores below 0 (the crosses). No mean can have such weights.
# - **elu + 1** is always positive but nearly flat. It cannot point at one token: even at size 2 all weights stay within
#   a factor of about ten. Softmax spreads over two powers of ten at size 1, and over eight at size 2.
# - **Taylor** lies on the line for small $s$ and bends away for large $s$. For $s < -1$, where $1 + s + s^2/2$ has its
#   minimum, it turns *up again*: the most dissimilar keys gain weight.
# - **Random features** scatter around the line, and the cloud widens as the vectors grow. At size 2 one draw of 64
#   features is typically off by more than a factor of ten, as much as elu + 1. But elu + 1 misses in the same way
#   whatever you do. Random features are right *on average*, so more of them help.
#
# How fast does it widen? For independent $w_i$ the relative error has a closed form (Performer, Lemma 2). It grows
# exponentially with the squared length of $\hat q + \hat k$, and shrinks only with $\sqrt F$:
#
# $$\text{relative error} = \sqrt{\frac{e^{\lVert \hat q + \hat k \rVert^2} - 1}{F}}$$


# %% tags=["nbval-check-output"]
@holds
def random_features_spread_as_performer_says():
    n_features = 32
    for size in (0.2, 0.4, 0.6):
        q, k = (size * F.normalize(randn(16), dim=0) * 16**0.5 for _ in range(2))
        w = randn(10_000, n_features, 16)  # 10,000 draws of 32 features
        x, y = q / 2, k / 2  # x̂ = x / K^¼
        draws = ((w @ (x + y)) - (x @ x + y @ y) / 2).exp().mean(-1)
        measured = draws.std() / (x @ y).exp()
        law = (((x + y).square().sum().exp() - 1) / n_features).sqrt()
        torch.testing.assert_close(measured, law, rtol=0.1, atol=0)


# %% [markdown]
# A second thing changes with the map: how far apart the keys can be, and with it how much a read smears (section 5).
# Take 400 random keys, and measure the cosine between the features of every two of them. Then store 400 values under
# them, read each one back, and measure the smear relative to the values: once for values of mean 0, once for values
# with a common part.

# %% tags=["nbval-check-output"]
keys, values = (torch.randn(400, width, generator=rng) for width in (16, 256))
print(
    " " * 21 + "cosine of two keys    smear if signs    smear, values    smear, values"
)
print(
    "K = 16                 mean   mean size    are random        of mean 0        of mean 1"
)
for name, phi in MAPS.items():
    features = F.normalize(phi(keys), dim=-1)
    cosines = (features @ features.mT).fill_diagonal_(0)
    mean, mean_size = cosines.sum() / (400 * 399), cosines.abs().sum() / (400 * 399)
    random_signs = cosines.square().sum(-1).mean().sqrt()  # their squares add
    smears = [
        (cosines @ v).square().mean().sqrt() / v.square().mean().sqrt()
        for v in (values, values + 1)
    ]
    print(
        f"{name:20} {abs(mean):6.1f} {mean_size:11.1f} {random_signs:13.0f} {smears[0]:16.0f} {smears[1]:16.0f}"
    )

# %% [markdown]
# *What to see.* A smear is a sum of values times cosines. Values of mean 0 bring random signs of their own. So their
# smears partly cancel under *every* map, and only the size of the cosines matters: the two columns in the middle
# agree. It is different when the values have something in common. Under a positive map all cosines are positive, and
# the common part adds up without cancelling. Under the identity the cosines themselves have both signs, and it still
# cancels.
#
# elu + 1 is the extreme case in both: all its features lie in one corner of a space of only $K$ dimensions, so every
# key is close to every other. Taylor and random features have more dimensions to spread in, and pay with a larger
# state. This is one reason why later models give up positive maps. RetNet and GLA use $q$ and $k$ as they are; in
# Mamba-2, MiniMax and the delta rule's models (chapter 08) they pass a silu first, and only the delta rule's have keys
# of unit length. Nearly all of them drop the normaliser (xLSTM's mLSTM keeps one). What that costs is the next section.
#
# ## 7 · The normaliser
#
# Softmax divides by the sum of the weights. So does linear attention:
#
# $$y_t = \frac{S_t\, q_t}{z_t \cdot q_t} \qquad\qquad z_t = z_{t-1} + k_t$$
#
# The vector $z$ looks like a second state. It is not: it is the state again, for a value that is always 1. Append a 1
# to every $v$, run the unchanged equation, and the last row of $S$ *is* $z$:


# %%
def normalised(q, k, v, form=chunkwise, **options):
    y, S = form(q, k, F.pad(v, (0, 1), value=1.0), **options)
    return y[..., :-1] / y[..., -1:], S


# %% tags=["nbval-check-output"]
q, k = elu_plus_one(randn(B, T, H, K)), elu_plus_one(randn(B, T, H, K))
v = randn(B, T, H, V)


@holds
def the_normaliser_is_one_more_row_of_the_state():
    weights = torch.einsum("bihk, bjhk -> bhij", q, k).tril()
    # each row sums to 1, as in softmax
    weights = weights / weights.sum(-1, keepdim=True)
    same(normalised(q, k, v, C=8)[0], torch.einsum("bhij, bjhv -> bihv", weights, v))
    z = normalised(q, k, v, C=8)[1][..., -1, :]
    same(z, k.sum(dim=1))


@holds
def with_it_every_read_lies_between_the_stored_values():
    y = normalised(q, k, v, C=8)[0]
    assert (y <= v.cummax(dim=1).values + 1e-9).all() and (
        y >= v.cummin(dim=1).values - 1e-9
    ).all()


@holds
def with_it_the_length_of_the_query_no_longer_matters():
    same(normalised(7 * q, k, v, C=8)[0], normalised(q, k, v, C=8)[0])


# %% [markdown]
# What happens without it? The state is a sum, and nothing is ever taken away. Let the values share a common part, here
# a mean of 1, and watch the size of the read over 1,024 tokens.

# %%
T_long = 1024
x_q, x_k = (torch.randn(8, T_long, 1, 16, generator=rng) for _ in range(2))
x_v = 1 + torch.randn(8, T_long, 1, 16, generator=rng)


def size(y):
    """Root mean square of the reads at each token, over the batch and the channels."""
    return y.square().mean(dim=(0, 2, 3)).sqrt()


reads = {
    "elu + 1, no normaliser": chunkwise(elu_plus_one(x_q), elu_plus_one(x_k), x_v)[0],
    "elu + 1, normaliser": normalised(elu_plus_one(x_q), elu_plus_one(x_k), x_v)[0],
    "identity, no normaliser": chunkwise(x_q, x_k, x_v)[0],
    "identity, normaliser": normalised(x_q, x_k, x_v)[0],
}
shown = torch.unique(torch.logspace(0, math.log10(T_long), 60).round().long()) - 1
figures.growth(
    (shown + 1).tolist(),
    {name: size(y)[shown].tolist() for name, y in reads.items()},
    title="Without a normaliser reads grow with t; with one, they need positive weights",
    y="root mean square of the read",
)

# %% [markdown]
# *What to see.* Without the normaliser, elu + 1 grows in proportion to $t$. With it, the read settles at the common
# part of the values: it is a mean. For the identity map, the normaliser is worse than nothing: $z_t \cdot q_t$ may
# come close to 0, and the read jumps to many times any stored value. Without it, the identity grows as well, more
# slowly, since its weights have both signs.
#
# So there are two consistent choices, and `seqlab` offers both:
#
# 1. a positive map, *with* the normaliser;
# 2. any map, *without* it, and an RMS norm on each head's output (divide by the root mean square), so that the size of
#    the read no longer matters. TransNormer made the case for this one (arXiv:2210.10340): the division was a source of
#    unbounded gradients.
#
# ## 8 · Fast weights: the same idea in 1992
#
# Read $y = S q$ once more. $S$ is a matrix that multiplies an input: the weights of a linear layer. But no optimiser
# made them. Another network wrote them, token by token, while reading the sequence. Schmidhuber described such a
# machine in 1992: a slow network, trained by gradient descent, *programs* the *fast weights* of another one through
# outer products. Schlag, Irie and Schmidhuber (2021) showed that linear attention is that same machine:
# $W_q, W_k, W_v$ are the slow weights, $S$ is the fast one.
#
# What does the slow network do to the fast one? One step of gradient descent. Take the loss
# $\ell(S) = -\,v_t \cdot (S k_t)$: it is small when reading with $k_t$ gives something that points along $v_t$. Its
# gradient is $-v_t k_t^\top$. So one step with rate 1 is $S + v_t k_t^\top$.


# %% tags=["nbval-check-output"]
@holds
def one_gradient_step_on_an_inner_product_is_one_write():
    S, k_t, v_t = randn(V, K).requires_grad_(), randn(K), randn(V)
    loss = -v_t @ (S @ k_t)
    (gradient,) = torch.autograd.grad(loss, S)
    same(S - gradient, S + torch.outer(v_t, k_t))


# %% [markdown]
# This loss has no minimum. It never says "enough": write the same pair twice, and the read comes back twice as long.
# A squared error would say enough, and one step on it is the *delta rule*, which the 2021 paper proposes and chapter
# 08 derives.
#
# ## 9 · Linformer: low rank over the wrong axis
#
# Another way to cheap attention appears in every survey beside this one. Linformer (Wang et al. 2020) observes that
# the $T \times T$ matrix of weights is close to low rank. It projects keys and values *along time*, from $T$ tokens
# to $r$ summaries:
#
# $$Y = \mathrm{softmax}\bigl(Q\,(E K)^\top / \sqrt{d}\bigr)\,(E V) \qquad E \in \mathbb R^{r \times T}$$
#
# Here $Q$, $K$ and $V$ are matrices with a row for each token, and $d$ is the width of a key. The cost is $T \cdot r$
# instead of $T^2$. **Predict: can we train a language model with it, one that must not see
# the future?** Change the last token, and look at the outputs before it.


# %%
T, r, d = 24, 6, 8
E = randn(r, T) / T**0.5


def linformer(q, k, v):  # (T, d) each
    return ((q @ (E @ k).mT) / d**0.5).softmax(-1) @ (E @ v)


def linear_attention(q, k, v):
    return normalised(
        *(u[None, :, None] for u in (elu_plus_one(q), elu_plus_one(k), v)),
        form=parallel,
    )[0][0, :, 0]


W_q, W_k, W_v = (randn(d, d) for _ in range(3))
x, other = randn(T, d), randn(T, d)


def moved(attention):
    """|change of output i| when token j is replaced by another one (T, T)."""
    y = attention(x @ W_q, x @ W_k, x @ W_v)
    columns = []
    for j in range(T):
        changed = x.clone()
        changed[j] = other[j]
        columns.append(
            (attention(changed @ W_q, changed @ W_k, changed @ W_v) - y).norm(dim=-1)
        )
    return torch.stack(columns, dim=1)


# %% tags=["nbval-check-output"]
@holds
def linear_attention_never_looks_ahead():
    assert moved(linear_attention).triu(1).max() < 1e-9


@holds
def linformer_looks_ahead_everywhere():
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    assert (moved(linformer)[future] > 1e-6).all()


# %%
changes = {
    name: change.float() / change.max()
    for name, change in (
        ("linear attention", moved(linear_attention)),
        ("Linformer, r = 6", moved(linformer)),
    )
}
figures.moved(
    changes, "Change a token: linear attention moves what follows, Linformer everything"
)

# %% [markdown]
# *What to see.* A column is one experiment: token $j$ was replaced. The colour is the change of each output, relative
# to the largest one. Cells to the right of the orange staircase belong to earlier tokens ($i < j$); they must not
# change. They stay white for linear attention, but not for Linformer.
#
# No mask mends this. Each of the $r$ summaries is a sum over *all* tokens. Once the future is in the sum, hiding a
# summary from token $i$ hides the past as well. Linear attention also squeezes the sequence through a bottleneck, but
# along the *features*: its sum is over $j \le i$, with a new sum for each $i$. Linformer remains what it was made
# for: an encoder that may see the whole sequence, of a length fixed in advance by $E$.
#
# ## 10 · The whole layer
#
# Four projections, a feature map, the recurrence, the division. That is a *mixer*: the layer of a model in which tokens
# learn of one another. All mixers of this course have one contract: `(x, state) -> (y, state)`.


# %%
class OurLinearAttention(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q, self.k, self.v, self.out = (
            nn.Linear(d_model, d_model, bias=False) for _ in range(4)
        )

    def forward(self, x, state=None):
        q, k, v = (
            rearrange(W(x), "b t (h k) -> b t h k", h=self.n_heads)
            for W in (self.q, self.k, self.v)
        )
        v = F.pad(v, (0, 1), value=1.0)
        y, state = seqlab.core.recurrence.chunkwise(
            elu_plus_one(q), elu_plus_one(k), v, state=state
        )
        # a guard, far below any sum of weights that occurs
        y = y[..., :-1] / (y[..., -1:] + 1e-6)
        return self.out(rearrange(y, "b t h v -> b t (h v)")), state


# %% tags=["nbval-check-output"]
torch.manual_seed(0)
theirs = LinearAttention(d_model=32, n_heads=4).double()
mine = OurLinearAttention(d_model=32, n_heads=4).double()
mine.load_state_dict(theirs.state_dict())
x = randn(2, 100, 32)


@holds
def our_layer_is_the_layer_of_seqlab():
    same(mine(x), theirs(x))


@holds
def two_halves_with_the_state_carried_over_are_the_whole():
    first, state = mine(x[:, :37])
    second, state = mine(x[:, 37:], state)
    same((torch.cat([first, second], dim=1), state), mine(x))


# %% [markdown]
# ### The state microscope
#
# The microscope takes any mixer and a short sequence, and shows what the memory holds after each token. Here the
# layer is untrained. Six different tokens come by, then the same six again.

# %%
torch.manual_seed(0)
words = ["the", "cat", "sat", "on", "a", "mat"]
embedded = torch.randn(6, 16)
x = embedded[torch.arange(12) % 6][None]  # (1, 12, 16)

layer = LinearAttention(d_model=16, n_heads=2)
microscope_frames(observe(layer, x, 2 * words))

# %% [markdown]
# *What to see.* Top: the state, and what the current token adds to it. Every key has only positive features, so every
# token writes into every column, and the bottom row, the normaliser $z$, only grows. Bottom left: the weights that
# this state implies; each row is spread widely, as section 6 predicted for elu + 1. Bottom right: what each key
# returns, compared with the value that was stored. The title counts a value as recovered if its cosine with the stored
# value is at least 0.9 (the dashed line). No bar reaches it, because every read is a mean of nearly everything. The
# second round adds the same pairs again. The mean of equal things is the same, so the reads do not improve.
#
# In a running notebook, compare with the identity map. Its keys can be nearly orthogonal, and most values come back,
# though the state has no more columns:

# %%
torch.manual_seed(0)
microscope(LinearAttention(d_model=16, n_heads=2, feature_map="identity"), x, 2 * words)

# %% [markdown]
# ## 11 · In the wild
#
# Plain linear attention, with nothing forgotten, is rare in large language models. It lives on as a part, and as the
# root of nearly everything in chapters 04 to 13. The sizes below are from the sources named in the references. The
# state is what one sequence carries, in numbers; it does not depend on $T$.
#
# | model | layers with it | heads | $F \times V$ a head | feature map |
# |---|---|---|---|---|
# | Based 1.3B, language | 7 of 36 | 16 | 273 × 112 | Taylor, from 16 channels |
# | Sana 1.6B, images, not causal | 20 of 20 | 70 | 32 × 32 | relu, with the normaliser |
# | MiniMax-Text-01 456B, language | 70 of 80 | 64 | 128 × 128 | silu; no normaliser, a constant decay |
#
# None of the three stands alone. Based adds seven layers of sliding-window attention and 22 of short convolutions,
# Sana convolutions in its feed-forward layers, MiniMax ten layers of softmax attention. The last row already belongs
# to chapter 04: "lightning attention" is linear attention with a constant decay per head, as in RetNet.

# %% tags=["nbval-check-output"]
for name, layers, heads, n_features, width in (
    ("Based 1.3B", 7, 16, 273, 112),
    ("Sana 1.6B", 20, 70, 32, 32),
    ("MiniMax-Text-01", 70, 64, 128, 128),
):
    numbers = layers * heads * n_features * width
    # keys and values of one head: 2 V numbers a token
    tokens = n_features * width / (2 * width)
    print(
        f"{name:16} {numbers / 1e6:6.1f} million numbers of state, as much as {tokens:5.1f} tokens of KV cache"
    )

# %% [markdown]
# The last column compares with softmax attention of the same heads, if each token kept a key and a value of width
# $V$. A state of $F \times V$ numbers is worth $F / 2$ tokens of cache, whatever $T$ is.
#
# ### Fact check
#
# **"Linear attention costs O(T)."** The recurrent and chunkwise forms do. The parallel form, which many snippets
# show, costs $O(T^2)$ like softmax attention. And the constant matters: with $F$ features each token costs $2FV$ in
# any form that uses the state. For Taylor features $F$ is $1 + K + K^2$. Let us count.

# %%
WIDTH, CHUNK = 64, 64  # K = V = 64
lengths = [2**n for n in range(7, 18, 2)]


def per_token_with_state(n_features):
    return CHUNK * (n_features + WIDTH) + 2 * n_features * WIDTH


features = {"elu + 1": WIDTH, "Taylor": 1 + WIDTH + WIDTH**2}
costs = {
    "all pairs (softmax, or parallel with elu + 1)": {
        T: T * T * 2 * WIDTH for T in lengths
    }
}
for name, n_features in features.items():
    costs[f"chunkwise, {name}: F = {n_features:,}"] = {
        T: T * per_token_with_state(n_features) for T in lengths
    }
crossing = [
    per_token_with_state(n_features) / (2 * WIDTH) for n_features in features.values()
]

timing_lines(
    costs,
    title="Cheaper than all pairs: elu + 1 from T = {:,.0f}, Taylor from T = {:,.0f}".format(
        *crossing
    ),
    y="multiply-adds per head",
)

# %% [markdown]
# *What to see.* The cost of all pairs is the steepest line. The other two are parallel, at different heights. Where
# they cross it, "linear" starts to be cheaper in multiplications. (Masked pairs are counted, in all lines. Code that
# skips them halves the cost of all pairs, but only a part of the chunkwise cost: the lines then cross further right,
# at less than twice these lengths.) This is why Based projects queries and keys down to 16 channels before the
# map.
#
# **"Random features approximate softmax."** On average, yes. The error of one draw grows exponentially with the
# squared length of $\hat q + \hat k$ (section 6). It is small only for short queries and keys, and nothing keeps them
# short.
#
# **"The normaliser makes it a proper attention."** Only for positive features. With the identity it divides by a
# number that may be 0. And it is optional: replace it by a norm on the output, as RetNet (chapter 04) and most of its
# successors do.
#
# **"Linformer and linear attention are the same family."** Both are linear in $T$. Only one is causal, and only one
# has a state to decode from.
#
# ## 12 · Practise
#
# In a terminal, `seqlab start 03` puts your own copy of the exercises into `work/`. `check("03.1", phi)` in that
# notebook tells you which mistake you made, not only that there is one. About an hour and a half for all of them.

# %% [markdown] tags=["exercises"]
# The table of exercises is made from their files.

# %% [markdown]
# The notebook is [exercises/03_linear_attention.ipynb](../exercises/03_linear_attention.ipynb); work on the copy in
# `work/`.
#
# ## Recap, in five lines
#
# 1. An RNN waits because each step puts the state through $W$ and a $\tanh$. Keep the state as it is, add a term of
#    the new token alone, and the state is a sum.
# 2. Replace $\exp(q \cdot k)$ by $\varphi(q) \cdot \varphi(k)$ and move the bracket: $S_t = S_{t-1} + v_t k_t^\top$,
#    $y_t = S_t q_t$.
# 3. One equation, three forms: recurrent to decode, parallel to derive, chunkwise to train.
# 4. Keys that are not orthogonal smear: the error of $N$ random keys is about $\sqrt{N / K}$. Nothing is ever
#    forgotten or overwritten.
# 5. A positive map with the normaliser, or any map with a norm after it.
#
# Next, chapter 04: a memory that forgets nothing drowns. What if it forgot a little at every step?
#
# ## References
#
# - Y. Sun et al. *Retentive Network: A Successor to Transformer for Large Language Models* (RetNet). 2023.
#   arXiv:2307.08621
# - A. Katharopoulos, A. Vyas, N. Pappas, F. Fleuret. *Transformers are RNNs: Fast Autoregressive Transformers with
#   Linear Attention.* 2020. arXiv:2006.16236
# - K. Choromanski et al. *Rethinking Attention with Performers.* 2020. arXiv:2009.14794
# - S. Arora et al. *Simple linear attention language models balance the recall-throughput tradeoff* (Based). 2024.
#   arXiv:2402.18668; sizes from `train/configs/experiment/reference/based_1.3b_50b_tok.yaml` in HazyResearch/based
# - I. Schlag, K. Irie, J. Schmidhuber. *Linear Transformers Are Secretly Fast Weight Programmers.* 2021.
#   arXiv:2102.11174
# - J. Schmidhuber. *Learning to Control Fast-Weight Memories: An Alternative to Dynamic Recurrent Networks.* Neural
#   Computation 4(1), 1992
# - S. Wang, B. Li, M. Khabsa, H. Fang, H. Ma. *Linformer: Self-Attention with Linear Complexity.* 2020.
#   arXiv:2006.04768
# - Z. Qin et al. *The Devil in Linear Transformer* (TransNormer). 2022. arXiv:2210.10340
# - E. Xie et al. *Sana: Efficient High-Resolution Image Synthesis with Linear Diffusion Transformers.* 2024.
#   arXiv:2410.10629; sizes from the defaults of `SanaTransformer2DModel` in huggingface/diffusers
# - MiniMax. *MiniMax-01: Scaling Foundation Models with Lightning Attention.* 2025. arXiv:2501.08313
