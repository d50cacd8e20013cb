# %% [markdown]
# # Exercises 11 · Griffin
#
# You choose half-lives, put documents in a row, write the backward of the scan, let a cache roll, and mend a square root. Two numbers say what RecurrentGemma 2B keeps and how far its windows see. The project decodes with all of it.
#
# {count} exercises, {points} points, about {minutes} minutes. They go with the chapter `11_griffin`, and get harder towards the end.
# Each stands alone: you can skip one and come back.
#
# {how 11.1}

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
from seqlab.figures.theme import COLORS, LINES, figure

# %% [markdown] tags=["exercise"]
# start_of

# %% [markdown]
# The picture takes your Λ for three half-lives at r = 1, and draws what is left with other gates.


# %%
@when_written
def picture_of_half_lives():
    r = torch.linspace(0.02, 1, 50)
    lines = []
    for n, half_life in enumerate((3.0, 30.0, 300.0)):
        Lambda = start_of(torch.tensor([half_life]), torch.tensor([1.0]))
        speed = 8 * r * torch.nn.functional.softplus(Lambda)
        lines.append(
            go.Scatter(
                x=r.tolist(),
                y=(0.6931 / speed).tolist(),
                name=f"{half_life:g} at r = 1",
                line={"color": LINES[n], "dash": ("solid", "dash", "dot")[n]},
            )
        )
    fig = figure(
        *lines,
        title="The gate stretches every half-life by 1/r",
        x="gate r",
        y="half-life in tokens (log scale)",
    )
    return fig.update_yaxes(type="log")


# %% [markdown] tags=["exercise"]
# packed

# %% [markdown]
# What would happen without the factor? Feed independent numbers of standard deviation 1 into $h_t = a\, h_{t-1} + x_t$ with $a = 0.99$, and wait until h has settled. Say first how large its standard deviation is.


# %%
def picture_of_sizes():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(600, 500, generator=rng)
    plain = scaled = torch.zeros(500)
    sizes = [[], []]
    for u in x:
        plain, scaled = 0.99 * plain + u, 0.99 * scaled + (1 - 0.99**2) ** 0.5 * u
        sizes[0].append(plain.std().item())
        sizes[1].append(scaled.std().item())
    return figure(
        go.Scatter(y=sizes[0], name="without the factor", line_color=COLORS["write"]),
        go.Scatter(
            y=sizes[1],
            name="with √(1 - a²)",
            line={"color": COLORS["state"], "dash": "dash"},
        ),
        title=f"Without the factor h grows to {sizes[0][-1]:.1f}, with it to 1",
        x="token",
        y="standard deviation of h",
    )


predict(
    "11-size",
    "How large is the standard deviation of h in the end?",
    picture_of_sizes,
    choices=["about 1", "about 7", "about 100", "it grows without end"],
)

# %% [markdown]
# About 7: the variance v settles where $v = a^2 v + 1$, so $v = 1 / (1 - a^2) ≈ 50$. A hundred would be right for numbers that are all equal, $1 / (1 - a)$: then they add up instead of cancelling, and with the factor h would be about 14.

# %% [markdown] tags=["exercise"]
# back

# %% [markdown] tags=["exercise"]
# rolling

# %% [markdown]
# The picture runs your `rolling` over 12 tokens with 4 slots, and shows which token is in which slot.


# %%
@when_written
def picture_of_slots():
    ks, vs, rows = torch.zeros(4, 2), torch.zeros(4, 1), []
    for p in range(12):
        one = torch.ones(2)
        _, ks, vs = rolling(one, one, torch.tensor([p + 1.0]), ks, vs, p)
        inside = torch.zeros(12)
        for token in vs[:, 0].long().tolist():
            if token:
                inside[token - 1] = 0.25
        rows.append(inside)
    title = "The slots always hold the newest four tokens"
    return attention_matrix(torch.stack(rows), title=title)


# %% [markdown] tags=["exercise"]
# bytes_of_2b

# %% [markdown] tags=["exercise"]
# reach

# %% [markdown] tags=["heading"]
# mended


# %%
def suspect(log_a, steepest):
    return torch.sqrt(1 - torch.exp(2 * log_a))


def symptoms_of(factor):
    for value in (-1e-1, -1e-9, 0.0):
        log_a = torch.tensor([value], requires_grad=True)
        y = factor(log_a, 1000.0)
        (slope,) = torch.autograd.grad(y.sum(), log_a)
        right = (-torch.expm1(2 * log_a.detach().double())).sqrt().item()
        print(
            f"log a = {value:g}: {y.item():.4g}, should be {right:.4g}; "
            f"its slope is {slope.item():.4g}"
        )


symptoms_of(suspect)

# %% [markdown] tags=["exercise"]
# mended

# %%
when_written(lambda: symptoms_of(mended))

# %% [markdown] tags=["question"]
# is_hawk_griffin

# %% [markdown] tags=["exercise"]
# griffin

# %% [markdown]
# The picture draws what your model keeps of 40 tokens.


# %%
@when_written
def picture_of_memory():
    lines = []
    for n, window in enumerate((4, 8, 16)):
        kept = griffin(torch.randn(40, 8), 6, window)[2]
        look = {"color": LINES[n], "dash": ("solid", "dash", "dot")[n]}
        lines.append(
            go.Scatter(y=[int(k) for k in kept], name=f"window {window}", line=look)
        )
    title = "The memory grows until the windows are full"
    return figure(*lines, title=title, x="token", y="numbers kept")


# %% [markdown]
# ## How far you are
#
# `progress()` lists every exercise of the course with your points. `seqlab grade 11` on the command line gives the
# mark.

# %%
progress()
