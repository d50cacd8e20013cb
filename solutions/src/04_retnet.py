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
# # Exercises 04 · RetNet
#
# Linear attention never forgets. RetNet gives each head one constant decay γ, and the rest follows from it: how long
# a pair is remembered, the mask D, a state that is carried from chunk to chunk. You write each of these parts. On the
# way you work out a half-life and mend a decoder that drifts. The last exercise joins the parts into the form that
# models are trained with.
#
# 9 exercises, 14 points, about 103 minutes. They go with the chapter `04_retnet`, and get harder towards the end.
# Each stands alone: you can skip one and come back. Only 04.9 joins the others; it may call your `decay_mask` (04.4),
# or do without.
#
# **How it works**
#
# - Replace `raise NotImplementedError(...)` with your code, or `...` with a number. Then run the cell and the check
#   under it.
# - `check("04.3", step)` says at once what is right. If something is wrong it says which mistake it is, where it can.
# - `hint("04.3")` opens one more of three hints: a direction, the key identity, nearly the code.
# - `show_solution("04.3")` explains the answer once you have tried. `progress()` shows what is done.
# - `seqlab start 04` copies this notebook into `work/`: open that copy and work there. No update ever touches it.
#   `seqlab grade 04` grades it.
#
# **Shapes.** Time comes first: q and k are (B, T, H, K), v is (B, T, H, V). The memory S is (B, H, V, K): a write is
# v kᵀ and a read is S q. K and V may differ. The decay `gamma` is (H,): one number between 0 and 1 for each head, the
# factor itself and not its logarithm.

# %%
import math
import time

import plotly.graph_objects as go
import torch
from einops import rearrange
from plotly.subplots import make_subplots

from seqlab.core import position
from seqlab.course import (  # noqa: F401 (hint and show_solution are for you to call)
    check,
    hint,
    progress,
    show_solution,
    when_written,
)
from seqlab.figures.theme import COLORS, LINES, WEIGHTS, figure

# %% [markdown]
# ## 04.1  The decays of H heads
#
# *Give each head its own memory span. · 4 minutes · ●○○ · 1 point*
#
# Each head h of RetNet keeps a share γ_h of its state at each token, and forgets the rest:
#
# $$γ_h = 1 - 2^{-5-h}, \qquad h = 0, 1, \dots, H - 1 .$$
#
# Return all of them.


# %% nbgrader={"grade": false, "grade_id": "solution_04_1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def decays(n_heads):
    """The decay of each head: γ_h = 1 - 2^(-5-h) for h = 0 .. n_heads - 1, as a tensor (n_heads,)."""
    ### BEGIN SOLUTION
    h = torch.arange(n_heads)
    return 1 - 2.0 ** (-5 - h)
    ### END SOLUTION


# %% tags=["check"] nbgrader={"grade": true, "grade_id": "check_04_1", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check("04.1", decays)

# %% [markdown] tags=["explanation"]
# **Solution.** A head that keeps a share γ per token loses 1 - γ. Here 1 - γ halves from head to head: 1/32, 1/64,
# 1/128, … So each head remembers about twice as long as the one before it, and eight heads cover half-lives from tens
# to thousands of tokens. This is what "multi-scale" means. None of the decays is learned.
#
# *Common mistakes:* Counting h from 1 shifts every span by a factor of 2. Without the minus in the exponent, γ is
# negative, and the sign of the state flips at each token. Some code spreads the heads between 1/32 and 1/512 whatever
# their number; that is another choice, not the one of the paper.

# %% [markdown]
# ## 04.2  The half-life of a memory
#
# *Turn a decay into a length in tokens. · 5 minutes · ●○○ · 1 point*
#
# A pair is written into head h = 2, whose decay is γ = 1 - 2⁻⁷. Nothing else is written. After how many tokens does
# it weigh half of what it weighed when it was written? Give a number that is right to within 0.1 token. It need not
# be whole.

# %% nbgrader={"grade": false, "grade_id": "solution_04_2", "locked": false, "schema_version": 3, "solution": true, "task": false}
### BEGIN SOLUTION
half_life = math.log(0.5) / math.log(1 - 2**-7)
### END SOLUTION

# %% tags=["check"] nbgrader={"grade": true, "grade_id": "check_04_2", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check("04.2", half_life)

# %% [markdown] tags=["explanation"]
# **Solution.** After n tokens the pair weighs γⁿ. Set γⁿ = ½ and take logarithms: n ln γ = ln ½, so n = ln ½ / ln γ.
# Both logarithms are negative and their quotient is positive. Any base will do, as long as it is the same in both.
#
# *Common mistakes:* 1 / (1 - γ) is the time constant: after so many tokens the weight is 1/e, not ½. ln 2 / (1 - γ)
# uses ln γ ≈ γ - 1, which is good for γ near 1 and here already off by more than 0.3 tokens. 0.5 / (1 - γ) takes away
# the same amount at each token; a decay takes away the same share of what is left.

# %% [markdown]
# The picture takes your `decays` and shows how a pair fades in four heads. Follow the dotted line: each head reaches
# one half about twice as far out as the one before it. The mark is your `half_life`; it should lie where the line of
# h = 2 crosses.


# %%
@when_written
def picture_of_fading():
    n = torch.arange(401)
    lines = [
        go.Scatter(x=n, y=gamma**n, name=f"h = {h}", line_color=LINES[h])
        for h, gamma in enumerate(decays(4).tolist())
    ]
    fig = figure(
        *lines,
        title="Each head remembers about twice as long as the one before",
        x="tokens since the write",
    )
    fig.add_hline(y=0.5, line={"dash": "dot", "color": COLORS["softmax"]})
    if isinstance(half_life, (int, float)):
        fig.add_scatter(
            x=[half_life],
            y=[0.5],
            name="your half-life",
            mode="markers",
            marker={"size": 12, "symbol": "x", "color": COLORS["softmax"]},
        )
    return fig.update_yaxes(title_text="weight of the pair", range=[0, 1.02])


# %% [markdown]
# ## 04.3  One token with decay
#
# *Add forgetting to the linear-attention step. · 8 minutes · ●○○ · 1 point*
#
# One token arrives. Decay the state, write the new pair, then read:
#
# $$S_t = γ\,S_{t-1} + v\,k^\top, \qquad y = S_t\,q .$$
#
# This is one token, so there is no time axis. Return a new S and leave the one you were given as it is.


# %% nbgrader={"grade": false, "grade_id": "solution_04_3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def step(S, q, k, v, gamma):
    """One token of retention: S_t = γ S_{t-1} + v kᵀ, then y = S_t q, in each head of each sequence.

    S (B, H, V, K), q and k (B, H, K), v (B, H, V), gamma (H,). Returns (y, S_t), y (B, H, V), S_t (B, H, V, K).
    """
    ### BEGIN SOLUTION
    S = gamma[:, None, None] * S + v[..., :, None] * k[..., None, :]
    y = torch.einsum("bhvk, bhk -> bhv", S, q)
    return y, S
    ### END SOLUTION


# %% tags=["check"] nbgrader={"grade": true, "grade_id": "check_04_3", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check("04.3", step)

# %% [markdown] tags=["explanation"]
# **Solution.** Only one factor is new against linear attention. The old state is decayed before the write, so a pair
# written m tokens ago has met γ exactly m times. The pair of this token has met it 0 times: it weighs 1, and the read
# sees it.
#
# *Common mistakes:* γ (S + v kᵀ) decays the new pair too, so every weight has one power of γ too many. (1 - γ) v kᵀ
# is a moving average; retention adds the write whole. `gamma * S` without new axes lines H up with K: it fails where
# the two differ, and is silently wrong where they are equal. `S *= ...` changes the state of whoever called the
# function.

# %% [markdown]
# ## 04.4  The decay mask
#
# *Write all decays between all pairs of tokens at once, without overflow. · 12 minutes · ●●○ · 2 points*
#
# Unfold the recurrence: token i reads the pair of token j with a weight that depends on their distance. The mask D
# holds all these weights:
#
# $$D_{ij} = γ^{\,i-j} \ \text{ where } j \le i, \qquad D_{ij} = 0 \ \text{ where } j > i .$$
#
# γ^(i-j) can be had as a product, γ^i · γ^(-j). Do not use it: with γ = 0.001 and j = 13 the second factor is 10³⁹,
# more than float32 can hold. Take the difference first, mask it with -inf where j > i, and then take exp: D_ij =
# exp((i - j) ln γ).
#
# The order matters although a mask at the end gives the same D: later chapters learn the decay, so the check also asks
# for the gradient of γ.


# %% nbgrader={"grade": false, "grade_id": "solution_04_4", "locked": false, "schema_version": 3, "solution": true, "task": false}
def decay_mask(gamma, T):
    """The decay mask D (H, T, T): D_ij = γ^(i-j) where j ≤ i, and 0 where j > i.

    D and its gradient in gamma are finite for every γ in (0, 1].

    gamma (H,), T an int. Row i is the token that reads, column j the token that is read.
    """
    ### BEGIN SOLUTION
    n = torch.arange(T)
    distance = n[:, None] - n  # (T, T)
    logs = distance * gamma.log()[:, None, None]  # (H, T, T)
    return logs.masked_fill(distance < 0, -torch.inf).exp()
    ### END SOLUTION


# %% tags=["check"] nbgrader={"grade": true, "grade_id": "check_04_4", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("04.4", decay_mask)

# %% [markdown] tags=["explanation"]
# **Solution.** D depends on the distance i - j alone. Its diagonal is 1: a token reads its own pair undecayed. Below
# it the weights fall by γ from one diagonal to the next. exp(-inf) is exactly 0, so the future is closed, and every
# exponent that is left is at most 0, so nothing can overflow.
#
# **Why not the product.** On paper γ^i · γ^(-j) is the same number. In float32 it is 0 · inf = nan as soon as the
# decay is strong or the text is long. Take differences of logarithms *before* exp: every later chapter that decays a
# state needs this rule again.
#
# **Why not mask at the end.** `exp(...).tril()` holds the right numbers: inf stood above the diagonal, and 0 replaced
# it. But the gradient goes back through the exponential, whose derivative there is inf. The mask sends it 0, and 0 · inf
# is nan. With -inf *before* exp the derivative is exp(-inf) = 0.
#
# *Common mistakes:* Filling in 0 *before* exp puts 1 above the diagonal. Masking with `distance <= 0` hides the token
# from itself. Swapping rows and columns gives a mask that reads only the future.

# %% [markdown]
# The picture shows your D for a strong and a weak decay. Both are white above the diagonal. A row is what one token
# reads: the strong decay leaves a narrow band, the weak one reaches far back.


# %%
@when_written
def picture_of_mask():
    gammas = torch.tensor([0.7, 1 - 2**-5])
    fig = make_subplots(
        1, 2, subplot_titles=["γ = 0.7", "γ = 1 - 2⁻⁵, RetNet's first head"]
    )
    for i, D in enumerate(decay_mask(gammas, 24)):
        fig.add_heatmap(z=D, row=1, col=i + 1, coloraxis="coloraxis")
    fig.update_layout(
        template="seqlab",
        height=380,
        margin_t=90,
        coloraxis={"colorscale": WEIGHTS, "cmin": 0, "cmax": 1},
    )
    fig.update_yaxes(autorange="reversed").update_yaxes(
        title_text="reading token i", col=1
    )
    fig.update_xaxes(title_text="stored token j")
    return fig.update_layout(title_text="A stronger decay is a narrower band")


# %% [markdown]
# ## 04.5  Retention, all pairs at once
#
# *Read retention as attention with D in the place of the softmax. · 8 minutes · ●○○ · 1 point*
#
# With D the whole of retention is one line for each head:
#
# $$Y = (Q\,K^\top \odot D)\,V .$$
#
# ⊙ multiplies entry by entry. D is given, so this does not depend on your answer to 04.4.


# %% nbgrader={"grade": false, "grade_id": "solution_04_5", "locked": false, "schema_version": 3, "solution": true, "task": false}
def parallel(q, k, v, D):
    """Retention by pairs: y_i = Σ_j D_ij (q_i · k_j) v_j, or y = (Q Kᵀ ⊙ D) V for each head. No softmax, no 1/√K.

    q, k (B, T, H, K), v (B, T, H, V), D (H, T, T). Returns y (B, T, H, V).
    """
    ### BEGIN SOLUTION
    scores = torch.einsum("bihk, bjhk -> bhij", q, k)  # (B, H, T, T)
    return torch.einsum("bhij, bjhv -> bihv", scores * D, v)
    ### END SOLUTION


# %% tags=["check"] nbgrader={"grade": true, "grade_id": "check_04_5", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check("04.5", parallel)

# %% [markdown] tags=["explanation"]
# **Solution.** y_i = S_i q_i, and S_i = Σ_{j≤i} γ^(i-j) v_j k_jᵀ. Put one into the other: y_i = Σ_j γ^(i-j) (k_j·q_i)
# v_j. This is attention in which D stands where the softmax was. D is the causal mask as well, because it is 0 above
# the diagonal.
#
# **What it costs.** The scores have T² entries for each head. In exchange there is no loop over time: a few matrix
# products do everything. The state has vanished, and with it the cheap decoding. 04.9 gets both.
#
# *Common mistakes:* A softmax, a division by the row sums, or a 1/√K: none belongs here (the layer scales k before).
# Adding D to the scores, as one adds a bias or a -inf mask before a softmax. q and k swapped, which transposes the
# scores.

# %% [markdown]
# ## 04.6  Norm each head alone
#
# *See what the paper's GroupNorm divides by. · 6 minutes · ●○○ · 1 point*
#
# A head that forgets slowly adds up more pairs, so its y is larger. Before the heads are joined, RetNet brings each
# to size 1. The paper calls it GroupNorm; what its code computes is a root-mean-square norm of each head, without
# weights:
#
# $$\frac{y}{\sqrt{\tfrac{1}{V} \sum_v y_v^2 + ε}} .$$


# %% nbgrader={"grade": false, "grade_id": "solution_04_6", "locked": false, "schema_version": 3, "solution": true, "task": false}
def head_norm(y, eps):
    """Divide each head of each token by its root mean square: y / sqrt(mean(y²) + eps), the mean over the V channels.

    y (B, T, H, V), eps a float. Returns (B, T, H, V).
    """
    ### BEGIN SOLUTION
    return y * torch.rsqrt(y.square().mean(dim=-1, keepdim=True) + eps)
    ### END SOLUTION


# %% tags=["check"] nbgrader={"grade": true, "grade_id": "check_04_6", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check("04.6", head_norm)

# %% [markdown] tags=["explanation"]
# **Solution.** One mean for each (sequence, token, head). Any positive factor on a head cancels (up to eps). So the
# rescalings that the paper adds to the parallel form for the sake of numbers change nothing, and this course leaves
# them out.
#
# *Common mistakes:* One mean over all heads and channels lets the head with the longest memory drown the others: this
# is the thing the norm is there to prevent. Subtracting the mean makes it a LayerNorm. Summing the squares makes y √V
# times too small. eps belongs under the root, where it keeps a token of zeros at 0 instead of nan.

# %% [markdown]
# ## 04.7  Turn a query by its position
#
# *Make a dot product depend on distance, as RetNet does it. · 15 minutes · ●●○ · 2 points*
#
# A decay knows how far away a pair is, not in which direction of the key it lies. RetNet also turns q and k by their
# position, so that q_i · k_j depends on i - j. Channels (0, 1) are a pair, (2, 3) the next, and so on. Pair p turns
# by θ_p per position.
#
# The first token of x is at position `start`, which is more than 0 when a text arrives in parts.


# %% nbgrader={"grade": false, "grade_id": "solution_04_7", "locked": false, "schema_version": 3, "solution": true, "task": false}
def rotate(x, start):
    """Turn channels (2p, 2p + 1) of the token at position n by the angle φ = n θ_p, with θ_p = 10000^(-p / (K/2 - 1)).

    (a, b) becomes (a cos φ - b sin φ, b cos φ + a sin φ), for p = 0 .. K/2 - 1. So θ runs from 1 to 1/10000, both included.
    x (B, T, H, K) with K even and at least 4; token t has position n = start + t. Returns (B, T, H, K).
    """
    ### BEGIN SOLUTION
    T, K = x.shape[1], x.shape[-1]
    theta = 10000 ** -torch.linspace(0, 1, K // 2)
    # (T, 1, K/2): one for all heads
    angle = (torch.arange(start, start + T)[:, None] * theta)[:, None]
    cos, sin = angle.cos(), angle.sin()
    a, b = x[..., 0::2], x[..., 1::2]
    return rearrange(
        [a * cos - b * sin, b * cos + a * sin], "two b t h p -> b t h (p two)"
    )
    ### END SOLUTION


# %% tags=["check"] nbgrader={"grade": true, "grade_id": "check_04_7", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("04.7", rotate)

# %% [markdown] tags=["explanation"]
# **Solution.** A rotation keeps lengths, and the dot product of two turned pairs depends on the difference of their
# angles alone: (i - j) θ. Each token is turned by its own absolute position, yet what is read is relative. Fast pairs
# tell neighbours apart, slow ones tell far from near.
#
# **Where RetNet differs.** Llama pairs channels (p, p + K/2) and takes θ_p = 10000^(-2p/K), which stops short of
# 1/10000. RetNet pairs neighbours and includes the end. Weights trained with one do not work with the other, and
# nothing raises an error. xPos, on which the paper builds, also scales q and k by their positions, so that distant
# pairs count less. In RetNet γ does this, and the scales are not applied again.
#
# *Common mistakes:* Overwriting a before b has used it. Putting the pairs back as two halves. Leaving out `start`:
# the text read in parts then differs from the text read at once.

# %% [markdown]
# ## 04.8  Bug hunt: a decoder that drifts
#
# *Find what is wrong in code that runs, from how its answers differ. · 15 minutes · ●●○ · 2 points*
#
# This decoder takes tokens one by one, turns q and k by their position, and carries S. `start` is the position of the
# first token of a call. It runs, its shapes are right, and it has **two bugs**. Run the cell below: it shows three
# symptoms. The first two lines should hold a 1 for each of the two heads, the third a 0 for each of the eight tokens.
# Then write the right version into `mended`. You may copy the code and change a few lines.


# %%
def suspect(q, k, v, gamma, S, start):
    theta = position.rope_frequencies(q.shape[-1], inclusive=True)
    ys = []
    for t in range(q.shape[1]):
        here = torch.tensor([t])
        q_t, k_t = (
            position.rotate(x[:, t : t + 1], here, theta, interleaved=True)[:, 0]
            for x in (q, k)
        )
        S = S + v[:, t, :, :, None] * k_t[..., None, :]
        S = gamma[:, None, None] * S
        ys.append(torch.einsum("bhvk, bhk -> bhv", S, q_t))
    return torch.stack(ys, dim=1), S


def symptoms(decoder):
    """One token from an empty state: its y and its S. Then one text fed at once and in two parts."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 8, 2, 4)
    gamma, empty = torch.tensor([0.5, 0.9]), torch.zeros(1, 2, 4, 4)
    one, S = decoder(q[:, :1], k[:, :1], v[:, :1], gamma, empty, 0)
    factor = one / ((q * k).sum(-1, keepdim=True) * v)[:, :1]
    # position 0 turns nothing
    written = S / (v[:, 0, :, :, None] * k[:, 0, :, None, :])
    whole, _ = decoder(q, k, v, gamma, empty, 0)
    first, S = decoder(q[:, :5], k[:, :5], v[:, :5], gamma, empty, 0)
    second, _ = decoder(q[:, 5:], k[:, 5:], v[:, 5:], gamma, S, 5)
    gap = (torch.cat([first, second], dim=1) - whole).abs().amax(dim=(0, 2, 3))
    print(
        "one token, empty state: y is (k·q) v times",
        [round(x, 3) for x in factor[0, 0, :, 0].tolist()],
    )
    print(
        "one token, empty state: S is v kᵀ times",
        [round(x, 3) for x in written[0, :, 0, 0].tolist()],
    )
    print(
        "a text of 8 tokens in two parts, differs from the whole by",
        [round(x, 2) for x in gap.tolist()],
    )


symptoms(suspect)


# %% nbgrader={"grade": false, "grade_id": "solution_04_8", "locked": false, "schema_version": 3, "solution": true, "task": false}
def mended(q, k, v, gamma, S, start):
    """Retention token by token, with q and k turned by their position: S ← γ S + v kᵀ, then y = S q.

    q, k (B, T, H, K), v (B, T, H, V), gamma (H,). S (B, H, V, K) is the state before the first token of this call, and
    start the position of that token: token t has position start + t. Returns (y, S), y (B, T, H, V), S after the last token.
    """
    ### BEGIN SOLUTION
    theta = position.rope_frequencies(q.shape[-1], inclusive=True)
    ys = []
    for t in range(q.shape[1]):
        here = torch.tensor([start + t])
        q_t, k_t = (
            position.rotate(x[:, t : t + 1], here, theta, interleaved=True)[:, 0]
            for x in (q, k)
        )
        S = gamma[:, None, None] * S
        S = S + v[:, t, :, :, None] * k_t[..., None, :]
        ys.append(torch.einsum("bhvk, bhk -> bhv", S, q_t))
    return torch.stack(ys, dim=1), S
    ### END SOLUTION


# %% tags=["check"] nbgrader={"grade": true, "grade_id": "check_04_8", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("04.8", mended)

# %% [markdown] tags=["explanation"]
# **The first bug** is the order. γ came after the write, so the new pair was decayed too. With one token and an empty
# state y must be (k·q) v, whatever γ is. From an empty state the bug multiplies every y of a head by γ, and the
# per-head norm divides that out again: a model can train with it and nobody sees it. It comes to light when the state
# goes to code that decays in the right order, such as a chunkwise kernel.
#
# **The second bug** is the position. It was t, counted anew in each call, but keys already in S were turned by where
# they stood in the whole text. Fed at once, a text gives the right distances. Fed in parts, q and the old keys are
# off by `start`. Nothing fails; the model merely gets worse after the prompt.
#
# **How to find such bugs.** Two questions find most of them. What must one token give, from an empty state? And do
# two parts with the state carried over equal the whole?
#
# *Common mistakes:* Adding start to q and forgetting k. Moving the read instead of the decay: then y looks right from
# an empty state and in two parts, but the S that is handed over has been decayed once too often: the second line shows
# it.

# %%
when_written(lambda: symptoms(mended))

# %% [markdown]
# ## 04.9  Chunkwise retention with a carried state
#
# *Write the form that models are trained with: pairs inside a chunk, a state between chunks. · 30 minutes · ●●● · 3 points*
#
# Training wants few steps and no T² work. Cut the text into chunks of `chunk_size` tokens. Inside a chunk use all
# pairs, as in 04.5; carry a state from chunk to chunk, as in 04.3. Three powers of γ join the two, and it pays to
# draw a time line first.
#
# In a chunk of n tokens, with i and j counted from 0 *in that chunk*, and S the state before it:
#
# - token i reads the pairs inside, weighted by γ^(i-j), and the state, weighted by γ^(i+1);
# - then S becomes γⁿ S plus each write of the chunk, weighted by γ^(n-1-j).
#
# The last chunk may be shorter than `chunk_size`. The answer must not depend on `chunk_size`, but loop over chunks: a
# loop over tokens gives the right numbers and misses the point, and so does one chunk of all T tokens. The check counts.


# %% nbgrader={"grade": false, "grade_id": "solution_04_9", "locked": false, "schema_version": 3, "solution": true, "task": false}
def chunkwise(q, k, v, gamma, state=None, chunk_size=64):
    """Retention, chunk by chunk. For a chunk of n tokens, with S the state before it and i, j = 0 .. n - 1 inside it:

        y_i = Σ_{j≤i} γ^(i-j) (q_i · k_j) v_j + γ^(i+1) S q_i        S ← γⁿ S + Σ_j γ^(n-1-j) v_j k_jᵀ

    q, k (B, T, H, K), v (B, T, H, V), gamma (H,), state (B, H, V, K) or None for zeros. T need not be a multiple of
    chunk_size. Returns (y, S), y (B, T, H, V), S (B, H, V, K) after the last token.
    """
    ### BEGIN SOLUTION
    q, k, v = (rearrange(x, "b t h d -> b h t d") for x in (q, k, v))
    B, H, T, K = q.shape
    S = q.new_zeros(B, H, v.shape[-1], K) if state is None else state
    log_gamma = gamma.log()[:, None]  # (H, 1)
    ys = []
    for t in range(0, T, chunk_size):
        qc, kc, vc = (x[:, :, t : t + chunk_size] for x in (q, k, v))
        n = qc.shape[2]
        i = torch.arange(n)
        distance = i[:, None] - i
        # (H, n, n)
        D = (
            (distance * log_gamma[..., None])
            .masked_fill(distance < 0, -torch.inf)
            .exp()
        )
        since_start = ((i + 1) * log_gamma).exp()[..., None]  # (H, n, 1)
        to_end = ((n - 1 - i) * log_gamma).exp()[..., None]
        ys.append((qc @ kc.mT * D) @ vc + since_start * (qc @ S.mT))
        S = since_start[:, -1:] * S + vc.mT @ (to_end * kc)
    return rearrange(torch.cat(ys, dim=2), "b h t v -> b t h v"), S
    ### END SOLUTION


# %% tags=["check"] nbgrader={"grade": true, "grade_id": "check_04_9", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check("04.9", chunkwise)

# %% [markdown] tags=["explanation"]
# **Solution.** Count the decays between a write and its read. From token j to token i of one chunk there are i - j.
# The state S belongs to the moment just before token 0; token 0 decays it once before it reads, so token i has i + 1.
# A write of token j decays at tokens j + 1, …, n - 1: n - 1 - j times. The old state decays at all n tokens. The
# pieces must fit: a write in the last place of a chunk (γ⁰) that is read first in the next (γ¹) has met one decay, as
# it should.
#
# **What it costs.** Each chunk builds C² scores, and there are T/C chunks: T·C in all, not T². With chunk_size = 1
# this is the recurrent form, and with chunk_size = T the parallel one.
#
# *Common mistakes:* γ^i on the read and γ^(n-j) on the writes, each off by one. γ instead of γⁿ on the state.
# chunk_size where n belongs, which shows only when the last chunk is short. Computing S before y, so that the chunk
# reads its own writes twice. γ^i · γ^(-j) for D, which is right for mild decays and nan for strong ones.

# %% [markdown]
# The cell measures your own function on this machine, for 2,048 tokens and chunks of different size. The answer is
# the same for all of them. Small chunks pay for many turns of the loop, large ones for pairs; the lowest point lies
# in between.


# %% tags=["measured"]
@when_written
def picture_of_chunk_sizes():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2048, 4, 32)
    sizes, ms = [1, 4, 16, 64, 256, 1024, 2048], []
    for C in sizes:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            chunkwise(q, k, v, torch.full((4,), 0.97), None, C)
            times.append(time.perf_counter() - start)
        ms.append(1000 * min(times))
    line = go.Scatter(x=sizes, y=ms, mode="lines+markers", line_color=COLORS["q"])
    fig = figure(
        line,
        title="Chunks neither too short nor too long are the fastest",
        x="chunk_size",
        y="ms",
    )
    return fig.update_xaxes(type="log", tickvals=sizes, ticktext=sizes).update_yaxes(
        type="log", dtick=1, title_text="ms"
    )


# %% [markdown]
# ## How far you are
#
# `progress()` lists every exercise of the course with your points. `seqlab grade 04` on the command line gives the
# mark.

# %%
progress()
