"""A complex scan with a carry

*Scan the gates of an LRU, across tiles. · 20 minutes · ●●○ · 3 points*

LRU and S5 have complex gates λ, constant over time: h_t = λ h_{t-1} + b_t. Triton has no complex type. A complex number is two **planes**, real and imaginary, and an element of the scan is four numbers.

`complex_scan(lam, b, first)` returns h (2, T, W) for lam (2, W), b (2, T, W) and first (2, W), where [0] is the real plane and [1] the imaginary one. Write the operator and the kernel; the launch is given. A program has BW = 4 channels (W is a multiple of 4) and walks along time in tiles of BT = 8 tokens.
Make the operator one for any two elements, as a GPU needs it (section 2 of the page).
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "complex_scan"


@triton.jit
def join_complex(a1, a1_i, b1, b1_i, a2, a2_i, b2, b2_i):
    """Re a, Im a, Re b and Im b of both steps, the earlier one first."""
    ### BEGIN SOLUTION
    a, a_i = a2 * a1 - a2_i * a1_i, a2 * a1_i + a2_i * a1
    b, b_i = a2 * b1 - a2_i * b1_i + b2, a2 * b1_i + a2_i * b1 + b2_i
    return a, a_i, b, b_i
    ### END SOLUTION


@triton.jit
def complex_scan_kernel(p_lam, p_b, p_first, p_h, T, W,
                        BT: tl.constexpr, BW: tl.constexpr):  # fmt: skip
    """h of BW channels, in tiles of BT tokens."""
    ### BEGIN SOLUTION
    o_t, o_w = tl.arange(0, BT)[:, None], tl.arange(0, BW)[None, :]
    o_w += tl.program_id(0) * BW
    zero = tl.zeros((BT, BW), tl.float32)
    b_l = zero + tl.load(p_lam + o_w)
    b_l_i = zero + tl.load(p_lam + W + o_w)
    h = tl.load(p_first + o_w)
    h_i = tl.load(p_first + W + o_w)
    for start in range(0, T, BT):
        at, there = (start + o_t) * W + o_w, start + o_t < T
        b_b = tl.load(p_b + at, mask=there)
        b_b_i = tl.load(p_b + T * W + at, mask=there)
        b_a, b_a_i, b_b, b_b_i = tl.associative_scan(
            (b_l, b_l_i, b_b, b_b_i), 0, join_complex
        )
        b_h = b_a * h - b_a_i * h_i + b_b
        b_h_i = b_a * h_i + b_a_i * h + b_b_i
        tl.store(p_h + at, b_h, mask=there)
        tl.store(p_h + T * W + at, b_h_i, mask=there)
        h = tl.sum(tl.where(o_t == BT - 1, b_h, 0.0), 0, keep_dims=True)
        h_i = tl.sum(tl.where(o_t == BT - 1, b_h_i, 0.0), 0, keep_dims=True)
    ### END SOLUTION


def complex_scan(lam, b, first):
    """h (2, T, W)."""
    _, T, W = b.shape
    h = torch.empty_like(b)
    complex_scan_kernel[(W // 4,)](lam, b, first, h, T, W, BT=8, BW=4)
    return h


WHY = """
**Solution.** The operator is the page's with complex products written out. After the scan of a tile, its row t holds λ to the power t + 1 in the gates, and in b the state that would come from an empty start. So h = ā · carry + b̄, again with a complex product, and the last row is the next carry.

**Constant gates** are loaded once and spread over the rows of a tile. A scan then computes powers of λ by joins; one could compute them once for all tiles.

**Common mistakes.** The careless operator of the page (gates not multiplied); real and imaginary parts multiplied plane by plane, as if there were two real scans; a carry taken from a row other than the last.

`kernels/linear_scan.py` keeps planes next to each other in memory, as PyTorch does, and splits them in registers.
"""

HINTS = (
    "Write (a₂ a₁, a₂ b₁ + b₂) with complex numbers, and take it apart into real and imaginary parts.",
    "Re(x y) = Re x Re y - Im x Im y, Im(x y) = Re x Im y + Im x Re y. The planes of b begin at p_b and p_b + T · W. After the scan, h = ā h + b̄ with the h before the tile.",
    "b_a, b_a_i, b_b, b_b_i = tl.associative_scan((…), 0, join_complex); b_h = b_a * h - b_a_i * h_i + b_b; b_h_i = b_a * h_i + b_a_i * h + b_b_i; the next h is the row BT - 1, by tl.where and tl.sum.",
)


def reference(lam, b, first):
    lam, b, h = (torch.complex(*x.double()) for x in (lam, b, first))
    found = []
    for b_t in b:
        h = lam * h + b_t
        found.append(h)
    h = torch.stack(found)
    return torch.stack([h.real, h.imag]).float()


def cases(rng):
    found = []
    for name, (T, W) in {
        "one token": (1, 4),
        "two programs": (11, 8),
        "two whole tiles": (16, 4),
    }.items():
        radius = 1 - torch.rand(W, generator=rng) / 8
        angle = 3 * torch.rand(W, generator=rng)
        found.append(
            Case(
                name,
                {
                    "lam": torch.stack([radius * angle.cos(), radius * angle.sin()]),
                    "b": torch.randn(2, T, W, generator=rng),
                    "first": torch.randn(2, W, generator=rng) + 1,
                },
            )
        )
    return found


OUTPUTS = ("h",)


@triton.jit
def by_tokens_kernel(p_lam, p_b, p_first, p_h, T, W):
    w = tl.program_id(0)
    a, a_i = tl.load(p_lam + w), tl.load(p_lam + W + w)
    h, h_i = tl.load(p_first + w), tl.load(p_first + W + w)
    for t in range(0, T):
        b, b_i = tl.load(p_b + t * W + w), tl.load(p_b + (T + t) * W + w)
        h, h_i = a * h - a_i * h_i + b, a * h_i + a_i * h + b_i
        tl.store(p_h + t * W + w, h)
        tl.store(p_h + (T + t) * W + w, h_i)


def by_tokens(lam, b, first):
    h = torch.empty_like(b)
    by_tokens_kernel[(b.shape[2],)](lam, b, first, h, *b.shape[1:])
    return h


ALTERNATIVES = (by_tokens,)

MISTAKES = """
a, a_i = a2 * a1 - a2_i * a1_i, a2 * a1_i + a2_i * a1 → a, a_i = a2, a2_i
    The gates are not multiplied: a span is taken for its last token. Inside a tile this does not show here, across tiles it does.
a, a_i = a2 * a1 - a2_i * a1_i, a2 * a1_i + a2_i * a1 → a, a_i = a2 * a1, a2_i * a1_i
    The gates are multiplied plane by plane: that is no product of complex numbers.
b, b_i = a2 * b1 - a2_i * b1_i + b2, a2 * b1_i + a2_i * b1 + b2_i → b, b_i = a2 * b1 + b2, a2 * b1_i + b2_i
    The imaginary part of the gate never reaches b: nothing is rotated inside a tile.
b_a * h - b_a_i * h_i + b_b → h + b_b ; b_a * h_i + b_a_i * h + b_b_i → h_i + b_b_i
    The carry is added as it is: at row t it has met the gates of all rows up to t.
b_a * h - b_a_i * h_i + b_b → b_b ; b_a * h_i + b_a_i * h + b_b_i → b_b_i
    Every tile begins from 0: the carry is missing.
tl.where(o_t == BT - 1, b_h, 0.0) → tl.where(o_t == BT - 1, b_b, 0.0) ; tl.where(o_t == BT - 1, b_h_i, 0.0) → tl.where(o_t == BT - 1, b_b_i, 0.0)
    The carry forgets all tiles but the last: carry h itself, not the tile's own b.
"""
