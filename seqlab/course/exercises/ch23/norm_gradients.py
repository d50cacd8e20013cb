"""RMSNorm's backward in two passes

*Give each program several rows and a partial sum of its own. · 20 minutes · ●●○ · 3 points*

y = x r w with r = 1 / √(mean x² + eps), for rows of x (M, D). The page's backward adds `dw` by
atomics and was handed r. Yours does neither: program i takes the rows from i · ROWS on (ROWS of them, fewer
at the end), computes r again from x, writes dx, and leaves its part of dw in row i of `parts`:

    dx   = r (g - x̂ · mean(g x̂))    with g = dy · w, x̂ = x r
    parts[i] = Σ over the rows of program i of dy · x̂

`norm_gradients(x, w, dy, eps, ROWS)` returns `(dx, parts)`; `parts.sum(0)` is then dw, the same to
the last bit on every run. Write the kernel and its launch; all tensors are float32. The names of the parameters of
`norm_gradients` must stay.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "norm_gradients"


@triton.jit
def norm_gradients_kernel(
    p_x, p_w, p_dy, p_dx, p_parts, M, D, eps, ROWS, BD: tl.constexpr
):
    """dx of ROWS rows, and their part of dw. BD is a power of two, at least D."""
    ### BEGIN SOLUTION
    i, o_d = tl.program_id(0), tl.arange(0, BD)
    inside = o_d < D
    b_w = tl.load(p_w + o_d, mask=inside, other=0.0)
    b_part = tl.zeros((BD,), tl.float32)
    for row in range(i * ROWS, tl.minimum(i * ROWS + ROWS, M)):
        b_x = tl.load(p_x + row * D + o_d, mask=inside, other=0.0)
        b_dy = tl.load(p_dy + row * D + o_d, mask=inside, other=0.0)
        r = 1 / tl.sqrt(tl.sum(b_x * b_x, 0) / D + eps)
        b_x *= r
        b_g = b_dy * b_w
        b_dx = r * (b_g - b_x * (tl.sum(b_g * b_x, 0) / D))
        tl.store(p_dx + row * D + o_d, b_dx, mask=inside)
        b_part += b_dy * b_x
    tl.store(p_parts + i * D + o_d, b_part, mask=inside)
    ### END SOLUTION


def norm_gradients(x, w, dy, eps, ROWS):
    """(dx (M, D), parts (programs, D)) for x, dy (M, D) and w (D,)."""
    M, D = x.shape
    programs = triton.cdiv(M, ROWS)
    dx, parts = torch.empty_like(x), x.new_empty(programs, D)
    ### BEGIN SOLUTION
    BD = triton.next_power_of_2(D)
    norm_gradients_kernel[(programs,)](x, w, dy, dx, parts, M, D, eps, ROWS, BD=BD)
    ### END SOLUTION
    return dx, parts


WHY = """
**Solution.** A loop over the rows of the program; the part of dw is a block in registers and is
stored once, after the loop. x and dy are read once, w once for each *program*. `tl.minimum` ends the
loop of the last program at row M.

**Why several rows?** With one row a program, `parts` would be as large as x, and adding it up would
cost as much as the kernel. `kernels/rmsnorm.py` takes so many rows that there are at most 264 parts.

**Common mistakes.** dw with g in place of dy (w belongs to dx only); dw with x in place of x̂; the
mean taken over BD lanes instead of D numbers.
"""

HINTS = (
    "What does one row contribute to dx, and what to parts? Which of the two can be stored at once, "
    "and which must be kept until the program's last row?",
    "Keep a block b_part of zeros in registers; in a loop over rows compute r, x̂ = x r, g = dy w, "
    "store dx, and add dy x̂ to b_part.",
    "for row in range(i * ROWS, tl.minimum(i * ROWS + ROWS, M)): … ; behind the loop "
    "tl.store(p_parts + i * D + o_d, b_part, mask=o_d < D).",
)


def reference(x, w, dy, eps, ROWS):
    with torch.enable_grad():
        rows = x.double().requires_grad_()
        gains = w.double().expand_as(rows).detach().requires_grad_()
        y = rows * (rows.square().mean(-1, keepdim=True) + eps).rsqrt() * gains
        dx, each = torch.autograd.grad((y * dy.double()).sum(), (rows, gains))
    return dx.to(x.dtype), torch.stack([p.sum(0) for p in each.split(ROWS)]).to(x.dtype)


def cases(rng):
    sizes = {
        "one row": (1, 5, 4, 1e-6),
        "D a power of two": (6, 16, 3, 1e-6),
        "a program with fewer rows": (7, 20, 3, 1e-6),
        "a large eps": (5, 9, 2, 1.5),
        "one row a program": (4, 12, 1, 1e-6),
    }
    return [
        Case(
            name,
            {
                "x": 0.7 * torch.randn(M, D, generator=rng),
                "w": 1 + torch.rand(D, generator=rng),
                "dy": torch.randn(M, D, generator=rng),
                "eps": eps,
                "ROWS": ROWS,
            },
        )
        for name, (M, D, ROWS, eps) in sizes.items()
    ]


OUTPUTS = ("dx", "parts")


@triton.jit
def two_loops_kernel(p_x, p_w, p_dy, p_dx, p_parts, M, D, eps, ROWS, BD: tl.constexpr):
    o_d = tl.arange(0, BD)
    b_part = tl.zeros((BD,), tl.float32)
    for step in range(0, ROWS):
        row = tl.program_id(0) * ROWS + step
        on = (o_d < D) & (row < M)
        b_x = tl.load(p_x + row * D + o_d, mask=on, other=0.0)
        b_dy = tl.load(p_dy + row * D + o_d, mask=on, other=0.0)
        b_g = b_dy * tl.load(p_w + o_d, mask=o_d < D, other=0.0)
        r2 = 1 / (tl.sum(b_x * b_x, 0) / D + eps)
        b_dx = tl.sqrt(r2) * (b_g - b_x * (r2 * tl.sum(b_g * b_x, 0) / D))
        tl.store(p_dx + row * D + o_d, b_dx, mask=on)
        b_part += b_dy * b_x * tl.sqrt(r2)
    tl.store(p_parts + tl.program_id(0) * D + o_d, b_part, mask=o_d < D)


def two_loops(x, w, dy, eps, ROWS):
    M, D = x.shape
    programs = triton.cdiv(M, ROWS)
    dx, parts = torch.empty_like(x), x.new_empty(programs, D)
    two_loops_kernel[(programs,)](x, w, dy, dx, parts, M, D, eps, ROWS, BD=64)
    return dx, parts


ALTERNATIVES = (two_loops,)

MISTAKES = """
b_part += b_dy * b_x → b_part += b_g * b_x
    The part of dw must not hold w: it is Σ dy x̂, not Σ dy w x̂.
b_x *= r → b_h = b_x * r ; b_part += b_dy * b_x → b_part += b_dy * b_x ; b_g - b_x * (tl.sum(b_g * b_x, 0) / D) → b_g - b_h * (tl.sum(b_g * b_h, 0) / D)
    The part of dw lacks r: it is Σ dy x̂ with x̂ = x r.
b_g = b_dy * b_w → b_g = b_dy
    w is missing in dx: g is dy · w.
tl.sum(b_g * b_x, 0) / D) → tl.sum(b_g * b_x, 0))
    The mean of g x̂ is a sum here: divide by D.
tl.sum(b_g * b_x, 0) / D) → tl.sum(b_g * b_x, 0) / BD)
    The mean of g x̂ is over D numbers, not over the BD lanes of the block.
tl.sum(b_x * b_x, 0) / D + eps → tl.sum(b_x * b_x, 0) / BD + eps
    The mean of x² is over D numbers, not over the BD lanes of the block.
r * (b_g - b_x → (b_g - b_x
    dx lacks the factor r.
(b_g - b_x * (tl.sum(b_g * b_x, 0) / D)) → b_g
    dx treats r as a constant: r depends on x, which gives the second term.
/ D + eps) → / D)
    eps is missing under the root.
tl.minimum(i * ROWS + ROWS, M) → i * ROWS + ROWS
    The last program goes on beyond row M: end its loop at the smaller of the two.
b_part += b_dy * b_x → b_part = b_dy * b_x
    Only the last row of each program is in its part: add, do not assign.
"""
