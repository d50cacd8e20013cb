"""Forward substitution of a tile, and back

*Solve a triangular tile and its transpose without an inverse. · 18 minutes · ●●● · 3 points*

The page inverts I + L. Where the right side is narrow, it is cheaper to solve for it. And the backward of the delta rule solves the transposed system. For N tiles,

    (I + L) U = R        (I + L)ᵀ dR = dU

`substitute(L, R, dU)` returns U and dR, both (N, 16, V), for L (N, 16, 16), R and dU (N, 16, V) with V = 16 or 32. **Only what is below the diagonal of L counts**: on and above it there may be anything finite. Entries of L reach 2.

Row 0 of U is row 0 of R; row i needs the rows above it. For the transpose, it is the last row of dR that is known first. Write the kernel; a program has one tile. No `tl.dot`, and no inverse, is needed.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "substitute"


@triton.jit
def substitute_kernel(p_L, p_R, p_dU, p_U, p_dR, V: tl.constexpr):
    """U and dR of tile program_id(0)."""
    ### BEGIN SOLUTION
    o_i, o_j, n = tl.arange(0, 16)[:, None], tl.arange(0, 16)[None, :], tl.program_id(0)
    at = (n * 16 + o_i) * V + tl.arange(0, V)[None, :]
    b_L = tl.load(p_L + (n * 16 + o_i) * 16 + o_j)
    b_L = tl.where(o_i > o_j, b_L, 0.0)
    b_U, b_dR = tl.load(p_R + at), tl.load(p_dU + at)
    for i in range(0, 16):
        b_row = tl.sum(tl.where(o_i == i, b_L, 0.0), 0)[:, None]
        b_U = tl.where(o_i == i, b_U - tl.sum(b_row * b_U, 0)[None, :], b_U)
    for i in range(15, -1, -1):
        b_column = tl.sum(tl.where(o_j == i, b_L, 0.0), 1)[:, None]
        b_dR = tl.where(o_i == i, b_dR - tl.sum(b_column * b_dR, 0)[None, :], b_dR)
    tl.store(p_U + at, b_U)
    tl.store(p_dR + at, b_dR)
    ### END SOLUTION


def substitute(L, R, dU):
    """U and dR (N, 16, V)."""
    U, dR = torch.empty_like(R), torch.empty_like(R)
    substitute_kernel[(len(L),)](L, R, dU, U, dR, V=R.shape[2])
    return U, dR


WHY = """
**Solution.** Row i of U is R_i - Σ_{j<i} L_ij U_j. In registers, row i of L is picked with a mask and a sum over rows, which gives it along the other axis; as a column it multiplies the rows of U, and a sum adds them. The mask puts the result in row i. Rows below i are multiplied by 0, whatever they still hold.

The transpose needs *column* i of L and begins at the end: dR_i = dU_i - Σ_{j>i} L_ji dR_j.

**Another way** runs along columns: once U_i is known, take L_ji U_i from all rows j below it at once. It makes the same products in another order, an outer product each, and no sum across threads.

**What for?** dL = -dR Uᵀ below the diagonal. Both results of this kernel enter it.
"""

HINTS = (
    "Which rows of U are known when row i is computed? Where do the others come from, if L is 0 there?",
    "Row i of L as a column: tl.sum(tl.where(o_i == i, b_L, 0.0), 0)[:, None]. Its products with b_U, summed over rows, are what row i loses. Put it there by tl.where(o_i == i, …, b_U). For the transpose: column i, and i from 15 down.",
    "for i in range(0, 16): b_U = tl.where(o_i == i, b_U - tl.sum(b_row * b_U, 0)[None, :], b_U); for i in range(15, -1, -1): the same for b_dR with b_column = tl.sum(tl.where(o_j == i, b_L, 0.0), 1)[:, None].",
)


def reference(L, R, dU):
    whole = torch.eye(16, dtype=torch.float64) + L.double().tril(-1)
    U = torch.linalg.solve(whole, R.double())
    return U.float(), torch.linalg.solve(whole.mT, dU.double()).float()


def cases(rng):
    def draw(*shape):
        return torch.randn(*shape, generator=rng)

    found = []
    for name, (N, V, size) in {
        "one tile": (1, 16, 0.2),
        "three tiles": (3, 32, 0.3),
        "one key again": (1, 16, 1.0),
    }.items():
        L = size * draw(N, 16, 16)
        if name == "one key again":
            L = torch.where(
                torch.ones(16, 16).tril(-1) > 0, 2 - 0.02 * draw(1).abs(), L
            )
        inputs = {"L": L.expand(N, 16, 16).contiguous(), "R": draw(N, 16, V)}
        found.append(Case(name, inputs | {"dU": draw(N, 16, V)}))
    return found


OUTPUTS = ("U", "dR")


@triton.jit
def by_columns_kernel(p_L, p_R, p_dU, p_U, p_dR, V: tl.constexpr):
    o_i, o_v, n = tl.arange(0, 16)[:, None], tl.arange(0, V)[None, :], tl.program_id(0)
    at = (n * 16 + o_i) * V + o_v
    b_U, b_dR = tl.load(p_R + at), tl.load(p_dU + at)
    for i in range(0, 16):
        b_down = tl.load(p_L + (n * 16 + o_i) * 16 + i)
        b_known = tl.sum(tl.where(o_i == i, b_U, 0.0), 0)[None, :]
        b_U -= tl.where(o_i > i, b_down * b_known, 0.0)
        k = 15 - i
        b_left = tl.load(p_L + (n * 16 + k) * 16 + o_i)
        b_known = tl.sum(tl.where(o_i == k, b_dR, 0.0), 0)[None, :]
        b_dR -= tl.where(o_i < k, b_left * b_known, 0.0)
    tl.store(p_U + at, b_U)
    tl.store(p_dR + at, b_dR)


def by_columns(L, R, dU):
    U, dR = torch.empty_like(R), torch.empty_like(R)
    by_columns_kernel[(len(L),)](L, R, dU, U, dR, V=R.shape[2])
    return U, dR


ALTERNATIVES = (by_columns,)

MISTAKES = """
tl.where(o_i > o_j, b_L, 0.0) → b_L
    What is on and above the diagonal of L is used: mask it.
b_U - tl.sum(b_row * b_U, 0)[None, :] → b_U - tl.sum(b_row * tl.load(p_R + at), 0)[None, :]
    Each row is corrected by rows of R: it needs the rows of U that are solved already.
b_U = tl.where(o_i == i, b_U - tl.sum(b_row * b_U, 0)[None, :], b_U) → b_U = tl.where(o_i >= i, b_U - tl.sum(b_row * b_U, 0)[None, :], b_U)
    A row's correction is subtracted from all rows below it as well.
for i in range(15, -1, -1) → for i in range(0, 16)
    The transposed system is solved from the first row down, but it is the last row that is known first.
tl.sum(tl.where(o_j == i, b_L, 0.0), 1)[:, None] → tl.sum(tl.where(o_i == i, b_L, 0.0), 0)[:, None]
    dR is solved with rows of L: the transpose has its columns.
b_U, b_dR = tl.load(p_R + at), tl.load(p_dU + at) → b_U, b_dR = tl.load(p_R + at), tl.load(p_R + at)
    dR is solved for R: its right side is dU.
"""
