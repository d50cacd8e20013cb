"""Bug hunt: right in the interpreter, wrong on a GPU

*Find two faults that no comparison of numbers shows. · 20 minutes · ●●● · 3 points*

`suspect_total(x)` above computes y[i] = x[0] + … + x[i]. Its numbers are right: run it. A GPU would
return others, and now and then crash. There are two faults; one is about order, one about memory.

`running_total(x)` returns the running total of x (n,), and is to be right on a GPU, whatever the order
in which programs run. What has one number for each block can be left to PyTorch, between two launches. Change the
kernels and the launch as you like; the name of the parameter of `running_total` must stay.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "running_total"


@triton.jit
def block_sums_kernel(p_x, p_sums, n, BLOCK: tl.constexpr):
    """The sum of each block."""
    ### BEGIN SOLUTION
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b_x = tl.load(p_x + i, mask=i < n, other=0.0)
    tl.store(p_sums + tl.program_id(0), tl.sum(b_x, 0))
    ### END SOLUTION


@triton.jit
def running_total_kernel(p_x, p_before, p_y, n, BLOCK: tl.constexpr):
    """The running totals inside each block, from the total of the blocks before it."""
    ### BEGIN SOLUTION
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b_x = tl.load(p_x + i, mask=i < n, other=0.0)
    b_y = tl.cumsum(b_x, 0) + tl.load(p_before + tl.program_id(0))
    tl.store(p_y + i, b_y, mask=i < n)
    ### END SOLUTION


def running_total(x):
    """y (n,) with y[i] = x[0] + … + x[i]."""
    ### BEGIN SOLUTION
    y, programs = torch.empty_like(x), triton.cdiv(len(x), 32)
    sums = x.new_empty(programs)
    block_sums_kernel[(programs,)](x, sums, len(x), BLOCK=32)
    before = sums.cumsum(0) - sums
    running_total_kernel[(programs,)](x, before, y, len(x), BLOCK=32)
    return y
    ### END SOLUTION


WHY = """
**Solution.** *Order.* Program i reads y[first - 1], which program i - 1 has written, in the
interpreter, which runs them in turn. On a GPU both run at once, and it reads whatever is there. A kernel's end is the one
point that all programs reach: so one launch for the sums of the blocks, a short running total of
those, and a second launch.

*Memory.* The store had no mask: the last program wrote beyond y.

**Another way.** "Decoupled look-back" does it in one launch: each program publishes the sum of its
block by an atomic and waits for its predecessors, which is safe only if these are sure to run.
Chapter 26 has the scan that needs it.
"""

HINTS = (
    "Run sanitize on the suspect. Which lines does it name? What does a program need from another?",
    "A program cannot wait for another one, but a launch waits for the launch before it. What could a first "
    "launch leave for the second?",
    "First launch: the sum of each block. PyTorch: before = sums.cumsum(0) - sums. Second launch: "
    "tl.cumsum of the block + before[program], stored with a mask.",
)


def reference(x):
    total, found = 0.0, []
    for number in x.double().tolist():
        total += number
        found.append(total)
    return torch.tensor(found, dtype=torch.float64).to(x.dtype)


def cases(rng):
    sizes = {
        "one number": 1,
        "one block": 32,
        "two blocks and one": 65,
        "a ragged end": 150,
    }
    return [
        Case(name, {"x": torch.randn(n, generator=rng)}) for name, n in sizes.items()
    ]


@triton.jit
def from_sums_kernel(p_x, p_sums, p_y, n, BLOCK: tl.constexpr, BP: tl.constexpr):
    j, o_p = tl.program_id(0), tl.arange(0, BP)
    i = j * BLOCK + tl.arange(0, BLOCK)
    before = tl.sum(tl.load(p_sums + o_p, mask=o_p < j, other=0.0), 0)
    b_x = tl.load(p_x + i, mask=i < n, other=0.0)
    tl.store(p_y + i, tl.cumsum(b_x, 0) + before, mask=i < n)


def without_pytorch(x):
    programs = triton.cdiv(len(x), 16)
    sums, y = x.new_empty(programs), torch.empty_like(x)
    block_sums_kernel[(programs,)](x, sums, len(x), BLOCK=16)
    BP = triton.next_power_of_2(programs)
    from_sums_kernel[(programs,)](x, sums, y, len(x), BLOCK=16, BP=BP)
    return y


@triton.jit
def suspect_kernel(p_x, p_y, n, BLOCK: tl.constexpr):
    first = tl.program_id(0) * BLOCK
    i = first + tl.arange(0, BLOCK)
    b_y = tl.cumsum(tl.load(p_x + i, mask=i < n, other=0.0), 0)
    if first > 0:
        b_y += tl.load(p_y + first - 1)
    tl.store(p_y + i, b_y)


def suspect_total(x):
    y = torch.empty_like(x)
    suspect_kernel[(triton.cdiv(len(x), 32),)](x, y, len(x), BLOCK=32)
    return y


@triton.jit
def masked_suspect_kernel(p_x, p_y, n, BLOCK: tl.constexpr):
    first = tl.program_id(0) * BLOCK
    i = first + tl.arange(0, BLOCK)
    b_y = tl.cumsum(tl.load(p_x + i, mask=i < n, other=0.0), 0)
    if first > 0:
        b_y += tl.load(p_y + first - 1)
    tl.store(p_y + i, b_y, mask=i < n)


def masked_suspect(x):
    y = torch.empty_like(x)
    masked_suspect_kernel[(triton.cdiv(len(x), 32),)](x, y, len(x), BLOCK=32)
    return y


ALTERNATIVES = (without_pytorch,)

MISTAKES = """
before = sums.cumsum(0) - sums → return suspect_total(x)
    This has both faults still: a program reads what another one may not have written yet, and the last store has no mask.
before = sums.cumsum(0) - sums → return masked_suspect(x)
    The store is masked now, but a program still reads what another one of the same launch may not have written yet.
sums.cumsum(0) - sums → sums.cumsum(0)
    Each block begins with its own sum counted already: the total *before* it is needed.
sums.cumsum(0) - sums → sums
    A block needs the total of all blocks before it, not the sum of one.
sums.cumsum(0) - sums → sums.cumsum(0) * 0
    Each block begins at 0: the total of the blocks before it is missing.
tl.store(p_y + i, b_y, mask=i < n) → tl.store(p_y + i, b_y)
    The order is right now, but the store has no mask: the last program writes beyond y.
"""
