"""A linear layer with ragged ends everywhere

*Mask the inner axis of a matrix product, and load a transposed tile. · 20 minutes · ●●○ · 3 points*

`linear(x, w, bias)` is y = x wᵀ + bias, as in `torch.nn.Linear`: x is (M, K), w is (N, K), bias is
(N,), y is (M, N), all contiguous and in float32. M, N and K need not be multiples of the tile's 16. Write the
kernel: program (i, j) computes a tile of y. The launch is given.

Use `tl.dot(…, input_precision="ieee")`, so that a GPU does not round to TF32.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "linear"


@triton.jit
def linear_kernel(p_x, p_w, p_bias, p_y, M, N, K,
                  BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """Tile (program_id(0), program_id(1)) of y = x wᵀ + bias."""
    ### BEGIN SOLUTION
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    o_n = tl.program_id(1) * BN + tl.arange(0, BN)
    b_y = tl.zeros((BM, BN), tl.float32)
    for first in range(0, K, BK):
        o_k = first + tl.arange(0, BK)
        on_x = (o_m[:, None] < M) & (o_k[None, :] < K)
        on_w = (o_k[:, None] < K) & (o_n[None, :] < N)
        b_x = tl.load(p_x + o_m[:, None] * K + o_k[None, :], mask=on_x, other=0.0)
        b_w = tl.load(p_w + o_n[None, :] * K + o_k[:, None], mask=on_w, other=0.0)
        b_y = tl.dot(b_x, b_w, b_y, input_precision="ieee")
    b_y += tl.load(p_bias + o_n, mask=o_n < N, other=0.0)[None, :]
    inside = (o_m[:, None] < M) & (o_n[None, :] < N)
    tl.store(p_y + o_m[:, None] * N + o_n[None, :], b_y, mask=inside)
    ### END SOLUTION


def linear(x, w, bias):
    """x wᵀ + bias: x (M, K), w (N, K), bias (N,); returns (M, N)."""
    (M, K), N = x.shape, len(w)
    y = x.new_empty(M, N)
    grid = (triton.cdiv(M, 16), triton.cdiv(N, 16))
    linear_kernel[grid](x, w, bias, y, M, N, K, BM=16, BN=16, BK=16)
    return y


WHY = """
**Solution.** The loop of the page's matmul, with K in the masks too. w is stored as (N, K), and the
product needs a tile (BK, BN): the same addresses with rows and columns exchanged, no transpose.

**Both masks, both zeros.** If only one of the two tiles is masked along K, its zeros still give the
right sum, *unless* the other holds inf or NaN: 0 · ∞ is not a number. And its last row reads beyond
the tensor.

**Another way** is `tl.dot(b_x, tl.trans(b_w))` with a tile (BN, BK) of w, which is read along its rows.
"""

HINTS = (
    "Which tile of x and which of w does one step along K need? What is behind the end of a row of x?",
    "The tile of wᵀ is (BK, BN): w[n, k] is at p_w + n * K + k, so use o_n[None, :] * K + "
    "o_k[:, None]. Both tiles are masked along K, with other=0.",
    "In the loop o_k = first + tl.arange(0, BK); masks (o_m < M) & (o_k < K) and (o_k < K) & (o_n < N); "
    "b_y = tl.dot(b_x, b_w, b_y, …). Behind it add bias[None, :] and store with (o_m < M) & (o_n < N).",
)


def reference(x, w, bias):
    products = x.double()[:, None, :] * w.double()[None, :, :]
    return (products.sum(-1) + bias.double()).to(x.dtype)


def cases(rng):
    sizes = {
        "one number": (1, 1, 1),
        "whole tiles": (16, 32, 32),
        "K not a multiple of the tile": (16, 16, 37),
        "nothing is a multiple": (19, 35, 21),
    }
    return [
        Case(
            name,
            {
                "x": torch.randn(M, K, generator=rng),
                "w": torch.randn(N, K, generator=rng),
                "bias": torch.randn(N, generator=rng),
            },
        )
        for name, (M, N, K) in sizes.items()
    ]


@triton.jit
def transposed_kernel(p_x, p_w, p_bias, p_y, M, N, K, B: tl.constexpr):
    o_m, o_n = (
        tl.program_id(1) * B + tl.arange(0, B),
        tl.program_id(0) * B + tl.arange(0, B),
    )
    b_y = tl.zeros((B, B), tl.float32)
    for first in range(0, K, B):
        o_k = first + tl.arange(0, B)
        on_x = (o_m[:, None] < M) & (o_k[None, :] < K)
        on_w = (o_n[:, None] < N) & (o_k[None, :] < K)
        b_x = tl.load(p_x + o_m[:, None] * K + o_k[None, :], mask=on_x, other=0.0)
        b_w = tl.load(p_w + o_n[:, None] * K + o_k[None, :], mask=on_w, other=0.0)
        b_y += tl.dot(b_x, tl.trans(b_w), input_precision="ieee")
    b_bias = tl.load(p_bias + o_n, mask=o_n < N, other=0.0)
    inside = (o_m[:, None] < M) & (o_n[None, :] < N)
    tl.store(p_y + o_m[:, None] * N + o_n[None, :], b_y + b_bias[None, :], mask=inside)


def transposed(x, w, bias):
    (M, K), N = x.shape, len(w)
    y = x.new_empty(M, N)
    grid = (triton.cdiv(N, 32), triton.cdiv(M, 32))
    transposed_kernel[grid](x, w, bias, y, M, N, K, B=32)
    return y


ALTERNATIVES = (transposed,)

MISTAKES = """
on_x = (o_m[:, None] < M) & (o_k[None, :] < K) → on_x = (o_m[:, None] < M) & (o_k[None, :] >= 0)
    x has no mask along K: behind the end of its row begins the next one, and its last row reads beyond x.
on_w = (o_k[:, None] < K) & (o_n[None, :] < N) → on_w = (o_k[:, None] >= 0) & (o_n[None, :] < N)
    w has no mask along K: behind the end of its row begins the next one, and its last row reads beyond w.
on_x = (o_m[:, None] < M) & (o_k[None, :] < K) → on_x = (o_m[:, None] < M) & (o_k[None, :] >= 0) ; on_w = (o_k[:, None] < K) & (o_n[None, :] < N) → on_w = (o_k[:, None] >= 0) & (o_n[None, :] < N)
    Neither tile has a mask along K: the sum goes on into the next rows of x and w.
range(0, K, BK) → range(0, K // BK * BK, BK)
    The last, ragged tile along K is missing.
tl.dot(b_x, b_w, b_y, input_precision="ieee") → tl.dot(b_x, b_w, input_precision="ieee")
    Each step replaces the sum: pass the accumulator to tl.dot, or add to it.
b_y += tl.load(p_bias + o_n, mask=o_n < N, other=0.0)[None, :] → b_y += 0.0
    The bias is not added.
first + tl.arange(0, BK) → tl.arange(0, BK)
    Every step along K takes the first tile again: add where this step begins.
p_y + o_m[:, None] * N → p_y + o_m[:, None] * K
    The rows of y are N apart, not K.
p_w + o_n[None, :] * K + o_k[:, None] → p_w + o_k[:, None] * N + o_n[None, :]
    This reads w as (K, N): it is (N, K), so w[n, k] is at n * K + k.
"""
