"""Add, SiLU and its slope, fused

*Compute two results from one trip through memory. · 10 minutes · ●○○ · 2 points*

silu(s) = s · σ(s), with σ(s) = 1 / (1 + e⁻ˢ), is the gate of many feed-forward layers, here of the
sum s = x + z. The backward pass needs its derivative. `add_silu(x, z)` returns `(y, slope)`:

    y = silu(x + z)        slope = silu'(x + z)

x, z, y and slope have n numbers each. One kernel can store both results, so that x and z cross once.
Write the kernel and its launch; a sum may be as large as ±100. The names of the parameters of
`add_silu` must stay.
"""

import torch
import torch.nn.functional as F

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "add_silu"


@triton.jit
def add_silu_kernel(p_x, p_z, p_y, p_slope, n, BLOCK: tl.constexpr):
    """y and slope of a block of numbers."""
    ### BEGIN SOLUTION
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    b_s = tl.load(p_x + i, mask=inside) + tl.load(p_z + i, mask=inside)
    b_g = 1 / (1 + tl.exp(-b_s))
    tl.store(p_y + i, b_s * b_g, mask=inside)
    tl.store(p_slope + i, b_g + b_s * b_g * (1 - b_g), mask=inside)
    ### END SOLUTION


def add_silu(x, z):
    """(y, slope), each (n,)."""
    y, slope = torch.empty_like(x), torch.empty_like(x)
    ### BEGIN SOLUTION
    grid = (triton.cdiv(len(x), 32),)
    add_silu_kernel[grid](x, z, y, slope, len(x), BLOCK=32)
    ### END SOLUTION
    return y, slope


WHY = """
**Solution.** By the product rule silu' = σ + s σ', and σ' = σ (1 - σ). Everything stays in
registers between the two loads and the two stores: four numbers cross for each element. As PyTorch
operations (add, silu, and later the backward's) the sum would be written and read again.

**Another way.** slope = σ (1 + s (1 - σ)), or with y: σ + y (1 - σ). `tl.sigmoid` is there too.

**Large sums.** e¹⁰⁰ is infinite in float32, but 1 / (1 + ∞) = 0 is the right σ.
e^s / (1 + e^s), the same on paper, gives NaN.
"""

HINTS = (
    "Which of the four results (sum, σ, y, slope) can be made from the one before, in registers?",
    "silu(s) = s σ(s), so silu' = σ + s σ (1 - σ).",
    "b_s = load x + load z; b_g = 1 / (1 + tl.exp(-b_s)); store b_s * b_g and "
    "b_g + b_s * b_g * (1 - b_g), all four with one mask.",
)


def reference(x, z):
    with torch.enable_grad():
        s = (x.double() + z.double()).requires_grad_()
        y = F.silu(s)
        (slope,) = torch.autograd.grad(y.sum(), s)
    return y.detach().to(x.dtype), slope.to(x.dtype)


def cases(rng):
    sizes = {
        "one number": (1, 1.0),
        "a ragged end": (77, 1.0),
        "large sums": (65, 40.0),
    }
    return [
        Case(name, {k: scale * torch.randn(n, generator=rng) for k in ("x", "z")})
        for name, (n, scale) in sizes.items()
    ]


OUTPUTS = ("y", "slope")


@triton.jit
def with_sigmoid_kernel(p_x, p_z, p_y, p_slope, n, BLOCK: tl.constexpr):
    for first in range(0, n, BLOCK):
        i = first + tl.arange(0, BLOCK)
        b_s = tl.load(p_x + i, mask=i < n) + tl.load(p_z + i, mask=i < n)
        b_g = tl.sigmoid(b_s)
        b_y = b_s * b_g
        tl.store(p_y + i, b_y, mask=i < n)
        tl.store(p_slope + i, b_g + b_y * (1 - b_g), mask=i < n)


def with_sigmoid(x, z):
    y, slope = torch.empty_like(x), torch.empty_like(x)
    with_sigmoid_kernel[(1,)](x, z, y, slope, len(x), BLOCK=16)
    return y, slope


ALTERNATIVES = (with_sigmoid,)

MISTAKES = """
tl.store(p_y + i, b_s * b_g, mask=inside) → tl.store(p_y + i, b_g, mask=inside)
    y is the sigmoid alone: silu multiplies it by the sum.
b_g + b_s * b_g * (1 - b_g) → b_g * (1 - b_g)
    The slope is that of the sigmoid: silu is a product, so its derivative has two terms.
b_g + b_s * b_g * (1 - b_g) → b_g
    The slope lacks its second term, s σ (1 - σ).
b_g + b_s * b_g * (1 - b_g) → b_g + b_s * (1 - b_g)
    The second term of the slope lacks a factor σ.
b_g + b_s * b_g * (1 - b_g) → b_s * b_g
    slope is y once more.
tl.load(p_x + i, mask=inside) + tl.load(p_z + i, mask=inside) → tl.load(p_x + i, mask=inside)
    z is not added.
tl.load(p_z + i, mask=inside) → tl.load(p_z + i)
    The load of z has no mask: the last program reads what lies behind z.
tl.exp(-b_s) → tl.exp(b_s)
    The sigmoid has the wrong sign in its exponent: 1 / (1 + e⁻ˢ).
(triton.cdiv(len(x), 32),) → (len(x) // 32 + 0,)
    len(x) // 32 rounds down: the ragged end has no program.
"""
