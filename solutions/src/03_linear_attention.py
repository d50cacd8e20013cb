# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises 03 · Linear attention
#
# You build linear attention from its smallest parts: a feature map, one write, one read. Then you join them in three
# ways that give the same answer: token by token, all pairs at once, and in chunks. On the way you count bytes,
# predict a read that goes wrong, and mend a model that knew the future.
#
# 10 exercises, 15 points, about 94 minutes. They go with the chapter `03_linear_attention`, and get harder towards
# the end.
#
# **How it works**
#
# - Replace `raise NotImplementedError(...)` with your code, or `...` with a number. Then run the cell and the check
#   under it.
# - `check("03.2", write)` says at once what is right. If something is wrong it says which mistake it is, where it
#   can.
# - `hint("03.2")` opens one more of three hints: a direction, the key identity, nearly the code.
# - `show_solution("03.2")` explains the answer once you have tried. `progress()` shows what is done.
# - Opened with `seqlab start 03`, this notebook is your own copy in `work/`. No update ever touches it. `seqlab grade
#   03` grades it.
#
# **Shapes.** Time comes first: q and k are (B, T, H, K), v is (B, T, H, V). The memory S is (B, H, V, K): one table
# for each head of each sequence, with a row for each entry of v and a column for each entry of k. K and V may differ.

# %%
import time

import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from plotly.subplots import make_subplots
from torch import einsum

import seqlab.core.recurrence as core
from seqlab.course import (  # noqa: F401 (hint and show_solution are for you to call)
    check,
    hint,
    progress,
    show_solution,
    when_written,
)
from seqlab.figures.theme import COLORS, SIGNED, WEIGHTS, figure

# %% [markdown]
# ## 03.1  A feature map that is never negative
#
# *Write φ(x) = elu(x) + 1, which makes every score φ(q)·φ(k) positive. · 3 minutes · ●○○ · 1 point*
#
# Softmax weighs a pair with exp(q·k), which is always positive. Linear attention weighs it with φ(q)·φ(k). If every
# feature is positive, so is every weight. The usual choice is
#
# $$φ(x) = \mathrm{elu}(x) + 1.$$


# %% nbgrader={"grade": false, "grade_id": "solution_03_1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def phi(x):
    """The feature map φ(x) = elu(x) + 1, entry by entry. x and φ(x): (B, T, H, K), or any other shape."""
    ### BEGIN SOLUTION
    return F.elu(x) + 1
    ### END SOLUTION


# %% tags=["check"] nbgrader={"grade": true, "grade_id": "check_03_1", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check("03.1", phi)

# %% [markdown] tags=["explanation"]
# **Solution.** elu(x) is x above zero and exp(x) - 1 below. Adding 1 gives x + 1 above zero and exp(x) below, so φ is
# positive everywhere.
#
# Why not relu, which is never negative either? Its features are exactly 0 for half of the inputs, and so is their
# gradient. A token whose features are all 0 can neither be found nor learn to be found. exp(x) below zero keeps a
# slope.
#
# *Common mistakes:* leaving out the + 1, or putting it inside, as elu(x + 1). Both go down to -1. Then a sum of
# weights can be zero, and dividing by it (03.8) fails.

# %% [markdown]
# The picture shows your φ beside exp. Both are positive. φ grows only linearly to the right, so one large entry does
# not drown all others. That is a difference from softmax, not an approximation of it.


# %%
@when_written
def picture_of_feature_map():
    x = torch.linspace(-4, 2, 121)
    yours = go.Scatter(x=x, y=phi(x), name="your φ(x)", line_color=COLORS["k"])
    exp = go.Scatter(
        x=x, y=x.exp(), name="exp(x)", line={"color": COLORS["softmax"], "dash": "dash"}
    )
    return figure(
        yours,
        exp,
        title="φ is positive and has a slope everywhere",
        x="x",
        y="feature",
        height=320,
    )


# %% [markdown]
# ## 03.2  Write one token into the memory
#
# *Store the pair (k, v) in the table S. · 5 minutes · ●○○ · 1 point*
#
# The memory is a table S. To store the value v under the key k, add the outer product
#
# $$S \leftarrow S + v\,k^\top, \qquad (v\,k^\top)_{ij} = v_i\,k_j .$$
#
# This is one token, so there is no time axis. Return a new S and leave the one you were given as it is. Here and in
# all exercises below, q and k come with the feature map already applied: use them as they are.


# %% nbgrader={"grade": false, "grade_id": "solution_03_2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def write(S, k, v):
    """Store one token: S + v kᵀ. S: (B, H, V, K), k: (B, H, K), v: (B, H, V). Returns the new S (B, H, V, K)."""
    ### BEGIN SOLUTION
    return S + v[..., :, None] * k[..., None, :]
    ### END SOLUTION


# %% tags=["check"] nbgrader={"grade": true, "grade_id": "check_03_2", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check("03.2", write)

# %% [markdown] tags=["explanation"]
# **Solution.** `v[..., :, None]` is (B, H, V, 1), `k[..., None, :]` is (B, H, 1, K). Their product broadcasts to (B,
# H, V, K): row i, column j holds v[i] k[j]. `einsum("bhv,bhk->bhvk", v, k)` says the same.
#
# Read it column by column: column j grows by k[j] times the whole value. If k is a one-hot vector, v goes into one
# column and nothing else moves. Otherwise v is spread over several columns.
#
# *Common mistakes:* writing k vᵀ, which nobody notices as long as K = V. Replacing S instead of adding to it. `S +=
# …` gives the right numbers but changes the caller's table too.

# %% [markdown]
# Below, your `write` stores four values under four one-hot keys, one after the other. Each write fills one column of
# the table, and nothing else changes. Orange is positive, blue negative, white zero.


# %%
@when_written
def picture_of_memory():
    torch.manual_seed(0)
    keys, values, S = torch.eye(4), torch.randn(4, 3), torch.zeros(1, 1, 3, 4)
    fig = make_subplots(
        1, 4, subplot_titles=[f"after token {t}" for t in range(4)], shared_yaxes=True
    )
    for t in range(4):
        S = write(S, keys[t].view(1, 1, 4), values[t].view(1, 1, 3))
        fig.add_heatmap(z=S[0, 0], row=1, col=t + 1, coloraxis="coloraxis")
    fig.update_layout(
        template="seqlab",
        height=300,
        margin_t=90,
        coloraxis={"colorscale": SIGNED, "cmid": 0},
    )
    fig.update_yaxes(title_text="entry of v", autorange="reversed", dtick=1, col=1)
    fig.update_xaxes(title_text="column", dtick=1)
    return fig.update_layout(
        title_text="One-hot keys: each value gets a column of its own"
    )


# %% [markdown]
# ## 03.3  Read from the memory
#
# *Look up what S holds for the query q. · 4 minutes · ●○○ · 1 point*
#
# To look something up, multiply the table with a query:
#
# $$y = S\,q, \qquad y_i = \sum_j S_{ij}\,q_j .$$


# %% nbgrader={"grade": false, "grade_id": "solution_03_3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def read(S, q):
    """Read the memory: y = S q. S: (B, H, V, K), q: (B, H, K). Returns y (B, H, V)."""
    ### BEGIN SOLUTION
    return (S @ q[..., None])[..., 0]
    ### END SOLUTION


# %% tags=["check"] nbgrader={"grade": true, "grade_id": "check_03_3", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check("03.3", read)

# %% [markdown] tags=["explanation"]
# **Solution.** `@` multiplies the last two axes and treats the others as a batch, so q needs a last axis of size 1,
# which is taken away afterwards. `(S * q[..., None, :]).sum(-1)` and `einsum("bhvk,bhk->bhv", S, q)` are the same
# sum.
#
# Put S = Σ_j v_j k_jᵀ into it: S q = Σ_j v_j (k_j·q). The read is a sum of *all* stored values, each weighted by how
# well its key matches the query. Nothing is searched, and the cost does not depend on how many tokens were stored.
#
# *Common mistakes:* letting q meet the rows (Sᵀ q), scaling by K^-1/2 out of habit, or leaving a softmax on q. The
# first raises an error only where K ≠ V.

# %% [markdown]
# ## 03.4  Predict a smeared read
#
# *Say what a read returns when the stored keys overlap and one of them was written twice. · 5 minutes · ●●○ · 1 point*
#
# Keys are rarely orthogonal. Two keys of length 1 have the overlap k₁·k₂ = 0.6. A memory of single numbers starts
# empty. Three writes follow, in this order:
#
# 1. the value 10 under k₁,
# 2. the value 5 under k₂,
# 3. the value 4 under k₁.
#
# What does a read with q = k₁ return? There is no normaliser and no decay. Work it out on paper and write down the
# number.

# %% nbgrader={"grade": false, "grade_id": "solution_03_4", "locked": false, "schema_version": 3, "solution": true, "task": false}
### BEGIN SOLUTION
smeared = 1.0 * 10 + 0.6 * 5 + 1.0 * 4
### END SOLUTION

# %% tags=["check"] nbgrader={"grade": true, "grade_id": "check_03_4", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check("03.4", smeared)

# %% [markdown] tags=["explanation"]
# **Solution.** S = 10 k₁ᵀ + 5 k₂ᵀ + 4 k₁ᵀ, so S k₁ = 10 (k₁·k₁) + 5 (k₂·k₁) + 4 (k₁·k₁) = 10 + 3 + 4 = 17.
#
# Two things happen here that a dictionary would not do. The value under k₂ leaks into the read of k₁, in proportion
# to the overlap: the read is *smeared*. And the third write did not replace the first: a memory that only adds keeps
# the old value for ever. Orthogonal keys would end the first problem, but only K of them fit into K dimensions. Later
# chapters work on the second one: decay (04, 05) and the delta rule (08).
#
# *Common mistakes:* 14 (the leak is forgotten), 7 (the third write taken for an overwrite), 19 (overlaps forgotten).


# %%
def memory_says():
    k1, k2 = torch.tensor([1.0, 0.0]), torch.tensor([0.6, 0.8])
    S = torch.zeros(1, 1, 1, 2)
    for key, value in ((k1, 10.0), (k2, 5.0), (k1, 4.0)):
        S = write(S, key.view(1, 1, 2), torch.full((1, 1, 1), value))
    return f"Your prediction: {smeared}. Your own write and read say: {read(S, k1.view(1, 1, 2)).item():.1f}."


if smeared is not ...:  # predict first
    when_written(memory_says)

# %% [markdown]
# ## 03.5  How many times larger is the cache?
#
# *Count the bytes of a KV cache and of a linear attention's state, and divide. · 8 minutes · ●●○ · 1 point*
#
# Two models of 28 layers are about to answer the next token, after 32,768 tokens of context, for one sequence.
#
# - **Softmax attention** keeps a KV cache: 24 query heads share 4 key-value heads; keys and values are 128 wide and
#   stored in bfloat16.
# - **Linear attention** keeps its state: 10 heads, K = 128 features and V = 192 value entries, with the normaliser (a
#   1 appended to each v), stored in float32.
#
# How many times larger is the cache than the state? Both are counted in bytes, for all layers. Let Python do the
# arithmetic; four digits are enough.

# %% nbgrader={"grade": false, "grade_id": "solution_03_5", "locked": false, "schema_version": 3, "solution": true, "task": false}
### BEGIN SOLUTION
# layers, k and v, tokens, key-value heads, width, bytes
cache = 28 * 2 * 32_768 * 4 * 128 * 2
state = 28 * 10 * (192 + 1) * 128 * 4  # layers, heads, V + 1 rows, K columns, bytes
cache_over_state = cache / state
### END SOLUTION

# %% tags=["check"] nbgrader={"grade": true, "grade_id": "check_03_5", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check("03.5", cache_over_state)

# %% [markdown] tags=["explanation"]
# **Solution.** The cache keeps a key *and* a value of width 128 for each token, each key-value head and each layer, 2
# bytes a number: 28 · 2 · 32,768 · 4 · 128 · 2 = 1,879,048,192 bytes. The state keeps one (V + 1) × K table for each
# head and layer, 4 bytes a number: 28 · 10 · 193 · 128 · 4 = 27,668,480 bytes. The ratio is about 67.9.
#
# The layers cancel, the tokens do not: the cache grows with each of them, the state never does. After 32,768 / 67.9
# ≈ 482 tokens the two are equal. Below that, linear attention needs *more* memory.
#
# *Common mistakes:* the factor 2 for k and v; the query heads instead of the shared ones; one table for all heads;
# the row of the normaliser; bits for bytes on one side.

# %%
if isinstance(cache_over_state, (int, float)) and cache_over_state > 0:
    print(
        f"With your number, cache and state are equally large after {32_768 / cache_over_state:,.0f} tokens."
    )

# %% [markdown]
# ## 03.6  The recurrent form
#
# *Walk over time with one carried state: write, then read, at each token. · 12 minutes · ●●○ · 2 points*
#
# Now walk over a whole sequence with one state. At each token write first, then read:
#
# $$S_t = S_{t-1} + v_t\,k_t^\top, \qquad y_t = S_t\,q_t .$$
#
# Start from `state` if it is given, else from zeros. Your `write` and `read` may be used. There is no
# normaliser yet.


# %% nbgrader={"grade": false, "grade_id": "solution_03_6", "locked": false, "schema_version": 3, "solution": true, "task": false}
def fold(q, k, v, state=None):
    """The recurrent form: S_t = S_{t-1} + v_t k_tᵀ, then y_t = S_t q_t.

    q, k: (B, T, H, K), v: (B, T, H, V), state: S_0 (B, H, V, K), or None for zeros.
    Returns y (B, T, H, V) and the last state S_T (B, H, V, K).
    """
    ### BEGIN SOLUTION
    B, T, H, K = q.shape
    S = q.new_zeros(B, H, v.shape[-1], K) if state is None else state
    ys = []
    for t in range(T):
        S = write(S, k[:, t], v[:, t])
        ys.append(read(S, q[:, t]))
    return torch.stack(ys, dim=1), S
    ### END SOLUTION


# %% tags=["check"] nbgrader={"grade": true, "grade_id": "check_03_6", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("03.6", fold)

# %% [markdown] tags=["explanation"]
# **Solution.** The loop carries S from token to token. Memory is constant, work is proportional to T, and stopping
# anywhere loses nothing: S is all that the future needs to know of the past. So `fold` on a second half, started from
# the state after the first half, goes on as if there had been no cut. This is how a model decodes.
#
# The order matters. The token is written before it is read, so y_t contains v_t itself, with weight q_t·k_t. Causal
# softmax attention does the same on its diagonal.
#
# *Common mistakes:* reading before writing; forgetting the given state or adding it only at the end; stacking along
# the first axis; leaving a factor K^-1/2.

# %% [markdown]
# ## 03.7  The parallel form
#
# *Compute all reads at once from the T × T scores and a causal mask, without a state. · 12 minutes · ●●○ · 2 points*
#
# Put the sum S_t = Σ_{j≤t} v_j k_jᵀ into the read. What comes out needs no state:
#
# $$y_t = \sum_{j \le t} (q_t \cdot k_j)\, v_j .$$
#
# All pairs (t, j) can be computed at once, as in attention: scores, a causal mask, times the values. Only the softmax
# is missing. For all t at once: a loop over tokens gives the right numbers, but it is 03.6, and the check says so.


# %% nbgrader={"grade": false, "grade_id": "solution_03_7", "locked": false, "schema_version": 3, "solution": true, "task": false}
def all_pairs(q, k, v):
    """The parallel form: y_t = Σ_{j ≤ t} (q_t·k_j) v_j, for all t at once, without softmax and without scaling.

    q, k: (B, T, H, K), v: (B, T, H, V). Returns y (B, T, H, V).
    """
    ### BEGIN SOLUTION
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, ·)
    scores = (q @ k.mT).tril()  # (B, H, T, T)
    return (scores @ v).transpose(1, 2)
    ### END SOLUTION


# %% tags=["check"] nbgrader={"grade": true, "grade_id": "check_03_7", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("03.7", all_pairs)

# %% [markdown] tags=["explanation"]
# **Solution.** `@` works on the last two axes, so time is moved next to the width first. `tril()` keeps j ≤ t, the
# diagonal too. Without a softmax a masked score is simply 0; the -inf of usual attention is there for the exp.
#
# The brackets make all the difference. (Q Kᵀ) V builds a T × T matrix: T² K work, but every row at the same time. Q
# (Kᵀ V) would build a K × V table. The causal mask stands between the two and forbids moving the brackets for the
# whole sequence. That is why the recurrent form exists, and why 03.10 joins the two.
#
# *Common mistakes:* multiplying (B, T, H, K) with `@` directly, which lets the *heads* attend to each other and even
# has the right shape; `tril(-1)`; leaving in the softmax or its scaling.

# %% [markdown]
# A trick shows the weights that a function uses: take v as the identity matrix. Then y_t is the list of the weights
# of all tokens. Below, the left picture comes from your `fold`, the right one from your `all_pairs`. Row t is the
# token that reads. They should be the same picture, and white above the diagonal.


# %%
@when_written
def picture_of_weights():
    torch.manual_seed(0)
    T = 12
    q, k, v = (
        phi(torch.randn(1, T, 1, 4)),
        phi(torch.randn(1, T, 1, 4)),
        torch.eye(T).view(1, T, 1, T),
    )
    weights = fold(q, k, v)[0][0, :, 0], all_pairs(q, k, v)[0, :, 0]
    fig = make_subplots(1, 2, subplot_titles=["from your fold", "from your all_pairs"])
    for i, w in enumerate(weights):
        fig.add_heatmap(z=w, row=1, col=i + 1, coloraxis="coloraxis")
    fig.update_layout(
        template="seqlab",
        height=380,
        margin_t=90,
        coloraxis={"colorscale": WEIGHTS, "cmin": 0},
    )
    fig.update_yaxes(
        title_text="reading token t", autorange="reversed", col=1
    ).update_yaxes(autorange="reversed", col=2)
    fig.update_xaxes(title_text="stored token j")
    return fig.update_layout(title_text="Two forms, one matrix of weights")


# %% [markdown]
# ## 03.8  The normaliser is one more row of the state
#
# *Append a 1 to every v, run the unchanged recurrence, and divide by what the 1 became. · 8 minutes · ●●○ · 1 point*
#
# Softmax weights sum to 1. To get the same here, divide by the sum of the weights:
#
# $$y_t = \frac{\sum_{j \le t} (q_t \cdot k_j)\, v_j}{\sum_{j \le t} q_t \cdot k_j} .$$
#
# The sum below the line is what the recurrence would give for values that are all 1. So append a column of ones to v,
# run the recurrence once, and divide. `core.recurrent(q, k, v, state=state)` is `seqlab`'s own `fold`; use it or yours.
# It takes its state by name only. Features are positive here, so no eps is needed.


# %% nbgrader={"grade": false, "grade_id": "solution_03_8", "locked": false, "schema_version": 3, "solution": true, "task": false}
def normalised(q, k, v, state=None):
    """Linear attention with its normaliser: y_t = Σ_{j ≤ t} (q_t·k_j) v_j / Σ_{j ≤ t} q_t·k_j.

    v becomes [v, 1], with the 1 last, so the state has one row more; the last entry of each read is the normaliser.
    q, k: (B, T, H, K), positive, v: (B, T, H, V), state: (B, H, V + 1, K), or None for zeros.
    Returns y (B, T, H, V) and the last state (B, H, V + 1, K).
    """
    ### BEGIN SOLUTION
    ones = torch.ones_like(v[..., :1])
    y, S = core.recurrent(q, k, torch.cat([v, ones], dim=-1), state=state)
    return y[..., :-1] / y[..., -1:], S
    ### END SOLUTION


# %% tags=["check"] nbgrader={"grade": true, "grade_id": "check_03_8", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check("03.8", normalised)

# %% [markdown] tags=["explanation"]
# **Solution.** With v' = [v, 1] the last row of S_t is z_tᵀ = Σ_{j≤t} k_jᵀ, the sum of the keys, and the last entry
# of the read is z_t·q_t, the sum of the weights. The recurrence needs no change: every later form (chunks, kernels)
# gets the normaliser for nothing.
#
# The state keeps its extra row: the next call needs the old keys below the line as much as the old values above it.
# `y[..., -1:]` with the colon keeps the axis, so the division broadcasts.
#
# *Common mistakes:* dividing every token by the last normaliser, which lets the future in (03.9); dividing by the
# number of tokens; dropping the row from the returned state; forgetting to take the column away from y.


# %%
def row_sums():
    torch.manual_seed(0)
    q, k = phi(torch.randn(1, 6, 1, 4)), phi(torch.randn(1, 6, 1, 4))
    weights = normalised(q, k, torch.eye(6).view(1, 6, 1, 6))[0][0, :, 0]
    return "Your weights of each token sum to " + ", ".join(
        f"{w:.3f}" for w in weights.sum(-1).tolist()
    )


when_written(row_sums)

# %% [markdown]
# ### The code for the bug hunt
#
# The function below was written for the same formula, with the state split in two: the table S (B, H, V, K) and the
# sum of the keys z (B, H, K). The model trained with it had an excellent loss. Its answers, one token at a time, were
# poor. Someone looked at S and z after a long text: both were right to the last digit.


# %%
def stream_given(q, k, v, S, z):
    """Meant to be y_t = S_t q_t / z_t·q_t, with S_t = S_{t-1} + v_t k_tᵀ and z_t = z_{t-1} + k_t. It has two faults."""
    z = z + k.sum(dim=1)
    ys = []
    for t in range(q.shape[1]):
        y = einsum("bhvk,bhk->bhv", S, q[:, t])
        S = S + einsum("bhv,bhk->bhvk", v[:, t], k[:, t])
        ys.append(y / einsum("bhk,bhk->bh", z, q[:, t])[..., None])
    return torch.stack(ys, dim=1), S, z


def moved_by_the_last_key(stream):
    """For each token, whether y_t moves when only the last key becomes another one."""
    torch.manual_seed(0)
    q, k, v = torch.rand(1, 6, 1, 4), torch.rand(1, 6, 1, 4), torch.randn(1, 6, 1, 3)
    S, z = torch.ones(1, 1, 3, 4), torch.ones(1, 1, 4)
    k_other = torch.cat([k[:, :-1], 3 * k[:, -1:]], dim=1)
    moved = (stream(q, k, v, S, z)[0] - stream(q, k_other, v, S, z)[0]).abs().amax(
        (0, 2, 3)
    ) > 1e-6
    return f"Does y_t move when only the last key changes? {moved.tolist()}"


print(moved_by_the_last_key(stream_given))

# %% [markdown]
# ## 03.9  Bug hunt: the model that knew the future
#
# *Find and mend two faults in a normalised linear attention that leaves a perfect state behind. · 12 minutes · ●●○ · 2 points*
#
# Only the last y should have moved. Mend `stream_given`: write the right version into `stream`. You may copy it and
# change a few lines. This probe shows one of the two faults only: when the last y alone moves, the other may still be
# there. Ask then what the very first y is, if S and z start from zeros.


# %% nbgrader={"grade": false, "grade_id": "solution_03_9", "locked": false, "schema_version": 3, "solution": true, "task": false}
def stream(q, k, v, S, z):
    """Normalised linear attention, token by token: y_t = S_t q_t / z_t·q_t.

    S_t = S_{t-1} + v_t k_tᵀ and z_t = z_{t-1} + k_t, starting from the given S (B, H, V, K) and z (B, H, K).
    q, k: (B, T, H, K), positive, v: (B, T, H, V). Returns y (B, T, H, V), the last S and the last z.
    """
    ### BEGIN SOLUTION
    ys = []
    for t in range(q.shape[1]):
        S = S + einsum("bhv,bhk->bhvk", v[:, t], k[:, t])
        z = z + k[:, t]
        y = einsum("bhvk,bhk->bhv", S, q[:, t])
        ys.append(y / einsum("bhk,bhk->bh", z, q[:, t])[..., None])
    return torch.stack(ys, dim=1), S, z
    ### END SOLUTION


# %% tags=["check"] nbgrader={"grade": true, "grade_id": "check_03_9", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("03.9", stream)

# %% [markdown] tags=["explanation"]
# **Solution.** *Fault one:* z was summed over the whole sequence before the loop, so every y was divided by keys
# still to come. In training this leaks the future; in decoding, where T = 1, the sum holds one key only and the model
# meets numbers it never saw. *Fault two:* y was read from S before the token was written, while z held it already.
# The first token of an empty memory always read 0.
#
# Neither fault shows in the final S and z: both add up the same terms in the end. A test that looks only at the last
# state, or that chains two calls through it, passes. The test that finds both is the one for causality, and a
# comparison at T = 1.
#
# *Common mistakes:* adding k_t inside the loop and leaving the first line in, so that each key counts twice; moving
# the write of S but not that of z; starting z from zeros, which forgets earlier calls.

# %%
when_written(lambda: moved_by_the_last_key(stream))

# %% [markdown]
# ## 03.10  The chunkwise form
#
# *Join the two forms: pairs inside a chunk, the carried state for everything before it. · 25 minutes · ●●● · 3 points*
#
# `fold` does little work, but one token at a time. `all_pairs` does all tokens at once, but T² of work. The chunkwise
# form has the best of both: cut time into chunks of C tokens, use pairs inside a chunk, and the carried state for
# everything before it. For a token t of a chunk that begins at s,
#
# $$y_t = S_{s-1}\,q_t + \sum_{s \le j \le t} (q_t \cdot k_j)\, v_j , \qquad S_{s+C-1} = S_{s-1} + \sum_{j=s}^{s+C-1} v_j\,k_j^\top .$$
#
# T need not be a multiple of C: the last chunk may be shorter. There is no normaliser. The loop goes over chunks of
# `chunk_size` tokens, not over tokens, and no T × T matrix is built. The check counts on a long sequence. Your
# `all_pairs` may be used once 03.7 is right.


# %% nbgrader={"grade": false, "grade_id": "solution_03_10", "locked": false, "schema_version": 3, "solution": true, "task": false}
def chunked(q, k, v, state=None, chunk_size=4):
    """The chunkwise form: pairs inside a chunk of `chunk_size` tokens, the carried state for all before it.

    y_t = S q_t + Σ_{j ≤ t} (q_t·k_j) v_j, with S from before the chunk and j inside it; then S + Σ_j v_j k_jᵀ.
    q, k: (B, T, H, K), v: (B, T, H, V), state: S_0 (B, H, V, K), or None for zeros. T may be any length.
    Returns y (B, T, H, V) and the last state S_T (B, H, V, K).
    """
    ### BEGIN SOLUTION
    B, T, H, K = q.shape
    S = q.new_zeros(B, H, v.shape[-1], K) if state is None else state
    ys = []
    for t in range(0, T, chunk_size):
        q_c, k_c, v_c = (x[:, t : t + chunk_size] for x in (q, k, v))
        from_before = einsum("bhvk,bihk->bihv", S, q_c)
        ys.append(from_before + all_pairs(q_c, k_c, v_c))
        S = S + einsum("bjhv,bjhk->bhvk", v_c, k_c)
    return torch.cat(ys, dim=1), S
    ### END SOLUTION


# %% tags=["check"] nbgrader={"grade": true, "grade_id": "check_03_10", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check("03.10", chunked)

# %% [markdown] tags=["explanation"]
# **Solution.** Split the sum over j ≤ t at the beginning s of the chunk. The part before s is S_{s-1} q_t: the
# recurrent form, but one step for a whole chunk. The part from s on is the parallel form on C tokens. Then one matrix
# product writes the whole chunk into S.
#
# With C = 1 this is `fold`; with C = T it is `all_pairs`. In between, the work is about T (C + V) K instead of T² K,
# nearly all of it in matrix products, and there are only T / C steps that wait for each other. Every trained
# linear-attention model runs in this form, and so do the kernels of part V.
#
# *Common mistakes:* starting every chunk from the same state; updating S before the chunk has read it, which counts
# its tokens twice; leaving out the mask inside the chunk; `range(T // chunk_size)`, which drops the last tokens.

# %% [markdown]
# Three forms, one answer, three costs. The cell measures your own functions on this machine, with one head of width
# 64 and both axes logarithmic. Look at the slopes: `all_pairs` gets steep, because its work grows with T². The other
# two grow about as T does, and the chunks lie well below the loop.


# %% tags=["measured"]
def seconds(function):
    """The best of three runs, after one to warm up."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times[1:])


@when_written
def picture_of_times():
    lengths = [256, 512, 1024, 2048, 4096]
    forms = {
        "fold": (fold, COLORS["state"]),
        "all_pairs": (all_pairs, COLORS["attention"]),
        "chunked, C = 64": (
            lambda q, k, v: chunked(q, k, v, chunk_size=64),
            COLORS["q"],
        ),
    }
    lines = []
    for name, (form, colour) in forms.items():
        inputs = {T: torch.randn(3, 1, T, 1, 64) for T in lengths}
        ms = [1000 * seconds(lambda form=form, x=x: form(*x)) for x in inputs.values()]
        lines.append(
            go.Scatter(
                x=lengths, y=ms, name=name, mode="lines+markers", line_color=colour
            )
        )
    fig = figure(
        *lines,
        title="Chunks grow like the loop, at a fraction of its time",
        x="tokens T",
        y="milliseconds",
    )
    return fig.update_xaxes(type="log", tickvals=lengths).update_yaxes(
        type="log", dtick=1
    )


# %% [markdown]
# ## How far you are
#
# `progress()` lists every exercise of the course with your points. `seqlab grade 03` on the command line gives the
# mark.

# %%
progress()
