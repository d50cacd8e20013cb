"""The short causal convolution of each channel, y_t = Σ_{j<W} w_j u_{t+j} + bias, and gradients.

u is the state, W - 1 earlier inputs, followed by x. A program takes BD channels of a segment of
tokens and walks along it, BT rows at once; the last W - 1 rows stay in registers as the window
slides. The gradients are windows again, now over dy, which is 0 before the first token and after
the last:

    du_r = Σ_j w_j dy_{r-j}        dw_j = Σ_r u_r dy_{r-j}        dbias = Σ_t dy_t

The first rows of du belong to the state, the rest to x. Each segment writes its part of dw and
dbias, and PyTorch adds the parts. No atomics, so the result is the same on every run.

Bytes: x is read once and y written once; the backward reads x and dy and writes dx, once each. A
segment of TOKENS tokens also reads W - 1 rows of its neighbour.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from seqlab.kernels.launch import check_types, launch

TOKENS = 64
"""The tokens of a segment."""


def _configs(*sizes):
    return tuple({"BT": BT, "BD": BD, "num_warps": warps} for BT, BD, warps in sizes)


FORWARD = _configs(
    (8, 256, 2), (4, 256, 2), (8, 128, 1), (8, 512, 4), (4, 512, 2), (16, 256, 2)
)  # fmt: skip
BACKWARD = _configs(
    (4, 256, 4), (8, 256, 4), (4, 256, 2), (8, 128, 2), (4, 512, 4), (8, 256, 2)
)  # fmt: skip
"""Rows at once, channels and warps.

The first does not spill on any target; a GPU tries them all.
"""
KEY = ("T", "D")


@triton.jit
def channels(D, BD: tl.constexpr):
    o_d = tl.program_id(0) * BD + tl.arange(0, BD)
    return o_d, o_d < D


@triton.jit
def load_row(p, r, end, D, BD: tl.constexpr):
    """Row r of an (end, D) matrix, or 0 if there is no such row."""
    o_d, there = channels(D, BD)
    mask = there & (r >= 0) & (r < end)
    return tl.load(p + tl.cast(r, tl.int64) * D + o_d, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store_row(p, b, r, end, D, BD: tl.constexpr):
    o_d, there = channels(D, BD)
    mask = there & (r >= 0) & (r < end)
    tl.store(p + tl.cast(r, tl.int64) * D + o_d, b.to(p.dtype.element_ty), mask=mask)


@triton.jit
def load_weight(p_w, D, W: tl.constexpr, BD: tl.constexpr):
    """w_0 … w_{W-1}, each for all channels."""
    o_d, there = channels(D, BD)
    w = ()
    for j in tl.static_range(W):
        w += (tl.load(p_w + o_d * W + j, mask=there, other=0.0).to(tl.float32),)
    return w


@triton.jit
def conv_forward(p_x, p_past, p_w, p_bias, p_y, T, D, TOKENS: tl.constexpr,
                 W: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr):  # fmt: skip
    """y of the tokens of a segment."""
    i_b, start = tl.program_id(2).to(tl.int64), tl.program_id(1) * TOKENS
    p_x, p_y, p_past = p_x + i_b * T * D, p_y + i_b * T * D, p_past + i_b * (W - 1) * D
    w = load_weight(p_w, D, W, BD)
    b_bias = tl.zeros((BD,), tl.float32) if p_bias is None else load_row(p_bias, 0, 1, D, BD)
    window = ()
    for j in tl.static_range(W - 1):  # u_start …
        r = start + j
        window += (load_row(p_past, r, W - 1, D, BD) + load_row(p_x, r - (W - 1), T, D, BD),)
    for t in range(start, tl.minimum(start + TOKENS, T), BT):
        for i in tl.static_range(BT):  # all loads first, so that they run in parallel
            window += (load_row(p_x, t + i, T, D, BD),)
        for i in tl.static_range(BT):
            b_y = b_bias
            for j in tl.static_range(W):
                b_y += w[j] * window[i + j]
            store_row(p_y, b_y, t + i, T, D, BD)
        window = window[BT:]


@triton.jit
def conv_backward(p_x, p_past, p_w, p_dy, p_dnew, p_dx, p_dpast, p_dw, p_dbias, T, D,
                  TOKENS: tl.constexpr, W: tl.constexpr,
                  BT: tl.constexpr, BD: tl.constexpr):  # fmt: skip
    """The rows of du of a segment.

    p_dnew: the gradient of the last W - 1 rows of u, which the forward returned as the state.
    """
    i_b, start = tl.program_id(2).to(tl.int64), tl.program_id(1) * TOKENS
    p_x, p_dy, p_dx = p_x + i_b * T * D, p_dy + i_b * T * D, p_dx + i_b * T * D
    p_past, p_dpast = p_past + i_b * (W - 1) * D, p_dpast + i_b * (W - 1) * D
    w = load_weight(p_w, D, W, BD)
    b_dbias = tl.zeros((BD,), tl.float32)
    dw, window = (), ()
    for _ in tl.static_range(W):
        dw += (tl.zeros((BD,), tl.float32),)
    for j in tl.static_range(W - 1):
        window += (load_row(p_dy, start - (W - 1) + j, T, D, BD),)
    for first in range(start, tl.minimum(start + TOKENS, T + W - 1), BT):
        u = ()
        for i in tl.static_range(BT):
            r = first + i
            window += (load_row(p_dy, r, T, D, BD),)
            u += (load_row(p_past, r, W - 1, D, BD) + load_row(p_x, r - (W - 1), T, D, BD),)
        for i in tl.static_range(BT):
            r = first + i
            b_du = tl.zeros((BD,), tl.float32)
            if p_dnew is not None:
                b_du = load_row(p_dnew + i_b * (W - 1) * D, r - T, W - 1, D, BD)
            for j in tl.static_range(W):
                b_du += w[j] * window[i + W - 1 - j]
            dw = add_products(dw, u[i], window, i, W)
            b_dbias += window[i + W - 1]
            store_row(p_dpast, b_du, r, W - 1, D, BD)
            store_row(p_dx, b_du, r - (W - 1), T, D, BD)
        window = window[BT:]
    part = i_b * tl.num_programs(1) + tl.program_id(1)
    for j in tl.static_range(W):
        store_row(p_dw, dw[j], part * W + j, (part + 1) * W, D, BD)
    if p_dbias is not None:
        store_row(p_dbias, b_dbias, part, part + 1, D, BD)


@triton.jit
def add_products(dw, b_u, window, i: tl.constexpr, W: tl.constexpr):
    """dw_j + u_r dy_{r-j}, where r is row i."""
    new = ()
    for j in tl.static_range(W):
        new += (dw[j] + b_u * window[i + W - 1 - j],)
    return new


class _CausalConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, past):
        B, T, D = x.shape
        W = weight.shape[1]
        y = torch.empty_like(x)
        args = x, past, weight, bias, y, T, D, TOKENS, W
        launch(conv_forward, _grid(T, B, D), *args, configs=FORWARD, key=KEY)
        ctx.save_for_backward(x, weight, bias, past)
        ctx.set_materialize_grads(False)
        return y, torch.cat([past, x[:, 1 - W :]], dim=1)[:, 1 - W :]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy, dnew):
        x, weight, bias, past = ctx.saved_tensors
        B, T, D = x.shape
        W = weight.shape[1]
        rows = T + W - 1
        parts = B * triton.cdiv(rows, TOKENS)
        dx, dpast = torch.empty_like(x), torch.empty_like(past)
        dw = x.new_empty(parts, W, D, dtype=torch.float32)
        dbias = None if bias is None else x.new_empty(parts, D, dtype=torch.float32)
        dy = torch.zeros_like(x) if dy is None else dy.contiguous()
        dnew = None if dnew is None else dnew.contiguous()
        args = x, past, weight, dy, dnew, dx, dpast, dw, dbias, T, D, TOKENS, W
        launch(conv_backward, _grid(rows, B, D), *args, configs=BACKWARD, key=KEY)
        dbias = None if bias is None else dbias.sum(0).to(bias.dtype)
        return dx, dw.sum(0).mT.to(weight.dtype), dbias, dpast


def _grid(rows, B, D):
    return lambda meta: (triton.cdiv(D, meta["BD"]), triton.cdiv(rows, TOKENS), B)


def causal_conv1d(
    x: Float[Tensor, "B T D"],
    weight: Float[Tensor, "D W"],
    bias: Float[Tensor, " D"] | None = None,
    state: Float[Tensor, "B past D"] | None = None,
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B past D"]]:
    """`seqlab.core.convolution.causal_conv`, and the gradients of all its inputs; 2 to 8 taps.

    Sums are float32, y has x's type. weight and bias may have another type: under autocast they are
    wider.
    """
    check_types(x=x, state=state)
    check_types(weight=weight, bias=bias)
    B, T, D = x.shape
    W = weight.shape[1]
    if not 2 <= W <= 8:
        raise ValueError(
            f"weight has {W} taps: this kernel takes 2 to 8, "
            "use seqlab.core.convolution.causal_conv"
        )
    if T == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: T must be at least 1")
    for name, tensor, shape in (
        ("weight", weight, (D, W)),
        ("bias", bias, (D,)),
        ("state", state, (B, W - 1, D)),
    ):
        if tensor is not None and tensor.shape != shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}: {shape} is needed for x {tuple(x.shape)}"
            )
    past = x.new_zeros(B, W - 1, D) if state is None else state.contiguous()
    return _CausalConv.apply(x.contiguous(), weight.contiguous(), bias, past)
