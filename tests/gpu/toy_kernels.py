"""Kernels for the tests of the compiler: small, and each with one thing to see."""

import triton
import triton.language as tl


@triton.jit
def add(p_x, p_y, p_z, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(p_z + i, tl.load(p_x + i, mask=i < n) + tl.load(p_y + i, mask=i < n), mask=i < n)


@triton.jit
def accumulate(b_a, b_b, acc):
    return tl.dot(b_a, b_b, acc)  # the line of the dot


@triton.jit
def product(p_a, p_b, p_c, n, BLOCK: tl.constexpr, STEP: tl.constexpr):
    i, j = tl.arange(0, BLOCK), tl.arange(0, STEP)
    acc = tl.zeros((BLOCK, BLOCK), tl.float32)
    for s in range(0, n, STEP):
        b_a = tl.load(p_a + i[:, None] * n + (s + j)[None, :])
        b_b = tl.load(p_b + (s + j)[:, None] * BLOCK + i[None, :])
        acc = accumulate(b_a, b_b, acc)
    tl.store(p_c + i[:, None] * BLOCK + i[None, :], acc)


@triton.jit
def greedy(p_x, p_y, BLOCK: tl.constexpr):
    """Two cumulative sums over a block too large for the registers, so that they spill."""
    i = tl.arange(0, BLOCK)
    x = tl.load(p_x + i)
    y = tl.cumsum(x, 0)
    tl.store(p_y + i, x / tl.sum(y, 0) + y * tl.max(x, 0))


@triton.jit
def summed(p_x, p_y, BLOCK: tl.constexpr):
    tl.store(p_y, tl.sum(tl.load(p_x + tl.arange(0, BLOCK)), 0))


@triton.jit
def clamped(p_x, p_y, n, LOUD: tl.constexpr, BLOCK: tl.constexpr):
    """With Python's own min and max, and print: each is a function of Triton in a kernel."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    last = max(min(n, n + BLOCK), 0)
    b_x = tl.load(p_x + i, mask=i < last, other=0.0)
    if LOUD:
        print("x", b_x)
    tl.store(p_y + i, tl.minimum(tl.maximum(b_x, -1.0), 1.0), mask=i < last)
