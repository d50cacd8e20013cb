# %% [markdown]
# # Exercises 24 · Flash attention kernel
#
# You write the kernels of attention: one tile of its loop, the whole forward with a sink, the bounds of a causal window, queries that share a tile, the pre-pass of the backward and dQ, a cache that programs share. You
# count registers before a compiler does, mend a kernel that fails where a row sees nothing, and plan a batch for a device.
#
# {count} exercises, {points} points, about {minutes} minutes. They go with the chapter `24_flash_attention_kernel`, and get harder towards the end.
# Each stands alone: you can skip one and come back.
#
# {how 24.1}
#
# **Kernels.** The cell holds the kernel and the function that launches it; `check` gets the function. Your kernel is taken along to a process of its own: its source goes, with
# the helper kernels, numbers and imports of this notebook that it uses. The first check starts that process, which takes some seconds. A check compares with a reference, looks at each launch as `sanitize` does, and runs on a GPU too if there is one.

# %%
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
from seqlab.gpu.anywhere import tl, triton
from seqlab.gpu.sanitize import sanitize
from seqlab.gpu.trace import trace

# %% [markdown] tags=["exercise"]
# loop_tile

# %% [markdown] tags=["exercise"]
# attend_with_sink

# %% [markdown]
# What does a sink do? The cell below gives one head of your attention a sink from -4 to 8.


# %%
@when_written
def sinks():
    rng = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 32, 1, 16, generator=rng)
    for s in (-4.0, 0.0, 4.0, 8.0):
        y, lse = attend_with_sink(q, k, v, torch.tensor([s]))
        taken = (s - lse).exp().mean().item()
        print(f"sink {s:4}: it takes {taken:.0%} of the weight, |y| is {y.norm():.2f}")


# %% [markdown] tags=["exercise"]
# loop_bounds

# %% [markdown] tags=["exercise"]
# packed

# %% [markdown]
# How many times fewer bytes of k does it ask for than a program for each query head? Take 8 query heads and 2 heads of the cache. Say first.


# %%
def picture_of_packing():
    from seqlab.figures.flash_kernel import moved

    S, K, h, G = 64, 32, 2, 4
    cache, rest = 2 * S * h * K * 4, 2 * h * G * K * 4
    ways = {
        "a program for each query head": {"k and v": G * cache, "q and y": rest},
        "a program for each head of the cache": {"k and v": cache, "q and y": rest},
    }
    return moved(ways, f"Packed queries ask for k and v once, not {G} times")


predict(
    "24-packed",
    "8 query heads share 2 heads of the cache. How many times fewer bytes of k does packing ask for?",
    picture_of_packing,
    choices=["2", "4", "8", "16"],
)

# %% [markdown]
# Four: the number of query heads that share a head of the cache. Eight is the number of query heads, and would be right if there were one head of the cache.

# %% [markdown] tags=["exercise"]
# delta

# %% [markdown] tags=["exercise"]
# query_gradient

# %% [markdown] tags=["exercise"]
# split_decode

# %% [markdown] tags=["exercise"]
# registers

# %% [markdown] tags=["heading"]
# masked_rows


# %%
@triton.jit
def suspect_kernel(p_q, p_k, p_v, p_first, p_last, p_y, p_lse, T, S, scale,
                   K: tl.constexpr, V: tl.constexpr, B: tl.constexpr):  # fmt: skip
    o_t = tl.program_id(0) * B + tl.arange(0, B)
    o_k, o_v, inside = tl.arange(0, K), tl.arange(0, V), o_t[:, None] < T
    b_q = tl.load(p_q + o_t[:, None] * K + o_k[None, :], mask=inside, other=0.0)
    b_first = tl.load(p_first + o_t, mask=o_t < T, other=0)
    b_last = tl.load(p_last + o_t, mask=o_t < T, other=0)
    b_y, b_sum = tl.zeros((B, V), tl.float32), tl.zeros((B,), tl.float32)
    b_top = tl.full((B,), -1e30, tl.float32)
    for start in range(0, S, B):
        o_s = start + tl.arange(0, B)
        there = o_s[:, None] < S
        b_k = tl.load(p_k + o_s[:, None] * K + o_k[None, :], mask=there, other=0.0)
        b_v = tl.load(p_v + o_s[:, None] * V + o_v[None, :], mask=there, other=0.0)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * scale
        sees = (o_s[None, :] >= b_first[:, None]) & (o_s[None, :] < b_last[:, None])
        b_s = tl.where(sees, b_s, -1e30)
        new = tl.maximum(b_top, tl.max(b_s, 1))
        fade, b_p = tl.exp(b_top - new), tl.exp(b_s - new[:, None])
        b_sum = b_sum * fade + tl.sum(b_p, 1)
        b_y = tl.dot(b_p, b_v, b_y * fade[:, None], input_precision="ieee")
        b_top = new
    at_y = p_y + o_t[:, None] * V + o_v[None, :]
    tl.store(at_y, b_y / b_sum[:, None], mask=inside)
    tl.store(p_lse + o_t, b_top + tl.log(b_sum), mask=o_t < T)


def suspect_rows(q, k, v, first, last):
    (T, K), (S, V) = q.shape, v.shape
    y, lse = q.new_empty(T, V), q.new_empty(T)
    given = q, k, v, first, last, y, lse, T, S, K**-0.5
    suspect_kernel[(triton.cdiv(T, 16),)](*given, K=K, V=V, B=16)
    return y, lse


@when_written
def symptoms():
    rng = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 32, 16, generator=rng)
    first = torch.zeros(32, dtype=torch.int32)
    last = torch.arange(32, dtype=torch.int32)  # query 0 sees no key
    y, lse = suspect_rows(q, k, v, first, last)
    print("query 1 reads the first value:", torch.allclose(y[1], v[0], atol=1e-5))
    print(f"query 0 sees no key: |y| = {y[0].norm():.2f}, lse = {lse[0]:.2g}")


# %% [markdown] tags=["exercise"]
# masked_rows

# %% [markdown] tags=["question"]
# which_first

# %% [markdown] tags=["exercise"]
# plan

# %% [markdown]
# ## How far you are
#
# `progress()` lists every exercise of the course with your points. `seqlab grade 24` on the command line gives the
# mark.

# %%
progress()
