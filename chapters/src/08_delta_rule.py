# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 08 · The delta rule
#
# **After this chapter you can**
#
# - say what a memory that only adds returns for a key that was written twice, and measure what that costs;
# - derive the delta rule in three ways, and say what its strength $\beta$ does to the state;
# - compute a whole chunk of such writes at once, by solving a triangular system;
# - combine clearing with fading, for a whole head or for each key channel;
# - say which counting tasks need $\beta$ above 1, and which need two writes per token, and train both.
#
# **You need** chapter 03 (linear attention), chapter 05 (gates) and chapter 07 (chunks).
#
# **Time** 70 minutes to read, a minute to run.
#
# **Covers** DeltaNet · Gated DeltaNet · KDA (Kimi Delta Attention) · DeltaProduct · Gated DeltaProduct. At the end:
# Gated DeltaNet-2 · Comba · MesaNet · log-linear attention · forgetting attention · PaTH.
#
# ## 1 · A failure: a sum cannot be corrected
#
# Linear attention keeps a table $S$ with a row for each value channel and a column for each key channel. It writes
# $S \leftarrow S + v k^\top$ and reads $y = S q$. Write a value $v_1$ under a key of length 1, then another value
# $v_2$ under the *same* key, and ask for it:

# %% tags=["nbval-check-output"]
import torch

torch.set_num_threads(1)
k = torch.tensor([0.6, 0.8])
v1, v2 = torch.tensor([[1.0, 2.0], [5.0, -1.0]])
S = torch.outer(v1, k) + torch.outer(v2, k)
print("returned:", S @ k, "  wanted:", v2)

# %% [markdown]
# The table returns $v_1 + v_2$. A decay (chapters 04 and 05) makes the older value fainter, but it fades all other
# pairs as well. How much does that cost a trained model? In the task `Recall` each of 32 tokens writes one of 8
# values under one of 8 keys, drawn at random, so that keys are written again and again. Then every key is asked for
# once, and its *latest* value is the answer.
#
# Three layers learn it: one layer each, width 32, two heads, 400 steps of 16 texts, learning rate 0.01, seeds 0, 1
# and 2.
#
# - **Linear attention** (chapter 03) adds.
# - **Gated retention** (chapter 05) adds, and each token chooses how much of the table fades.
# - **DeltaNet** is this chapter's layer, in its simplest form (no convolution).

# %%
from functools import partial

from seqlab.mixers import DeltaNet, GatedRetention, LinearAttention
from seqlab.model import LanguageModel
from seqlab.tasks import Recall
from seqlab.train import train

SEEDS = (0, 1, 2)
task = Recall(n_keys=8, n_values=8, n_pairs=32)


def trained(mixer, task, seed, steps, batch_size=16):
    torch.manual_seed(seed)
    model = LanguageModel(task.vocab, 32, [mixer], ffn=None)
    how = {"batch_size": batch_size, "lr": 0.01, "seed": seed}
    train(model, task, steps=steps, label=type(task).__name__, **how)
    return model


rules = {
    "linear attention": partial(LinearAttention, n_heads=2),
    "gated retention": partial(GatedRetention, n_heads=2, form="parallel"),
    "DeltaNet": partial(DeltaNet, n_heads=2, d_conv=1),
}
models = {name: [trained(m, task, s, 400) for s in SEEDS] for name, m in rules.items()}

# %% [markdown]
# A memory that is blind to order can do no better than vote: of all values written under the key, take the most
# frequent. **Before you read on**, commit to an answer. How does each layer do on a key that was overwritten five
# times?

# %% tags=["measured"]
from seqlab.course import predict
from seqlab.figures.retention import accuracy as accuracy_figure
from seqlab.train import accuracy_by, evaluate

TIMES = list(range(8))
by_times = {name: (TIMES, []) for name in models}
for name, seeds in models.items():
    for model in seeds:
        batch, right = evaluate(model, task, n=1000)
        shares = accuracy_by(right, batch, batch.overwrites, TIMES)
        by_times[name][1].append(shares)
vote = accuracy_by(task.vote(batch), batch, batch.overwrites, TIMES)
least = min(min(shares) for shares in by_times["DeltaNet"][1])
predict(
    "08-overwrite",
    "A key was overwritten five times. Which layers know its latest value "
    "at least 19 times out of 20?",
    lambda: accuracy_figure(
        {"the vote": (TIMES, [vote]), **by_times},
        title=f"DeltaNet knows at least {least:.0%} of the latest values, "
        "however often a key was overwritten",
        x="older values under the same key",
        chance=task.chance,
        bound="the vote",
    ),
    choices=["all three", "gated retention and DeltaNet", "DeltaNet alone"],
)

# %% [markdown]
# *What to see.* Each point is the mean of three seeds, the bars reach from the lowest to the highest. Linear
# attention ends near the vote (grey), since a sum does not know which value came last. Gated retention does far
# better on keys that were overwritten: a fading sum favours the newest value. On keys that were written once it falls
# behind linear attention: such a pair is older, on average, and it has faded like all others. "DeltaNet alone" is the
# right guess. (This is one task, made for the purpose, at one learning rate. Settings matter: in single runs, both
# sums were much worse after 200 steps, and so was gated retention with gates that start at ½ in place of 0.96, even
# after 600.)
#
# ## 2 · One rule, derived three ways
#
# **Remove, then write.** Before you write $v$ under $k$, ask what $k$ returns: $S k$. Write the *difference* instead.
# A strength $\beta$ between 0 and 1 says how much of it:
#
# $$S \leftarrow S + \beta\,(v - S k)\, k^\top$$
#
# With $\beta = 1$ and a key of length 1, the new read is $S k + (v - S k)(k^\top k) = v$. The old value is gone.
#
# **A step on a loss.** Let the memory be a linear model that should map $k$ to $v$. Its squared error is $L(S) =
# \tfrac12 \lVert v - S k \rVert^2$, with the gradient $-(v - S k)\, k^\top$. So one step of gradient descent with
# step size $\beta$ is the same rule. (Chapter 03's sum was a step on $-v \cdot S k$, a loss without a minimum.) The
# rule is from 1960, when Widrow and Hoff trained their linear neurons with it. It was brought to linear attention
# in 2021.
#
# **A matrix acting on the state.** Sort by $S$. What is old is multiplied from the right, what is new is added:
#
# $$S \leftarrow S\,(I - \beta\, k k^\top) + \beta\, v k^\top$$
#
# This is the course's equation $S_t = S_{t-1} A_t + \ldots$ with a new kind of gate. Chapters 04 to 07 had $A_t$
# diagonal: each column fades on its own. Here $A_t$ is a matrix that acts along one direction, the key's.


# %% tags=["nbval-check-output"]
from seqlab.core.recurrence import chunkwise, recurrent
from seqlab.course import holds

rng = torch.Generator().manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()


def unit(*shape):
    k = randn(*shape).detach()
    return (k / k.norm(dim=-1, keepdim=True)).requires_grad_()


def strengths(*shape, most=1.0):
    return (most * randn(*shape).detach().sigmoid()).requires_grad_()


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def with_gradients(f, *inputs):
    y = f(*inputs)
    return y, *torch.autograd.grad(y.sin().sum(), inputs)


def write(S, k, v, beta):
    return S + beta * torch.outer(v - S @ k, k)


@holds
def the_three_derivations_agree():
    S, k, v, beta = randn(3, 5), randn(5), randn(3), 0.7
    (gradient,) = torch.autograd.grad((v - S @ k).square().sum() / 2, S)
    same(write(S, k, v, beta), S - beta * gradient)
    A = torch.eye(5) - beta * torch.outer(k, k)
    same(write(S, k, v, beta), S @ A + beta * torch.outer(v, k))


@holds
def the_newest_value_comes_back_whole():
    S, k, v = randn(3, 5), unit(5), randn(3)
    same(write(S, k, v, 1.0) @ k, v)


# %% [markdown]
# Keys have length 1 here, and in every layer of this chapter. Otherwise $\beta \lVert k \rVert^2$ would be the true
# strength, and a long key would overshoot.
#
# What happens to *other* keys? A key at a right angle to $k$ is not touched at all, since $S k' $ changes by $\beta
# (v - S k)(k \cdot k')$. A key at a smaller angle loses a part:

# %%
from seqlab.figures import delta as figures
from seqlab.widgets import explore

old, new = torch.tensor([1.0, 0.4, -0.8, 0.6]), torch.tensor([-0.5, 1.0, 0.7, 0.2])
explore(
    lambda beta=1.0, degrees=60: figures.overwritten_at(old, new, beta, degrees),
    beta=(0.0, 2.0, 0.1),
    degrees=(0, 90, 5),
)

# %% [markdown]
# *What to see.* The old value was stored under key 1, the new one is written under key 2. With $\beta = 1$ key 2
# returns the new value exactly, whatever the angle; the sum does not, unless the keys are at 90°. The right panel
# shows the price: at 60° key 1 no longer returns its value whole, under either rule. Turn $\beta$ down, and the
# write gets gentler on both sides. At 0° both keys are one, and the delta rule overwrites.
#
# ## 3 · What $\beta$ does to the state
#
# The matrix $I - \beta k k^\top$ has a simple effect on a row $s$ of the table. Split $s$ into its part along $k$ and
# the rest. The rest stays. The part along $k$ is multiplied by $1 - \beta$. So the eigenvalues are 1, for every
# direction across $k$, and $1 - \beta$, once.

# %%
figures.turned()

# %% [markdown]
# *What to see.* Move the slider. On the left a circle of rows is mapped by the matrix; on the right are the two
# eigenvalues. Up to $\beta = 1$ the circle gets thinner along $k$, until it is a line: a projection, which forgets
# what was there. Beyond 1 the eigenvalue is *negative*: the circle opens again, turned over. At $\beta = 2$ nothing
# is lost, and everything along $k$ has changed its sign. This is a **reflection**. Section 7 needs it.
#
# For $0 \le \beta \le 2$ no eigenvalue is larger than 1 in size. So no write enlarges what is already stored, and
# the state cannot grow exponentially. New values still add up if nothing is cleared: at $\beta = 2$ and random keys
# the table grows like the square root of the number of tokens.
#
# ## 4 · A chunk at once
#
# As written, the rule goes token by token: each write needs $S k$ of the table before it. Chapter 07 made chunks of a
# gated sum by computing all pairs at once. Why does that fail here? There, what token $j$ writes is known before
# anything else, $v_j$. Here it is
#
# $$u_t = \beta_t\,(v_t - S_{t-1} k_t) \qquad\qquad S_t = S_{t-1} + u_t k_t^\top$$
#
# and $u_t$ depends on the table, so on all earlier $u$. But look at the second equation. *Given* the $u$, this is
# plain linear attention, with $u$ in the place of $v$. So $S_{t-1} = S_0 + \sum_{j < t} u_j k_j^\top$, where $S_0$
# is the table at the start of the chunk. Insert that into the first:
#
# $$u_t = \beta_t \Bigl( v_t - S_0 k_t - \sum_{j < t} u_j\,(k_j \cdot k_t) \Bigr)$$
#
# The table has gone; only dot products of keys are left. Bring the sum to the left, and write all tokens as rows:
#
# $$(I + L)\, U = R \qquad\qquad L_{tj} = \beta_t\,(k_t \cdot k_j) \text{ for } j < t \qquad\qquad
#   R_t = \beta_t\,(v_t - S_0 k_t)$$
#
# $L$ is 0 on and above the diagonal, so this is a **triangular system**. Row 1 says $u_1 = r_1$, row 2 then gives
# $u_2 = r_2 - L_{21} u_1$, and so on: *forward substitution*. All the rest is matrix products.


# %%
def forward_substitution(L, R):
    """U with (I + L) U = R; L (C, C) is 0 on and above its diagonal."""
    U = []
    for t in range(len(R)):
        known = torch.stack(U) if U else R[:0]
        U.append(R[t] - L[t, :t] @ known)
    return torch.stack(U)


def chunk(q, k, v, beta, S):
    """One chunk of the delta rule. q, k (C, K), v (C, V), beta (C,), S (V, K): y, S."""
    L = beta[:, None] * (k @ k.mT).tril(-1)
    R = beta[:, None] * (v - k @ S.mT)
    U = forward_substitution(L, R)
    y = q @ S.mT + (q @ k.mT).tril() @ U  # linear attention, with U for v
    return y, S + U.mT @ k


def in_chunks(q, k, v, beta, S, C=4):
    ys = []
    for piece in zip(*(x.split(C) for x in (q, k, v, beta)), strict=True):
        y, S = chunk(*piece, S)
        ys.append(y)
    return torch.cat(ys), S


# %% tags=["nbval-check-output"]
@holds
def forward_substitution_is_solve_triangular():
    L, R = randn(7, 7).tril(-1), randn(7, 3)
    theirs = torch.linalg.solve_triangular(L, R, upper=False, unitriangular=True)
    same(forward_substitution(L, R), theirs)


def as_seqlab(q, k, v, beta, S, form=recurrent, **how):
    """The course's recurrence, for one text and one head."""
    q, k, v, beta = (x[None, :, None] for x in (q, k, v, beta))
    y, S = form(q, k, v, beta=beta, state=S[None, None], **how)
    return y[0, :, 0], S[0, 0]


def both_outputs(f):
    """y and the last state as one vector, so that one gradient covers both."""
    return lambda *inputs: torch.cat([x.flatten() for x in f(*inputs)])


@holds
def our_chunks_are_seqlabs_recurrence():
    inputs = randn(19, 5), unit(19, 5), randn(19, 3), strengths(19, most=2), randn(3, 5)
    ours = with_gradients(both_outputs(in_chunks), *inputs)
    same(ours, with_gradients(both_outputs(as_seqlab), *inputs))
    by_eight = both_outputs(partial(as_seqlab, form=chunkwise, chunk_size=8))
    same(ours, with_gradients(by_eight, *inputs))


# %% [markdown]
# The loop in `forward_substitution` runs over the tokens of a chunk, and its steps are small. `seqlab` calls
# `solve_triangular`; kernels invert small blocks of $I + L$. The system is always solvable, since its diagonal is 1.

# %%
some = torch.Generator().manual_seed(3)
keys = torch.randn(24, 16, generator=some)
keys = keys / keys.norm(dim=-1, keepdim=True)
L = (keys @ keys.mT).tril(-1)
inverse = torch.linalg.inv(torch.eye(24) + L)
figures.tables(
    {"L: what keys share": L, "(I + L)⁻¹: what is written": inverse},
    title="Each write takes back what earlier writes left under its key",
)

# %% [markdown]
# *What to see.* 24 random keys of 16 channels, $\beta = 1$. On the left are the dot products of each key with the
# earlier ones. On the right, row $i$ says how much of each value enters $u_i$: its own whole (the diagonal), and
# from earlier tokens roughly the negative of what the left shows. If all keys were orthogonal, $L$ would be
# 0, the right table the identity, and the delta rule a sum.
#
# One more step makes chunks independent of each other. $R$ has two parts, so $U$ has two: $U = \tilde U - W
# S_0^\top$, where $(I + L)\,\tilde U = \beta V$ and $(I + L)\,W = \beta K$ (each row times its $\beta_t$). Neither
# part contains the table. So all chunks can solve at once, and only
#
# $$S_C = S_0\,(I - W^\top K) + \tilde U^\top K$$
#
# goes from chunk to chunk. It says that a product of $C$ matrices $I - \beta k k^\top$ is the identity minus
# *one* matrix of rank at most $C$. Numerical analysts use it for products of reflections, as the **WY form**
# (Bischof and Van Loan, 1987). Exercise 08.6 builds it.
#
# ## 5 · Fade, then clear
#
# The delta rule clears what its key returns, and nothing else. A pair whose key never comes back stays. So 64
# pairs in a table of 16 columns crowd each other out. **Gated DeltaNet** (2024) adds the gate of chapters
# 05 and 07, one number $a_t$ per head: first everything fades, then the key is cleared and written. **KDA**, the
# Kimi Delta Attention of 2025, has a gate for each key channel, as GLA does:
#
# $$\tilde S = S_{t-1}\,\mathrm{diag}(a_t) \qquad\qquad S_t = \tilde S + \beta_t\,(v_t - \tilde S k_t)\,k_t^\top$$
#
# The order matters: what is removed is what the *faded* table returns.


# %% tags=["nbval-check-output"]
def fade_then_clear(q, k, v, log_a, beta, S):
    """q, k (T, K), v (T, V), log_a (T, 1) or (T, K), beta (T,): y, S."""
    ys = []
    for q_t, k_t, v_t, a_t, b_t in zip(q, k, v, log_a.exp(), beta, strict=True):
        S = write(S * a_t, k_t, v_t, b_t)
        ys.append(S @ q_t)
    return torch.stack(ys), S


def gated(q, k, v, log_a, beta, S):
    """The same by seqlab, in chunks."""
    q, k, v, log_a, beta = (x[None, :, None] for x in (q, k, v, log_a, beta))
    y, S = chunkwise(q, k, v, log_a=log_a, beta=beta, state=S[None, None], chunk_size=8)
    return y[0, :, 0], S[0, 0]


def some_inputs(A):
    log_a = (-randn(19, A).detach().exp()).requires_grad_()
    q, k, v, S = randn(19, 5), unit(19, 5), randn(19, 3), randn(3, 5)
    return q, k, v, log_a, strengths(19, most=2), S


@holds
def gated_deltanet_and_kda_are_the_courses_recurrence():
    for A in (1, 5):  # one decay for the head; one for each key channel
        inputs = some_inputs(A)
        ours = with_gradients(both_outputs(fade_then_clear), *inputs)
        same(ours, with_gradients(both_outputs(gated), *inputs))


# %% [markdown]
# In chunks, the decays enter the dot products: $L_{tj}$ becomes $\beta_t\, k_t^\top \mathrm{diag}(a_{j+1} \cdots
# a_t)\, k_j$. The system stays triangular, and `seqlab.core.recurrence` is these lines with chapter 07's decay
# matrix in them.
#
# What does fading buy? Write 64 random pairs (unit keys of 16 channels) and ask for each of them at the end. The
# error is the distance from the stored value, relative to its length. Forgetting everything, and answering 0, has
# error 1.

# %% tags=["nbval-check-output"]
from seqlab.figures.state_space import curves

N, K = 64, 16
noise = torch.randn(2, 200, N, 1, K, generator=torch.Generator().manual_seed(5))
ks, vs = noise[0] / noise[0].norm(dim=-1, keepdim=True), noise[1]
ones = torch.ones(200, N, 1)
fading = torch.full((200, N, 1, 1), 0.95).log()
errors = {}
for name, gates in {
    "a sum": {},
    "a sum that fades, a = 0.95": {"log_a": fading},
    "the delta rule": {"beta": ones},
    "fade, then clear": {"log_a": fading, "beta": ones},
}.items():
    _, S = recurrent(ks, ks, vs, **gates)
    returned = torch.einsum("bhvk, bthk -> bthv", S, ks)
    error = ((returned - vs).norm(dim=-1) / vs.norm(dim=-1)).mean((0, 2)).flip(0)
    errors[name] = (list(range(N)), error)
    print(
        f"{name:27}newest {error[0]:.2f}  8 later {error[8]:.2f} oldest {error[-1]:.2f}"
    )

# %%
curves(
    errors,
    title="Clearing brings the newest pairs back; fading helps the others a little",
    x="age of the pair, in writes",
    y="error of the read",
)

# %% [markdown]
# *What to see.* The sum is wrong by twice its values' length, at any age. The delta rule returns the newest pair
# exactly. Then it gets worse with each later write, whose key overlaps a little, and after a dozen the error is
# *above* 1: the key returns leftovers of others. With a decay the newest pair still comes back whole, since $\beta
# = 1$, and every older pair has a smaller error than without, because there are fewer leftovers. A sum that fades
# comes as close on old pairs, but not on new ones. (These are random keys, and a constant $a$. In the real layers
# the token chooses $a_t$ and $\beta_t$.)
#
# ## 6 · Two memories under the microscope
#
# Here are two trained models of section 1, on a text that writes under `a` three times. The menu also has the other
# layers of this chapter, untrained; they come in section 7 and at the end.

# %% tags=["measured"]
from seqlab import figures as course_figures
from seqlab.microscope import observe
from seqlab.zoo import row

words = ["a1", "b3", "c2", "a6", "d0", "a4", "e5", "b7", "f1", "c3"]
text = torch.tensor([[task.token(word) for word in words]])
traces = {}
for name in ("DeltaNet", "linear attention"):
    model = models[name][0]
    seen = model.blocks[0].mixer_norm(model.embedding(text)).detach()
    traces[f"{name}, trained"] = trace = observe(
        model.blocks[0].mixer, seen, words, head=1
    )
    for j, t in ((0, 3), (1, 7)):
        before, after = trace.recall[t - 1, j], trace.recall[t, j]
        print(f"{name:16} {words[j]}: {before:.2f}, after {words[t]} {after:.2f}")
torch.manual_seed(0)
newer = "Gated DeltaNet-2", "Comba", "MesaNet", "log-linear attention"
of_section_5 = "Gated DeltaNet", "KDA", "DeltaProduct", "Gated DeltaProduct"
for name in (*of_section_5, *newer):
    seen = torch.randn(1, len(words), 32, generator=some)
    traces[f"{name}, untrained"] = observe(row(name).make(32), seen, words)
explore(
    lambda layer="DeltaNet, trained", t=5: course_figures.microscope(traces[layer], t),
    layer=list(traces),
    t=(0, len(words) - 1),
)

# %% [markdown]
# *What to see.* The panel of recalls says how close (as a cosine) what each key returns now is to the value that
# was stored with it; two such numbers are printed above, for the second head. In the trained DeltaNet the first
# value of `a` comes back until `a6` is written, and `b3` until `b7` is: a write clears its own key. Other values
# lose a little here and there, since learned keys overlap too. In linear attention an overwrite clears nothing:
# the new value is added, and the old one still makes up much of what the key returns. (Neither head has to know
# everything: two heads share the work.) For the two DeltaProducts, the panel shows instead what the output depends on.
#
# ## 7 · Beyond $\beta = 1$: reflections that count
#
# Chapter 07 ended with **parity**: bits come one by one, and after each the layer says whether the number of ones
# is odd. A gate between 0 and 1 can only fade. But an eigenvalue of $-1$ turns the state over, and two turns
# cancel: just what parity needs. With one channel, $k = 1$: a one sets $\beta = 2$ and writes $v = \tfrac12$, so $S
# \leftarrow S + 2\,(\tfrac12 - S) = 1 - S$. A zero sets $\beta = 0$, and nothing happens.
#
# So the only change is the range of $\beta$: $2\,\sigma(\cdot)$ in place of $\sigma(\cdot)$ (Grazzi et al., 2024). In
# `seqlab` it is the option `negative_eigenvalues`. Both ranges are trained on texts of 16 bits: 150 steps, learning
# rate 0.01, three seeds.

# %%
from seqlab.tasks import Parity, Permutations

delta = partial(DeltaNet, n_heads=4, d_conv=1)
counting = {
    "β up to 1": delta,
    "β up to 2": partial(delta, negative_eigenvalues=True),
}
counters = {
    name: [trained(m, Parity(16), s, 150) for s in SEEDS]
    for name, m in counting.items()
}

# %% tags=["measured"]
from seqlab.train import accuracy


def right_at(models, task, lengths):
    """name -> (lengths, the share of right answers of each seed)."""
    draw = torch.Generator().manual_seed(10_000)
    batches = [task(n_tokens=length).batch(128, draw) for length in lengths]
    return {
        name: (lengths, [[accuracy(m, b) for b in batches] for m in seeds])
        for name, seeds in models.items()
    }


LENGTHS = [4, 16, 64, 256]
accuracy_figure(
    right_at(counters, Parity, LENGTHS),
    title="With β up to 2 DeltaNet learns parity, and keeps it beyond its length",
    x="bits in the text (log scale)",
    chance=1 / 2,
    log=True,
    marks={"length in training": 16},
)

# %% [markdown]
# *What to see.* With $\beta \le 1$ the first few bits are right more often than not, and then the layer guesses.
# With $\beta \le 2$ it is right at 16 times its length. What did it learn? Keys and $\beta$ depend on the bit alone
# here, so we can ask: what does each bit multiply the state by, along the key $k_1$ of a one? At a one that is $1 -
# \beta_1$, at a zero $1 - \beta_0\,(k_0 \cdot k_1)^2$. Here is, for each seed, the head in which the two differ
# most:

# %% tags=["measured"]
for seed, model in enumerate(counters["β up to 2"]):
    block = model.blocks[0]
    with torch.no_grad():
        bits = block.mixer_norm(model.embedding(torch.tensor([[0, 1]])))
        made = block.mixer.project(bits)
    k, beta = made["k"][0], made["beta"][0]  # (2 bits, heads, K), (2 bits, heads)
    factor = 1 - beta * (k * k[1]).sum(-1) ** 2
    head = int((factor[0] - factor[1]).argmax())
    print(f"seed {seed}: {factor[0, head]:6.3f} at a 0, {factor[1, head]:6.3f} at a 1")

# %% [markdown]
# Training has found the machine above: (nearly) stand still at a zero, turn over at a one.
#
# Is every count within reach now? Let each token *permute three items*, and ask for their order after each token.
# Picture the items at the corners of a triangle. Of the six permutations one moves nothing. Three swap two items: a
# swap is a reflection. Two move all three round: that is a rotation by 120°, and no reflection is a rotation. But
# **two reflections are one**: reflect along $k_1$ and then along $k_2$, and everything in their plane turns by twice
# the angle between them.


# %% tags=["nbval-check-output"]
@holds
def two_reflections_are_a_rotation_by_twice_the_angle():
    angle = torch.tensor([0.2, 0.2 + torch.pi / 3], dtype=torch.float64)
    first, second = torch.stack([angle.cos(), angle.sin()], dim=1)
    S, nothing = randn(4, 2), torch.zeros(4)
    turned = write(write(S, first, nothing, 2), second, nothing, 2)
    twice = torch.tensor(2 * torch.pi / 3, dtype=torch.float64)
    c, s = twice.cos(), twice.sin()
    rotation = torch.stack([torch.stack([c, s]), torch.stack([-s, c])])
    same(turned, S @ rotation)


# %% [markdown]
# **DeltaProduct** (2025) gives each token $n$ writes, each with a key, a value and a $\beta$ of its own, and reads
# after the last. To the recurrence, a token is just $n$ short tokens. *Gated DeltaProduct* fades once before them.
# Here are DeltaNet and DeltaProduct with $n = 2$, both with $\beta$ up to 2 and the same widths, trained on 8
# permutations: 200 steps of 32 texts, learning rate 0.01, three seeds.

# %%
from seqlab.mixers import DeltaProduct

one = partial(DeltaProduct, n_heads=4, n_steps=1, d_conv=1, gate=False)
permuting = {"one reflection": one, "two reflections": partial(one, n_steps=2)}
movers = {
    name: [trained(m, Permutations(3, 8), s, 200, 32) for s in SEEDS]
    for name, m in permuting.items()
}

# %% tags=["measured"]
accuracy_figure(
    right_at(movers, Permutations, [4, 8, 16, 64]),
    title="Two reflections a token learn the permutations of three items; one does not",
    x="tokens in the text (log scale)",
    chance=1 / 6,
    log=True,
    marks={"length in training": 8},
)

# %% [markdown]
# *What to see.* One reflection is right on the first tokens, where there is little to track. Two reflections are right
# on 8 tokens and on 16; at 64 they fade a little, since the angles are learned, not exact. (A convolution
# or a second layer might help the layer with one reflection; we tried neither. And this training is delicate: with
# texts of 16 tokens, or eight heads, most of our runs with two reflections did not learn it in 300 steps.)
#
# The transition of a token is a product of two matrices $I - \beta k k^\top$. Its eigenvalues show what kind of
# motion it is:


# %% tags=["measured"]
import cmath
import math


def transition(model, token, head):
    """Π (I - β k kᵀ) over the writes of one token, for one head."""
    block = model.blocks[0]
    with torch.no_grad():
        x = block.mixer_norm(model.embedding(torch.tensor([[token]])))
        made, _ = block.mixer.micro_steps(x)
    A = torch.eye(made["k"].shape[-1])
    for k, beta in zip(made["k"][0, :, head], made["beta"][0, :, head], strict=True):
        A = A - beta * torch.outer(A @ k, k)
    return A


def spectra(model, head):
    """The eigenvalues of all six tokens, by what a token does."""
    found = {"nothing": [], "a swap": [], "all three round": []}
    for token in range(6):
        moved = sum(
            a != b for a, b in zip(Permutations().word(token), "abc", strict=True)
        )
        kind = {0: "nothing", 2: "a swap", 3: "all three round"}[moved]
        found[kind].append(torch.linalg.eigvals(transition(model, token, head)))
    return {kind: torch.cat(values) for kind, values in found.items()}


def turning(model, head):
    """Of the two rotations' eigenvalues off the real line, the one that fades least."""
    values = spectra(model, head)["all three round"].tolist()
    return max((z for z in values if z.imag > 0.1), key=abs, default=0)


model = movers["two reflections"][0]
head = max(range(4), key=lambda h: abs(turning(model, h)))
degrees = math.degrees(cmath.phase(turning(model, head)))
figures.eigenvalues(
    spectra(model, head),
    title=f"Moving all three round turns the state by {degrees:.0f}°",
)

# %% [markdown]
# *What to see.* One head of the first seed, the one whose turn loses least; the dotted circle has radius 1. A
# rotation has a pair of complex eigenvalues, above and below the real line; for a turn by 120° they are at
# $\pm 120°$ on the circle. Each swap has an eigenvalue near $-1$. Numbers in between belong to directions that a token
# clears in part. A single $I - \beta k k^\top$ is symmetric, so its eigenvalues are real: with one write a token, the
# whole picture would be on the horizontal axis.
#
# ## 8 · In the wild
#
# The gated delta rule is the recurrence of several large hybrids, with one layer of softmax attention after every
# three of its own.
#
# | model | recurrence | attention | ratio |
# |---|---|---|---|
# | Qwen3-Next (2025), then Qwen3.5 | Gated DeltaNet | grouped queries, gated output | 3 : 1 |
# | [Kimi Linear](https://arxiv.org/abs/2510.26692) (2025) | KDA | MLA without positions | 3 : 1 |
# | [Olmo Hybrid](https://arxiv.org/abs/2604.03444) (2026) | Gated DeltaNet, $\beta$ up to 2 | softmax | 3 : 1 |
#
# Sizes from the zoo, and from the default configuration of Kimi Linear:

# %% tags=["nbval-check-output"]
from seqlab.hub.kimi_linear import FIELDS as KIMI
from seqlab.zoo.memory import kept

heads, K = KIMI["linear_num_heads"], KIMI["linear_head_dim"]
per_token = KIMI["kv_lora_rank"] + KIMI["qk_rope_head_dim"]
tokens = 4 * heads * K * K / (2 * per_token)  # float32 against bfloat16
print(f"Kimi Linear, one KDA layer: {heads} heads of {K} × {K},", end=" ")
print(f"as many bytes as {tokens:,.0f} tokens of its latent cache")
whole = kept("Qwen3-Next", "80B-A3B")
print(f"Qwen3-Next: states {4 * whole.fixed / 2**20:.0f} MiB,", end=" ")
print(f"and {2 * whole.growing / 2**10:.0f} KiB of cache per token")

# %%
from seqlab.figures.ssd import memory_lines

lengths = [2**n for n in range(8, 21)]
sizes = {
    f"{name} {model}": [kept(name, model).bytes(T) for T in lengths]
    for name, model in (("Transformer 2026", "Qwen3 8B"), ("Qwen3-Next", "80B-A3B"))
}
memory_lines(
    sizes,
    lengths,
    title="Qwen3-Next keeps less of a long text than a dense model a tenth its size",
)

# %% [markdown]
# *What to see.* Both axes are logarithmic. Qwen3-Next begins with its states, which do not grow. From about
# 3,200 tokens on, the cache of its 12 attention layers is larger than they are.
#
# ### Fact check
#
# **"The delta rule never forgets what it is not told to."** Section 5: each write disturbs all keys that are not at
# a right angle to its own.
#
# **"DeltaNet cannot be trained in parallel, because a write depends on the state."** The dependence is linear, so a
# chunk of writes is one triangular system. (The [2024 paper](https://arxiv.org/abs/2406.06484) is about this.)
#
# **"Linear RNNs cannot track state."** Those with eigenvalues between 0 and 1 cannot do parity for texts of every
# length ([Grazzi et al.](https://arxiv.org/abs/2411.12537)). Section 7 trains linear ones that can.
#
# ## 9 · Practise
#
# In a terminal, `seqlab start 08` puts your own copy of the exercises into `work/`.

# %% [markdown] tags=["exercises"]
# The table of exercises is made from their files.

# %% [markdown]
# The notebook is [exercises/08_delta_rule.ipynb](../exercises/08_delta_rule.ipynb); work on the copy in `work/`.
#
# ## Recap, in five lines
#
# 1. A sum returns all values of a key. The delta rule removes what the key returns, and writes the difference.
# 2. It is one gradient step on $\tfrac12 \lVert v - S k \rVert^2$, and it multiplies the state by
#    $I - \beta k k^\top$, whose eigenvalues are 1 and $1 - \beta$.
# 3. Inside a chunk the writes solve a triangular system; with them in place of the values it is linear attention.
# 4. Gated DeltaNet fades all, then clears one key; KDA fades each key channel on its own.
# 5. $\beta$ up to 2 gives reflections: in our runs that was enough for parity. Two per token give rotations: with
#    them a layer learned the permutations of three items.
#
# Next, chapter 09: RWKV, which erases under one key and writes under another.
#
# ## Further: six rules that came after
#
# [Gated DeltaNet-2](https://arxiv.org/abs/2605.22791) has an erase gate $b_t$ for each key channel and a write gate
# $w_t$ for each value channel: $S \leftarrow \tilde S + \bigl(w_t \odot v_t - \tilde S (b_t \odot k_t)\bigr)
# k_t^\top$ with $\tilde S = S\, \mathrm{diag}(a_t)$. With equal gates it is KDA, and with one decay a head Gated
# DeltaNet. [Comba](https://arxiv.org/abs/2506.02475) has one gate, but removes only a learnt part of what the key
# returned, and reads it *before* the fading.


# %% tags=["nbval-check-output"]
from seqlab.core import dplr


@holds
def gated_deltanet_2_with_equal_gates_is_kda_and_gated_deltanet():
    for A in (5, 1):
        q, k, v, log_a, beta, S = inputs = some_inputs(A)
        b = w = beta[:, None]
        erased = -log_a.exp() * b * k  # the key under which the old table is read
        xs = (x[None, :, None] for x in (q, k, w * v, erased, k, log_a))
        y, end = dplr.chunkwise(*xs, state=S[None, None])
        ours = both_outputs(fade_then_clear)(*inputs)
        same(ours, torch.cat([y.flatten(), end.flatten()]))


# %% [markdown]
# One gradient step on $\lVert v - S k \rVert^2$ is the delta rule. Why not go to the minimum?
# [MesaNet](https://arxiv.org/abs/2506.05233) keeps two sums, of $v k^\top$ and $R = \sum k k^\top$, and reads $y = S
# (R + \Lambda)^{-1} q$, from the best table for *all* pairs so far. On the pairs of section 5:

# %%
counts = [1, 2, 4, 8, 12, 16, 20, 24, 32]
missed = {"a sum": [], "the delta rule": [], "least squares": []}
for n in counts:
    keys, values = ks[:, :n], vs[:, :n]
    _, added = recurrent(keys, keys, values)
    _, cleared = recurrent(keys, keys, values, beta=ones[:, :n])
    R = torch.einsum("bthk, bthl -> bhkl", keys, keys) + 1e-4 * torch.eye(16)
    held = added, cleared, added @ R.inverse()
    for name, table in zip(missed, held, strict=True):
        off = torch.einsum("bhvk, bthk -> bthv", table, keys) - values
        missed[name].append((off.norm(dim=-1) / values.norm(dim=-1)).mean())
curves(
    {name: (counts, torch.stack(errors)) for name, errors in missed.items()},
    title="Least squares returns every pair, up to one for each key channel",
    x="pairs stored (16 key channels)",
    y="mean error of all reads",
)

# %% [markdown]
# *What to see.* A table of 16 columns has room for 16 pairs, and least squares finds it, whatever the angles between
# the keys. The delta rule is off from the second pair on, since each write disturbs those before. The price is a
# second table, and $K$ equations to solve at each read. At 16 pairs the small $\Lambda$ already costs a little.
#
# [Log-linear attention](https://arxiv.org/abs/2506.04761) keeps a table for each binary digit 1 of $t$: recent tokens
# in small tables, old ones in large. [Forgetting attention](https://arxiv.org/abs/2503.02130) adds the sum of log
# decays to softmax's scores; [PaTH](https://arxiv.org/abs/2505.16381) puts the product of $I - \beta w w^\top$ of the
# tokens between where RoPE has fixed turns. The numbers that one
# layer of width 32 keeps after 64, 1,000 and a million tokens:

# %% tags=["nbval-check-output"]
for name in (*newer, "forgetting attention", "PaTH"):
    floats = (row(name).state_floats(T, 32) for T in (64, 1000, 10**6))
    print("{:20}{:>10,}{:>10,}{:>14,}".format(name, *floats))

# %% [markdown]
# ## References
#
# - I. Schlag, K. Irie, J. Schmidhuber. [*Linear Transformers Are Secretly Fast Weight
#   Programmers.*](https://arxiv.org/abs/2102.11174) 2021.
# - S. Yang et al. [*Parallelizing Linear Transformers with the Delta Rule over Sequence
#   Length*](https://arxiv.org/abs/2406.06484) (DeltaNet in chunks). 2024.
# - S. Yang, J. Kautz, A. Hatamizadeh. [*Gated Delta Networks: Improving Mamba2 with Delta
#   Rule.*](https://arxiv.org/abs/2412.06464) 2024.
# - R. Grazzi et al. [*Unlocking State-Tracking in Linear RNNs Through Negative
#   Eigenvalues.*](https://arxiv.org/abs/2411.12537) 2024.
# - J. Siems et al. [*DeltaProduct.*](https://arxiv.org/abs/2502.10297) 2025.
# - Kimi Team. [*Kimi Linear: An Expressive, Efficient Attention Architecture.*](https://arxiv.org/abs/2510.26692)
#   2025.
# - W. Merrill et al. [*Olmo Hybrid: From Theory to Practice and Back.*](https://arxiv.org/abs/2604.03444) 2026.
# - C. Bischof, C. Van Loan. [*The WY Representation for Products of Householder
#   Matrices.*](https://doi.org/10.1137/0908009) 1987.
