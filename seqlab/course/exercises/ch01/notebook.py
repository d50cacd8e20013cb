# %% [markdown]
# # Exercises 01 · Why architectures
#
# You read a cache that heads share without a copy of it, move LayerNorm's mean into the weights, decode texts of different length in one batch, and
# attend over a cache in any order. Three numbers and a count say what a layer costs, in weights, bytes and multiplications. You mend a cache
# that forgets where it is. The project trains a transformer whose memory has to fit into a few hundred bytes.
#
# {count} exercises, {points} points, about {minutes} minutes. They go with the chapter `01_why_architectures`, and get harder towards the end.
# Each stands alone: you can skip one and come back.
#
# {how 01.2}
#
# **Shapes.** Time comes before heads: q is (B, T, H, K), a cache of S tokens k is (B, S, h, K) and v is (B, S, h, V).

# %%
from functools import partial

import plotly.graph_objects as go
import torch

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
from seqlab.ffn import SwiGLU
from seqlab.figures.theme import COLORS, figure
from seqlab.mixers import Attention
from seqlab.model import LanguageModel
from seqlab.tasks import Names
from seqlab.train import accuracy, best_seconds, train
from seqlab.zoo import recipe

torch.set_num_threads(1)  # the models here are small: one thread is the fastest

# %% [markdown] tags=["exercise"]
# width

# %% [markdown] tags=["exercise"]
# shared_read

# %% [markdown]
# One token reads a cache of 8,192 tokens with 32 query heads of width 64, in float32: once with a key head for each, then with fewer. The multiplications
# are the same each time. Say first what you expect of the clock.


# %% tags=["measured"]
def picture_of_sharing():
    rng = torch.Generator().manual_seed(0)
    q = torch.randn(1, 32, 64, generator=rng)
    heads, ms = [32, 16, 8, 4, 2, 1], []
    for h in heads:
        k, v = torch.randn(2, 1, 8192, h, 64, generator=rng)
        ms.append(1000 * best_seconds(partial(shared_read, q, k, v)))
    times = ms[0] / ms[-1]
    fig = figure(
        go.Scatter(x=heads, y=ms, mode="lines+markers", line_color=COLORS["k"]),
        title=f"One key head in place of 32: {times:.0f} times as fast here",
        x="key heads (log scale)",
    )
    fig.update_xaxes(type="log", tickvals=heads, ticktext=[str(h) for h in heads])
    return fig.update_yaxes(type="log", dtick="D2", title_text="ms (log scale)")


predict(
    "01-shared",
    "How much faster is one key head than 32?",
    picture_of_sharing,
    choices=["hardly", "2 or 3 times", "10 times or more"],
)

# %% [markdown]
# Usually 10 times or more. The arithmetic is the same, so "hardly" would be right if the time went there. But each number of a large cache is used for
# one multiplication, and fetching it takes longer than that: what counts is the size of the cache. It does not become 32 times, because the softmax over
# all heads' scores stays, and so does the fixed cost of each operation.

# %% [markdown] tags=["exercise"]
# million

# %% [markdown] tags=["exercise"]
# passes

# %% [markdown] tags=["exercise"]
# centred

# %% [markdown] tags=["exercise"]
# rope

# %% [markdown] tags=["exercise"]
# work

# %% [markdown]
# The picture takes your `work` and draws both parts for a layer of Llama 3.1 70B.


# %%
@when_written
def picture_of_work():
    llama = recipe("Transformer 2026").published["Llama 3.1 70B"]
    T = 2.0 ** torch.arange(8, 21, dtype=torch.float64)
    sizes = [llama[name] for name in ("d_model", "n_heads", "n_kv_heads", "d_ff")]
    weights, pairs, equal = work(T, *sizes)
    lines = [
        go.Scatter(x=T.tolist(), y=y.tolist(), name=name, line_color=COLORS[color])
        for name, y, color in (
            ("weights", weights, "v"),
            ("pairs", pairs, "attention"),
        )
    ]
    fig = figure(
        *lines,
        title=f"In a layer of Llama 3.1 70B the pairs take over at {equal:,.0f} tokens",
        x="tokens T (log scale)",
        y="multiplications (log scale)",
    )
    fig.update_xaxes(type="log", dtick=1)
    return fig.update_yaxes(type="log", dtick=2, exponentformat="power")


# %% [markdown] tags=["exercise"]
# slots

# %% [markdown] tags=["heading"]
# mended


# %%
def suspect_cache(q, k, v, old_k, old_v, start, window):
    S, T = old_k.shape[1], q.shape[1]
    theta = position.rope_frequencies(q.shape[-1])
    here = torch.arange(S, S + T)
    q, k = (position.rotate(x, here, theta) for x in (q, k))
    k, v = torch.cat([old_k, k], dim=1), torch.cat([old_v, v], dim=1)
    age = torch.arange(T)[:, None] - torch.arange(S + T)
    hidden = (age < 0) | (age >= window)
    scores = torch.einsum("bihk, bjhk -> bhij", q, k) * q.shape[-1] ** -0.5
    p = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    y = torch.einsum("bhij, bjhv -> bihv", p, v)
    return y, k[:, -window:], v[:, -window:]


def symptoms_of_cache(mended):
    """Keys of 0 in a cache of three; then a key of (1, 0) at position 1,000."""
    none, one = torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 1)
    old = none.expand(1, 3, 1, 2), one.expand(1, 3, 1, 1)
    y, _, _ = mended(none, none, 5 * one, *old, 3, 8)
    print(f"all keys 0, values 1, 1, 1 and now 5: y should be 2, is {y.item():.2f}")
    key = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    _, k, _ = mended(none, key, one, *old, 1000, 3)
    wanted, found = (
        ", ".join(f"{u:.2f}" for u in pair)
        for pair in (
            position.rotate(key, torch.tensor([1000]), one[0, 0, 0])[0, 0, 0],
            k[0, -1, 0],
        )
    )
    print(f"the key (1, 0), turned by 1,000: should be ({wanted}), is ({found})")
    rng = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 12, 1, 4, generator=rng)
    whole, _, _ = mended(q, k, v, k[:, :0], v[:, :0], 0, 4)
    cache, parts = (k[:, :0], v[:, :0]), []
    for t in range(12):
        x = (u[:, t : t + 1] for u in (q, k, v))
        y, *cache = mended(*x, *cache, t, 4)
        parts.append(y)
    off = (torch.cat(parts, dim=1) - whole).abs().amax((0, 2, 3))
    print("token by token against all at once, the error:", end=" ")
    print(*(f"{u:.1f}" for u in off.tolist()))


symptoms_of_cache(suspect_cache)

# %% [markdown] tags=["exercise"]
# mended

# %%
when_written(lambda: symptoms_of_cache(mended))

# %% [markdown] tags=["question"]
# whose_memory

# %% [markdown] tags=["heading"]
# small


# %%
def trial(names, d_model, n_heads, n_kv_heads, window, d_ff, lr):
    """Train one shape as the check does: (model, the share of right answers)."""
    torch.manual_seed(1)
    task = Names(length=40, names=names)
    mixer = partial(Attention, n_heads=n_heads, n_kv_heads=n_kv_heads, window=window)
    model = LanguageModel(task.vocab, d_model, [mixer], partial(SwiGLU, d_ff=d_ff))
    train(model, task, steps=100, batch_size=16, lr=lr, seed=1)
    return model, accuracy(model, task.batch(500, torch.Generator().manual_seed(99)))


model, share = trial(
    1 / 8, d_model=16, n_heads=2, n_kv_heads=2, window=10, d_ff=32, lr=0.02
)
n = sum(p.numel() for p in model.parameters())
print(f"{4 * n:,} bytes of parameters, {share:.1%} right")

# %% [markdown] tags=["exercise"]
# small

# %% [markdown]
# The picture trains your first shape again and draws its answers by the age of the name.


# %%
@when_written
def picture_of_small():
    shape = small(1 / 8, 1280)
    model, share = trial(1 / 8, *shape)
    task = Names(length=40)
    batch = task.batch(2000, torch.Generator().manual_seed(99))
    right = model(batch.tokens)[0].argmax(-1) == batch.targets
    ages = range(1, 26)
    by_age = [right[batch.age == n].float().mean().item() for n in ages]
    fig = figure(
        go.Bar(x=list(ages), y=by_age, marker_color=COLORS["attention"]),
        title=f"{share:.0%} right: a window of {shape[3]} ends what can be known",
        x="tokens since the latest name",
        y="right answers",
    )
    return fig.add_hline(y=1 / 8, line_dash="dash", annotation_text="chance")


# %% [markdown]
# ## How far you are
#
# `progress()` lists every exercise of the course with your points. `seqlab grade 01` on the command line gives the
# mark.

# %%
progress()
