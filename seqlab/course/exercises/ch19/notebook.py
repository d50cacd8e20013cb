# %% [markdown]
# # Exercises 19 · The recall gap
#
# You draw the questions of a recall task, score only what is asked, set an induction head by hand, turn a count into bytes, track a switch with three eigenvalues, and mend a needle test that everybody passes. Then a
# project: recall, overwriting and erasing with a delta rule whose numbers you choose.
#
# {count} exercises, {points} points, about {minutes} minutes. They go with the chapter `19_recall_gap`, and get harder towards the end.
# Each stands alone: you can skip one and come back.
#
# {how 19.3}
#
# **Shapes.** Texts are (B, T) whole numbers. *Asked* positions have a target; all others have -100.

# %%
import plotly.graph_objects as go
import torch

from seqlab.core.recurrence import recurrent
from seqlab.course import (
    check,
    hint,
    open_question,
    predict,
    progress,
    show_solution,
    when_written,
)
from seqlab.figures.theme import COLORS, SIGNED, WEIGHTS, figure

# %% [markdown] tags=["exercise"]
# draw

# %% [markdown]
# The picture counts where your questions fall, in 4,000 texts of 64 tokens with four pairs.


# %%
@when_written
def picture_of_draw():
    rng, B, P, length = torch.Generator().manual_seed(0), 4000, 4, 64
    noise = -torch.empty(B, length // 2 - P).exponential_(generator=rng).log()
    keys = torch.arange(1.0, P + 1).expand(B, P)
    _, targets = draw(keys, keys + 40, noise, length, 0.01)
    asked = (targets != -100).float().mean(0)
    first = asked[2 * P : 2 * P + 8].sum() / asked.sum()
    return figure(
        go.Bar(y=asked.tolist(), marker_color=COLORS["write"]),
        title=f"{first:.0%} of the questions fall on the first 4 of 28 places",
        x="token",
        y="share of texts that ask here",
    )


# %% [markdown] tags=["exercise"]
# score

# %% [markdown] tags=["exercise"]
# induction

# %% [markdown]
# The picture draws the weights of your second head over a text in which a pattern comes back.


# %%
@when_written
def picture_of_induction():
    text = "theseathe"
    names = sorted(set(text))
    ids = torch.tensor([names.index(letter) for letter in text])
    A, y = induction(torch.nn.functional.one_hot(ids, len(names)).float(), 20.0)
    said = names[int(y[-1].argmax())]
    labels = [f"{i} {letter}" for i, letter in enumerate(text)]
    heat = go.Heatmap(
        z=A.tolist(), x=labels, y=labels, colorscale=WEIGHTS, zmin=0, zmax=1
    )
    fig = figure(
        heat,
        title=f"After '{text}' the head expects '{said}'",
        x="read from",
        y="token",
    )
    return fig.update_yaxes(autorange="reversed")


# %% [markdown] tags=["exercise"]
# room

# %% [markdown]
# ### Predict, then measure
#
# A needle is hidden among 60 other pairs, and linear attention reads it back. Keys are random vectors of length 1. How much does the disturbance of the read fall if keys are four times as wide?

# %%
WIDTHS = [4, 8, 16, 32, 64, 128]


def disturbance_by_width():
    rng = torch.Generator().manual_seed(0)
    found = []
    for K in WIDTHS:
        k = torch.randn(200, 61, K, generator=rng)
        k = k / k.norm(dim=-1, keepdim=True)
        found.append((k[:, 1:] @ k[:, :1].mT).square().sum((1, 2)).mean().item())
    return found


measured = disturbance_by_width()


def picture_of_widths():
    fig = figure(
        go.Scatter(x=WIDTHS, y=measured, mode="lines+markers", line_color=COLORS["k"]),
        title=f"K from 16 to 64: {measured[2]:.2f} to {measured[4]:.2f}",
        x="width of keys K (log scale)",
        y="mean square disturbance (log scale)",
    )
    fig.update_xaxes(type="log", tickvals=WIDTHS)
    return fig.update_yaxes(type="log", dtick="D2")


predict(
    "19-width",
    "With keys four times as wide, the mean square disturbance falls to …",
    picture_of_widths,
    choices=["a half", "a quarter", "a sixteenth"],
)

# %% [markdown]
# To a quarter: each of the sixty others has the mean square 1 / K. Its *length* falls to a half, which is the usual slip.

# %% [markdown] tags=["exercise"]
# turned

# %% [markdown]
# ### The next exercise is a bug hunt
#
# The function below is the suspect. The cell gives it a model **without any memory**: at each position it expects the token that it has just read. Right would be about one answer in eight.


# %%
def suspect_by_depth(logits, tokens, place, bins):
    right = logits[:, -1].argmax(-1) == tokens[:, -1]
    depth = place * bins // (tokens.shape[1] - 2)
    rows = torch.nn.functional.one_hot(depth, bins).float()
    hits = (rows * right[:, None]).sum(0)
    return hits / (len(tokens) / bins), rows.sum(0)


def symptoms_of_depth(evaluate):
    """A model that repeats its newest token, on 200 texts with most needles near the start."""
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randint(8, (200, 32), generator=rng)
    place = (torch.rand(200, generator=rng) ** 2 * 30).long()
    repeats = torch.nn.functional.one_hot(tokens, 8).float()
    share, count = evaluate(repeats, tokens, place, 4)
    for b in range(4):
        print(f"depth {b / 4:.2f} and on: {share[b]:.0%} of {count[b]:.0f} texts right")


symptoms_of_depth(suspect_by_depth)

# %% [markdown] tags=["exercise"]
# by_depth

# %%
when_written(lambda: symptoms_of_depth(by_depth))

# %% [markdown] tags=["question"]
# learner

# %% [markdown] tags=["exercise"]
# by_hand

# %% [markdown]
# The picture follows the table of your `by_hand` over a short text: two writes under key 0, one under key 1, then key 0 is erased.


# %%
@when_written
def picture_of_by_hand():
    text = [5, 8 + 2, 6, 64, 72, 64, 65]
    says = ["a5", "b2", "a6", "a?", "erase a", "a?", "b?"]
    q, k, v, beta = by_hand(torch.tensor(text))
    one = [x[None, :, None] for x in (q, k, v)]
    y = recurrent(*one, beta=beta[None, :, None])[0][0, :, 0]
    labels = [f"{i} {word}" for i, word in enumerate(says)]
    heat = go.Heatmap(z=y.tolist(), y=labels, colorscale=SIGNED, zmid=0)
    fig = figure(
        heat,
        title="What each token reads: 6 and not 5, then nothing, then 2",
        x="value",
    )
    return fig.update_yaxes(autorange="reversed")


# %% [markdown]
# ## How far you are
#
# `progress()` lists every exercise of the course with your points. `seqlab grade 19` on the command line gives the
# mark.

# %%
progress()
