# %% [markdown]
# # Exercises 10 · xLSTM
#
# You write one step of each cell, join two memories of different scales, read a memory that is kept at a scale of its own, build the parallel form for gates that shut, and mend a chunked form.
# The project sets the gates of a cell by hand.
#
# {count} exercises, {points} points, about {minutes} minutes. They go with the chapter `10_xlstm`, and get harder towards the end.
# Each stands alone: you can skip one and come back.
#
# {how 10.1}
#
# **Names.** i is the exponent of an input gate, `log_f` the logarithm of a forget gate. c and n, or S and n, are kept divided by $e^m$.

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
from seqlab.figures import attention_matrix
from seqlab.figures.theme import COLORS, figure

# %% [markdown] tags=["exercise"]
# slstm_step

# %% [markdown]
# The picture runs your `slstm_step` over 40 tokens with the same gates, of which one is loud.


# %%
@when_written
def picture_of_steps():
    rng = torch.Generator().manual_seed(2)
    z = torch.randn(40, generator=rng)
    i = torch.zeros(40)
    i[12], z[12] = 6.0, 2.0
    c, n, m = torch.zeros(1), torch.zeros(1), torch.full((1,), -torch.inf)
    hs = []
    for t in range(40):
        f, o = torch.tensor([-0.15]), torch.tensor([20.0])
        h, c, n, m = slstm_step(i[t : t + 1], f, z[t : t + 1], o, c, n, m)
        hs.append(h.item())
    return figure(
        go.Scatter(
            y=z.tanh().tolist(),
            name="tanh z",
            mode="markers",
            marker_color=COLORS["v"],
        ),
        go.Scatter(y=hs, name="h", line_color=COLORS["state"]),
        title="The loud token 12 sets h, and fades",
        x="token",
        y="value",
    )


# %% [markdown] tags=["exercise"]
# overflow

# %% [markdown] tags=["exercise"]
# joined

# %% [markdown] tags=["exercise"]
# read

# %% [markdown] tags=["exercise"]
# mlstm_step

# %% [markdown]
# Raise the exponent of *every* input gate by the same number. What happens to the answers? The picture runs your `mlstm_step` over the same 60 tokens, with all i raised by a shift. Say first what you expect.


# %% tags=["measured"]
def picture_of_shifts():
    rng = torch.Generator().manual_seed(1)
    q, k, v = torch.randn(3, 60, 1, 1, 4, generator=rng)
    i, log_f = torch.randn(60, 1, 1, generator=rng), torch.full((60, 1, 1), -0.1)
    lines = []
    for shift, dash in ((-6, "dot"), (0, "dash"), (6, "solid"), (60, "longdash")):
        state = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4), torch.zeros(1, 1)
        sizes = []
        for t in range(60):
            y, *state = mlstm_step(q[t], k[t], v[t], i[t] + shift, log_f[t], *state)
            sizes.append(y.norm().item())
        lines.append(go.Scatter(y=sizes, name=f"shift {shift}", line={"dash": dash}))
    fig = figure(
        *lines,
        title="Once n·q is above 1, a shift of all gates does not show",
        x="token",
        y="|y| (log scale)",
    )
    return fig.update_yaxes(type="log")


when_written(
    lambda: predict(
        "10-shift",
        "All input gates are e⁶⁰ times as large as with a shift of 6. What happens to y?",
        picture_of_shifts,
        choices=["it is e⁵⁴ times as large", "it overflows", "hardly anything"],
    )
)

# %% [markdown]
# Hardly anything: both S q and n·q grow by the same factor. The 1 in the denominator shows only where little has been written, as with a shift of -6.

# %% [markdown] tags=["exercise"]
# log_weights

# %% [markdown]
# The picture takes your `log_weights` and shows $e^D$ for 16 tokens. Two gates are shut.


# %%
@when_written
def picture_of_weights():
    rng = torch.Generator().manual_seed(3)
    i, log_f = 1.5 * torch.randn(16, generator=rng), torch.full((16,), math.log(0.8))
    log_f[[6, 11]] = -torch.inf
    D, _ = log_weights(i, log_f)
    return attention_matrix(
        D.exp(), title="A shut gate begins a new text: nothing is read across it"
    )


# %% [markdown] tags=["exercise"]
# block_over_layer

# %% [markdown] tags=["heading"]
# mended


# %%
def suspect(q, k, v, i, log_f, chunk):
    B, _, H, K = q.shape
    S, n, m = q.new_zeros(B, H, v.shape[-1], K), q.new_zeros(B, H, K), q.new_zeros(B, H)
    ys = []
    for part in range(0, q.shape[1], chunk):
        here = slice(part, part + chunk)
        qc, kc, vc = (u[:, here].transpose(1, 2) for u in (q, k, v))  # (B, H, C, _)
        ic, F = i[:, here].mT, log_f[:, here].mT.cumsum(-1)  # (B, H, C)
        later = torch.ones(F.shape[-1], F.shape[-1]).triu(1).bool()
        D = (F[..., :, None] - F[..., None, :] + ic[..., None, :]).masked_fill(
            later, -torch.inf
        )
        old = F + m[..., None]  # the exponent of the memory from before
        top = torch.maximum(D.amax(-1), old)
        weights = (D - top[..., None]).exp() * (qc @ kc.mT)
        since = (old - top).exp()[..., None]
        read = weights @ vc + since * (qc @ S.mT)
        size = weights.sum(-1) + (since * (qc @ n[..., None]))[..., 0]
        ys.append(read / torch.maximum(size.abs(), (-top).exp())[..., None])
        left = F[..., -1:] - F + ic  # the exponent of each write at the end
        new = torch.maximum(left.amax(-1), F[..., -1] + m)
        keep, write = F[..., -1].exp(), (left - new[..., None]).exp()
        S = keep[..., None, None] * S + (write[..., None] * vc).mT @ kc
        n = keep[..., None] * n + (write[..., None] * kc).sum(-2)
    return torch.cat(ys, dim=-2).transpose(1, 2)


def symptoms_of(form):
    """Chunks of 4 against one chunk; and a loud first chunk that later ones should still read."""
    rng = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 12, 1, 4, generator=rng)
    i, log_f = torch.zeros(1, 12, 1) + 5, torch.full((1, 12, 1), -0.05)
    off = (
        (form(q, k, v, i, log_f, 4) - form(q, k, v, i, log_f, 12))
        .abs()[0, :, 0]
        .amax(1)
    )
    print("chunks of 4 against one chunk, off by, for each chunk:", end=" ")
    print(*(f"{part.max():.3f}" for part in off.split(4)))
    i[:, :4] = 30
    one = torch.ones(1, 12, 1, 1)
    v = torch.cat([one[:, :4], 0 * one[:, 4:]], 1)
    y = form(one, one, v, i, log_f, 4)[0, -1, 0, 0]
    print(
        f"the last read, after a chunk that is e²⁵ times as loud: {y:.3f}; it should be 1"
    )


symptoms_of(suspect)

# %% [markdown] tags=["exercise"]
# mended

# %%
when_written(lambda: symptoms_of(mended))

# %% [markdown] tags=["question"]
# which_in_parallel

# %% [markdown] tags=["exercise"]
# louder

# %% [markdown]
# The picture shows the shares of h over a text, with your `gates`.


# %%
@when_written
def picture_of_shares():
    from seqlab.figures.xlstm import weights
    from seqlab.tasks import Largest

    task = Largest(6, 4, 24)
    tokens = task.batch(1, torch.Generator().manual_seed(3)).tokens[0]
    i, log_f = gates(tokens)
    names = [task.word(n) for n in tokens.tolist()]
    shares = weights(i, log_f)
    return attention_matrix(
        shares, names, title="Each read holds the latest of the highest bids so far"
    )


# %% [markdown]
# ## How far you are
#
# `progress()` lists every exercise of the course with your points. `seqlab grade 10` on the command line gives the
# mark.

# %%
progress()
