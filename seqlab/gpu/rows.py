"""Rows of one head of a (T, H, W) tensor, as tiles: for kernels whose subject is not the address.

    b_k = load_rows(p_k, first, T, i_h, H, N, W)  # tokens first … first + N, (N, W), 0 from T on
    store_rows(p_y, b_y, first, T, i_h, H, N, W)

N and W are powers of two; W is the whole width. Chapter 25 writes `load_rows` out.
"""
# pyright: reportInvalidTypeForm=false

from seqlab.gpu.anywhere import tl, triton


@triton.jit
def load_rows(p, first, T, i_h, H, N: tl.constexpr, W: tl.constexpr):
    o_t, o_w = first + tl.arange(0, N)[:, None], tl.arange(0, W)[None, :]
    return tl.load(p + (o_t * H + i_h) * W + o_w, mask=o_t < T, other=0.0)


@triton.jit
def store_rows(p, b, first, T, i_h, H, N: tl.constexpr, W: tl.constexpr):
    o_t, o_w = first + tl.arange(0, N)[:, None], tl.arange(0, W)[None, :]
    tl.store(p + (o_t * H + i_h) * W + o_w, b.to(p.dtype.element_ty), mask=o_t < T)
