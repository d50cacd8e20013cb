# %% [markdown]
# # Exercises 09 · RWKV
#
# You write the token shift of packed texts, RWKV-4's step with two numbers, all units at once, RWKV-5's matrix, RWKV-6's half-lives and RWKV-7's step, and you mend a published loop.
# The project turns a head of RWKV-7 into a small machine.
#
# {count} exercises, {points} points, about {minutes} minutes. They go with the chapter `09_rwkv`, and get harder towards the end.
# Each stands alone: you can skip one and come back.
#
# {how 09.1}
#
# **Names.** w is a (negative) logarithm of a decay in RWKV-4, and the decay itself in RWKV-7; u is the bonus; m is the unit of the sums p and q; S is the table of a head, (V, K).

# %%
import math

import plotly.graph_objects as go
import torch
import torch.nn.functional as F

from seqlab.course import (
    check,
    hint,
    open_question,
    predict,
    progress,
    show_solution,
    when_written,
)
from seqlab.figures import attention_matrix
from seqlab.figures.theme import COLORS, figure

# %% [markdown] tags=["exercise"]
# shift

# %% [markdown] tags=["exercise"]
# half_life

# %% [markdown] tags=["exercise"]
# bonus

# %% [markdown] tags=["exercise"]
# finch_decay

# %% [markdown] tags=["exercise"]
# two_numbers

# %% [markdown]
# The picture runs your `two_numbers` over a text with one loud token. It is the input that broke the copied loop of the chapter.


# %%
@when_written
def picture_of_two_numbers():
    w, u = torch.tensor([-0.5]), torch.tensor([0.0])
    mean, L = torch.zeros(1, 1), torch.full((1, 1), -torch.inf)
    ys = []
    for t in range(300):
        k = torch.full((1, 1), 110.0 if t == 0 else 0.0)
        v = torch.full((1, 1), 5.0 if t == 0 else 0.0)
        y, mean, L = two_numbers(w, u, k, v, mean, L)
        ys.append(y.item())
    return figure(
        go.Scatter(y=ys, name="y", line_color=COLORS["state"]),
        title="The loud token is forgotten when it is as light as the others",
        x="token",
        y="read",
    )


# %% [markdown] tags=["exercise"]
# peaks

# %% [markdown] tags=["exercise"]
# all_at_once

# %% [markdown]
# Which weight is the largest in each row of W? The picture shows W for random tokens, found with your `all_at_once` by values that name the tokens.


# %%
@when_written
def picture_of_W():
    rng = torch.Generator().manual_seed(1)
    q, k = torch.rand(2, 12, 4, generator=rng)
    a, u = torch.full((4,), 0.7), torch.full((4,), 0.3)
    W = all_at_once(q, k, torch.eye(12), a, u)
    return attention_matrix(
        W, title="The token before weighs more than the token itself"
    )


# %% [markdown] tags=["exercise"]
# goose_step

# %% [markdown]
# A head of RWKV-7 writes a pair, and then ten other pairs under keys with a cosine to the first. How much of the first value is left? Say first what you expect.


# %% tags=["measured"]
def left_after(cosine, a=1.0, tokens=10, K=64):
    """What the first key still returns of its value, the mean over 50 draws."""
    rng = torch.Generator().manual_seed(0)
    first = torch.nn.functional.one_hot(torch.tensor(0), K).double()
    share = torch.ones(50, dtype=torch.double)
    for draw in range(50):
        row = first.clone()  # k_1ᵀ G_2 … G_t
        for _ in range(tokens):
            other = torch.randn(K, generator=rng).double()
            other[0] = 0
            other = cosine * first + (1 - cosine**2) ** 0.5 * other / other.norm()
            row = row - (row @ other) * a * other
        share[draw] = row @ first
    return share.mean().item()


def picture_of_overlap():
    cosines = [i / 20 for i in range(20)]
    lines = [
        go.Scatter(
            x=cosines,
            y=[round(left_after(c, a), 3) for c in cosines],
            name=f"a = {a:g}",
            line={"dash": dash},
        )
        for a, dash in ((1.0, "solid"), (0.5, "dash"), (0.1, "dot"))
    ]
    return figure(
        *lines,
        title=f"At a cosine of 0.3 and a = 1 ten tokens leave {left_after(0.3):.0%}",
        x="cosine of each later key with the first",
        y="left of the first value",
    )


predict(
    "09-overlap",
    "Ten later tokens erase with a = 1 under keys that have a cosine of 0.3 with the first. Which share (0 to 1) of the first value is left?",
    picture_of_overlap,
)

# %% [markdown]
# One such token takes the share 0.3² = 0.09. Ten of them would leave 0.91¹⁰ = 0.39 if each took its share of what the one before left, and the measured number is near that. (Not exactly: what an erasing leaves is no longer along the first key.)
# Erasing under keys that are not at right angles costs the others, and the smaller a is, the less.

# %% [markdown] tags=["heading"]
# mended


# %%
def suspect(w, u, k, v, state):
    zeros = torch.zeros_like(k[0])
    p, q, m = (zeros, zeros, zeros) if state is None else state
    ys = []
    for k_t, v_t in zip(k, v, strict=True):
        top = torch.maximum(m + w, u + k_t)
        old, new = torch.exp(m + w - top), torch.exp(u + k_t - top)
        ys.append((old * p + new * v_t) / (old * q + new))
        top = torch.maximum(m + w, k_t)
        old, new = torch.exp(m + w - top), torch.exp(k_t - top)
        p = old * p + new * v_t
        q = old * q + new
        m = top
    return torch.stack(ys), p, q, m


def symptoms_of(loop):
    w, u = torch.tensor([-3.0]), torch.tensor([0.0])
    v = torch.tensor([[1.0], [0.0]])
    y = loop(w, u, torch.zeros(2, 1), v, None)[0]
    print(
        f"two tokens of equal weight, values 1 and 0: {y[1].item():.3f}; should be 0.5"
    )
    quiet = loop(w, u, torch.full((2, 1), -110.0), v, None)[0]
    print(f"the same with all keys at -110: {quiet[1].item():.3f}; should be 0.5")


symptoms_of(suspect)

# %% [markdown] tags=["exercise"]
# mended

# %%
when_written(lambda: symptoms_of(mended))

# %% [markdown] tags=["exercise"]
# registers

# %% [markdown] tags=["question"]
# cannot

# %% [markdown]
# ## How far you are
#
# `progress()` lists every exercise of the course with your points. `seqlab grade 09` on the command line gives the
# mark.

# %%
progress()
