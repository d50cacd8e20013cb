# %% [markdown]
# # Exercises 13 · Test-time training
#
# You take inner steps on another loss, choose a step size by two numbers, and give a mini-batch a decay, a start in the middle and the gradient that its outer loop sees. You count what the dual form costs, and mend a Titans.
# In the project you build a memory that follows a changing rule better than any single step size can.
#
# {count} exercises, {points} points, about {minutes} minutes. They go with the chapter `13_test_time_training`, and get harder towards the end.
# Each stands alone: you can skip one and come back.
#
# {how 13.1}
#
# **Names.** W is the inner model's matrix (V, K), the state; k, v and q are key, value and query; the inner loss is $\tfrac12 \lVert W k - v \rVert^2$ unless the text says otherwise. $W_s$ is W before a mini-batch.

# %%
import plotly.graph_objects as go
import torch

from seqlab.course import (
    check,
    hint,
    open_question,
    predict,
    progress,
    show_solution,
    when_written,
)
from seqlab.figures.theme import COLORS, LINES, figure

# %% [markdown] tags=["exercise"]
# huber

# %% [markdown]
# The picture follows one rule with your `huber`, where every tenth value is an outlier.


# %%
@when_written
def picture_of_outliers():
    rng = torch.Generator().manual_seed(0)
    k, A = torch.randn(120, 6, generator=rng), torch.randn(4, 6, generator=rng)
    k = k / k.norm(dim=1, keepdim=True)
    v = k @ A.mT
    v[9::10] += 12 * torch.randn(12, 4, generator=rng)
    lines = []
    for n, (name, limit) in enumerate({"squared loss": 1e9, "limit 1": 1.0}.items()):
        W, off = torch.zeros(4, 6), []
        for t in range(120):
            W = huber(W, k[t], v[t], 0.7, limit)
            off.append(((W - A).norm() / A.norm()).item())
        look = {"color": LINES[n], "dash": ("solid", "dash")[n]}
        lines.append(go.Scatter(y=off, name=name, line=look))
    title = "An outlier moves the state by at most the limit"
    return figure(*lines, title=title, x="token", y="distance from the rule")


# %% [markdown] tags=["exercise"]
# settle

# %% [markdown] tags=["exercise"]
# outer

# %% [markdown]
# Is a larger step always a better one? Take a mini-batch of 16 random pairs of one rule (8 channels, no noise), all with the same step, and start from $W = 0$. What is the error of the answers afterwards? Say first which step is best.


# %% tags=["measured"]
def picture_of_steps():
    rng = torch.Generator().manual_seed(2)
    k, A = torch.randn(300, 16, 8, generator=rng), torch.randn(300, 4, 8, generator=rng)
    k = k / k.norm(dim=-1, keepdim=True)
    steps = torch.linspace(0, 1.2, 49)
    errors = []
    for step in steps:
        W = step * A @ k.mT @ k
        errors.append(((W - A).square().mean() / A.square().mean()).item())
    best = steps[torch.tensor(errors).argmin()].item()
    return figure(
        go.Scatter(x=steps.tolist(), y=errors, line_color=COLORS["state"]),
        title=f"The best step is {best:.2f}; at 1, each pair's own best step, it is worse than no step",
        x="step size of all 16 tokens",
        y="error of the answers, relative to W = 0",
    )


predict(
    "13-step",
    "Which step is best for 16 steps that are all taken at W = 0?",
    picture_of_steps,
    choices=["about 0.06 = 1/16", "about 0.35", "about 1", "the larger, the better"],
)

# %% [markdown]
# About 0.35. With orthogonal keys it would be 1: each step would mend its own direction. But 16 keys share 8 channels, so each direction is stepped along twice on average, and some far more often. The average of the steps, 1/16, is too careful: it would be right if all 16 keys were equal.

# %% [markdown] tags=["exercise"]
# resume

# %% [markdown] tags=["exercise"]
# products

# %% [markdown] tags=["exercise"]
# decayed

# %% [markdown]
# The picture takes your `decayed` for 40 tokens of one key with values 1, then 40 with values -1, at three decays.


# %%
@when_written
def picture_of_decays():
    k = torch.ones(80, 1)
    v = torch.cat([torch.ones(40, 1), -torch.ones(40, 1)])
    lines = []
    for n, a in enumerate((1.0, 0.98, 0.9)):
        gates = torch.full((80,), a), torch.full((80,), 0.02)
        y, _ = decayed(k, k, v, *gates, torch.zeros(1, 1))
        look = {"color": LINES[n], "dash": ("solid", "dash", "dot")[n]}
        lines.append(go.Scatter(y=y[:, 0].tolist(), name=f"a = {a:g}", line=look))
    title = (
        "Without a decay one mini-batch adds all its values, as linear attention does"
    )
    return figure(*lines, title=title, x="token", y="read")


# %% [markdown] tags=["heading"]
# mended


# %%
def suspect(q, k, v, alpha, eta, theta):
    M = S = q.new_zeros(v.shape[-1], k.shape[-1])
    ys = []
    for t in range(len(k)):
        surprise = 2 * torch.outer(M @ k[t] - v[t], k[t])
        S = eta[t] * (S - theta[t] * surprise)
        M = (1 - alpha[t]) * (M + S)
        ys.append(M @ q[t])
    return torch.stack(ys)


def symptoms_of(memory):
    """Without momentum and forgetting it is the delta rule; with α = 1 the newest step is left."""
    rng = torch.Generator().manual_seed(0)
    k, v = torch.randn(2, 6, 4, generator=rng)
    k = k / k.norm(dim=-1, keepdim=True)
    none, half, one = torch.zeros(6), torch.full((6,), 0.5), torch.ones(6)
    share = memory(k, k, v, none, none, half)[-1] @ v[-1] / v[-1].square().sum()
    print(f"α = η = 0, θ = ½: {share:.2f} of the newest value; it should be 1")
    left = memory(k[:1], k[:1], v[:1], one[:1], one[:1], half[:1])
    print(f"α = 1, one token: length {left.norm():.2f}; it should be {v[0].norm():.2f}")


symptoms_of(suspect)

# %% [markdown] tags=["exercise"]
# mended

# %%
when_written(lambda: symptoms_of(mended))

# %% [markdown] tags=["question"]
# does_it_memorise

# %% [markdown] tags=["exercise"]
# follower

# %% [markdown]
# The picture runs your memory on fresh sequences, with another noise in each line. What was tuned to 0.3 need not fit the others.


# %%
@when_written
def picture_of_following():
    from seqlab.tasks import ChangingRule

    lines = []
    for n, noise in enumerate((0.0, 0.3, 1.0)):
        task = ChangingRule(128, 8, 8, noise)
        k, v, clean, _ = task.pairs(60, torch.Generator().manual_seed(n))
        error = (follower(k, v) - clean).square().mean((0, 2))
        look = {"color": LINES[n], "dash": ("solid", "dash", "dot")[n]}
        lines.append(go.Scatter(y=error.tolist(), name=f"noise {noise:g}", line=look))
    title = "A memory that is tuned to one noise, on three"
    return figure(*lines, title=title, x="pairs read", y="squared error")


# %% [markdown]
# ## How far you are
#
# `progress()` lists every exercise of the course with your points. `seqlab grade 13` on the command line gives the
# mark.

# %%
progress()
