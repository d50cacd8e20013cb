# %% [markdown]
# # Exercises 07 · Mamba-2 and SSD
#
# You mend the mask and the recurrence over chunks, undo a memory, keep texts apart, find the gradient of a gate, and decode one token of a whole
# Mamba-2. Two numbers ask how much can pass a cut, and which chunk is the cheapest. The project builds a memory that counts.
#
# {count} exercises, {points} points, about {minutes} minutes. They go with the chapter `07_mamba2_ssd`, and get harder towards the end.
# Each stands alone: you can skip one and come back.
#
# {how 07.2}
#
# **Shapes.** Time comes before heads: q and k are (B, T, H, N), v is (B, T, H, P), the gates' logarithms `log_a` are (B, T, H). The
# state S is (B, H, P, N).

# %%
import math
import time

import plotly.graph_objects as go
import torch
import torch.nn.functional as F

import seqlab.core.recurrence as core
from seqlab.course import (
    check,
    hint,
    open_question,
    predict,
    progress,
    show_solution,
    when_written,
)
from seqlab.figures.theme import COLORS, WEIGHTS, figure

# %% [markdown] tags=["heading"]
# spans


# %%
def suspect_spans(log_a):
    T = log_a.shape[-1]
    total = log_a.cumsum(-1)
    L = (total[..., :, None] - total[..., None, :]).exp() * torch.ones(T, T).tril()
    return L.float()


def symptoms_of_spans(spans):
    """A gate that forgets much; then 48 mild gates in bfloat16, beside the same in float64."""
    strong = torch.tensor([-0.5, -200.0, -0.5])
    print("a strong gate in the middle, L:", spans(strong).tolist())
    mild = -torch.rand(48, generator=torch.Generator().manual_seed(0)).bfloat16()
    right = core.decays(mild.double()[None, None, :, None])[0][0, 0, 0]
    gap = (spans(mild).double() - right).abs().max().item()
    print(f"48 mild gates in bfloat16: off by up to {gap:.3f}, and L is at most 1")


symptoms_of_spans(suspect_spans)

# %% [markdown] tags=["exercise"]
# spans

# %%
when_written(lambda: symptoms_of_spans(spans))

# %% [markdown]
# The picture takes your `spans` and draws the mask of a text in which every eighth token forgets nearly everything.


# %%
@when_written
def picture_of_spans():
    log_a = torch.full((40,), -0.05)
    log_a[8::8] = -3.0
    heat = go.Heatmap(z=spans(log_a).tolist(), colorscale=WEIGHTS, zmin=0, zmax=1)
    fig = figure(
        heat,
        title="A token that forgets cuts the mask into blocks",
        x="token j, written",
        y="token i, reads",
        height=420,
    )
    return fig.update_yaxes(autorange="reversed")


# %% [markdown] tags=["exercise"]
# unmix

# %% [markdown] tags=["exercise"]
# rank

# %% [markdown] tags=["heading"]
# pass_on


# %%
def suspect_pass(writes, log_decay, S):
    before, state = [], torch.zeros_like(S)
    for write, log_d in zip(writes.unbind(1), log_decay.unbind(1), strict=True):
        before.append(state)
        state = log_d.exp()[..., None, None] * (state + write)
    return torch.stack(before, dim=1), state


def symptoms_of_pass(pass_on):
    """One chunk: a write of 0 into a full state; then a write of 1 into an empty state."""
    one, half = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1), 0.5).log()
    before, S = pass_on(0 * one[None], half, one)
    print(f"S = 1, no write, decay ½: before {before.item()}, should be 1;", end=" ")
    print(f"after {S.item()}, should be 0.5")
    before, S = pass_on(one[None], half, 0 * one)
    print(f"S = 0, a write of 1: before {before.item()}, should be 0;", end=" ")
    print(f"after {S.item()}, should be 1")


symptoms_of_pass(suspect_pass)

# %% [markdown] tags=["exercise"]
# pass_on

# %%
when_written(lambda: symptoms_of_pass(pass_on))

# %% [markdown] tags=["exercise"]
# grouped

# %% [markdown] tags=["exercise"]
# best_chunk

# %% [markdown]
# That is the count. Now the clock: `seqlab`'s chunkwise form with N = 128 and P = 64, four heads, 2,048 tokens, on this machine. Say first what
# you expect.


# %% tags=["measured"]
def picture_of_chunks():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 2048, 4, 128)
    v, log_a = torch.randn(1, 2048, 4, 64), -torch.rand(1, 2048, 4, 1) / 10
    sizes, ms = [2, 6, 16, 64, 128, 512, 2048], []
    for C in sizes:
        took = []
        for _ in range(3):
            start = time.perf_counter()
            core.chunkwise(q, k, v, log_a=log_a, chunk_size=C)
            took.append(1000 * (time.perf_counter() - start))
        ms.append(min(took))
    line = go.Scatter(x=sizes, y=ms, mode="lines+markers", line_color=COLORS["q"])
    fig = figure(
        line,
        title=f"The fastest chunk here: {sizes[ms.index(min(ms))]} tokens",
        x="chunk length C (log scale)",
    )
    fig.update_xaxes(type="log", tickvals=sizes, ticktext=[str(C) for C in sizes])
    return fig.update_yaxes(type="log", dtick=1, title_text="ms (log scale)")


predict(
    "07-chunk",
    "The fewest multiplications are at about 7. Which chunk is the fastest?",
    picture_of_chunks,
    choices=["about 6", "16 to 128", "2048"],
)

# %% [markdown]
# Usually 16 to 128. Chunks of 6 make the fewest multiplications, but in hundreds of turns of the loop, each with its fixed cost, and in products too
# small for the processor. With 2,048 there is one turn, and all pairs.

# %% [markdown] tags=["exercise"]
# gate_gradient

# %% [markdown]
# The picture takes your `gate_gradient` and a loss with two pairs in it: the last token's weight for token 0, minus its weight for token 12. Which gates
# matter to the first, and which to both?


# %%
@when_written
def picture_of_gates():
    g = torch.Generator().manual_seed(3)
    q, k = torch.randn(2, 24, 8, generator=g)
    q[-1] = 3 * k[0]
    M = (q @ k.mT).tril() * 0.97 ** (
        torch.arange(24)[:, None] - torch.arange(24)
    ).relu()
    wanted = torch.zeros(24, 24)
    # the loss: one weight minus another
    wanted[-1, [0, 12]] = torch.tensor([1.0, -1.0])
    found = gate_gradient((wanted * M)[None, None])[0, 0]
    bar = go.Bar(x=list(range(24)), y=found.tolist(), marker_color=COLORS["decay"])
    return figure(
        bar,
        title="One pair passes the first gates, two pass the others",
        x="token t",
        y="gradient of log a",
    )


# %% [markdown] tags=["exercise"]
# borders

# %% [markdown] tags=["exercise"]
# decode

# %% [markdown] tags=["question"]
# give_up

# %% [markdown] tags=["exercise"]
# counter

# %% [markdown]
# The picture draws your states while your memory counts modulo 12, and one reset.


# %%
@when_written
def picture_of_counting():
    angle, log_a, write, read = counter([1, 5, None], 12)
    S, states = torch.zeros(2), []
    for token in [2, 0, 0, 0, 0, 1, 0, 0, 1, 2, 0, 0]:
        c, s = angle[token].cos(), angle[token].sin()
        R = torch.stack([torch.stack([c, -s]), torch.stack([s, c])])
        S = log_a[token].exp() * (R @ S) + write[token]
        states.append(S)
    path = torch.stack(states).T.tolist()
    places = read.T.tolist()
    fig = figure(
        go.Scatter(x=places[0], y=places[1], mode="markers", name="reads"),
        go.Scatter(x=path[0], y=path[1], mode="lines+markers", name="states"),
        title="A state that turns counts in a circle",
        height=460,
    )
    return fig.update_yaxes(scaleanchor="x")


# %% [markdown]
# ## How far you are
#
# `progress()` lists every exercise of the course with your points. `seqlab grade 07` on the command line gives the
# mark.

# %%
progress()
