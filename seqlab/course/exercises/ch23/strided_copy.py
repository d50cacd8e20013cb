"""A strided copy in two dimensions

*Address a tile by two strides, and launch a grid of two axes. · 10 minutes · ●○○ · 1 point*

A matrix x of M × N numbers lies somewhere in `memory`, a tensor with one axis: x[m, n] is
`memory[m * s_m + n * s_n]`. A transposed matrix has s_m = 1; a matrix of which every second column
is taken has s_n = 2; a row that is repeated M times has s_m = 0. `strided_copy(memory, M, N, s_m,
s_n)` returns x as a new, contiguous tensor (M, N).

Write the kernel, which copies a tile of BM × BN numbers, and its launch with tiles of 8 × 16. The
names of the parameters of `strided_copy` must stay.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "strided_copy"


@triton.jit
def strided_copy_kernel(p_x, p_y, M, N, s_m, s_n, BM: tl.constexpr, BN: tl.constexpr):
    """Copy the tile of this program from x, with strides s_m and s_n, to y (M, N), contiguous."""
    ### BEGIN SOLUTION
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    o_n = tl.program_id(1) * BN + tl.arange(0, BN)
    inside = (o_m[:, None] < M) & (o_n[None, :] < N)
    b_x = tl.load(p_x + o_m[:, None] * s_m + o_n[None, :] * s_n, mask=inside)
    tl.store(p_y + o_m[:, None] * N + o_n[None, :], b_x, mask=inside)
    ### END SOLUTION


def strided_copy(memory, M, N, s_m, s_n):
    """y (M, N) with y[m, n] = memory[m * s_m + n * s_n]."""
    y = memory.new_empty(M, N)
    ### BEGIN SOLUTION
    grid = (triton.cdiv(M, 8), triton.cdiv(N, 16))
    strided_copy_kernel[grid](memory, y, M, N, s_m, s_n, BM=8, BN=16)
    ### END SOLUTION
    return y


WHY = """
**Solution.** The distances of a tile are the sum of a column, `o_m[:, None] * s_m`, and a row,
`o_n[None, :] * s_n`. One kernel serves every layout, because only the strides know it. The mask
needs both axes: behind the end of a row of y begins the next row.

**Another way** is one program for each row, with a loop over its columns. It also works if the grid
has its axes exchanged, as long as kernel and launch agree.

**Common mistakes.** Strides exchanged; the strides of x used for y; a mask for one axis only.
"""

HINTS = (
    "Which rows and which columns belong to program (i, j)? Make a block of each.",
    "The address of x[m, n] is p_x + m * s_m + n * s_n. As blocks: o_m[:, None] and o_n[None, :]; "
    "y is contiguous, so its strides are N and 1.",
    "o_m = tl.program_id(0) * BM + tl.arange(0, BM), o_n likewise with axis 1; a mask of both axes; "
    "the grid is (cdiv(M, 8), cdiv(N, 16)).",
)


def reference(memory, M, N, s_m, s_n):
    return torch.stack([memory[m * s_m :][: (N - 1) * s_n + 1 : s_n] for m in range(M)])


def cases(rng):
    layouts = {
        "one number": (1, 1, 1, 1),
        "contiguous": (17, 33, 33, 1),
        "transposed": (33, 17, 1, 33),
        "every second column": (9, 20, 41, 2),
        "one row, repeated": (10, 18, 0, 1),
    }
    found = []
    for name, (M, N, s_m, s_n) in layouts.items():
        memory = torch.randn((M - 1) * s_m + (N - 1) * s_n + 1, generator=rng)
        found.append(
            Case(name, {"memory": memory, "M": M, "N": N, "s_m": s_m, "s_n": s_n})
        )
    return found


@triton.jit
def by_rows_kernel(p_x, p_y, N, s_m, s_n, BN: tl.constexpr):
    m = tl.program_id(0)
    for first in range(0, N, BN):
        o_n = first + tl.arange(0, BN)
        b_x = tl.load(p_x + m * s_m + o_n * s_n, mask=o_n < N)
        tl.store(p_y + m * N + o_n, b_x, mask=o_n < N)


def by_rows(memory, M, N, s_m, s_n):
    y = memory.new_empty(M, N)
    by_rows_kernel[(M,)](memory, y, N, s_m, s_n, BN=8)
    return y


ALTERNATIVES = (by_rows,)

MISTAKES = """
o_m[:, None] * s_m + o_n[None, :] * s_n → o_m[:, None] * s_n + o_n[None, :] * s_m
    The strides of x are exchanged: a step to the next row is s_m.
o_m[:, None] * s_m + o_n[None, :] * s_n → o_m[:, None] * N + o_n[None, :]
    This reads x as if it were contiguous: use its strides s_m and s_n.
p_y + o_m[:, None] * N + o_n[None, :] → p_y + o_m[:, None] * s_m + o_n[None, :] * s_n
    The strides of x are used for y: y is contiguous, its rows are N apart.
p_y + o_m[:, None] * N → p_y + o_m[:, None] * M
    The rows of y are N apart, not M.
(o_m[:, None] < M) & (o_n[None, :] < N) → (o_m[:, None] < M) & (o_n[None, :] >= 0)
    The columns have no mask: behind the end of a row of y begins the next row.
(o_m[:, None] < M) & (o_n[None, :] < N) → (o_m[:, None] >= 0) & (o_n[None, :] < N)
    The rows have no mask: the last programs go beyond row M - 1.
tl.program_id(0) * BM → tl.program_id(1) * BM ; tl.program_id(1) * BN → tl.program_id(0) * BN
    The axes of the grid are exchanged between kernel and launch.
(triton.cdiv(M, 8), triton.cdiv(N, 16)) → (triton.cdiv(M, 8), 1)
    The grid has no programs for the columns from 16 on.
(triton.cdiv(M, 8), triton.cdiv(N, 16)) → (triton.cdiv(M, 8), N // 16 + 0)
    N // 16 rounds down: the last, ragged tile needs a program too (triton.cdiv rounds up).
"""
