"""Bug hunt: an expert without tokens

*Find two faults in the gradient of the matrices. · 15 minutes · ●●○ · 2 points*

`suspect_gradients(x, dy, offsets)` above computes the gradient of each expert's matrix, dW_e = Σ xᵀ dy over the rows of expert e. It was tried on a balanced router with 32 rows for each expert, and it was right. On a trained router, the optimiser sees gradients that change from run to run, and others that are too large.
There are two faults in `suspect_kernel`; each shows on other loads.

`expert_gradients(x, dy, offsets)` returns dw (E, D, F) in float32. x is (P, D), dy (P, F), float32, sorted by expert; offsets (E + 1,) is int32. D and F are 16.

Change the kernel as you like; the launch is that of the suspect. It fills dw with NaN: a buffer that is not written holds anything.
"""

from itertools import pairwise

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "expert_gradients"


@triton.jit
def expert_gradients_kernel(p_x, p_dy, p_dw, p_offsets, P, D: tl.constexpr,
                            F: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """dw of expert program_id(0)."""
    e, o_d, o_f = tl.program_id(0), tl.arange(0, D), tl.arange(0, F)
    first, end = tl.load(p_offsets + e), tl.load(p_offsets + e + 1)
    at_dw = p_dw + (e * D + o_d[:, None]) * F + o_f[None, :]
    b_dw = tl.zeros((D, F), tl.float32)
    ### BEGIN SOLUTION
    for start in range(first, end, BK):
        o_k = start + tl.arange(0, BK)
        b_x = tl.load(
            p_x + o_k[None, :] * D + o_d[:, None], mask=o_k[None, :] < end, other=0.0
        )
        b_dy = tl.load(
            p_dy + o_k[:, None] * F + o_f[None, :], mask=o_k[:, None] < end, other=0.0
        )
        b_dw = tl.dot(b_x, b_dy, b_dw, input_precision="ieee")
    tl.store(at_dw, b_dw)
    ### END SOLUTION


def expert_gradients(x, dy, offsets):
    """dw (E, D, F)."""
    E, (P, D), F = len(offsets) - 1, x.shape, dy.shape[1]
    dw = torch.full((E, D, F), float("nan"))
    sizes = {"D": D, "F": F, "BK": 16}
    expert_gradients_kernel[(E,)](x, dy, dw, offsets, P, **sizes)
    return dw


WHY = """
**Solution.** *The store stands inside the loop's condition.* An expert without rows never enters it, so its gradient is never written: it holds what the memory held before. An empty sum is 0, and it must be stored.

*The mask ends with all rows, not with the group's.* The last tile of a group then adds rows of the next expert. With groups of 32 rows every tile is full, and nothing shows; after the very last row the mask works.

**Why does it matter?** Adam divides by the size of past gradients: an expert that nobody chose gets a random step, and is changed for the next token that does choose it.
"""

HINTS = (
    "What does the suspect do for an expert without rows? And which rows are in the last tile of a group of 20?",
    "Store behind the loop, without a condition. A row belongs to the group if it is below `end`, not below P.",
    "mask=o_k < end in both loads (as a row and as a column), and tl.store(at_dw, b_dw) after the loop for every program.",
)


def reference(x, dy, offsets):
    o = offsets.tolist()
    return torch.stack(
        [
            torch.einsum("pd,pf->df", x[a:b].double(), dy[a:b].double()).float()
            for a, b in pairwise(o)
        ]
    )


def cases(rng):
    loads = {"some are empty": [5, 0, 20], "full tiles": [16, 32], "ragged": [1, 17, 0]}
    return [
        Case(
            name,
            {
                "x": torch.randn(sum(load), 16, generator=rng),
                "dy": torch.randn(sum(load), 16, generator=rng),
                "offsets": torch.tensor([0, *load]).cumsum(0).int(),
            },
        )
        for name, load in loads.items()
    ]


OUTPUTS = ("dw",)


@triton.jit
def row_by_row_kernel(p_x, p_dy, p_dw, p_offsets, D: tl.constexpr, F: tl.constexpr):
    e, o_d, o_f = tl.program_id(0), tl.arange(0, D), tl.arange(0, F)
    b_dw = tl.zeros((D, F), tl.float32)
    for p in range(tl.load(p_offsets + e), tl.load(p_offsets + e + 1)):
        b_x, b_dy = tl.load(p_x + p * D + o_d), tl.load(p_dy + p * F + o_f)
        b_dw += b_x[:, None] * b_dy[None, :]
    tl.store(p_dw + (e * D + o_d[:, None]) * F + o_f[None, :], b_dw)


def row_by_row(x, dy, offsets):
    E, D, F = len(offsets) - 1, x.shape[1], dy.shape[1]
    dw = x.new_empty(E, D, F)
    row_by_row_kernel[(E,)](x, dy, dw, offsets, D=D, F=F)
    return dw


ALTERNATIVES = (row_by_row,)

MISTAKES = """
tl.store(at_dw, b_dw) → if end > first:⏎    tl.store(at_dw, b_dw)
    The gradient of an expert without rows is never written: an empty sum is 0, and must be stored.
mask=o_k[None, :] < end → mask=o_k[None, :] < P ; mask=o_k[:, None] < end → mask=o_k[:, None] < P
    The last tile of a group adds rows of the next expert: mask with the group's end.
for start in range(first, end, BK) → for start in range(first, end - BK + 1, BK)
    The last tile of a group, which is not full, is left out.
for start in range(first, end, BK) → for start in range(0, end, BK)
    Every expert starts at row 0: the rows of the experts before it are added, too.
b_dw = tl.dot(b_x, b_dy, b_dw, input_precision="ieee") → b_dw = tl.dot(b_x, b_dy, input_precision="ieee")
    Only the last tile of each group is kept: add the products up.
tl.store(at_dw, b_dw) → tl.store(at_dw, b_dw / tl.maximum(end - first, 1))
    This is the mean over the rows of an expert: the gradient is their sum.
"""
