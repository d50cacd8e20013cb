"""Combine with weights

*Sum the rows of a token in float16 storage, without a race. · 12 minutes · ●●○ · 2 points*

A block of a model adds its mixture to the residual stream: y_n = x_n + Σ_j p_nj r_place(n, j). Do it in one kernel. `combine_residual(x, rows, places, weights)` returns y (N, D) in float16; x (N, D) and rows (P, D) are float16, weights (N, k) float32, places (N, k) int32. The place of a dropped pair is -1: it adds nothing. D is 16 or 32.

The result must be as good as a sum in float32 that is rounded once. Atomic additions in float16 round each time, in an order that is chance. Write the kernel and its launch.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "combine_residual"


@triton.jit
def combine_residual_kernel(p_x, p_rows, p_places, p_w, p_y, K, BD: tl.constexpr):
    """y of token program_id(0)."""
    ### BEGIN SOLUTION
    n, o_d = tl.program_id(0), tl.arange(0, BD)
    b_y = tl.load(p_x + n * BD + o_d).to(tl.float32)
    for j in range(0, K):
        place = tl.load(p_places + n * K + j)
        if place >= 0:
            w = tl.load(p_w + n * K + j)
            b_y += w * tl.load(p_rows + place * BD + o_d).to(tl.float32)
    tl.store(p_y + n * BD + o_d, b_y.to(tl.float16))
    ### END SOLUTION


def combine_residual(x, rows, places, weights):
    """y (N, D) in float16."""
    ### BEGIN SOLUTION
    (N, D), y = x.shape, torch.empty_like(x)
    args = x, rows, places, weights, y, places.shape[1]
    combine_residual_kernel[(N,)](*args, BD=D)
    return y
    ### END SOLUTION


WHY = """
**Solution.** A program owns a token: it starts its sum with x, fetches each row that was kept, adds in float32 and rounds at the end. No two programs write to one place, so there is nothing to be atomic.

**What goes wrong in float16?** Near 1,024 its numbers are 1 apart. A residual stream of that size swallows every single contribution below 0.5, though their sum may be larger.

**And atomics in float32?** They lose almost nothing, but need a buffer of zeros in float32, twice the bytes, and still differ in the last bit from run to run.
"""

HINTS = (
    "Which of the two directions needs no atomics: a program for each row, or for each token?",
    "Keep the sum of a token in float32, starting with x. A place of -1 is not an address: leave that slot out.",
    "b_y = x in float32; for j in range(0, K): if place >= 0: b_y += w * row; store b_y.to(tl.float16). The grid is (N,).",
)


def reference(x, rows, places, weights):
    y = x.double()
    for n in range(len(x)):
        for j in range(places.shape[1]):
            if places[n, j] >= 0:
                y[n] += weights[n, j].double() * rows[places[n, j]].double()
    return y.half()


def cases(rng):
    sizes = {
        "two slots": (3, 16, 2, 1.0),
        "a large stream": (2, 16, 8, 1500.0),
        "one token": (1, 32, 3, 1.0),
    }
    found = []
    for name, (N, D, k, size) in sizes.items():
        places = torch.randperm(N * k, generator=rng).view(N, k).int()
        places[0, k // 2] = -1
        weights = torch.rand(N, k, generator=rng) / 2 + 0.1
        rows = torch.rand(N * k, D, generator=rng) + 0.2
        x = size * (1 + torch.rand(N, D, generator=rng) / 4)
        given = {"x": x.half(), "rows": rows.half(), "places": places}
        found.append(Case(name, given | {"weights": weights}))
    return found


OUTPUTS = ("y",)


@triton.jit
def masked_kernel(
    p_x, p_rows, p_places, p_w, p_y, K, BD: tl.constexpr, BK: tl.constexpr
):
    n, o_d, o_j = tl.program_id(0), tl.arange(0, BD)[None, :], tl.arange(0, BK)
    b_place = tl.load(p_places + n * K + o_j, mask=o_j < K, other=-1)[:, None]
    b_w = tl.load(p_w + n * K + o_j, mask=o_j < K, other=0.0)[:, None]
    b_rows = tl.load(p_rows + b_place * BD + o_d, mask=b_place >= 0, other=0.0)
    b_y = tl.sum(b_w * b_rows.to(tl.float32), 0)[None, :]
    b_y += tl.load(p_x + n * BD + o_d).to(tl.float32)
    tl.store(p_y + n * BD + o_d, b_y.to(tl.float16))


def masked(x, rows, places, weights):
    y, k = torch.empty_like(x), places.shape[1]
    sizes = {"BD": x.shape[1], "BK": triton.next_power_of_2(k)}
    masked_kernel[(len(x),)](x, rows, places, weights, y, k, **sizes)
    return y


ALTERNATIVES = (masked,)

MISTAKES = """
tl.load(p_x + n * BD + o_d).to(tl.float32) → tl.load(p_x + n * BD + o_d) ; b_y += w * tl.load(p_rows + place * BD + o_d).to(tl.float32) → b_y = (b_y + w * tl.load(p_rows + place * BD + o_d)).to(tl.float16)
    The sum is kept in float16, and rounded after each addition: add in float32, and round once.
for j in range(0, K) → for j in range(tl.program_id(1), tl.program_id(1) + 1) ; b_y = tl.load(p_x + n * BD + o_d).to(tl.float32) → b_y = tl.zeros((BD,), tl.float32) ; tl.store(p_y + n * BD + o_d, b_y.to(tl.float16)) → tl.atomic_add(p_y + n * BD + o_d, b_y.to(tl.float16)) ; torch.empty_like(x) → x.clone() ; combine_residual_kernel[(N,)] → combine_residual_kernel[(N, places.shape[1])]
    Atomic additions in float16 round each time, in an order that is chance: let one program add all rows of a token in float32.
for j in range(0, K) → for j in range(tl.program_id(1), tl.program_id(1) + 1) ; b_y = tl.load(p_x + n * BD + o_d).to(tl.float32) → b_y = tl.load(p_y + n * BD + o_d).to(tl.float32) ; torch.empty_like(x) → x.clone() ; combine_residual_kernel[(N,)] → combine_residual_kernel[(N, places.shape[1])]
    A race: programs of one token load, add and store the same place, and an addition is lost. Let one program add all rows of a token.
b_y = tl.load(p_x + n * BD + o_d).to(tl.float32) → b_y = tl.zeros((BD,), tl.float32)
    The residual stream x is not added.
if place >= 0 → if place >= -1 ; tl.load(p_rows + place * BD + o_d) → tl.load(p_rows + tl.maximum(place, 0) * BD + o_d)
    A dropped pair adds the row of place 0: it must add nothing.
b_y += w * tl.load( → b_y += tl.load(
    The weights are left out.
w = tl.load(p_w + n * K + j) → w = tl.load(p_w + place)
    The weight is that of another pair: weights lie in the order of tokens and slots, not of places.
tl.load(p_rows + place * BD + o_d) → tl.load(p_rows + (n * K + j) * BD + o_d)
    The rows are read in the order of tokens: read them from their places.
"""
