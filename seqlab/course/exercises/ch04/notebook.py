# %% [markdown]
# # Exercises 04 · RetNet
#
# Linear attention never forgets. RetNet gives each head one constant decay γ, and the rest follows from it: how long
# a pair is remembered, the mask D, a state that is carried from chunk to chunk. You write each of these parts. On the
# way you work out a half-life and mend a decoder that drifts. The last exercise joins the parts into the form that
# models are trained with.
#
# {count} exercises, {points} points, about {minutes} minutes. They go with the chapter `04_retnet`, and get harder towards the end.
# Each stands alone: you can skip one and come back. Only 04.9 joins the others; it may call your `decay_mask` (04.4),
# or do without.
#
# {how 04.3}
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
from seqlab.course import (
    check,
    hint,
    open_question,
    predict,
    progress,
    show_solution,
    when_written,
)
from seqlab.figures.theme import COLORS, LINES, WEIGHTS, figure

# %% [markdown] tags=["exercise"]
# decays

# %% [markdown] tags=["exercise"]
# half_life

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


# %% [markdown] tags=["exercise"]
# step

# %% [markdown] tags=["exercise"]
# decay_mask

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


# %% [markdown] tags=["exercise"]
# parallel

# %% [markdown] tags=["exercise"]
# head_norm

# %% [markdown] tags=["exercise"]
# rotate

# %% [markdown] tags=["heading"]
# mended


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

# %% [markdown] tags=["exercise"]
# mended

# %%
when_written(lambda: symptoms(mended))

# %% [markdown] tags=["exercise"]
# chunkwise

# %% [markdown]
# The answer is the same for every chunk size, but not the time. The cell measures your own function on this machine,
# for 2,048 tokens. Say first which size you expect to be the fastest.


# %% tags=["measured"]
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


predict(
    "04-chunk-size",
    "Which chunk size is the fastest?",
    picture_of_chunk_sizes,
    choices=["1", "64", "2048"],
)

# %% [markdown]
# Small chunks pay for many turns of the loop, each with its fixed cost. Large ones pay for pairs: within a chunk of C
# tokens there are C² weights. The lowest point lies in between, and 64 is a good guess on most machines. 2048 would be
# right if loops alone were slow, and 1 if pairs alone were.

# %% [markdown] tags=["question"]
# when_not

# %% [markdown] tags=["exercise"]
# window

# %% [markdown]
# ## How far you are
#
# `progress()` lists every exercise of the course with your points. `seqlab grade 04` on the command line gives the
# mark.

# %%
progress()
