# %% [markdown]
# # Exercises 23 · Triton from zero
#
# You write kernels: a copy with a ragged end, one through strides, two results from one trip through memory, a softmax of a row of any width, a backward with parts, a linear layer, a sum that many programs share. You
# count what a kernel asks for before it runs, mend one that only a GPU would betray, and find an order that a cache likes.
#
# {count} exercises, {points} points, about {minutes} minutes. They go with the chapter `23_triton_from_zero`, and get harder towards the end.
# Each stands alone: you can skip one and come back.
#
# {how 23.1}
#
# **Kernels.** The cell holds the kernel and the function that launches it; `check` gets the function. Your kernel is taken along to a process of its own, so that a crash or an endless loop costs nothing here: its source goes, with
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
# ragged_copy

# %% [markdown]
# The picture takes your kernel and shows, program by program, what it touches.


# %%
@when_written
def picture_of_copy():
    x, y = torch.arange(77.0), torch.empty(77)
    return trace(ragged_copy_kernel, (3,), x, y, 77, BLOCK=32)


# %% [markdown] tags=["exercise"]
# strided_copy

# %% [markdown] tags=["exercise"]
# add_silu

# %% [markdown] tags=["exercise"]
# wide_softmax

# %% [markdown]
# The cell below compares your `wide_softmax` with PyTorch's on rows of 1,000 numbers.


# %%
@when_written
def comparison_of_softmax():
    x = 5 * torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    gap = (wide_softmax(x) - x.softmax(-1)).abs().max().item()
    print(f"yours and PyTorch's differ by at most {gap:.0e}")


# %% [markdown] tags=["exercise"]
# norm_gradients

# %% [markdown] tags=["exercise"]
# linear

# %% [markdown] tags=["exercise"]
# sum_of_squares

# %% [markdown] tags=["exercise"]
# intensity

# %% [markdown]
# A matmul with 16 × 16 tiles, sixteen programs at a time, and a cache for 12 of the 32 strips of a and b. Say first which order fetches the fewest.


# %%
def picture_of_groups():
    from seqlab.figures.kernels import group_bars

    return group_bars(16, 16, (1, 2, 4, 8, 16), concurrent=16, room=12)


predict(
    "23-group",
    "In groups of how many tile rows are the fewest strips fetched?",
    picture_of_groups,
    choices=["1", "4", "8", "16"],
)

# %% [markdown]
# Eight. A square of 4 × 4 programs wants the fewest strips at one time, eight, and is the usual guess. But a block of 8 × 2 wants ten, which also fit, and all of b then passes by twice, not four times. With 16 rows the strips of a alone do not fit.

# %% [markdown] tags=["heading"]
# running_total


# %%
@triton.jit
def suspect_kernel(p_x, p_y, n, BLOCK: tl.constexpr):
    first = tl.program_id(0) * BLOCK
    i = first + tl.arange(0, BLOCK)
    b_y = tl.cumsum(tl.load(p_x + i, mask=i < n, other=0.0), 0)
    if first > 0:
        b_y += tl.load(p_y + first - 1)
    tl.store(p_y + i, b_y)


def suspect_total(x):
    y = torch.zeros(96)  # room for three blocks, so that nobody is hurt here
    suspect_kernel[(triton.cdiv(len(x), 32),)](x, y, len(x), BLOCK=32)
    return y[: len(x)]


@when_written
def symptoms():
    x = torch.randn(77, generator=torch.Generator().manual_seed(0))
    gap = (suspect_total(x) - x.cumsum(0)).abs().max()
    print(f"suspect and PyTorch differ by at most {gap:.0e}")


# %% [markdown] tags=["exercise"]
# running_total

# %% [markdown] tags=["question"]
# when_not

# %% [markdown] tags=["exercise"]
# visit

# %% [markdown]
# ## How far you are
#
# `progress()` lists every exercise of the course with your points. `seqlab grade 23` on the command line gives the
# mark.

# %%
progress()
