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
# The whole course asks one question of one equation, *what should the memory forget?*
#
# $$S_t = S_{t-1} A_t + v_t k_t^\top \qquad\qquad y_t = S_t q_t$$
#
# The matrix $A_t$ says what is kept. In this chapter it is the identity: nothing is forgotten.
#
# ## 1 · A failure: the RNN waits for itself
#
# A recurrent network reads one token, updates its state, and reads the next:
#
# $$h_t = \tanh(R\, h_{t-1} + W x_t)$$
#
# Step $t$ needs $h_{t-1}$. So a sequence of $T$ tokens is a chain of $T$ steps, however many cores you own. The length
# of that chain is the **depth** of the computation; the number of multiplications is its **work**. More cores help
# with work, but not with depth.
#
# To see depth alone, we hold the work fixed. Every run below trains on the same 4,096 tokens. Only the cut changes:
# 32 sequences of 128 tokens, or 16 of 256, up to one sequence of 4,096.

# %% tags=["measured"]
import torch
from torch import nn

from seqlab.figures import timing_lines
from seqlab.mixers import Elman
from seqlab.train import seconds_per_step

torch.set_num_threads(1)  # one thread keeps the timings steady
torch.manual_seed(0)
D, LENGTHS = 64, [128, 256, 512, 1024, 2048, 4096]

rnns = {
    "RNN, a loop": Elman(D, form="recurrent"),
    "GRU, PyTorch's own": nn.GRU(D, D, batch_first=True),
}
seconds = seconds_per_step(rnns, LENGTHS, width=D)

timing_lines(
    seconds,
    title="The same 4,096 tokens cost an RNN more when cut into longer sequences",
    y="seconds per training step",
)

# %% [markdown]
# *What to see.* Both lines rise, and towards the right they rise in proportion to $T$ (the exponents in the legend
# are fitted slopes: 1 would be exactly proportional). The work is the same in every run. What grows is the number of
# steps that wait for the step before. PyTorch's GRU is written in C++, and its line has the same shape, so this is
# not about Python.
#
# Linear attention, too, will carry a state from token to token. **Before you read on**, commit to an answer:

# %%
from seqlab.course import holds, predict

predict(
    "03-line",
    "From T = 128 to 4,096, the work held fixed: how does its time change?",
    lambda: "Section 4 measures it.",
    choices=["it grows like the RNN's", "it grows, but less", "it hardly changes"],
)

# %% [markdown]
# ## 2 · Derive: move one bracket
#
# The RNN must wait because each step puts $h_{t-1}$ through $R$ and a $\tanh$; such steps cannot be merged into one.
# Keep the state as it is instead, and add a term that depends on *the new token alone*. Then the state is a plain sum,
# and all of its terms can be computed at the same time.
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
# That is the whole idea: on the left, a score for each pair of tokens; on the right, a table $S_i$ of fixed size
# $V \times K$. From here on, $q$ and $k$ stand for $\varphi(q)$ and $\varphi(k)$.

# %% tags=["nbval-check-output"]
rng = torch.Generator().manual_seed(0)


def randn(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=rng, dtype=dtype)


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@holds
def moving_the_bracket_changes_nothing():
    q, k, v = randn(12, 4), randn(12, 4), randn(12, 3)
    for i in range(12):
        scores_first = sum(v[j] * (k[j] @ q[i]) for j in range(i + 1))
        S = sum(torch.outer(v[j], k[j]) for j in range(i + 1))
        same(scores_first, S @ q[i])


# %% [markdown]
# ### The state is a table
#
# $S$ has one row per value channel and one column per key channel. Writing adds the outer product $v_t k_t^\top$:
# each column $c$ receives the whole value, times $k_t[c]$. Reading multiplies by $q_t$: the answer is a mix of the
# columns, weighted by $q_t$.
#
# Take the simplest keys, each with a single 1. Then a write fills one column, and a read returns one column. The
# sequence below stores four pairs, then asks for them in another order.

# %%
from seqlab.figures import linear_attention as figures

stored_k, stored_v = torch.eye(6)[:4], randn(4, 6, dtype=torch.float32)
asked, nothing = [2, 0, 3, 1], torch.zeros(4, 6)
labels = [f"write pair {j}" for j in range(4)] + [f"read pair {j}" for j in asked]


def story(keys):
    """q, k, v of eight tokens: four that write, four that read."""
    q, k = torch.cat([nothing, keys[asked]]), torch.cat([keys, nothing])
    return q, k, torch.cat([stored_v, nothing])


figures.memory(*story(stored_k), labels, start=3)

# %% [markdown]
# *What to see.* Move the slider. For the first four tokens, the write (left table) appears as one new column of the
# state (right table, outlined in orange). For the last four nothing is written: $q_t$ picks a column (outlined in
# blue), and $y_t$ is a copy of it. The state never grows.
#
# In a running notebook, `angle` turns every key a little towards its neighbour:

# %%
import math

from seqlab.widgets import explore


def turned(token=4, angle=30):
    a = math.radians(angle)
    keys = math.cos(a) * stored_k + math.sin(a) * stored_k.roll(1, dims=1)
    return figures.memory_at(*story(keys), token, labels)


explore(turned, token=(0, 7), angle=(0, 45))

# %% [markdown]
# *What to see.* At 30° pair 2 no longer fills one column: its value lies spread over two, and so $y_t$ mixes two
# values. Section 5 is about what that costs.
#
# ## 3 · Three forms, one answer
#
# Where we put the bracket decides what the computation costs.
#
# | form | what it does | work | steps in a row | used for |
# |---|---|---|---|---|
# | recurrent | keep $S$, one token at a time | $T \cdot 2KV$ | $T$ | decoding |
# | parallel | a score for each pair, masked | $T^2 (K + V)$ | 1 | deriving, short $T$ |
# | chunkwise | pairs inside chunks of $C$, state between | $T(C(K + V) + 2KV)$ | at most $T / C$ | training |
#
# Here they are; `q`, `k` are `(B, T, H, K)`, `v` is `(B, T, H, V)`, and the state is `(B, H, V, K)`. First, the
# equation as it stands; then all pairs at once, which is attention without the softmax:

# %%
from einops import rearrange


def recurrent(q, k, v):
    B, T, H, K = q.shape
    S, ys = q.new_zeros(B, H, v.shape[-1], K), []
    for t in range(T):
        S = S + v[:, t, :, :, None] * k[:, t, :, None, :]  # write: v kᵀ
        ys.append((S @ q[:, t, :, :, None])[..., 0])  # read: S q
    return torch.stack(ys, dim=1), S


def parallel(q, k, v):
    q, k, v = (rearrange(u, "b t h w -> b h t w") for u in (q, k, v))
    y = (q @ k.mT).tril() @ v  # tril: token i reads tokens j ≤ i
    return rearrange(y, "b h t v -> b t h v"), v.mT @ k


# %% [markdown]
# The third form combines the two. Inside a chunk, token $i$ reads token $j$ as a pair. It reads everything before the
# chunk through the state, which is a cumulative sum, so not even the chunks have to wait for one another.


# %% tags=["nbval-check-output"]
import seqlab.core.recurrence as core


def chunkwise(q, k, v, C=64):
    q, k, v = (rearrange(u, "b (n c) h w -> b h n c w", c=C) for u in (q, k, v))
    written = v.mT @ k  # (B, H, N, V, K): what each chunk adds
    S = written.cumsum(dim=2) - written  # what each chunk finds
    y = q @ S.mT + (q @ k.mT).tril() @ v
    return rearrange(y, "b h n c v -> b (n c) h v"), written.sum(dim=2)


B, T, H, K, V = 2, 48, 2, 5, 3
q, k, v = (randn(B, T, H, width).requires_grad_() for width in (K, K, V))


def everything(form, *args, **kwargs):
    """The reads, the last state, and the gradients of q, k and v."""
    y, S = form(q, k, v, *args, **kwargs)
    return y, S, *torch.autograd.grad(y.sin().sum() + S.cos().sum(), (q, k, v))


@holds
def the_three_forms_give_one_answer():
    same(everything(parallel), everything(recurrent))
    for C in (1, 2, 6, 16, T):
        same(everything(chunkwise, C), everything(recurrent))


@holds
def these_are_the_forms_of_seqlab():
    same(everything(recurrent), everything(core.recurrent))
    same(everything(parallel), everything(core.parallel))
    same(everything(chunkwise, 16), everything(core.chunkwise, chunk_size=16))


# %% [markdown]
# The tolerance is 1e-9 in float64, gradients included. One slider turns the three forms into each other:

# %%
figures.forms(T=16, chunks=[1, 2, 4, 8, 16], K=4, V=4)

# %% [markdown]
# *What to see.* Left: how token $i$ reaches token $j$. Purple cells are computed pair by pair, blue ones through the
# state. At $C = 1$ nearly everything goes through the state: little work, but 16 steps one after the other. At
# $C = 16$ everything is a pair: one step, and the most work. Training uses what is in between.
#
# ## 4 · The failure, mended
#
# Now your prediction. Same tokens, same width, same measurement.


# %% tags=["measured"]
class Linear(nn.Module):
    """q, k, v by one matrix, then one of the forms with a single head."""

    def __init__(self, form):
        super().__init__()
        self.qkv, self.form = nn.Linear(D, 3 * D, bias=False), form

    def forward(self, x):
        return self.form(*self.qkv(x)[:, :, None].chunk(3, dim=-1))


ours = "linear attention, all chunks at once"
forms = {
    "linear attention, parallel": Linear(parallel),
    "linear attention, chunk after chunk": Linear(core.chunkwise),
    ours: Linear(chunkwise),
}
seconds |= seconds_per_step(forms, LENGTHS, width=D)
growth = {name: times[4096] / times[128] for name, times in seconds.items()}
longer = (
    f"RNN {growth['RNN, a loop']:.0f} times the time, chunks {growth[ours]:.1f} times"
)

timing_lines(
    seconds,
    title=f"From T = 128 to 4,096: {longer}",
    y="seconds per training step",
)

# %% [markdown]
# *What to see.* The line of "all chunks at once" is nearly flat, so "it hardly changes" was the good guess: it does
# the same work at every length, in a handful of large products. The usual guess, that a carried state must be waited
# for, is true of the form that walks: "chunk after chunk" rises, but later than the RNN, because its chain has $T / 64$
# links instead of $T$. The parallel form rises for another reason: its *work* grows with $T$.
#
# With one thread nothing runs side by side, so a flat line here means constant work in few, large operations. On a GPU
# the gap has one more cause: a vector times a small matrix leaves most of its arithmetic units idle. Chapter 25
# measures that.
#
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
# of $v_2$ is added. At 0° both pairs share one key, and the read is $v_1 + v_2$: the memory cannot overwrite, it adds.
#
# In $K$ dimensions there are at most $K$ orthogonal directions. A model does not choose its keys one by one, so
# suppose they are random unit vectors, and store as many as there are channels.


# %%
def capacity():
    loads = [0.125, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4]
    curves = {
        "orthonormal keys, K = 64": figures.capacity_curve(
            loads[:5], 64, rng, lambda N, K, rng: torch.eye(K)[:N]
        )
    } | {
        f"random unit keys, K = {K}": figures.capacity_curve(loads, K, rng)
        for K in (16, 64, 256)
    }
    return figures.capacity(curves, law=math.sqrt)


predict(
    "03-capacity",
    "N = K pairs under random unit keys: how large is the error of a read?",
    capacity,
    choices=["about 10 %", "about 50 %", "about 100 %"],
)

# %% [markdown]
# *What to see.* About 100 % is right. The usual guess is smaller, because two random directions are nearly orthogonal:
# the square of their cosine is $1/K$ on average. But there are $N - 1$ of them, their signs are independent, and so
# their squares add: error² ≈ $(N - 1)/K$. At $N = K$ the noise is as large as the value. In mean square, answering 0
# every time would have done just as well.
#
# Random keys follow that law for every $K$. There is no cliff, and a state that is twice as wide does not make reads
# exact: it halves the squared error. Orthonormal keys (green circles) have no error at all, but they end at $N = K$.
# This is the price of a state of fixed size.
#
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
# In the last two, $\hat x = x / K^{1/4}$, so that $\hat q \cdot \hat k = s$. $F$ is the number of features. Each $w_i$
# is drawn from the standard normal distribution. Why does that give $\exp$? For such a $w$ and any vector $u$, the
# mean of $e^{w \cdot u}$ is $e^{\lVert u \rVert^2 / 2}$. With $u = \hat q + \hat k$,
#
# $$\mathbb E\bigl[e^{w \cdot \hat q - \lVert \hat q \rVert^2/2}\; e^{w \cdot \hat k - \lVert \hat k \rVert^2/2}\bigr]
#   = e^{(\lVert \hat q + \hat k \rVert^2 - \lVert \hat q \rVert^2 - \lVert \hat k \rVert^2)/2}
#   = e^{\hat q \cdot \hat k} = \exp(s).$$


# %% tags=["nbval-check-output"]
from seqlab.layers.feature_maps import Elu, Identity, RandomFeatures, Taylor


def elu_plus_one(x):
    return torch.where(x > 0, x + 1, x.clamp(max=0).exp())  # see the lesson below


def random_features(x, w):  # w: (F, K)
    x = x / x.shape[-1] ** 0.25
    return (x @ w.mT - x.square().sum(-1, keepdim=True) / 2).exp() / len(w) ** 0.5


def taylor(x):
    x = x / x.shape[-1] ** 0.25
    pairs = (x[..., :, None] * x[..., None, :]).flatten(-2)
    return torch.cat([torch.ones_like(x[..., :1]), x, pairs / 2**0.5], dim=-1)


@holds
def these_are_the_feature_maps_of_seqlab():
    x, performer = randn(200, 16), RandomFeatures(d_head=16, n_features=64).double()
    same(elu_plus_one(x), Elu()(x))
    same(taylor(x), Taylor()(x))
    same(random_features(x, performer.w), performer(x))


@holds
def random_features_give_exp_on_average():
    w, q, k = randn(20_000, 16), randn(16) / 2, randn(16) / 2
    estimate = random_features(q, w) @ random_features(k, w)
    torch.testing.assert_close(estimate, (q @ k / 4).exp(), rtol=0.05, atol=0)


# %% [markdown]
# *A lesson in passing.* Why the `clamp`? `where` chooses between two results, but backward goes through both branches.
# In float32 `exp(100)` is infinite, and the slope of the branch not taken becomes 0 · ∞ = NaN. Keep every branch of a
# `where` finite.
#
# Where does each map fail? Draw $\varphi(q) \cdot \varphi(k)$ against $s$, on a logarithmic scale, for entries of
# growing size. On the line, the map *is* the exponential. (A constant factor would cancel in the normaliser, so each
# cloud is first moved, as a whole, onto the line.)

# %%
maps = {
    "identity": Identity(),
    "elu + 1": Elu(),
    "Taylor (F = 273)": Taylor(),
    "random (F = 64)": RandomFeatures(16, 64),
}
figures.kernels(maps, sizes=(0.25, 0.5, 1, 1.5, 2), start=2)

# %% [markdown]
# *What to see.*
#
# - **Identity** puts half of the scores below 0 (the crosses). No mean can have such weights.
# - **elu + 1** is always positive but nearly flat: it cannot point at one token.
# - **Taylor** lies on the line for small $s$ and bends away for large $s$. For $s < -1$, where $1 + s + s^2/2$ has its
#   minimum, it turns *up again*: the most dissimilar keys gain weight.
# - **Random features** scatter around the line. They are right *on average*, so more of them help; but the cloud
#   widens quickly as the vectors grow.
#
# ## 7 · The normaliser
#
# Softmax divides by the sum of the weights. So does linear attention:
#
# $$y_t = \frac{S_t\, q_t}{z_t \cdot q_t} \qquad\qquad z_t = z_{t-1} + k_t$$
#
# The vector $z$ looks like a second state. It is not: it is the state again, for a value that is always 1. Append a 1
# to every $v$, run the unchanged equation, and the last row of $S$ *is* $z$:


# %% tags=["nbval-check-output"]
import torch.nn.functional as F


def normalised(q, k, v, form=chunkwise, **options):
    y, S = form(q, k, F.pad(v, (0, 1), value=1.0), **options)
    return y[..., :-1] / y[..., -1:], S


@holds
def the_normaliser_is_one_more_row_of_the_state():
    q, k = elu_plus_one(randn(B, T, H, K)), elu_plus_one(randn(B, T, H, K))
    v = randn(B, T, H, V)
    weights = torch.einsum("bihk, bjhk -> bhij", q, k).tril()
    weights = weights / weights.sum(-1, keepdim=True)  # each row sums to 1
    y, S = normalised(q, k, v, C=8)
    same(y, torch.einsum("bhij, bjhv -> bihv", weights, v))
    same(S[..., -1, :], k.sum(dim=1))


# %% [markdown]
# What happens without it? The state is a sum, and nothing is ever taken away. Let the values share a common part, here
# a mean of 1, and watch the size of the read over 1,024 tokens.

# %%
x_q, x_k, x_v = (randn(8, 1024, 1, 16, dtype=torch.float32) for _ in range(3))
x_v = x_v + 1
reads = {
    "elu + 1, no normaliser": chunkwise(elu_plus_one(x_q), elu_plus_one(x_k), x_v),
    "elu + 1, normaliser": normalised(elu_plus_one(x_q), elu_plus_one(x_k), x_v),
    "identity, no normaliser": chunkwise(x_q, x_k, x_v),
    "identity, normaliser": normalised(x_q, x_k, x_v),
}
shown = torch.unique(torch.logspace(0, math.log10(1024), 60).round().long()) - 1
sizes = {  # root mean square over the batch and the channels
    name: y.square().mean(dim=(0, 2, 3)).sqrt()[shown] for name, (y, _) in reads.items()
}
figures.growth(
    (shown + 1).tolist(),
    sizes,
    title="Reads grow without a normaliser; with one, weights must be positive",
    y="root mean square of the read",
)

# %% [markdown]
# *What to see.* Without the normaliser, elu + 1 grows in proportion to $t$. With it, the read settles at the common
# part of the values: it is a mean. For the identity map, the normaliser is worse than nothing: $z_t \cdot q_t$ may
# come close to 0, and the read jumps to many times any stored value.
#
# So there are two consistent choices, and `seqlab` offers both:
#
# 1. a positive map, *with* the normaliser;
# 2. any map, *without* it, and an RMS norm on each head's output (divide by the root mean square), so that the size of
#    the read no longer matters. TransNormer made the case for this one
#    ([arXiv:2210.10340](https://arxiv.org/abs/2210.10340)): the division was a source of unbounded gradients.
#
# ## 8 · The whole layer, and what training does to its keys
#
# Four projections, a feature map, the recurrence, the division. That is a *mixer*: the layer in which tokens learn of
# one another. All mixers of this course have one contract: `(x, state) -> (y, state)`.


# %% tags=["nbval-check-output"]
from seqlab.mixers import LinearAttention


class OurLinearAttention(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        matrices = (nn.Linear(d_model, d_model, bias=False) for _ in range(4))
        (self.q, self.k, self.v, self.out), self.n_heads = matrices, n_heads

    def forward(self, x, state=None):
        qkv = (W(x) for W in (self.q, self.k, self.v))
        q, k, v = (rearrange(u, "b t (h k) -> b t h k", h=self.n_heads) for u in qkv)
        v = F.pad(v, (0, 1), value=1.0)
        y, S = core.chunkwise(elu_plus_one(q), elu_plus_one(k), v, state=state)
        # a guard, far below any sum of weights that occurs
        y = y[..., :-1] / (y[..., -1:] + 1e-6)
        return self.out(rearrange(y, "b t h v -> b t (h v)")), S


torch.manual_seed(0)
theirs = LinearAttention(d_model=32, n_heads=4).double()
mine = OurLinearAttention(d_model=32, n_heads=4).double()
mine.load_state_dict(theirs.state_dict())


@holds
def our_layer_is_the_layer_of_seqlab():
    x = randn(2, 100, 32)
    same(mine(x), theirs(x))


# %% [markdown]
# Section 5 *drew* its keys at random. A model learns them. We train a single layer with one head of $K = 16$ channels
# on a task that needs exactly $N = 16$ pairs: each of 16 keys is written once, with one of 8 values, then each is
# asked for. Guessing is right once in 8. Two feature maps, three seeds each, 300 steps, learning rate 0.01.

# %%
from functools import partial

from seqlab.model import LanguageModel
from seqlab.tasks import IGNORE, Recall
from seqlab.train import evaluate, train

task = Recall(n_keys=16, n_values=8, n_pairs=16, overwrite=False)


def untrained(feature_map, seed):
    torch.manual_seed(seed)
    mixer = partial(LinearAttention, n_heads=1, feature_map=feature_map)
    return LanguageModel(task.vocab, 16, [mixer], ffn=None)


def right(model):
    batch, right = evaluate(model, task)
    return right[batch.targets != IGNORE].float().mean().item()


models = {
    (name, seed): untrained(name, seed)
    for name in ("elu", "identity")
    for seed in range(3)
}
for (name, seed), model in models.items():
    train(model, task, steps=300, lr=0.01, seed=seed, label=f"{name}, seed {seed}")

# %% tags=["measured"]
for name in ("elu", "identity"):
    shares = ", ".join(f"{right(models[name, seed]):.0%}" for seed in range(3))
    print(f"{name:9} right answers, three seeds: {shares}")


# %%
def learned_keys(model):
    """φ(k) of each key, the mean over the 8 values written with it (16, K)."""
    layer, tokens = model.blocks[0], torch.arange(16 * 8)[None]
    with torch.inference_mode():
        seen = layer.mixer_norm(model.embedding(tokens))
        return layer.mixer.project(seen)["k"][0, :, 0].unflatten(0, (16, 8)).mean(1)


def cosines(keys):
    unit = F.normalize(keys, dim=-1)
    return unit @ unit.mT - torch.eye(16)


before, after = learned_keys(untrained("elu", 0)), learned_keys(models["elu", 0])
means = [cosines(keys).sum().item() / (16 * 15) for keys in (before, after)]
figures.overlaps(
    {"before training": before, "after 300 steps": after},
    "elu + 1: training moves keys apart, mean cosine {:.2f} → {:.2f}".format(*means),
)

# %% [markdown]
# *What to see.* All features of elu + 1 are positive, so before training any two keys point almost the same way. The
# loss moves them apart, because a smear costs right answers: afterwards most cells off the diagonal are pale. The dark
# ones are pairs of keys that still share a direction. Are those the keys that it gets wrong?

# %% tags=["measured"]
batch, hits = evaluate(models["elu", 0], task)
key = batch.tokens[:, 16:] - 128
shared = (cosines(after) > 0.6).any(1)[key]
for name, which in (("shares its direction", shared), ("has its own", ~shared)):
    print(f"a key that {name:21} is right {hits[:, 16:][which].float().mean():4.0%}")

# %% [markdown]
# In these six runs the identity map answered more questions than elu + 1: its keys may have either sign, so more of
# them fit. That is one width, one learning rate and one task, and each map has its own norm.
#
# Now look into the trained memory. The microscope takes any mixer and a short sequence, and shows what the memory holds
# after each token. `c3` writes value 3 under key c; `c?` asks for it.

# %%
from seqlab.figures import microscope_frames
from seqlab.microscope import observe
from seqlab.widgets import microscope

text = ["c3", "f1", "a6", "k2", "e0", "c?", "k?", "a?"]


def token(name):
    key = "abcdefghijklmnop".index(name[0])
    return 128 + key if name[1] == "?" else 8 * key + int(name[1])


def inside(model):
    """The mixer, and what it sees of the text."""
    tokens = torch.tensor([[token(name) for name in text]])
    layer = model.blocks[0]
    return layer.mixer, layer.mixer_norm(model.embedding(tokens)).detach()


microscope_frames(observe(*inside(models["elu", 0]), text))

# %% [markdown]
# *What to see.* Top: the state, and what the current token adds to it. The bottom row is the normaliser $z$, which only
# grows. Bottom left: the weights that this state implies. The row of `c?` is darkest in the column of `c3`, and that
# of `k?` in the column of `k2`. Bottom right: what each key returns, compared with its value. The title counts a value
# as recovered if its cosine with the stored one is at least 0.9 (the questions are counted too, although nobody asks
# for *their* values). Here is the same layer before training:

# %%
microscope(*inside(untrained("elu", 0)), text)

# %% [markdown]
# *What to see.* Every row is spread over all tokens before it: each read is a mean of nearly everything.
#
# ## 9 · Fast weights: the same idea in 1992
#
# Read $y = S q$ once more. $S$ is a matrix that multiplies an input: the weights of a linear layer. But no optimiser
# made them. Another network wrote them, token by token, while reading the sequence. Schmidhuber described such a
# machine in 1992: a slow network, trained by gradient descent, *programs* the *fast weights* of another one through
# outer products. Schlag, Irie and Schmidhuber (2021) showed that linear attention is that machine. A write is one step
# of gradient descent. Take the loss
# $\ell(S) = -\,v_t \cdot (S k_t)$: it is small when reading with $k_t$ gives something that points along $v_t$. Its
# gradient is $-v_t k_t^\top$. So one step with rate 1 is $S + v_t k_t^\top$.


# %% tags=["nbval-check-output"]
@holds
def one_gradient_step_on_an_inner_product_is_one_write():
    S, k_t, v_t = randn(V, K).requires_grad_(), randn(K), randn(V)
    (gradient,) = torch.autograd.grad(-v_t @ (S @ k_t), S)
    same(S - gradient, S + torch.outer(v_t, k_t))


# %% [markdown]
# This loss has no minimum. It never says "enough": write the same pair twice, and the read comes back twice as long.
# A squared error would say enough, and one step on it is the *delta rule*, which the 2021 paper proposes and chapter
# 08 derives.
#
# ## 10 · In the wild
#
# Plain linear attention is rare in large language models. It lives on as a part, and as the root of nearly everything
# in chapters 04 to 13. The state below is what one sequence carries. In softmax attention of the same heads each token
# keeps a key and a value of width $V$, so a state of $F \times V$ numbers is worth $F / 2$ tokens of cache.

# %% tags=["nbval-check-output"]
wild = {  # layers with it, of all layers; heads; F and V of a head
    "Based 1.3B, language, Taylor": (7, 36, 16, 273, 112),
    "Sana 1.6B, images, relu": (20, 20, 70, 32, 32),
    "MiniMax-Text-01 456B, language, silu": (70, 80, 64, 128, 128),
}
print(f"{'':37} layers   heads    F × V   million numbers   tokens of cache")
for name, (layers, of, heads, n_features, width) in wild.items():
    millions = layers * heads * n_features * width / 1e6
    table = f"{n_features}×{width}"
    print(
        f"{name:37} {layers:2} of {of} {heads:5} {table:>9} {millions:13.1f}"
        f" {n_features / 2:16.1f}"
    )

# %% [markdown]
# None of the three stands alone: Based adds layers of sliding-window attention and of short convolutions, Sana
# convolutions in its feed-forward layers, MiniMax ten layers of softmax attention. And MiniMax already belongs to
# chapter 04: its "lightning attention" has a constant decay per head and no normaliser.
#
# ### Fact check
#
# **"Linear attention costs O(T)."** The recurrent and chunkwise forms do. The parallel form, which many snippets show,
# costs $O(T^2)$ like softmax attention. And the constant matters: each token costs $2FV$ in any form that uses the
# state. For Taylor features on 64 channels $F$ is 4,161, and all pairs are cheaper for any text shorter than that.
# So Based projects queries and keys down to 16 channels before the map.
#
# **"The normaliser makes it a proper attention."** Only for positive features. And it is optional: RetNet (chapter 04)
# and most of its successors replace it by a norm.
#
# ## 11 · Practise
#
# In a terminal, `seqlab start 03` puts your own copy of the exercises into `work/`. `check("03.1", phi)` in that
# notebook tells you which mistake you made, not only that there is one.

# %% [markdown] tags=["exercises"]
# The table of exercises is made from their files.

# %% [markdown]
# The notebook is [exercises/03_linear_attention.ipynb](../exercises/03_linear_attention.ipynb); work on the copy in
# `work/`.
#
# ## Recap, in five lines
#
# 1. An RNN waits because each step puts the state through $R$ and a $\tanh$. Keep the state as it is, add a term of
#    the new token alone, and the state is a sum.
# 2. Replace $\exp(q \cdot k)$ by $\varphi(q) \cdot \varphi(k)$ and move the bracket: $S_t = S_{t-1} + v_t k_t^\top$,
#    $y_t = S_t q_t$.
# 3. One equation, three forms: recurrent to decode, parallel to derive, chunkwise to train.
# 4. Keys that are not orthogonal smear: the error of $N$ random keys is about $\sqrt{N / K}$. Training moves them
#    apart.
# 5. A positive map with the normaliser, or any map with a norm after it.
#
# Next, chapter 04: a memory that forgets nothing drowns. What if it forgot a little at every step?
#
# ## Further: Linformer, low rank over the wrong axis
#
# Every survey names another cheap attention beside this one. Linformer projects keys and values *along time*, from $T$
# tokens to $r$ summaries:
#
# $$Y = \mathrm{softmax}\bigl(Q\,(E K)^\top / \sqrt{d}\bigr)\,(E V) \qquad E \in \mathbb R^{r \times T}$$
#
# The cost is $T \cdot r$ instead of $T^2$. Can it be a language model, which must not see the future? Change one token,
# and look at the outputs before it.

# %% tags=["nbval-check-output"]
T, r, d = 24, 6, 8
E, W_q, W_k, W_v = randn(r, T) / T**0.5, randn(d, d), randn(d, d), randn(d, d)
x, other = randn(T, d), randn(T, d)


def linformer(x):
    q, k, v = x @ W_q, E @ (x @ W_k), E @ (x @ W_v)
    return ((q @ k.mT) / d**0.5).softmax(-1) @ v


def linear_attention(x):
    q, k, v = elu_plus_one(x @ W_q), elu_plus_one(x @ W_k), x @ W_v
    return normalised(*(u[None, :, None] for u in (q, k, v)), form=parallel)[0][0, :, 0]


def moved(layer):
    """|change of output i| when token j is replaced by another one (T, T)."""
    replaced = torch.where(torch.eye(T, dtype=torch.bool)[..., None], other, x)
    return torch.stack([(layer(u) - layer(x)).norm(dim=-1) for u in replaced], dim=1)


@holds
def linformer_looks_ahead_and_linear_attention_never_does():
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    assert moved(linear_attention)[future].max() < 1e-9
    assert (moved(linformer)[future] > 1e-6).all()


# %%
figures.moved(
    {"linear attention": moved(linear_attention), "Linformer, r = 6": moved(linformer)},
    "Change a token: linear attention moves what follows, Linformer everything",
)

# %% [markdown]
# *What to see.* In each column token $j$ was replaced. Cells to the right of the orange staircase belong to earlier
# tokens ($i < j$) and must not change. They stay white for linear attention, but not for Linformer. No mask mends this:
# once the future is in the sum, hiding a summary from token $i$ hides the past as well. Linformer remains what it was
# made for, an encoder of a fixed length.
#
# ## References
#
# - A. Katharopoulos, A. Vyas, N. Pappas, F. Fleuret. [*Transformers are RNNs: Fast Autoregressive Transformers with
#   Linear Attention.*](https://arxiv.org/abs/2006.16236) 2020.
# - K. Choromanski et al. [*Rethinking Attention with Performers.*](https://arxiv.org/abs/2009.14794) 2020.
# - S. Arora et al. [*Simple linear attention language models balance the recall-throughput
#   tradeoff*](https://arxiv.org/abs/2402.18668) (Based). 2024. Sizes from
#   `train/configs/experiment/reference/based_1.3b_50b_tok.yaml` in HazyResearch/based.
# - I. Schlag, K. Irie, J. Schmidhuber. [*Linear Transformers Are Secretly Fast Weight
#   Programmers.*](https://arxiv.org/abs/2102.11174) 2021.
# - J. Schmidhuber. *Learning to Control Fast-Weight Memories: An Alternative to Dynamic Recurrent Networks.* Neural
#   Computation 4(1), 1992.
# - S. Wang et al. [*Linformer: Self-Attention with Linear Complexity.*](https://arxiv.org/abs/2006.04768) 2020.
# - Z. Qin et al. [*The Devil in Linear Transformer*](https://arxiv.org/abs/2210.10340) (TransNormer). 2022.
# - E. Xie et al. [*Sana: Efficient High-Resolution Image Synthesis with Linear Diffusion
#   Transformers.*](https://arxiv.org/abs/2410.10629) 2024. Sizes from the defaults of `SanaTransformer2DModel` in
#   huggingface/diffusers.
# - MiniMax. [*MiniMax-01: Scaling Foundation Models with Lightning Attention.*](https://arxiv.org/abs/2501.08313) 2025.
