"""Sums across programs

*Add what many programs found, without a race. · 12 minutes · ●●○ · 2 points*

Clipping gradients needs Σ x² of long rows. `sum_of_squares(x)` returns the sum of the squares of each
row of x (G, n), in float32. A row is too long for one program: a program has a block of 64 numbers of one
row, and the programs of a row must meet. Write the kernel and its launch: atomics, or a part for each
program and a second pass.

The name of the parameter of `sum_of_squares` must stay. The order of the programs must not matter.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "sum_of_squares"


@triton.jit
def sum_of_squares_kernel(p_x, p_total, n, BLOCK: tl.constexpr):
    """Add the squares of block program_id(1) of row program_id(0)."""
    ### BEGIN SOLUTION
    row = tl.program_id(0)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    b_x = tl.load(p_x + row * n + i, mask=i < n, other=0.0)
    tl.atomic_add(p_total + row, tl.sum(b_x * b_x, 0))
    ### END SOLUTION


def sum_of_squares(x):
    """Σ x² of each row of x (G, n): (G,)."""
    ### BEGIN SOLUTION
    G, n = x.shape
    total = x.new_zeros(G)
    sum_of_squares_kernel[(G, triton.cdiv(n, 64))](x, total, n, BLOCK=64)
    return total
    ### END SOLUTION


WHY = """
**Solution.** A program reduces its block in registers, and only one number for each program is
added in memory, undivided. The totals must begin at 0: `torch.empty` holds anything.

**Another way**, repeatable to the last bit: `parts = x.new_empty(G, programs)`, each program stores
its own, and `parts.sum(1)` adds them in a fixed order.

**Why not load, add, store?** In the interpreter programs run in turn, and it works. On a GPU two
programs load the same total, and one of the two parts is lost.
"""

HINTS = (
    "What can a program do alone? What is the one thing that it shares with the others of its row?",
    "tl.sum(b_x * b_x, 0) is one number. Either tl.atomic_add adds it to a total that began at 0, or "
    "it is stored where no other program stores.",
    "b_x = tl.load(p_x + row * n + i, mask=i < n, other=0.0); tl.atomic_add(p_total + row, "
    "tl.sum(b_x * b_x, 0)); total = x.new_zeros(G); the grid is (G, cdiv(n, 64)).",
)


def reference(x):
    return (x.double() ** 2).sum(1).to(x.dtype)


def cases(rng):
    sizes = {
        "one number": (1, 1),
        "one block": (3, 64),
        "a ragged end": (4, 130),
        "long": (2, 300),
    }
    return [
        Case(name, {"x": torch.randn(*s, generator=rng)}) for name, s in sizes.items()
    ]


@triton.jit
def parts_kernel(p_x, p_parts, n, BLOCK: tl.constexpr):
    row, j = tl.program_id(0), tl.program_id(1)
    i = j * BLOCK + tl.arange(0, BLOCK)
    b_x = tl.load(p_x + row * n + i, mask=i < n, other=0.0)
    tl.store(p_parts + row * tl.num_programs(1) + j, tl.sum(b_x * b_x, 0))


def two_passes(x):
    G, n = x.shape
    parts = x.new_empty(G, triton.cdiv(n, 32))
    parts_kernel[tuple(parts.shape)](x, parts, n, BLOCK=32)
    return parts.sum(1)


@triton.jit
def strided_kernel(p_x, p_total, n, BLOCK: tl.constexpr):
    row, b_sum = tl.program_id(1), tl.zeros((BLOCK,), tl.float32)
    for first in range(tl.program_id(0) * BLOCK, n, tl.num_programs(0) * BLOCK):
        i = first + tl.arange(0, BLOCK)
        b_x = tl.load(p_x + row * n + i, mask=i < n, other=0.0)
        b_sum += b_x * b_x
    tl.atomic_add(p_total + row, tl.sum(b_sum, 0))


def few_programs(x):
    total = torch.zeros(len(x), dtype=x.dtype)
    strided_kernel[(2, len(x))](x, total, x.shape[1], BLOCK=32)
    return total


ALTERNATIVES = (two_passes, few_programs)

MISTAKES = """
tl.atomic_add(p_total + row, tl.sum(b_x * b_x, 0)) → tl.store(p_total + row, tl.load(p_total + row) + tl.sum(b_x * b_x, 0))
    A race: two programs may load the same total, and one of their parts is lost. Use tl.atomic_add, or a part for each program.
tl.atomic_add(p_total + row, tl.sum(b_x * b_x, 0)) → tl.store(p_total + row, tl.sum(b_x * b_x, 0))
    Each program overwrites the total of its row: only one part remains.
tl.sum(b_x * b_x, 0) → tl.sum(b_x, 0)
    This adds the numbers: square them first.
tl.sum(b_x * b_x, 0) → tl.sum(b_x, 0) * tl.sum(b_x, 0)
    This squares the sum of a block: square each number, then add.
mask=i < n, other=0.0 → mask=i >= 0, other=0.0
    The load has no mask: behind the end of a row it adds the beginning of the next one.
(G, triton.cdiv(n, 64)) → (G, max(1, n // 64))
    The ragged end of a row has no program: n // 64 rounds down.
p_total + row → p_total
    All rows are added to the first total: each row has its own.
p_x + row * n → p_x + row * BLOCK
    Rows are n numbers apart, not BLOCK.
return total → return total / n
    This is the mean: the sum is asked for.
return total → return total.sqrt()
    This is the norm: the sum of squares is asked for, without its root.
"""
