"""Softmax of a row wider than a tile

*Carry a maximum and a sum over the pieces of a row. · 15 minutes · ●●○ · 2 points*

`wide_softmax(x)` is the softmax of each row of x (M, D), however wide. A program has one row, and
loads BD = 16 numbers of it at a time: once to find the maximum and the sum of the row, and once more
to write the weights. Write the kernel; the launch is given.

A score may be -∞ (then its weight is 0), even all scores of the first piece; at least one score of
each row is finite. Scores may be as large as ±1,000.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "wide_softmax"


@triton.jit
def wide_softmax_kernel(p_x, p_y, D, BD: tl.constexpr):
    """The softmax of row number `tl.program_id(0)`, BD numbers at a time."""
    ### BEGIN SOLUTION
    row = tl.program_id(0) * D
    top, total = -3.4e38, 0.0
    for first in range(0, D, BD):
        o_d = first + tl.arange(0, BD)
        b_x = tl.load(p_x + row + o_d, mask=o_d < D, other=-float("inf"))
        new = tl.maximum(top, tl.max(b_x, 0))
        total = total * tl.exp(top - new) + tl.sum(tl.exp(b_x - new), 0)
        top = new
    for first in range(0, D, BD):
        o_d = first + tl.arange(0, BD)
        b_y = tl.exp(tl.load(p_x + row + o_d, mask=o_d < D) - top) / total
        tl.store(p_y + row + o_d, b_y, mask=o_d < D)
    ### END SOLUTION


def wide_softmax(x):
    """The softmax over the last axis of x (M, D)."""
    y, (M, D) = torch.empty_like(x), x.shape
    wide_softmax_kernel[(M,)](x, y, D, BD=16)
    return y


WHY = """
**Solution.** The online softmax of chapter 14, a piece at a time. Where the maximum rises from
`top` to `new`, all terms so far are converted to the new unit by exp(top - new).

**The start.** With top = -∞ and a first piece of -∞, exp(top - new) is exp(-∞ + ∞), not a number. A
finite start below every score avoids the case: exp(-∞ + 3.4e38) is 0.

**Another way** is three passes: maximum, sum, weights. It reads the row once more. Or keep a maximum
and a sum *for each lane*, and join the lanes at the end: fewer reductions in the loop.
"""

HINTS = (
    "What do you know of the row after its first piece? What must change when the second piece has "
    "a larger score?",
    "new = max(top, max of the piece); total = total · exp(top - new) + Σ exp(piece - new).",
    "Two loops over range(0, D, BD). Masked lanes of the first hold -inf. Begin with top = -3.4e38: "
    "with -inf the first difference may be -inf - -inf.",
)


def reference(x):
    e = (x - x.amax(-1, keepdim=True)).double().exp()
    return (e / e.sum(-1, keepdim=True)).to(x.dtype)


def cases(rng):
    def draw(M, D, scale=1.0):
        return scale * torch.randn(M, D, generator=rng)

    blind = draw(3, 40)
    blind[0, :16] = blind[1, 20:] = blind[2, ::2] = -torch.inf
    ramp = torch.linspace(-3, 3, 70) + 0.1 * draw(2, 70)
    given = {
        "one number": draw(2, 1),
        "one full tile": draw(2, 16),
        "a ragged end": draw(3, 37),
        "the maximum rises": ramp,
        "large scores": draw(2, 50, 300.0),
        "low scores": draw(2, 20) - 1000,
        "scores of -inf": blind,
    }
    return [Case(name, {"x": x}) for name, x in given.items()]


@triton.jit
def three_passes_kernel(p_x, p_y, D, BD: tl.constexpr):
    row, o_d = tl.program_id(0) * D, tl.arange(0, BD)
    b_top = tl.full((BD,), -3.4e38, tl.float32)
    for first in range(0, D, BD):
        inside = first + o_d < D
        b_x = tl.load(p_x + row + first + o_d, mask=inside, other=-float("inf"))
        b_top = tl.maximum(b_top, b_x)
    top = tl.max(b_top, 0)
    b_total = tl.zeros((BD,), tl.float32)
    for first in range(0, D, BD):
        inside = first + o_d < D
        b_x = tl.load(p_x + row + first + o_d, mask=inside, other=-float("inf"))
        b_total += tl.exp(b_x - top)
    for first in range(0, D, BD):
        inside = first + o_d < D
        b_x = tl.load(p_x + row + first + o_d, mask=inside, other=-float("inf"))
        tl.store(
            p_y + row + first + o_d, tl.exp(b_x - top) / tl.sum(b_total, 0), mask=inside
        )


def three_passes(x):
    y, (M, D) = torch.empty_like(x), x.shape
    three_passes_kernel[(M,)](x, y, D, BD=32)
    return y


ALTERNATIVES = (three_passes,)

MISTAKES = """
total * tl.exp(top - new) + → total +
    When the maximum rises, what was summed so far must be rescaled by exp(top - new).
total * tl.exp(top - new) + → total * tl.exp(tl.minimum(new - top, 80.0)) +
    The old sum is rescaled the wrong way round: exp(top - new), which is at most 1.
total = total * tl.exp(top - new) + tl.sum → total = tl.sum
    The sum forgets the pieces before: only the last one is counted.
other=-float("inf") → other=0.0
    Masked lanes hold 0, and exp(0 - max) is counted: they must weigh nothing.
/ total → / 1.0
    The weights are not divided by the sum.
row = tl.program_id(0) * D → row = tl.program_id(0) * BD
    Rows are D numbers apart, not BD.
row = tl.program_id(0) * D → row = 0
    Every program has the first row.
tl.load(p_x + row + o_d, mask=o_d < D) → tl.load(p_x + row + o_d)
    The load of the second pass has no mask: the last row reads beyond x.
"""
