# %% [markdown]
# # Exercises 08 · The delta rule
#
# You clear a key, follow what overlapping writes leave, find the key of a reflection and undo a write. Then you take a chunk apart from its state, run a whole text in chunks, give erasing and writing gates of their own, and mend a layer.
# The project keeps three items in order by reflections that you choose.
#
# {count} exercises, {points} points, about {minutes} minutes. They go with the chapter `08_delta_rule`, and get harder towards the end.
# Each stands alone: you can skip one and come back.
#
# {how 08.1}
#
# **Names.** S is the table (value channels × key channels), β the strength of a write, `log_a` the logarithm of a decay. Keys have length 1 unless the text says otherwise.

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
from seqlab.figures import delta as figures
from seqlab.figures.theme import COLORS, figure

# %% [markdown] tags=["exercise"]
# erase

# %% [markdown]
# The picture stores 12 values under random keys and clears every second key with your `erase`.


# %%
@when_written
def picture_of_erasing():
    rng = torch.Generator().manual_seed(1)
    k, v = torch.randn(12, 16, generator=rng), torch.randn(12, 16, generator=rng)
    k = k / k.norm(dim=1, keepdim=True)
    S = torch.linalg.lstsq(k, v).solution.mT[None, None]  # every key returns its value
    for key in k[::2]:
        S = erase(S, key[None, None], torch.ones(1, 1))
    lengths = (k @ S[0, 0].mT).norm(dim=1) / v.norm(dim=1)
    bars = go.Bar(y=lengths.tolist(), marker_color=COLORS["state"])
    title = "The last cleared key returns nothing; each clearing changes all other keys"
    return figure(bars, title=title, x="key", y="length of the read ÷ of the value")


# %% [markdown] tags=["exercise"]
# residue

# %% [markdown] tags=["exercise"]
# reflect

# %% [markdown]
# The picture turns an arrow at 20° into arrows at other angles, with your key.


# %%
@when_written
def picture_of_reflections():
    at = torch.deg2rad(torch.tensor([60.0, 110.0, 200.0, 290.0]))
    b = torch.stack([at.cos(), at.sin()], 1)
    angle = torch.deg2rad(torch.tensor(20.0))
    a = torch.stack([angle.cos(), angle.sin()]).expand(4, 2)
    k = reflect(a, b)
    image = a - 2 * (a * k).sum(1, keepdim=True) * k
    lines = []
    for name, ends, color, dash in (
        ("a", a[:1], "decay", "solid"),
        ("b, asked for", b, "v", "solid"),
        ("a, reflected", image, "state", "dot"),
    ):
        x, y = (
            sum(([0, e[i].item(), None] for e in ends), [])  # noqa: RUF017
            for i in (0, 1)
        )
        look = {
            "color": COLORS[color],
            "dash": dash,
            "width": 5 if dash == "dot" else 2,
        }
        lines.append(go.Scatter(x=x, y=y, mode="lines", name=name, line=look))
    title = "Each dotted arrow lies on one that was asked for"
    fig = figure(*lines, title=title, x="channel 0", y="channel 1", height=420)
    return fig.update_yaxes(scaleanchor="x")


# %% [markdown] tags=["exercise"]
# undo

# %% [markdown]
# Write 40 tokens, then undo all of them. In float32, how exact is the first table again? Say first what you expect if every $\beta$ is 0.9, then look.


# %% tags=["measured"]
def picture_of_undoing():
    rng = torch.Generator().manual_seed(2)
    keys, values = torch.randn(2, 40, 1, 1, 8, generator=rng)
    keys = keys / keys.norm(dim=-1, keepdim=True)
    lines = []
    for strength, dash in (
        (0.5, "dot"),
        (0.9, "solid"),
        (1.9, "dash"),
        (2.0, "longdash"),
    ):
        S, beta = torch.zeros(1, 1, 8, 8), torch.full((1, 1), strength)
        tables = [S]
        for k, v in zip(keys, values, strict=True):
            found = (S @ k[..., None])[..., 0]
            S = S + beta[..., None, None] * (v - found)[..., None] * k[..., None, :]
            tables.append(S)
        errors = []
        for t in reversed(range(40)):
            S = undo(S, keys[t], values[t], beta)
            errors.append((S - tables[t]).abs().max().item() + 1e-9)
        lines.append(go.Scatter(y=errors, name=f"β = {strength}", line={"dash": dash}))
    fig = figure(
        *lines,
        title="A reflection is undone without loss; near β = 1 rounding grows",
        x="tokens undone",
        y="error of the table (log scale)",
    )
    return fig.update_yaxes(type="log", exponentformat="power")


when_written(
    lambda: predict(
        "08-undo",
        "Every β is 0.9. After 40 tokens are undone, the error of the table is …",
        picture_of_undoing,
        choices=["below 0.001", "around 1", "far above 1"],
    )
)

# %% [markdown]
# Far above 1. Each undone write multiplies the error along its key by 10, and 40 writes have keys in 8 channels only. With $\beta = 2$ the factor is 1.

# %% [markdown] tags=["exercise"]
# ones

# %% [markdown] tags=["exercise"]
# wy

# %% [markdown]
# The picture takes your `wy` for 24 tokens with $\beta = 1$ and no decay, and shows what the chunk does to any table: $I - W^\top K$.


# %%
@when_written
def picture_of_a_chunk():
    rng = torch.Generator().manual_seed(3)
    tables = {}
    for C in (4, 12, 24):
        k = torch.randn(C, 16, generator=rng)
        k = k / k.norm(dim=1, keepdim=True)
        W, _ = wy(k, torch.zeros(C, 1), torch.zeros(C), torch.ones(C))
        tables[f"{C} tokens"] = torch.eye(16) - W.mT @ k
    title = "The more keys a chunk writes, the less of the old table is left"
    fig = figures.tables(tables, title=title)
    fig.update_xaxes(title_text="key channel")
    return fig.update_yaxes(title_text="key channel", col=1)


# %% [markdown] tags=["exercise"]
# carried

# %% [markdown] tags=["exercise"]
# apart

# %% [markdown]
# The picture stores a value under a key, then writes another one under the same key, with all pairs of $b$ and $w$ between 0 and 1.


# %%
@when_written
def picture_of_two_gates():
    rng = torch.Generator().manual_seed(5)
    k, v1, v2 = torch.randn(3, 1, 1, 4, generator=rng)
    k = k / k.norm()
    steps, ones = torch.linspace(0, 1, 5), torch.ones(1, 1, 4)
    old, new = torch.zeros(5, 5), torch.zeros(5, 5)
    S = apart(torch.zeros(1, 1, 4, 4), k, v1, 0 * ones, ones, ones)
    for i, b in enumerate(steps):
        for j, w in enumerate(steps):
            read = apart(S, k, v2, 0 * ones, b * ones, w * ones)[0, 0] @ k[0, 0]
            both = torch.stack([v1[0, 0], v2[0, 0]], dim=1)
            old[i, j], new[i, j] = torch.linalg.lstsq(both, read[:, None]).solution[
                :, 0
            ]
    title = "The old value fades with b, the new one comes with w"
    fig = figures.tables({"share of the old": old, "of the new": new}, title=title)
    fig.update_xaxes(title_text="w, in quarters")
    return fig.update_yaxes(title_text="b, in quarters", col=1)


# %% [markdown] tags=["heading"]
# mended


# %%
def suspect(q, k, v, log_a, beta):
    B, T, H, K = q.shape
    S = q.new_zeros(B, H, v.shape[-1], K)
    ys = []
    for t in range(T):
        found = (S @ k[:, t, ..., None])[..., 0]
        write = beta[:, t, :, None] * v[:, t] - found
        S = S + write[..., None] * k[:, t, :, None, :]
        S = log_a[:, t].exp()[..., None, None] * S
        ys.append((S @ q[:, t, ..., None])[..., 0])
    return torch.stack(ys, dim=1)


def symptoms_of(form):
    """The newest value with β = 1; and a token with β = 0 where nothing fades."""
    rng = torch.Generator().manual_seed(0)
    k, v = torch.randn(2, 1, 6, 1, 4, generator=rng)
    k = k / k.norm(dim=-1, keepdim=True)
    one, half = torch.ones(1, 6, 1), torch.full((1, 6, 1), 0.5).log()
    y = form(k, k, v, half, one)
    share = (y[0, -1, 0] * v[0, -1, 0]).sum() / v[0, -1, 0].square().sum()
    print(f"newest value, β = 1: {share:.2f} of it comes back; it should be 1")
    keys = k[:, :1].expand(1, 6, 1, 4)
    beta = one.clone()
    beta[:, 1:] = 0
    y = form(keys, keys, v, 0 * one, beta)
    left = y[0, -1, 0].norm() / v[0, 0, 0].norm()
    print(f"one write, then five tokens with β = 0: {left:.2f} is left; it should be 1")


symptoms_of(suspect)

# %% [markdown] tags=["exercise"]
# mended

# %%
when_written(lambda: symptoms_of(mended))

# %% [markdown] tags=["question"]
# fade_or_clear

# %% [markdown] tags=["exercise"]
# order

# %% [markdown]
# The picture follows the three numbers through 12 tokens, with your `two_writes`.


# %%
@when_written
def picture_of_order():
    from itertools import permutations

    rng = torch.Generator().manual_seed(4)
    orders = list(permutations(range(3)))
    S, rows = torch.tensor([1.0, 2.0, 3.0]), [[1.0, 2.0, 3.0]]
    for n in torch.randint(6, (12,), generator=rng).tolist():
        k, beta = two_writes(orders[n])
        for key, b in zip(k, beta, strict=True):
            S = S - b * (S @ key) * key
        rows.append(S.tolist())
    names = ("q", "write", "v")
    lines = [
        go.Scatter(y=list(row), name=f"place {i}", line_color=COLORS[names[i]])
        for i, row in enumerate(zip(*rows, strict=True))
    ]
    title = "Three numbers change places and are never lost"
    return figure(*lines, title=title, x="tokens read", y="the number at each place")


# %% [markdown]
# ## How far you are
#
# `progress()` lists every exercise of the course with your points. `seqlab grade 08` on the command line gives the
# mark.

# %%
progress()
