"""The experts' rows, brought back to their tokens: y_n = Σ_j p_nj row_(place of pair n, j).

A token fetches its k rows from where the permutation put them. The other direction, in which each
row is added to its token, needs atomic additions, whose order is chance. Here one program computes
each sum, in float32, in the order of the slots.

    drow_place = p_nj dy_n        dp_nj = dy_n · row_place

Without weights this is the gradient of reading tokens through the permutation, which
`grouped_matmul` does.

The least bytes: every row and token once, in or out; the backward also reads the rows and writes
their gradient.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from seqlab.kernels.launch import check_types, launch, row_config

WIDEST = 65536
"""The widest row that fits into the registers of one program."""


@triton.jit
def combine_forward(p_rows, p_places, p_w, p_y, D, K: tl.constexpr, BD: tl.constexpr):
    """y of one token."""
    i, o_d = tl.program_id(0).to(tl.int64), tl.arange(0, BD)
    b_y = tl.zeros((BD,), tl.float32)
    for j in range(K):
        row = tl.load(p_places + i * K + j).to(tl.int64) * D
        b_row = tl.load(p_rows + row + o_d, mask=o_d < D, other=0.0).to(tl.float32)
        if p_w is not None:
            b_row *= tl.load(p_w + i * K + j).to(tl.float32)
        b_y += b_row
    tl.store(p_y + i * D + o_d, b_y.to(p_y.dtype.element_ty), mask=o_d < D)


@triton.jit
def combine_backward(
    p_rows, p_places, p_w, p_dy, p_drows, p_dw, D, K: tl.constexpr, BD: tl.constexpr
):
    """The gradients of one token's rows and weights."""
    i, o_d = tl.program_id(0).to(tl.int64), tl.arange(0, BD)
    b_dy = tl.load(p_dy + i * D + o_d, mask=o_d < D, other=0.0).to(tl.float32)
    for j in range(K):
        row = tl.load(p_places + i * K + j).to(tl.int64) * D
        w = tl.load(p_w + i * K + j).to(tl.float32)
        tl.store(p_drows + row + o_d, (b_dy * w).to(p_drows.dtype.element_ty), mask=o_d < D)
        b_row = tl.load(p_rows + row + o_d, mask=o_d < D, other=0.0).to(tl.float32)
        tl.store(p_dw + i * K + j, tl.sum(b_dy * b_row, 0).to(p_dw.dtype.element_ty))


def gather_sum(rows, places, weights=None):
    """Σ_j weights_nj rows[places_nj], or the sum without weights; not differentiable."""
    N, K = places.shape
    D = rows.shape[1]
    y = rows.new_empty(N, D)
    launch(combine_forward, (N,), rows, places, weights, y, D, K, configs=(row_config(D),))
    return y


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, places, weights):
        ctx.save_for_backward(rows, places, weights)
        return gather_sum(rows, places, weights)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        rows, places, weights = ctx.saved_tensors
        N, K = places.shape
        D = rows.shape[1]
        drows, dweights = torch.empty_like(rows), torch.empty_like(weights)
        args = rows, places, weights, dy.contiguous(), drows, dweights
        launch(combine_backward, (N,), *args, D, K, configs=(row_config(D),))
        return drows, None, dweights


def combine(
    rows: Float[Tensor, "P D"], places: Int[Tensor, "N k"], weights: Float[Tensor, "N k"]
) -> Float[Tensor, "N D"]:
    """Σ_j weights_nj rows[places_nj] in the rows' type, and the gradients of rows and weights.

    places: a permutation of the P = N k rows, as `permute` returns it. weights may have a wider
    type than the rows.
    """
    check_types(rows=rows)
    check_types(weights=weights)
    if places.numel() != rows.shape[0] or places.shape != weights.shape:
        raise ValueError(
            f"rows has {rows.shape[0]} rows, places and weights are {tuple(places.shape)} and "
            f"{tuple(weights.shape)}: both must be (N, k) with a place for each row"
        )
    if rows.shape[1] > WIDEST:
        raise ValueError(
            f"rows are {rows.shape[1]} wide: this kernel keeps one in registers, {WIDEST} at most"
        )
    if rows.numel() == 0:
        return rows.new_zeros(places.shape[0], rows.shape[1])
    return _Combine.apply(rows.contiguous(), places.contiguous(), weights.contiguous())
