"""The pre-pass of the backward

*Reduce what a row of the backward needs to one number. · 12 minutes · ●●○ · 2 points*

The backward needs from each row of P only Σ_j P_ij dP_ij, and that is dy_i · y_i. If somebody also uses lse (a merge does, for one), its gradient dlse enters at the same place: with ∂lse_i / ∂S_ij = P_ij,

    dS_ij = P_ij (dP_ij - D_i)        D_i = dy_i · y_i - dlse_i.

`delta(y, dy, dlse)` returns D (H, T) in float32. y and dy are (T, H, V), in float32 or float16, V any width up to 64; dlse is (H, T) in float32. Sums are to be made in float32: in float16 they can overflow.

Write the kernel and its launch. The names of the parameters of `delta` must stay.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "delta"


@triton.jit
def delta_kernel(p_y, p_dy, p_dlse, p_d, T, H, V, BT: tl.constexpr, BV: tl.constexpr):
    """D of BT queries. BV is a power of two, at least V."""
    ### BEGIN SOLUTION
    o_t, o_v = tl.program_id(0) * BT + tl.arange(0, BT), tl.arange(0, BV)
    i_h = tl.program_id(1)
    inside = (o_t[:, None] < T) & (o_v[None, :] < V)
    at = (o_t[:, None] * H + i_h) * V + o_v[None, :]
    b_y = tl.load(p_y + at, mask=inside, other=0.0).to(tl.float32)
    b_dy = tl.load(p_dy + at, mask=inside, other=0.0).to(tl.float32)
    b_dlse = tl.load(p_dlse + i_h * T + o_t, mask=o_t < T, other=0.0)
    tl.store(p_d + i_h * T + o_t, tl.sum(b_y * b_dy, 1) - b_dlse, mask=o_t < T)
    ### END SOLUTION


def delta(y, dy, dlse):
    """D (H, T) = Σ_v dy y - dlse, in float32."""
    T, H, V = y.shape
    D = torch.empty_like(dlse)
    ### BEGIN SOLUTION
    grid = (triton.cdiv(T, 16), H)
    BV = triton.next_power_of_2(V)
    delta_kernel[grid](y, dy, dlse, D, T, H, V, BT=16, BV=BV)
    ### END SOLUTION
    return D


WHY = """
**Solution.** One pass over y and dy, one number out for each row. The layout changes on the way: y is (time, head, width), D is (head, time), because a program of the backward loads D for many times of one head, and these should be neighbours.

**Where dlse comes from.** S reaches the loss by two ways: through P, with P (dP - Σ P dP), and through lse, with P dlse. Both are P times something, so dlse is subtracted from D once, and no other kernel needs to know.

**Another way** is to compute D inside the kernel for dQ, which has dy and y at hand. But the kernel for dK and dV would compute it again in each program.
"""

HINTS = (
    "For each query and head one dot product, over a width that may need a mask. Where is y[t, h] in memory, and where is D[h, t]?",
    "y[t, h, v] is at (t · H + h) · V + v, D[h, t] at h · T + t. Convert both loads with .to(tl.float32).",
    "grid (cdiv(T, 16), H); mask rows and columns of the loads, other=0.0; store tl.sum(b_y * b_dy, 1) - b_dlse with mask=o_t < T.",
)


def reference(y, dy, dlse):
    return torch.einsum("thv,thv->ht", y.double(), dy.double()).float() - dlse


def cases(rng):
    def draw(*shape):
        return torch.randn(*shape, generator=rng)

    sizes = {
        "one query": (1, 1, 16, 1.0, torch.float32),
        "whole tiles": (32, 2, 16, 1.0, torch.float32),
        "ragged ends": (17, 3, 20, 1.0, torch.float32),
        "float16": (9, 2, 32, 1.0, torch.float16),
        "float16, large": (18, 2, 64, 0.0, torch.float16),
    }
    found = []
    for name, (T, H, V, size, dtype) in sizes.items():
        # With size 0, sums of 64 products near 1,600: beyond float16's largest number.
        y, dy = (draw(T, H, V) + 40 * (size == 0) for _ in range(2))
        given = {"y": y.to(dtype), "dy": dy.to(dtype), "dlse": draw(H, T)}
        found.append(Case(name, given))
    return found


@triton.jit
def row_kernel(p_y, p_dy, p_dlse, p_d, T, H, V, BV: tl.constexpr):
    t, i_h, o_v = tl.program_id(1), tl.program_id(0), tl.arange(0, BV)
    at, inside = (t * H + i_h) * V + o_v, o_v < V
    b_y = tl.load(p_y + at, mask=inside, other=0.0).to(tl.float32)
    b_dy = tl.load(p_dy + at, mask=inside, other=0.0).to(tl.float32)
    d = tl.sum(b_y * b_dy, 0) - tl.load(p_dlse + i_h * T + t)
    tl.store(p_d + i_h * T + t, d)


def by_rows(y, dy, dlse):
    T, H, V = y.shape
    D = torch.empty_like(dlse)
    row_kernel[(H, T)](y, dy, dlse, D, T, H, V, BV=64)
    return D


ALTERNATIVES = (by_rows,)

MISTAKES = """
tl.sum(b_y * b_dy, 1) - b_dlse → tl.sum(b_y * b_dy, 1)
    dlse is missing.
tl.sum(b_y * b_dy, 1) - b_dlse → tl.sum(b_y * b_dy, 1) + b_dlse
    dlse has the wrong sign: it is subtracted.
tl.sum(b_y * b_dy, 1) - b_dlse → tl.sum(b_dy * b_dy, 1) - b_dlse
    This is dy · dy: one of the two factors is y.
b_y = tl.load(p_y + at, mask=inside, other=0.0).to(tl.float32) → b_y = tl.load(p_y + at, mask=inside, other=0.0) ; b_dy = tl.load(p_dy + at, mask=inside, other=0.0).to(tl.float32) → b_dy = tl.load(p_dy + at, mask=inside, other=0.0)
    The products and their sum are float16: convert before you multiply.
tl.load(p_dlse + i_h * T + o_t → tl.load(p_dlse + o_t * H + i_h
    dlse is read as (T, H): it is (H, T), as D is.
tl.store(p_d + i_h * T + o_t → tl.store(p_d + o_t * H + i_h
    D is stored as (T, H): it is (H, T).
at = (o_t[:, None] * H + i_h) * V + o_v[None, :] → at = (i_h * T + o_t[:, None]) * V + o_v[None, :]
    y and dy are read as (H, T, V): they are (T, H, V).
inside = (o_t[:, None] < T) & (o_v[None, :] < V) → inside = (o_t[:, None] < T) & (o_v[None, :] >= 0)
    The columns have no mask: behind the end of a row begins the next head's.
inside = (o_t[:, None] < T) & (o_v[None, :] < V) → inside = (o_t[:, None] >= 0) & (o_v[None, :] < V)
    The rows have no mask: the last program reads beyond y and dy.
(triton.cdiv(T, 16), H) → (triton.cdiv(T, 16), 1)
    Only head 0 has programs.
"""
