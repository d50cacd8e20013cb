# %% [markdown]
# # Exercises 14 · Flash attention
#
# You carry a maximum and a sum over blocks, count bytes, update one tile, take a part out of a finished read, decide which tiles a kernel touches, keep a softmax over nothing finite, mend a window over a
# cache, and write the whole loop. Then the backward, decoding in parts, and a project: a ring in which nobody waits.
#
# {count} exercises, {points} points, about {minutes} minutes. They go with the chapter `14_flash_attention`, and get harder towards the end.
# Each stands alone: you can skip one and come back.
#
# {how 14.3}
#
# **Shapes.** Most exercises are about one head: q is (T_q, K), k is (T_k, K), v is (T_k, V). *lse* is the log-sum-exp of a row's scores.

# %%
import time

import plotly.graph_objects as go
import torch

from seqlab.core.attention import attend, attend_tiled
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

# %% [markdown] tags=["exercise"]
# absorb

# %% [markdown]
# The picture takes your `absorb` and reads 24 scores in blocks of four, for one row.


# %%
@when_written
def picture_of_absorb():
    scores = 2 * torch.randn(24, generator=torch.Generator().manual_seed(9))
    scores += torch.linspace(0, 5, 24)
    top, total, seen = torch.tensor([-torch.inf]), torch.zeros(1), []
    for block in scores.split(4):
        top, total = absorb(top, total, block[None])
        seen.append((top.item(), total.item(), (top + total.log()).item()))
    tops, totals, lses = zip(*seen, strict=True)
    x = list(range(4, 25, 4))
    fig = figure(
        go.Scatter(x=x, y=tops, name="top", line_color=COLORS["softmax"]),
        go.Scatter(x=x, y=totals, name="total", line_color=COLORS["q"]),
        go.Scatter(x=x, y=lses, name="top + log total", line_color=COLORS["write"]),
        title="The total may fall; the log-sum-exp only rises",
        x="scores read",
    )
    return fig.update_layout(legend={"orientation": "h", "y": -0.2, "yanchor": "top"})


# %% [markdown] tags=["exercise"]
# bytes_moved

# %% [markdown] tags=["exercise"]
# step

# %% [markdown] tags=["exercise"]
# without

# %% [markdown] tags=["exercise"]
# kinds

# %% [markdown]
# The picture takes your `kinds` for 64 queries at the end of 96 keys, with a window of 40: white is skipped, pale needs no mask, dark needs one.


# %%
@when_written
def picture_of_kinds():
    table = kinds(64, 96, 8, 8, 40)
    heat = go.Heatmap(
        z=table.tolist(), colorscale=WEIGHTS, zmin=0, zmax=4, showscale=False
    )
    computed = int((table > 0).sum())
    fig = figure(
        heat,
        height=440,
        title=f"{computed} of {table.numel()} tiles are computed",
        x="blocks of 8 keys",
        y="blocks of 8 queries",
    )
    fig.update_xaxes(constrain="domain", zeroline=False, showgrid=False)
    return fig.update_yaxes(
        autorange="reversed", scaleanchor="x", zeroline=False, showgrid=False
    )


# %% [markdown]
# Tiles have a price each, and pairs have one. `attend_tiled` with 2,048 causal tokens on this machine: say first which tile you expect to be the fastest.


# %% tags=["measured"]
def picture_of_tiles():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2048, 1, 32)
    sizes, ms = [16, 32, 64, 128, 256, 512, 2048], []
    for tile in sizes:
        took = []
        for _ in range(2):
            start = time.perf_counter()
            attend_tiled(q, k, v, causal=True, tile=(tile, tile))
            took.append(1000 * (time.perf_counter() - start))
        ms.append(min(took))
    line = go.Scatter(
        x=sizes, y=ms, mode="lines+markers", line_color=COLORS["attention"]
    )
    fig = figure(
        line,
        title=f"The fastest tile here: {sizes[ms.index(min(ms))]} × {sizes[ms.index(min(ms))]}",
        x="side of the tile (log scale)",
    )
    fig.update_xaxes(type="log", tickvals=sizes, ticktext=[str(size) for size in sizes])
    return fig.update_yaxes(type="log", dtick=1, title_text="ms (log scale)")


predict(
    "14-tile",
    "Which side of a square tile is the fastest on a CPU?",
    picture_of_tiles,
    choices=["16", "64 to 512", "2048: one tile"],
)

# %% [markdown]
# Usually 64 to 512. With tiles of 16 the loop runs more than 8,000 times, each time with the fixed cost of a dozen small operations. One tile of 2,048 computes twice as many pairs as
# causality leaves, and is too large for the processor's cache. A GPU's kernel has the same two walls nearer together: it must fill a matrix unit, and it must fit on the chip.

# %% [markdown] tags=["exercise"]
# blind

# %% [markdown] tags=["heading"]
# windowed


# %%
def suspect_window(q, k, v, window, tile):
    ys = []
    for i in range(0, len(q), tile):
        q_i = q[i : i + tile]
        at = torch.arange(i, i + len(q_i))
        begin, end = max(0, int(at[-1]) - window + 1), int(at[-1]) + 1
        away = at[:, None] - torch.arange(begin, end)
        s = q_i @ k[begin:end].mT * q.shape[-1] ** -0.5
        s = s.masked_fill((away < 0) | (away >= window), -torch.inf)
        ys.append(s.softmax(-1) @ v[begin:end])
    return torch.cat(ys)


def symptoms_of_window(windowed):
    """Values that say where they stand, and equal scores: a read is the mean position seen."""
    q, k, v = torch.zeros(1, 4), torch.zeros(10, 4), torch.arange(10.0)[:, None]
    read = windowed(q, k, v, 1, 4).item()
    print(f"one query at the end of ten keys, window 1: reads {read:.1f}, should be 9")
    read = windowed(torch.zeros(10, 4), k, v, 3, 5)[5].item()
    print(f"query 5 of ten, window 3, tiles of 5: reads {read:.1f}, should be 4")


symptoms_of_window(suspect_window)

# %% [markdown] tags=["exercise"]
# windowed

# %%
when_written(lambda: symptoms_of_window(windowed))

# %% [markdown] tags=["exercise"]
# loop

# %% [markdown]
# The cell below compares your `loop` with `attend` on 200 tokens, in float32.


# %%
@when_written
def comparison_of_loops():
    q, k, v = torch.randn(3, 200, 16, generator=torch.Generator().manual_seed(0))
    theirs = attend(*(x[None, :, None] for x in (q, k, v)), causal=True)[0, :, 0]
    gap = (loop(q, k, v, 32, 24)[0] - theirs).abs().max().item()
    print(f"yours and attend differ by at most {gap:.0e}")


# %% [markdown] tags=["exercise"]
# score_gradient

# %% [markdown] tags=["exercise"]
# decode

# %% [markdown] tags=["question"]
# why_now

# %% [markdown] tags=["exercise"]
# place

# %% [markdown]
# The picture takes your `place` for one text of 16 blocks on eight devices: the work of each device in each turn.


# %%
@when_written
def picture_of_places():
    device = place([16], 8)
    at = torch.arange(16)
    tiles = (at[:, None] > at) + 0.5 * (at[:, None] == at)
    mine = torch.nn.functional.one_hot(device, 8).float()
    pairs, d = mine.T @ tiles @ mine, torch.arange(8)
    work = torch.stack([pairs[d, (d - turn) % 8] for turn in range(8)], 1)
    heat = go.Heatmap(z=work.tolist(), colorscale=WEIGHTS, zmin=0, zmax=4)
    lasts, least = work.amax(0).sum().item(), work.mean(0).sum().item()
    return figure(
        heat,
        title=f"The turns last as long as {lasts:g} tiles; {least:g} would be the least",
        x="turn",
        y="device",
    )


# %% [markdown]
# ## How far you are
#
# `progress()` lists every exercise of the course with your points. `seqlab grade 14` on the command line gives the
# mark.

# %%
progress()
