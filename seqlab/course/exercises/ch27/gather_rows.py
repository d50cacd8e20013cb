"""Gather rows

*Bring the tokens into the order of their experts. · 8 minutes · ●○○ · 1 point*

For experts on other devices rows must be copied together, since they are sent as one block. `gather_rows(x, pairs, k)` returns the rows (P, D) in the order of `pairs` (P,), int32: pair p belongs to token p // k. A router may have dropped pairs: then p is -1, and the row is 0.

x is (N, D), float32. D is any number; a program has 8 rows. Write the kernel; the launch is given.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "gather_rows"


@triton.jit
def gather_rows_kernel(p_x, p_pairs, p_y, P, D, K, BI: tl.constexpr, BD: tl.constexpr):
    """Rows program_id(0) · BI and on."""
    ### BEGIN SOLUTION
    o_i = tl.program_id(0) * BI + tl.arange(0, BI)[:, None]
    o_d = tl.arange(0, BD)[None, :]
    b_pair = tl.load(p_pairs + o_i, mask=o_i < P, other=0)
    there = (o_i < P) & (b_pair >= 0) & (o_d < D)
    b_x = tl.load(p_x + b_pair // K * D + o_d, mask=there, other=0.0)
    tl.store(p_y + o_i * D + o_d, b_x, mask=(o_i < P) & (o_d < D))
    ### END SOLUTION


def gather_rows(x, pairs, k):
    """The rows (P, D)."""
    P, D = len(pairs), x.shape[1]
    y, sizes = x.new_empty(P, D), {"BI": 8, "BD": triton.next_power_of_2(D)}
    gather_rows_kernel[(triton.cdiv(P, 8),)](x, pairs, y, P, D, k, **sizes)
    return y


WHY = """
**Solution.** Load a column of pairs, divide, and use the result as addresses. The load has three reasons for a mask: rows behind the end, dropped pairs, columns behind D. The store has only two, because a dropped pair's row is written as 0.

**A clamp is not a mask.** tl.maximum(b_pair, 0) makes the address valid, but copies token 0.

**On one device** the page's product reads through the permutation, and this copy is not needed.
"""

HINTS = (
    "What is the address of row i of the result in x? For which i and columns may it not be loaded?",
    "b_pair as a column (BI, 1); the token is b_pair // K; a dropped pair masks the load, not the store.",
    "b_x = tl.load(p_x + b_pair // K * D + o_d, mask=(o_i < P) & (b_pair >= 0) & (o_d < D), other=0.0).",
)


def reference(x, pairs, k):
    rows = [x[p // k] if p >= 0 else 0 * x[0] for p in pairs.tolist()]
    return torch.stack(rows)


def cases(rng):
    def draw(N, k, dropped):
        pairs = torch.randperm(N * k, generator=rng)
        return torch.where(torch.arange(N * k) >= N * k - dropped, -1, pairs).int()

    sizes = {
        "some are dropped": (7, 20, 2, 3),
        "one slot": (8, 16, 1, 0),
        "one row": (1, 5, 1, 0),
    }
    return [
        Case(
            name,
            {
                "x": torch.randn(N, D, generator=rng) + 1,
                "pairs": draw(N, k, dropped),
                "k": k,
            },
        )
        for name, (N, D, k, dropped) in sizes.items()
    ]


OUTPUTS = ("rows",)


@triton.jit
def one_row_kernel(p_x, p_pairs, p_y, D, K, BD: tl.constexpr):
    i, o_d = tl.program_id(0), tl.arange(0, BD)
    pair = tl.load(p_pairs + i)
    b_x = tl.zeros((BD,), tl.float32)
    if pair >= 0:
        b_x = tl.load(p_x + pair // K * D + o_d, mask=o_d < D, other=0.0)
    tl.store(p_y + i * D + o_d, b_x, mask=o_d < D)


def one_row(x, pairs, k):
    P, D = len(pairs), x.shape[1]
    y = x.new_empty(P, D)
    BD = triton.next_power_of_2(D)
    one_row_kernel[(P,)](x, pairs, y, D, k, BD=BD)
    return y


ALTERNATIVES = (one_row,)

MISTAKES = """
b_pair // K * D → b_pair % K * D
    The slot is taken for the token: the token of a pair is p // k.
b_x = tl.load(p_x + b_pair // K * D + o_d, mask=there, other=0.0) → b_x = tl.load(p_x + tl.maximum(b_pair, 0) // K * D + o_d, mask=(o_i < P) & (o_d < D), other=0.0)
    A dropped pair's row is that of token 0: it must be 0.
mask=there, other=0.0 → mask=there, other=1.0
    A dropped pair's row is 1: it must be 0.
tl.store(p_y + o_i * D + o_d, b_x, mask=(o_i < P) & (o_d < D)) → tl.store(p_y + o_i * D + o_d, b_x, mask=there)
    A dropped pair's row is never written: the store must not be masked for it.
b_x = tl.load(p_x + b_pair // K * D + o_d, mask=there, other=0.0)⏎tl.store(p_y + o_i * D + o_d, b_x, mask=(o_i < P) & (o_d < D)) → b_x = tl.load(p_x + o_i // K * D + o_d, mask=there, other=0.0)⏎tl.store(p_y + o_i * D + o_d, b_x, mask=(o_i < P) & (o_d < D))
    The rows are in the order of the tokens: read the token of pairs[i], not of i.
"""
