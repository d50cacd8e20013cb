# %% [markdown]
# # Exercises 03 · Linear attention
#
# You build linear attention from its smallest parts: a feature map, one write, one read. Then you join them in three
# ways that give the same answer: token by token, all pairs at once, and in chunks. On the way you count bytes,
# predict a read that goes wrong, and mend a model that knew the future.
#
# {count} exercises, {points} points, about {minutes} minutes. They go with the chapter `03_linear_attention`, and get harder towards
# the end.
#
# {how 03.2}
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
# phi

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


# %% [markdown] tags=["exercise"]
# write

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


# %% [markdown] tags=["exercise"]
# read

# %% [markdown] tags=["exercise"]
# smeared


# %%
def memory_says():
    k1, k2 = torch.tensor([1.0, 0.0]), torch.tensor([0.6, 0.8])
    S = torch.zeros(1, 1, 1, 2)
    for key, value in ((k1, 10.0), (k2, 5.0), (k1, 4.0)):
        S = write(S, key.view(1, 1, 2), torch.full((1, 1, 1), value))
    return f"Your prediction: {smeared}. Your own write and read say: {read(S, k1.view(1, 1, 2)).item():.1f}."


if smeared is not ...:  # predict first
    when_written(memory_says)

# %% [markdown] tags=["exercise"]
# cache_over_state

# %%
if isinstance(cache_over_state, (int, float)) and cache_over_state > 0:
    print(
        f"With your number, cache and state are equally large after {32_768 / cache_over_state:,.0f} tokens."
    )

# %% [markdown] tags=["exercise"]
# fold

# %% [markdown] tags=["exercise"]
# all_pairs

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


# %% [markdown] tags=["exercise"]
# normalised


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

# %% [markdown] tags=["exercise"]
# stream

# %%
when_written(lambda: moved_by_the_last_key(stream))

# %% [markdown] tags=["exercise"]
# chunked

# %% [markdown]
# Three forms, one answer, three costs. The cell measures your own functions on this machine, with one head of width
# 64. But say first what you expect: the figure appears once you have.


# %% tags=["measured"]
def seconds(function):
    """The best of three runs, after one to warm up."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times[1:])


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


predict(
    "03-times",
    "From 2,048 to 4,096 tokens: by what factor does the time of all_pairs grow?",
    picture_of_times,
    choices=["about 2", "about 4", "about 8"],
)

# %% [markdown]
# Both axes are logarithmic, so look at the slopes. About 4 is a good guess: `all_pairs` has T² weights to compute, so
# twice the tokens cost four times the work, and its line gets as steep as that once the work outweighs the fixed cost
# of a call. The other two grow about as T does, and the chunks lie well below the loop.

# %% [markdown] tags=["question"]
# made_fast

# %% [markdown] tags=["exercise"]
# features

# %% [markdown]
# ## How far you are
#
# `progress()` lists every exercise of the course with your points. `seqlab grade 03` on the command line gives the
# mark.

# %%
progress()
