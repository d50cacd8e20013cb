"""A grouped product with its activation

*Two products of ragged groups and what stands between them, in one launch. · 15 minutes · ●●● · 3 points*

Before its last matrix, a SwiGLU expert computes h = silu(x W_gate) · (x W_up), elementwise between the two, with silu(g) = g σ(g). The page writes both products to memory, and reads them again for this line. Fuse it: `grouped_swiglu(x, gate, up, table)` returns h (P, F) for rows that are sorted by expert.

x is (P, D), gate and up are (E, D, F), all float32, with D = 16 or 32 and F a multiple of 16. `table` (tiles, 3) has (expert, first row, end) of each tile of 16 rows, (-1, -1, -1) for a program without rows, as in exercise 27.5; every row is in one tile. Program (i, n) of the given launch has tile i and 16 columns from 16 n on. Write the kernel; what it loads of the table is given. Use input_precision="ieee" in products.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "grouped_swiglu"


@triton.jit
def grouped_swiglu_kernel(p_x, p_gate, p_up, p_h, p_table, F, D: tl.constexpr,
                          BM: tl.constexpr, BN: tl.constexpr):  # fmt: skip
    """Tile program_id(0), columns program_id(1) · BN and on."""
    at = p_table + tl.program_id(0) * 3
    e, first, end = tl.load(at), tl.load(at + 1), tl.load(at + 2)
    o_m = first + tl.arange(0, BM)[:, None]
    o_n = tl.program_id(1) * BN + tl.arange(0, BN)[None, :]
    o_d = tl.arange(0, D)
    if e >= 0:
        ### BEGIN SOLUTION
        b_x = tl.load(p_x + o_m * D + o_d[None, :], mask=o_m < end, other=0.0)
        at_w = (e * D + o_d[:, None]) * F + o_n
        b_g = tl.dot(b_x, tl.load(p_gate + at_w), input_precision="ieee")
        b_u = tl.dot(b_x, tl.load(p_up + at_w), input_precision="ieee")
        b_h = b_g * tl.sigmoid(b_g) * b_u
        tl.store(p_h + o_m * F + o_n, b_h, mask=o_m < end)
        ### END SOLUTION


def grouped_swiglu(x, gate, up, table):
    """h (P, F)."""
    (P, D), F = x.shape, gate.shape[2]
    h, sizes = x.new_empty(P, F), {"D": D, "BM": 16, "BN": 16}
    grid = (len(table), F // 16)
    grouped_swiglu_kernel[grid](x, gate, up, h, table, F, **sizes)
    return h


WHY = """
**Solution.** Load a tile of x once and multiply it by the same columns of both matrices. Element (i, f) of h needs element (i, f) of each product and nothing else, so the program that has both can finish it.

**What is saved?** Two products of P · F numbers are not written and not read again: 4 P F numbers in all. x is read once, where two launches read it twice.

**What does it cost?** Two accumulators of BM × BN in registers instead of one. The backward needs both products again: it stores or recomputes them.
"""

HINTS = (
    "Which elements of x W_gate and x W_up does one element of h need?",
    "Both matrices have the same shape, so one tile of addresses, (e * D + o_d[:, None]) * F + o_n, serves both. The rows of x are masked with `end`.",
    "b_g, b_u = tl.dot(b_x, gate tile), tl.dot(b_x, up tile); b_h = b_g * tl.sigmoid(b_g) * b_u; store it with mask=o_m < end.",
)


def reference(x, gate, up, table):
    h = x.new_empty(len(x), gate.shape[2])
    for e, first, end in table.tolist():
        for i in range(first, min(end, first + 16)):
            g, u = x[i].double() @ gate[e].double(), x[i].double() @ up[e].double()
            h[i] = (g / (1 + (-g).exp()) * u).float()
    return h


def cases(rng):
    def draw(*shape):
        return torch.randn(*shape, generator=rng)

    def table_of(load):
        found, first = [], 0
        for e, n in enumerate(load):
            found += [(e, i, first + n) for i in range(first, first + n, 16)]
            first += n
        return torch.tensor([*found, (-1, -1, -1)], dtype=torch.int32)

    sizes = {
        "ragged": ([3, 0, 17], 16, 16),
        "two columns of tiles": ([16, 5], 16, 32),
        "wide rows": ([1], 32, 16),
    }
    return [
        Case(
            name,
            {
                "x": draw(sum(load), D),
                "gate": draw(len(load), D, F) / D**0.5,
                "up": draw(len(load), D, F) / D**0.5,
                "table": table_of(load),
            },
        )
        for name, (load, D, F) in sizes.items()
    ]


OUTPUTS = ("h",)


@triton.jit
def row_kernel(p_x, p_gate, p_up, p_h, p_table, F, D: tl.constexpr, BN: tl.constexpr):
    at = p_table + tl.program_id(0) * 3
    e, first, end = tl.load(at), tl.load(at + 1), tl.load(at + 2)
    o_d, o_n = tl.arange(0, D), tl.program_id(1) * BN + tl.arange(0, BN)
    if e >= 0:
        at_w = (e * D + o_d[:, None]) * F + o_n[None, :]
        b_gate, b_up = tl.load(p_gate + at_w), tl.load(p_up + at_w)
        for i in range(first, tl.minimum(end, first + 16)):
            b_x = tl.load(p_x + i * D + o_d)[:, None]
            b_g, b_u = tl.sum(b_x * b_gate, 0), tl.sum(b_x * b_up, 0)
            tl.store(p_h + i * F + o_n, b_u * b_g / (1 + tl.exp(-b_g)))


def row_by_row(x, gate, up, table):
    F, D = gate.shape[2], x.shape[1]
    h = x.new_empty(len(x), F)
    row_kernel[(len(table), F // 16)](x, gate, up, h, table, F, D=D, BN=16)
    return h


ALTERNATIVES = (row_by_row,)

MISTAKES = """
b_g * tl.sigmoid(b_g) * b_u → tl.sigmoid(b_g) * b_u
    This is σ(g) u: silu(g) is g σ(g).
b_g * tl.sigmoid(b_g) * b_u → b_u * tl.sigmoid(b_u) * b_g
    Gate and up have changed places: silu is taken of x W_gate.
b_g * tl.sigmoid(b_g) * b_u → b_g * tl.sigmoid(b_g) + b_u
    The two are added: multiply them.
b_g * tl.sigmoid(b_g) * b_u → b_g * b_u
    silu is left out.
(e * D + o_d[:, None]) * F + o_n → o_d[:, None] * F + o_n
    Every tile uses the matrices of expert 0.
tl.store(p_h + o_m * F + o_n, b_h, mask=o_m < end) → tl.store(p_h + o_m * F + o_n, b_h)
    The store has no mask: rows behind the group's end belong to another tile, or to no tensor at all.
"""
