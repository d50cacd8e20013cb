# %% [markdown]
# # Exercises 25 · Chunked recurrence kernel
#
# You write the kernels of a chunked recurrence: what each chunk adds, how states are passed on, outputs with a bonus for the token itself, gradients; and you mend one that sums in the wrong type.
#
# {count} exercises, {points} points, about {minutes} minutes. They go with the chapter `25_chunked_recurrence_kernel`, and get harder towards the end.
# Each stands alone: you can skip one and come back.
#
# {how 25.1}
#
# **Kernels.** The cell holds the kernel and the function that launches it; `check` gets the function. Your kernel is taken along to a process of its own: its source goes, with
# the helper kernels, numbers and imports of this notebook that it uses. The first check starts that process, which takes some seconds. A check compares with a reference, looks at each launch as `sanitize` does, and runs on a GPU too if there is one.
#
# **Tiles of tokens.** All tensors are (time, heads, width). To leave addresses aside, two helpers are imported: `load_rows(p, first, T, i_h, H, N, W)` gives the tokens first … first + N of head i_h as a tile (N, W), with 0 for tokens from T on;
# `store_rows(p, b, first, T, i_h, H, N, W)` stores such a tile. They are the page's `rows`, and its counterpart.

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
from seqlab.gpu.trace import trace

# %% [markdown] tags=["exercise"]
# chunk_states

# %% [markdown] tags=["exercise"]
# pass_states

# %% [markdown]
# The page's walk does both parts in one kernel. What does it cost to split it? Count bytes of states alone: how many times as many move? Say first.


# %%
def picture_of_the_split():
    from seqlab.figures.flash_kernel import moved

    state = 4 * 64 * 64 * 16  # 16 chunks of a head with K = V = 64, in float32
    ways = {
        "one walk": {"S written": state},
        "split": {"U written": state, "U read": state, "S written": state},
    }
    return moved(ways, "Split in two kernels, three times the bytes of states move")


predict(
    "25-split",
    "How many times as many bytes of states move if the walk is split in two kernels?",
    picture_of_the_split,
    choices=["as many", "twice", "three times", "four times"],
)

# %% [markdown]
# Three times: U is written, U is read, S is written, where one walk writes S. (Reading S for the outputs comes on top in both.) What it buys is N times as many programs for the products.

# %% [markdown] tags=["exercise"]
# chunk_reads

# %% [markdown]
# Before the next exercise, the suspect. It was tried on weak gates in float32.


# %%
@triton.jit
def suspect_kernel(p_a, p_d, H, C: tl.constexpr):
    c, i_h, o = tl.program_id(0), tl.program_id(1), tl.arange(0, C)
    b_a = tl.load(p_a + (c * C + o) * H + i_h)
    b_G = tl.cumsum(b_a, 0)
    b_d = tl.exp((b_G[:, None] - b_G[None, :]).to(tl.float32))
    b_d = b_d * (o[:, None] >= o[None, :])
    tl.store(p_d + ((c * H + i_h) * C + o[:, None]) * C + o[None, :], b_d)


def suspect_tiles(log_a):
    T, H = log_a.shape
    d = torch.empty(T // 32, H, 32, 32)
    suspect_kernel[(T // 32, H)](log_a, d, H, C=32)
    return d


@when_written
def symptoms():
    rng = torch.Generator().manual_seed(0)
    for size in (0.1, 2.0, 14.0):
        log_a = (-size * torch.rand(32, 1, generator=rng)).half()
        d = suspect_tiles(log_a)[0, 0]
        last = log_a[-1].float().exp().item()  # d of the last two tokens
        print(
            f"mean log a {-size / 2:5.2f}: d[31, 30] = {d[31, 30]:.4f}, exactly {last:.4f}; ",
            end="",
        )
        print(f"{d.isnan().sum()} elements are NaN")


# %% [markdown] tags=["exercise"]
# decay_tiles

# %% [markdown] tags=["exercise"]
# query_pairs

# %% [markdown] tags=["exercise"]
# value_gradient

# %% [markdown] tags=["exercise"]
# best_chunk

# %% [markdown] tags=["question"]
# another_gate

# %% [markdown] tags=["exercise"]
# choose

# %% [markdown]
# ## How far you are
#
# `progress()` lists every exercise of the course with your points. `seqlab grade 25` on the command line gives the
# mark.

# %%
progress()
