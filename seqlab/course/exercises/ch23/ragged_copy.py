"""Copy with a ragged end

*Write your first kernel: programs, offsets, and a mask where they end. · 8 minutes · ●○○ · 1 point*

`ragged_copy(x)` returns a copy of x, which has n numbers. The launch is given: a program for each
block of `BLOCK` numbers, so that the last program has fewer than that to copy. Write the kernel.

`p_x` and `p_y` are pointers to the first numbers of x and y. The names of the parameters must stay.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "ragged_copy"


@triton.jit
def ragged_copy_kernel(p_x, p_y, n, BLOCK: tl.constexpr):
    """Copy block number `tl.program_id(0)` of x to y."""
    ### BEGIN SOLUTION
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    b_x = tl.load(p_x + i, mask=inside)
    tl.store(p_y + i, b_x, mask=inside)
    ### END SOLUTION


def ragged_copy(x):
    """A copy of x (n,)."""
    y = torch.empty_like(x)
    grid = (triton.cdiv(len(x), 32),)
    ragged_copy_kernel[grid](x, y, len(x), BLOCK=32)
    return y


WHY = """
**Solution.** Program *i* owns the numbers from `i * BLOCK` on. `tl.arange` gives all their
distances at once, and pointer + distance is a block of addresses. The mask switches off the lanes
behind the end, in the load *and* in the store.

**Another way** is a grid of one program that loops over blocks: right, and it uses one of a GPU's
hundred multiprocessors.

**Common mistakes.** Without the mask the numbers are right as a rule: what lies behind x is read
and thrown away, and what lies behind y is overwritten. That is why the sanitizer has to tell.
"""

HINTS = (
    "Which numbers belong to program 0, which to program 1? Write their positions with "
    "tl.program_id and tl.arange.",
    "A pointer plus a block of distances is a block of addresses: p_x + i. The last block reaches "
    "beyond n.",
    "i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK); load p_x + i with mask=i < n, store it "
    "with the same mask.",
)


def reference(x):
    return x.clone()


def cases(rng):
    sizes = {
        "one number": 1,
        "one full block": 32,
        "a ragged end": 77,
        "two blocks and one": 65,
    }
    return [
        Case(name, {"x": torch.randn(n, generator=rng)}) for name, n in sizes.items()
    ]


@triton.jit
def in_turn_kernel(p_x, p_y, n, BLOCK: tl.constexpr):
    for first in range(0, n, BLOCK):
        i = first + tl.arange(0, BLOCK)
        tl.store(p_y + i, tl.load(p_x + i, mask=i < n), mask=i < n)


def in_turn(x):
    y = torch.empty_like(x)
    in_turn_kernel[(1,)](x, y, len(x), BLOCK=16)
    return y


ALTERNATIVES = (in_turn,)

MISTAKES = """
b_x = tl.load(p_x + i, mask=inside) → b_x = tl.load(p_x + i)
    The load needs its mask too: the last program reads what lies behind x.
tl.store(p_y + i, b_x, mask=inside) → tl.store(p_y + i, b_x)
    The store has no mask: the last program overwrites whatever lies behind y.
inside = i < n → inside = i <= n
    The mask lets one lane too many through: the last number is number n - 1.
inside = i < n → inside = i < n - 1
    The mask stops one lane too early: number n - 1 belongs to x.
tl.program_id(0) * BLOCK + tl.arange(0, BLOCK) → tl.arange(0, BLOCK)
    Every program copies the first block: add where the block of this program begins.
tl.program_id(0) * BLOCK → tl.program_id(0)
    The blocks of neighbouring programs begin one number apart: they must be BLOCK apart.
"""
