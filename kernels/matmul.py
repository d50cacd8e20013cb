"""Matrix multiplication c (M, N) = a (M, K) b (K, N), a program for each BM × BN tile of c.

A program walks along K and adds the product of a BM × BK tile of a and a BK × BN tile of b to its
tile of c, which stays in registers. So each number of a is read N / BN times and each number of b
M / BM times, instead of N and M times with one program per element. That is
BM BN / (BM + BN) multiplications for each number read.

The programs are numbered in groups of GROUP tile rows, column by column inside a group, so that
programs that run at the same time share their tiles of a and b in the L2 cache. Strides are
arguments, so a transposed matrix needs no copy, and the gradients da = dc bᵀ and db = aᵀ dc use the
same kernel.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from seqlab.kernels.launch import check_types, configurations, launch
from seqlab.kernels.tiles import precision


def tile_configs(*sizes):
    """Configurations from BM, BN, BK, warps and stages, with programs in groups of 8 tile rows."""
    return tuple({**config, "GROUP": 8} for config in configurations("BM BN BK", sizes))


CONFIGS = tile_configs(
    (128, 128, 32, 8, 3),
    (128, 128, 64, 8, 3),
    (128, 256, 64, 8, 3),
    (256, 128, 64, 8, 3),
    (64, 128, 64, 4, 4),
    (64, 64, 64, 4, 4),
)


@triton.jit
def matmul_tile(p_a, p_b, p_c, M, N, K, s_am, s_ak, s_bk, s_bn,
                BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
                PRECISION: tl.constexpr):  # fmt: skip
    i_m, i_n = tile_of_program(tl.cdiv(M, BM), tl.cdiv(N, BN), GROUP)
    o_m = (i_m * BM + tl.arange(0, BM)).to(tl.int64)
    o_n = (i_n * BN + tl.arange(0, BN)).to(tl.int64)
    o_k = tl.arange(0, BK)
    p_a += o_m[:, None] * s_am + o_k[None, :] * s_ak
    p_b += o_k[:, None] * s_bk + o_n[None, :] * s_bn
    b_c = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        b_a = tl.load(p_a, mask=(o_m[:, None] < M) & (o_k[None, :] < K - k), other=0.0)
        b_b = tl.load(p_b, mask=(o_k[:, None] < K - k) & (o_n[None, :] < N), other=0.0)
        b_c = tl.dot(b_a, b_b, b_c, input_precision=PRECISION)
        p_a += BK * s_ak
        p_b += BK * s_bk
    p_c += o_m[:, None] * N + o_n[None, :]
    tl.store(p_c, b_c.to(p_c.dtype.element_ty), mask=(o_m[:, None] < M) & (o_n[None, :] < N))


@triton.jit
def tile_of_program(rows, cols, GROUP: tl.constexpr):
    """Row and column of this program's tile: down GROUP rows, then a column, then a group."""
    i = tl.program_id(0)
    first = i // (GROUP * cols) * GROUP
    height = tl.minimum(rows - first, GROUP)  # the last group may have fewer rows
    inside = i % (GROUP * cols)
    return first + inside % height, inside // height


def _multiply(a, b):
    M, K = a.shape
    N = b.shape[1]
    c = a.new_empty(M, N)

    def grid(meta):
        return (triton.cdiv(M, meta["BM"]) * triton.cdiv(N, meta["BN"]),)

    args = a, b, c, M, N, K, *a.stride(), *b.stride()
    launch(matmul_tile, grid, *args, PRECISION=precision(a), configs=CONFIGS, key=("M", "N", "K"))
    return c


class _Matmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return _multiply(a, b)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dc):
        a, b = ctx.saved_tensors
        da = _multiply(dc, b.T) if ctx.needs_input_grad[0] else None
        db = _multiply(a.T, dc) if ctx.needs_input_grad[1] else None
        return da, db


def matmul(a: Float[Tensor, "*B M K"], b: Float[Tensor, "K N"]) -> Float[Tensor, "*B M N"]:
    """`torch.matmul(a, b)` for a matrix b, and both gradients. Sums are float32, c has a's type."""
    if b.ndim != 2 or a.shape[-1] != b.shape[0]:
        raise ValueError(
            f"a has shape {tuple(a.shape)}, b {tuple(b.shape)}: "
            "b must be a matrix with as many rows as a has columns"
        )
    check_types(a=a, b=b)
    if a.numel() == 0 or b.numel() == 0:
        return torch.matmul(a, b)
    return _Matmul.apply(a.reshape(-1, a.shape[-1]), b).reshape(*a.shape[:-1], b.shape[1])
