# %% [markdown]
# # Exercises 05 · Gates
#
# You write the parts of gated memories: a logarithm that does not overflow, one step of GLA, HGRN-2's tied write, rows that fade, a gate that turns. You
# mend a parallel form whose gradient explodes, and write the chunkwise one that models are trained with. The project is a memory designed by hand.
#
# {count} exercises, {points} points, about {minutes} minutes. They go with the chapter `05_gates`, and get harder towards the end.
# Each stands alone: you can skip one and come back.
#
# {how 05.3}
#
# **Shapes.** Time comes first: q and k are (B, T, H, K), v is (B, T, H, V). The memory S is (B, H, V, K): a write is
# v kᵀ and a read is S q. A gate is given by its logarithm `log_a`, at most 0.

# %%
import math
import time

import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from einops import rearrange

from seqlab.course import (
    check,
    hint,
    open_question,
    predict,
    progress,
    show_solution,
    when_written,
)
from seqlab.figures import bars
from seqlab.figures.theme import COLORS, LINES, figure

torch.set_num_threads(1)  # one thread keeps the timings steady

# %% [markdown] tags=["exercise"]
# log_gate

# %% [markdown] tags=["exercise"]
# half_life

# %% [markdown]
# The picture takes your `log_gate` and marks your `half_life`. A bias is a strong dial: each step of 1 to the right multiplies the half-life by nearly 3.


# %%
@when_written
def picture_of_half_lives():
    z = torch.linspace(-2, 6, 81)
    lines = []
    for i, tau in enumerate((1, 8, 16)):
        lives = math.log(0.5) / log_gate(z[None, :, None], tau)[0, :, 0]
        lines.append(
            go.Scatter(
                x=z.tolist(), y=lives.tolist(), name=f"τ = {tau}", line_color=LINES[i]
            )
        )
    mark = go.Scatter(
        x=[3],
        y=[half_life],
        name="your half_life",
        mode="markers",
        marker={"size": 12, "color": COLORS["write"]},
    )
    fig = figure(
        *lines,
        mark,
        title="The half-life of a gate grows like eᶻ",
        x="z",
        y="half-life in tokens (log scale)",
    )
    return fig.update_yaxes(type="log", dtick=1)


# %% [markdown] tags=["exercise"]
# step

# %% [markdown] tags=["exercise"]
# tied

# %% [markdown] tags=["exercise"]
# fast_weights

# %% [markdown] tags=["exercise"]
# turn

# %% [markdown]
# The picture lets your `turn` run over 60 tokens of which only the first writes. Each column reads back a fading wave of its own.


# %%
@when_written
def picture_of_turns():
    K = 3
    re = im = torch.zeros(1, 1, 1, K)
    theta, log_a = torch.tensor([[[0.05, 0.2, 0.6]]]), torch.full((1, 1, K), -0.03)
    found = []
    for t in range(60):
        write = torch.ones(1, 1, K) if t == 0 else torch.zeros(1, 1, K)
        _, re, im = turn(re, im, write, write, torch.ones(1, 1, 1), log_a, theta)
        found.append(re[0, 0, 0])
    lines = [
        go.Scatter(
            y=[float(row[c]) for row in found],
            name=f"θ = {theta[0, 0, c]:g}",
            line_color=LINES[c],
        )
        for c in range(K)
    ]
    return figure(
        *lines,
        title="One write, read back turned and faded",
        x="age in tokens",
        y="real part",
    )


# %% [markdown] tags=["exercise"]
# state_bytes

# %% [markdown] tags=["heading"]
# mended


# %%
def suspect(q, k, v, log_a, S):
    G = log_a.cumsum(1).mT  # (B, H, T)
    D = (G[..., :, None] - G[..., None, :]).exp().tril()
    scores = torch.einsum("bihk, bjhk -> bhij", q, k) * D
    y = torch.einsum("bhij, bjhv -> bihv", scores, v)
    since = (G - G[..., :1]).exp()
    y = y + torch.einsum("bhi, bhvk, bihk -> bihv", since, S, q)
    left = (G[..., -1:] - G).exp()
    new = torch.einsum("bhj, bjhv, bjhk -> bhvk", left, v, k)
    return y, since[..., -1, None, None] * S + new


def symptoms_of(form):
    """The gradient of strong gates; and one token after a state of ones, whose gate is 0.5."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 8, 1, 2, generator=generator)
    log_a = torch.full((1, 8, 1), -20.0, requires_grad=True)
    form(q, k, v, log_a, torch.zeros(1, 1, 2, 2))[0].sum().backward()
    print("gates of e⁻²⁰: NaN in the gradient?", log_a.grad.isnan().any().item())
    one = torch.ones(1, 1, 1, 1)
    y, _ = form(one, 0 * one, one, one[..., 0] * math.log(0.5), one)
    print(f"a state of 1, a gate of 0.5: y should be 0.5, is {y.item():.2f}")


symptoms_of(suspect)

# %% [markdown] tags=["exercise"]
# mended

# %%
when_written(lambda: symptoms_of(mended))

# %% [markdown] tags=["exercise"]
# chunkwise

# %% [markdown]
# Now the clock. A gate for each *channel* needs an array of C × C × K decays inside a chunk, where a gate for each *head* needs a C × C matrix. Here C = 128 and K = 64, on this
# machine. Say first what you expect.


# %% tags=["measured"]
def picture_of_the_array():
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 4, 128, 64, generator=generator)
    G = -torch.rand(4, 128, 64, generator=generator).cumsum(1)

    def one_number():
        g = G[..., :1]
        return q @ k.mT * (g - g.mT).exp()

    def an_array():
        between = (G[:, :, None] - G[:, None]).exp()
        return (q[:, :, None] * between * k[:, None]).sum(-1)

    ms = {}
    for name, form in {
        "a gate per head": one_number,
        "a gate per channel": an_array,
    }.items():
        took = []
        for _ in range(4):
            start = time.perf_counter()
            form()
            took.append(1000 * (time.perf_counter() - start))
        ms[name] = min(took)
    times = ms["a gate per channel"] / ms["a gate per head"]
    return bars(ms, title=f"The array takes {times:.0f} times as long", y="ms")


predict(
    "05-array",
    "How many times as long do the scores of one chunk take with a gate per channel?",
    picture_of_the_array,
    choices=["about as long", "about 5 times", "20 times or more"],
)

# %% [markdown]
# The array has 64 times as many numbers, and each needs an exponential, where the other way needs one matrix product and few exponentials. That is why GLA cuts chunks into blocks, as
# the chapter shows, and why Mamba-2 went back from a gate per channel to a gate per head.

# %% [markdown] tags=["question"]
# why_tied

# %% [markdown] tags=["exercise"]
# who_and_where

# %% [markdown]
# The picture follows the table of your `memory` over a short text.


# %%
@when_written
def picture_of_memory():
    text = [3, 16, 9, 16, 17, 5, 16, 18, 12, 17, 19, 17]
    _, k, v, log_a = memory(torch.tensor(text))
    S, columns = torch.zeros(8, 2), []
    for t in range(len(text)):
        S = S * log_a[t].exp() + torch.outer(v[t], k[t])
        columns.append(S.clone())
    heat = go.Heatmap(
        z=torch.cat(
            [torch.cat([S, torch.full((8, 1), math.nan)], 1) for S in columns], 1
        ).tolist(),
        colorscale="Purples",
        showscale=False,
    )
    words = {16: "·", 17: "who?", 18: "where?", 19: "forget"}
    ticks = [words.get(t, f"person {t}" if t < 8 else f"place {t - 8}") for t in text]
    fig = figure(
        heat, title="Left column the person, right column the place", y="value"
    )
    return fig.update_xaxes(
        tickvals=[3 * t + 0.5 for t in range(len(text))], ticktext=ticks
    )


# %% [markdown]
# ## How far you are
#
# `progress()` lists every exercise of the course with your points. `seqlab grade 05` on the command line gives the
# mark.

# %%
progress()
