# %% [markdown]
# # Exercises 27 · Mixture kernels
#
# You write the kernels of a mixture of experts: a gate with biases, offsets, gathered rows, the table of tiles, a grouped product with its activation, and combine; and you mend a gradient that forgets experts without tokens.
#
# {count} exercises, {points} points, about {minutes} minutes. They go with the chapter `27_moe_kernels`, and get harder towards the end.
# Each stands alone: you can skip one and come back.
#
# {how 27.1}
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

# %% [markdown] tags=["exercise"]
# padding

# %% [markdown]
# Eight experts have 64 rows each, so every tile of 64 is full. Then one token changes its mind, and one row moves from expert 0 to expert 1. How many rows of padding are there now? Say first.


# %%
def picture_of_one_row():
    from seqlab.figures.mixture_kernel import rows_in_tiles

    even, moved = [64] * 8, [63, 65, *[64] * 6]
    return rows_in_tiles({"even": even, "one row moved": moved}, 64)


predict(
    "27-one-row",
    "512 rows in full tiles of 64. One row moves to another expert: how many rows of padding?",
    picture_of_one_row,
    choices=["none", "1", "2", "64"],
)

# %% [markdown]
# Sixty-four: expert 1 needs a second tile for one row, with 63 rows of padding, and expert 0 now has one. Perfect balance is no goal for a tile; being just below a multiple is.

# %% [markdown] tags=["exercise"]
# gather_rows

# %% [markdown] tags=["exercise"]
# biased_gate

# %% [markdown] tags=["exercise"]
# padded_offsets

# %% [markdown] tags=["exercise"]
# tile_table

# %% [markdown] tags=["exercise"]
# grouped_swiglu

# %% [markdown] tags=["exercise"]
# combine_residual

# %% [markdown]
# Before the next exercise, the suspect. It was tried on full tiles.


# %%
@triton.jit
def suspect_kernel(p_x, p_dy, p_dw, p_offsets, P, D: tl.constexpr,
                   F: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    e, o_d, o_f = tl.program_id(0), tl.arange(0, D), tl.arange(0, F)
    first, end = tl.load(p_offsets + e), tl.load(p_offsets + e + 1)
    at_dw = p_dw + (e * D + o_d[:, None]) * F + o_f[None, :]
    b_dw = tl.zeros((D, F), tl.float32)
    for start in range(first, end, BK):
        o_k = start + tl.arange(0, BK)
        at_x = p_x + o_k[None, :] * D + o_d[:, None]
        b_x = tl.load(at_x, mask=o_k[None, :] < P, other=0.0)
        at_dy = p_dy + o_k[:, None] * F + o_f[None, :]
        b_dy = tl.load(at_dy, mask=o_k[:, None] < P, other=0.0)
        b_dw = tl.dot(b_x, b_dy, b_dw, input_precision="ieee")
    if end > first:
        tl.store(at_dw, b_dw)


def suspect_gradients(x, dy, offsets):
    E, (P, D), F = len(offsets) - 1, x.shape, dy.shape[1]
    dw = torch.full((E, D, F), float("nan"))
    suspect_kernel[(E,)](x, dy, dw, offsets, P, D=D, F=F, BK=16)
    return dw


@when_written
def symptoms():
    rng = torch.Generator().manual_seed(0)
    for load in ([32, 32], [20, 12], [32, 0]):
        x, dy = torch.randn(2, sum(load), 16, generator=rng)
        offsets = torch.tensor([0, *load]).cumsum(0).int()
        dw = suspect_gradients(x, dy, offsets)
        groups = zip(x.split(load), dy.split(load), strict=True)
        right = torch.stack([a.T @ b for a, b in groups])
        worst = ", ".join(f"{e:.1e}" for e in (dw - right).abs().amax((1, 2)))
        print(f"rows {load}: largest errors of the two experts {worst}")


# %% [markdown] tags=["exercise"]
# expert_gradients

# %% [markdown] tags=["question"]
# longest_first

# %% [markdown] tags=["exercise"]
# choose_tile

# %% [markdown]
# ## How far you are
#
# `progress()` lists every exercise of the course with your points. `seqlab grade 27` on the command line gives the
# mark.

# %%
progress()
