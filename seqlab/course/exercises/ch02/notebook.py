# %% [markdown]
# # Exercises 02 · Recurrent networks
#
# You write the recurrent networks that the chapter does not print: a padded batch, peepholes, a gradient that is cut in the right place, two heads
# that write at once, a hop over a memory that may be empty. You mend a GRU, and work out two numbers that decide whether a network can learn
# at all. The project sets the weights of an LSTM by hand.
#
# {count} exercises, {points} points, about {minutes} minutes. They go with the chapter `02_recurrent_networks`, and get harder towards the end.
# Each stands alone: you can skip one and come back.
#
# {how 02.2}
#
# **Shapes.** Time comes first: x is (B, T, E), a state (B, D). Vectors are rows, so $W x$ is `x @ W.mT`.

# %%
import math

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
from seqlab.figures.theme import COLORS, figure

# %% [markdown] tags=["exercise"]
# bound

# %% [markdown] tags=["exercise"]
# unrolled

# %% [markdown] tags=["exercise"]
# half_life_bias

# %% [markdown] tags=["exercise"]
# peephole

# %% [markdown] tags=["heading"]
# as_pytorch


# %%
def suspect_gru(x, W, R, b, b_R, h):
    D, ys = h.shape[-1], []
    W_n, R_n, b_n, b_R_n = (u[2 * D :] for u in (W, R, b, b_R))
    for x_t in x.unbind(1):
        gates = x_t @ W[: 2 * D].mT + b[: 2 * D] + h @ R[: 2 * D].mT + b_R[: 2 * D]
        r, z = gates.sigmoid().chunk(2, dim=-1)
        n = torch.tanh(x_t @ W_n.mT + b_n + (r * h) @ R_n.mT + b_R_n)
        h = (1 - z) * h + z * n
        ys.append(h)
    return torch.stack(ys, dim=1), h


def symptoms_of_gru(as_pytorch):
    """One cell with all weights 0 and a state of 0.5; then a bias beside R."""
    x, h, none = torch.zeros(1, 1, 1), torch.tensor([[0.5]]), torch.zeros(3, 1)
    b = torch.tensor([0.0, 90.0, 0.0])
    y, _ = as_pytorch(x, none, none, b, torch.zeros(3), h)
    print(f"z = 1, a state of 0.5: it should stay 0.5, is {y.item():.2f}")
    b, b_R = torch.tensor([-90.0, -90.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    one = torch.tensor([[0.0], [0.0], [1.0]])
    for name, z in {"z = 0": -90.0, "z = 1": 90.0}.items():
        y, _ = as_pytorch(x, none, one, b + torch.tensor([0.0, z + 90, 0.0]), b_R, h)
        wanted = 0.0 if z < 0 else 0.5
        print(
            f"r = 0, {name}, a bias of 1 beside R: {wanted:.2f} is right, is {y.item():.2f}"
        )


symptoms_of_gru(suspect_gru)

# %% [markdown] tags=["exercise"]
# as_pytorch

# %%
when_written(lambda: symptoms_of_gru(as_pytorch))

# %% [markdown] tags=["exercise"]
# truncated

# %% [markdown]
# How much of the gradient does a cut lose? Take an Elman network of 16 cells as PyTorch starts it, and 64 tokens. The picture compares
# your gradient, cut every k tokens, with the whole one, by their cosine. Say first what you expect.


# %% tags=["measured"]
def picture_of_cuts():
    generator = torch.Generator().manual_seed(0)
    R = (torch.rand(16, 16, generator=generator) * 2 - 1) / 4
    u, h = torch.randn(64, 16, generator=generator), torch.zeros(16)
    whole = truncated(R, u, h, 64).flatten()
    ks = [1, 2, 3, 4, 6, 8, 16, 32, 64]
    alike = [
        torch.cosine_similarity(truncated(R, u, h, k).flatten(), whole, dim=0).item()
        for k in ks
    ]
    line = go.Scatter(x=ks, y=alike, mode="lines+markers", line_color=COLORS["q"])
    fig = figure(
        line,
        title=f"Cut every 8 tokens, the gradient has a cosine of {alike[5]:.3f} with the whole",
        x="tokens k in a chunk (log scale)",
        y="cosine with the whole gradient",
    )
    return fig.update_xaxes(type="log", tickvals=ks, ticktext=[str(k) for k in ks])


predict(
    "02-cut",
    "How long must the chunks be for a cosine of 0.99 with the whole gradient?",
    picture_of_cuts,
    choices=["a few tokens", "about half of the text", "nearly all of the text"],
)

# %% [markdown]
# A few tokens are enough, and that is no good news. A cut loses little because there is little to lose: on the way back the gradient shrinks
# by a constant factor per step, so what lies ten steps back hardly counts, cut or not. In an LSTM whose gates start open there is more to lose.

# %% [markdown] tags=["exercise"]
# content

# %% [markdown] tags=["exercise"]
# erase_and_add

# %% [markdown] tags=["exercise"]
# hop

# %% [markdown] tags=["question"]
# why_attention

# %% [markdown] tags=["exercise"]
# latch

# %% [markdown]
# The picture stores +1, then sends 60 tokens of noise, then stores -1, and draws what your latch reads.


# %%
@when_written
def picture_of_latch():
    W, R, b, C = latch(100)
    v = 2 * torch.rand(120, generator=torch.Generator().manual_seed(1)) - 1
    v[0], v[60] = 1.0, -1.0
    flags = torch.zeros(120)
    flags[[0, 60]] = 1
    h, c, read = torch.zeros(R.shape[1]), torch.zeros(R.shape[1]), []
    for x in torch.stack([v, flags], dim=1):
        i, f, g, o = (W @ x + R @ h + b).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        read.append((C @ h).item())
    lines = [
        go.Scatter(
            y=v.tolist(), name="input v", line={"color": COLORS["decay"], "width": 1}
        ),
        go.Scatter(y=read, name="what the latch reads", line_color=COLORS["write"]),
    ]
    fig = figure(
        *lines,
        title="The latch keeps what was stored, whatever the noise",
        x="token",
        y="value",
    )
    return fig.update_layout(legend={"orientation": "h", "y": -0.2}, margin_b=80)


# %% [markdown]
# ## How far you are
#
# `progress()` lists every exercise of the course with your points. `seqlab grade 02` on the command line gives the
# mark.

# %%
progress()
