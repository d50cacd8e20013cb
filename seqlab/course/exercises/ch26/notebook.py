# %% [markdown]
# # Exercises 26 · Scan and delta kernels
#
# You write an operator for `tl.associative_scan`, a complex scan with a carry across tiles, the step of a selective scan, forward substitution of a triangular tile, the WY form of a chunk; and you mend a scan that is right in the interpreter only.
#
# {count} exercises, {points} points, about {minutes} minutes. They go with the chapter `26_scan_and_delta_kernels`, and get harder towards the end.
# Each stands alone: you can skip one and come back.
#
# {how 26.1}
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
from seqlab.gpu.rows import load_rows, store_rows

# %% [markdown] tags=["exercise"]
# running_average

# %% [markdown] tags=["exercise"]
# complex_scan

# %% [markdown] tags=["exercise"]
# selective_step

# %% [markdown] tags=["exercise"]
# triangular

# %% [markdown] tags=["exercise"]
# chunk_maps

# %% [markdown]
# Before the next exercise, the suspect.


# %%
@triton.jit
def join_steps(a1, b1, a2, b2):
    return a2 * a1, a2 * b1 + b2


@triton.jit
def suspect_kernel(p_a, p_b, p_first, p_h, p_carry, T, W, BW: tl.constexpr):
    c, o_t, o_w = tl.program_id(0), tl.arange(0, 16)[:, None], tl.arange(0, BW)[None, :]
    at, there = (c * 16 + o_t) * W + o_w, (c * 16 + o_t < T) & (o_w < W)
    b_a = tl.load(p_a + at, mask=there, other=0.0)
    b_b = tl.load(p_b + at, mask=there, other=0.0)
    b_a, b_b = tl.associative_scan((b_a, b_b), 0, join_steps)
    if c == 0:
        before = tl.load(p_first + o_w, mask=o_w < W)
    else:
        before = tl.load(p_carry + (c - 1) * W + o_w, mask=o_w < W)
    b_h = b_a * before + b_b
    tl.store(p_h + at, b_h, mask=there)
    end = tl.sum(tl.where(o_t == 15, b_h, 0.0), 0, keep_dims=True)
    tl.store(p_carry + c * W + o_w, end, mask=o_w < W)


def suspect_scan(a, b, first):
    (T, W), N = b.shape, triton.cdiv(len(b), 16)
    h, carry = torch.empty_like(b), a.new_zeros(N, W)
    suspect_kernel[(N,)](a, b, first, h, carry, T, W, BW=4)
    return h, carry[-1]


@when_written
def symptoms():
    rng = torch.Generator().manual_seed(0)
    for T in (32, 37):
        a, b = 0.5 + torch.rand(T, 2, generator=rng) / 2, torch.ones(T, 2)
        h, last = suspect_scan(a, b, torch.zeros(2))
        right = torch.zeros(2)
        for t in range(T):
            right = a[t] * right + b[t]
        print(f"T = {T}: h at the end {h[-1, 0]:.4f}, exactly {right[0]:.4f}; ", end="")
        print(f"the last state that is returned {last[0]:.4f}")


# %% [markdown] tags=["exercise"]
# chained_scan

# %% [markdown]
# A scan that is cut along time needs a and b in both launches. Compared with a program that walks along all of time: how many times as many bytes does it ask for, apart from the few that belong to whole tiles? Say first.


# %%
def picture_of_the_cut():
    from seqlab.figures.flash_kernel import moved

    tensor = 4 * 4096 * 64  # 4,096 tokens of 64 channels, in float32
    ways = {
        "one walk": {"a": tensor, "b": tensor, "h": tensor},
        "cut, two launches": {"a": 2 * tensor, "b": 2 * tensor, "h": tensor},
    }
    return moved(ways, "Cut along time, a scan asks for 5/3 of the bytes")


predict(
    "26-cut",
    "How many times as many bytes does a scan ask for if it is cut along time?",
    picture_of_the_cut,
    choices=["as many", "4/3 as many", "5/3 as many", "twice as many"],
)

# %% [markdown]
# Five thirds: a and b are read twice, but h is written once. If you said twice, you counted a second h: the first launch keeps only the last row of each tile. In return there are as many programs as tiles.

# %% [markdown] tags=["exercise"]
# checkpoints

# %% [markdown] tags=["question"]
# matrix_scan

# %% [markdown] tags=["exercise"]
# cut

# %% [markdown]
# ## How far you are
#
# `progress()` lists every exercise of the course with your points. `seqlab grade 26` on the command line gives the
# mark.

# %%
progress()
