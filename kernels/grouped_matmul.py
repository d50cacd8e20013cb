"""Matrix multiplication in groups: rows offsets[e] … offsets[e + 1] times w[e], for every expert e.

One launch serves all experts. Only the device knows how many rows each has, so the grid is an upper
bound on the tiles of BM rows,

    Σ_e ⌈rows_e / BM⌉ ≤ ⌈P / BM⌉ + E

and a program finds its expert in a running sum of tiles: the expert of tile i is the number of
experts whose tiles all come before i. Programs left over do nothing. Everything else is as in
`matmul.py`, launch order included. (CUTLASS's grouped GEMM; MegaBlocks, Gale et al. 2022,
arXiv:2211.15841.)

Rows may be read through the permutation: row i of the product is then that of the token of pair i,
and no permuted copy of the tokens is made. Rows after the last expert belong to dropped pairs and
give 0.

    dx = dy w[e]ᵀ               grouped as in the forward
    dw[e] = Σ_{rows of e} xᵀ dy  a program walks along an expert's rows

The least bytes: a row of x once for each BN columns of the product, a matrix once for each BM rows
of its expert.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from seqlab.kernels.launch import check_types, launch
from seqlab.kernels.matmul import tile_configs, tile_of_program
from seqlab.kernels.moe_combine import gather_sum
from seqlab.kernels.tiles import precision

CONFIGS = tile_configs(
    (128, 128, 32, 8, 3),
    (128, 128, 64, 8, 3),
    (128, 256, 64, 8, 3),
    (128, 256, 64, 8, 4),
    (256, 128, 64, 8, 3),
    (64, 128, 64, 4, 4),
    (16, 128, 64, 4, 4),  # few rows an expert, as in decoding: reading the matrices is all the work
)
CONFIGS_W = tile_configs(
    (128, 128, 32, 8, 3),
    (128, 128, 64, 8, 3),
    (128, 128, 64, 8, 5),  # rows read through pairs need two loads, one after the other
    (128, 256, 64, 8, 3),
    (128, 256, 64, 8, 4),
    (128, 256, 64, 8, 5),
    (256, 128, 64, 8, 4),
    (64, 128, 64, 4, 4),
)
KEY = ("P", "E", "K", "N")


@triton.jit
def load_step(p, rows, cols, left, WIDTH: tl.constexpr, STEP: tl.constexpr):
    """One step of STEP numbers through WIDTH, of which `left` remain.

    rows: a mask across. cols: the indices along the step.
    """
    if WIDTH % STEP == 0:
        return tl.load(p, mask=rows, other=0.0)
    else:
        return tl.load(p, mask=rows & (cols < left), other=0.0)


@triton.jit
def group_of_tile(p_offsets, i_m, P, E: tl.constexpr, BE: tl.constexpr, BM: tl.constexpr):
    """The expert of row tile i_m, the tile's first row and the expert's end.

    Dropped rows have the expert E. A tile without rows begins and ends at P.
    """
    o_e = tl.arange(0, BE)
    b_begin = tl.load(p_offsets + o_e, mask=o_e <= E, other=P)
    b_end = tl.load(p_offsets + o_e + 1, mask=o_e < E, other=P)
    b_tiles = tl.cumsum(tl.cdiv(b_end - b_begin, BM), 0)  # of all experts up to each, inclusive
    done = b_tiles <= i_m
    i_e = tl.sum(done.to(tl.int32), 0)
    before = tl.max(tl.where(done, b_tiles, 0), 0)
    begin = tl.sum(tl.where(o_e == i_e, b_begin, 0), 0)
    end = tl.sum(tl.where(o_e == i_e, b_end, 0), 0)
    return i_e, begin + (i_m - before) * BM, end


@triton.jit
def grouped_tile(p_x, p_w, p_y, p_offsets, p_pairs, P, s_we, s_wk, s_wn, SLOTS,
                 E: tl.constexpr, K: tl.constexpr, N: tl.constexpr, BE: tl.constexpr,
                 PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
                 GROUP: tl.constexpr):  # fmt: skip
    """A BM × BN tile of y, along K."""
    cols = tl.cdiv(N, BN)
    i_m, i_n = tile_of_program(tl.num_programs(0) // cols, cols, GROUP)
    i_e, start, end = group_of_tile(p_offsets, i_m, P, E, BE, BM)
    o_m, o_n, o_k = start + tl.arange(0, BM), i_n * BN + tl.arange(0, BN), tl.arange(0, BK)
    there = o_m < end
    b_row = o_m
    if p_pairs is not None:
        b_row = tl.load(p_pairs + o_m, mask=there, other=0) // SLOTS  # the pair's token
    p_x += b_row.to(tl.int64)[:, None] * K + o_k[None, :]
    o_wk, o_wn = o_k[:, None].to(tl.int64) * s_wk, o_n[None, :].to(tl.int64) * s_wn
    p_w += i_e.to(tl.int64) * s_we + o_wk + o_wn
    b_y = tl.zeros((BM, BN), tl.float32)
    for k in range(0, tl.where(i_e < E, K, 0), BK):
        b_x = load_step(p_x, there[:, None], o_k[None, :], K - k, K, BK)
        b_w = load_step(p_w, o_n[None, :] < N, o_k[:, None], K - k, K, BK)
        b_y = tl.dot(b_x, b_w, b_y, input_precision=PRECISION)
        p_x += BK
        p_w += BK * s_wk
    p_y += o_m.to(tl.int64)[:, None] * N + o_n[None, :]
    tl.store(p_y, b_y.to(p_y.dtype.element_ty), mask=there[:, None] & (o_n[None, :] < N))


@triton.jit
def grouped_weight_tile(p_x, p_dy, p_dw, p_offsets, p_pairs, P, s_we, s_wk, s_wn, SLOTS,
                        E: tl.constexpr, K: tl.constexpr, N: tl.constexpr,
                        PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
                        BK: tl.constexpr, GROUP: tl.constexpr):  # fmt: skip
    """A BM × BN tile of dw[e] = xᵀ dy, along the rows of expert e, BK at a time; 0 without rows."""
    i_m, i_n = tile_of_program(tl.cdiv(K, BM), tl.cdiv(N, BN), GROUP)
    i_e = tl.program_id(1)
    o_m, o_n, o_k = i_m * BM + tl.arange(0, BM), i_n * BN + tl.arange(0, BN), tl.arange(0, BK)
    end = tl.load(p_offsets + i_e + 1)
    b_dw = tl.zeros((BM, BN), tl.float32)
    for start in range(tl.load(p_offsets + i_e), end, BK):
        there = start + o_k < end
        b_row = start + o_k
        if p_pairs is not None:
            b_row = tl.load(p_pairs + start + o_k, mask=there, other=0) // SLOTS
        # x is loaded as xᵀ: on sm_80 a tile transposed in registers could not be loaded ahead.
        p_xt = p_x + b_row.to(tl.int64)[None, :] * K + o_m[:, None]
        b_x = tl.load(p_xt, mask=there[None, :] & (o_m[:, None] < K), other=0.0)
        p_rows = p_dy + (start + o_k).to(tl.int64)[:, None] * N + o_n[None, :]
        b_dy = tl.load(p_rows, mask=there[:, None] & (o_n[None, :] < N), other=0.0)
        b_dw = tl.dot(b_x, b_dy, b_dw, input_precision=PRECISION)
    o_wk, o_wn = o_m[:, None].to(tl.int64) * s_wk, o_n[None, :].to(tl.int64) * s_wn
    p_dw += i_e.to(tl.int64) * s_we + o_wk + o_wn
    tl.store(p_dw, b_dw.to(p_dw.dtype.element_ty), mask=(o_m[:, None] < K) & (o_n[None, :] < N))


def _multiply(x, w, offsets, P, pairs=None):
    E, K, N = w.shape
    y = x.new_empty(P, N)

    def grid(meta):
        return ((triton.cdiv(P, meta["BM"]) + min(E, P)) * triton.cdiv(N, meta["BN"]),)

    args = x, w, y, offsets, pairs, P, *w.stride(), P // x.shape[0]
    named = {"E": E, "K": K, "N": N, "BE": triton.next_power_of_2(E + 1), "PRECISION": precision(x)}
    launch(grouped_tile, grid, *args, **named, configs=CONFIGS, key=KEY)
    return y


def _multiply_transposed(x, dy, w, offsets, pairs=None):
    E, K, N = w.shape
    P = dy.shape[0]
    dw = torch.empty_like(w)  # with w's strides

    def grid(meta):
        return triton.cdiv(K, meta["BM"]) * triton.cdiv(N, meta["BN"]), E

    args = x, dy, dw, offsets, pairs, P, *dw.stride(), P // x.shape[0]
    named = {"E": E, "K": K, "N": N, "PRECISION": precision(x)}
    launch(grouped_weight_tile, grid, *args, **named, configs=CONFIGS_W, key=KEY)
    return dw


class _GroupedMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, offsets, pairs, places):
        ctx.save_for_backward(x, w, offsets, pairs, places)
        P = len(x) if pairs is None else len(pairs)
        return _multiply(x, w, offsets, P, pairs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        x, w, offsets, pairs, places = ctx.saved_tensors
        dy = dy.contiguous()
        dx, dw = None, None
        if ctx.needs_input_grad[0]:
            dx = _multiply(dy, w.mT, offsets, len(dy))
            if places is not None:  # a token was read once for each of its slots
                dx = gather_sum(dx, places)
        if ctx.needs_input_grad[1]:
            dw = _multiply_transposed(x, dy, w, offsets, pairs)
        return dx, dw, None, None, None


def grouped_matmul(
    x: Float[Tensor, "R D"],
    w: Float[Tensor, "E D F"],
    offsets: Int[Tensor, " E+1"],
    pairs: Int[Tensor, " P"] | None = None,
    places: Int[Tensor, "R k"] | None = None,
) -> Float[Tensor, "P F"]:
    """x[offsets[e] : offsets[e + 1]] w[e] for every expert e, and the gradients of x and w.

    Rows after the last expert's are 0. With pairs and places, both from `permute`, x holds tokens,
    and row i of the product is that of the token of pairs[i].
    """
    check_types(x=x, w=w)
    if w.ndim != 3 or x.ndim != 2 or x.shape[1] != w.shape[1] or offsets.shape != (len(w) + 1,):
        raise ValueError(
            f"x has shape {tuple(x.shape)}, w {tuple(w.shape)}, offsets {tuple(offsets.shape)}: "
            "(rows, D), (E, D, F) and (E + 1,) are needed"
        )
    if (pairs is None) != (places is None) or (
        places is not None and places.shape != (len(x), len(pairs) // len(x))
    ):
        raise ValueError(
            "pairs and places belong together: "
            "pass both as `permute` returns them for the tokens x, or neither"
        )
    if x.numel() == 0 or w.numel() == 0:
        return x.new_zeros(len(x) if pairs is None else len(pairs), w.shape[2])
    return _GroupedMatmul.apply(x.contiguous(), w, offsets, pairs, places)
