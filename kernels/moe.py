"""A mixture of SwiGLU experts as kernels: y_n = Σ_j p_nj E_e(x_n).

    E_e(x) = W_down (silu(W_gate x) · W_up x)

Permute, multiply in groups, gate, multiply in groups, combine: `mix_stacked` reads like that
sentence. The CPU never waits for the GPU: how many tokens each expert has stays on the device. The
tokens are read through the permutation. Gate and up are one matrix of 2 F columns, so a row of x is
read once for both.

The forward saves what autograd needs for k rows a token: W_gate x, W_up x, their product and
E_e(x). The least bytes: those of the products (see `grouped_matmul.py`), those of `combine`, and
3 P F between the two products.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.ffn.routers import Routing
from seqlab.ffn.swiglu import SwiGLU
from seqlab.kernels.grouped_matmul import grouped_matmul
from seqlab.kernels.launch import check_types, launch, under_autocast
from seqlab.kernels.moe_combine import combine
from seqlab.kernels.moe_permute import permute


@triton.jit
def swiglu_forward(p_gu, p_h, F, BF: tl.constexpr):
    """h = silu(g) u for a row of g and u, side by side."""
    i = tl.program_id(0).to(tl.int64)
    o_f = tl.program_id(1) * BF + tl.arange(0, BF)
    b_g = tl.load(p_gu + i * 2 * F + o_f, mask=o_f < F, other=0.0).to(tl.float32)
    b_u = tl.load(p_gu + i * 2 * F + F + o_f, mask=o_f < F, other=0.0).to(tl.float32)
    b_h = b_g * tl.sigmoid(b_g) * b_u
    tl.store(p_h + i * F + o_f, b_h.to(p_h.dtype.element_ty), mask=o_f < F)


@triton.jit
def swiglu_backward(p_gu, p_dh, p_dgu, F, BF: tl.constexpr):
    """du = dh silu(g), dg = dh u σ (1 + g (1 - σ)), with σ = sigmoid(g)."""
    i = tl.program_id(0).to(tl.int64)
    o_f = tl.program_id(1) * BF + tl.arange(0, BF)
    b_g = tl.load(p_gu + i * 2 * F + o_f, mask=o_f < F, other=0.0).to(tl.float32)
    b_u = tl.load(p_gu + i * 2 * F + F + o_f, mask=o_f < F, other=0.0).to(tl.float32)
    b_dh = tl.load(p_dh + i * F + o_f, mask=o_f < F, other=0.0).to(tl.float32)
    b_s = tl.sigmoid(b_g)
    b_dg = b_dh * b_u * b_s * (1 + b_g * (1 - b_s))
    b_du = b_dh * b_g * b_s
    tl.store(p_dgu + i * 2 * F + o_f, b_dg.to(p_dgu.dtype.element_ty), mask=o_f < F)
    tl.store(p_dgu + i * 2 * F + F + o_f, b_du.to(p_dgu.dtype.element_ty), mask=o_f < F)


def _over_rows(kernel, *tensors):
    P, F = tensors[0].shape[0], tensors[0].shape[1] // 2
    BF = min(1024, triton.next_power_of_2(F))
    config = {"BF": BF, "num_warps": max(1, BF // 256)}
    launch(kernel, (P, triton.cdiv(F, BF)), *tensors, F, configs=(config,))


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate_up):
        ctx.save_for_backward(gate_up)
        h = gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)
        _over_rows(swiglu_forward, gate_up, h)
        return h

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dh):
        (gate_up,) = ctx.saved_tensors
        dgate_up = torch.empty_like(gate_up)
        _over_rows(swiglu_backward, gate_up, dh.contiguous(), dgate_up)
        return dgate_up


def mix_stacked(
    x: Float[Tensor, "N D"],
    routing: Routing,
    gate_up: Float[Tensor, "E F2 D"],
    down: Float[Tensor, "E D F"],
) -> Float[Tensor, "N D"]:
    """Σ_j p_nj E_e(x_n) for experts stacked in two tensors, with rows as in `nn.Linear`.

    gate_up: W_gate above W_up. down: W_down.
    """
    dtype = x.dtype
    x, gate_up, down = under_autocast(x, gate_up, down)
    check_types(x=x, gate_up=gate_up, down=down)
    E, D, F = down.shape
    if gate_up.shape != (E, 2 * F, D) or x.shape[1] != D:
        raise ValueError(
            f"x has width {x.shape[1]}, gate_up has shape {tuple(gate_up.shape)}, "
            f"down {tuple(down.shape)}: (E, 2 F, D) and (E, D, F) are needed"
        )
    if x.numel() == 0:
        return x.to(dtype)
    kept = None if routing.kept is None else routing.kept.flatten(0, -2)
    order = permute(routing.experts.flatten(0, -2), E, kept)
    h = _SwiGLU.apply(grouped_matmul(x, gate_up.mT, order.offsets, order.pairs, order.places))
    y = grouped_matmul(h, down.mT, order.offsets)
    return combine(y, order.places, routing.weights.flatten(0, -2)).to(dtype)


def mix(x: Float[Tensor, "N D"], routing: Routing, experts: nn.ModuleList) -> Float[Tensor, "N D"]:
    """`seqlab.ffn.moe.mix_sorted(x, routing, experts)`, and all its gradients.

    The experts are modules with matrices of their own, so every call first copies them into two
    tensors. That moves 2 · 3 E D F numbers, where the products move at least 3 E D F. If an expert
    has few tokens this matters: keep the experts stacked, and call `mix_stacked`.
    """
    for expert in experts:
        known = isinstance(expert, SwiGLU) and expert.activation is F.silu
        if not known or expert.down.bias is not None:
            raise TypeError(
                f"an expert is a {type(expert).__name__}: "
                "this kernel knows SwiGLU with silu and without biases; "
                "for other experts leave MoE's form as it is"
            )
    E = len(experts)
    D, d_ff = experts[0].down.weight.shape
    gate_up = torch.cat([w for expert in experts for w in (expert.gate.weight, expert.up.weight)])
    down = torch.cat([expert.down.weight for expert in experts])
    return mix_stacked(x, routing, gate_up.view(E, 2 * d_ff, D), down.view(E, D, d_ff))
