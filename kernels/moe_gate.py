"""The gate of a mixture of experts: each token's k largest logits of E, and their softmax.

Shazeer et al. 2017, arXiv:1701.06538; Switch, arXiv:2101.03961; Mixtral, arXiv:2401.04088. A
token's logits are read once and stay in registers. k times the largest is taken and struck out.
Each logit is packed with its expert's number in one 64-bit integer, score above, number below. One
maximum then finds both, and of equal logits the first expert always wins; `torch.topk` promises no
order there.

    normalise: p_j = exp x_j / Σ_{chosen} exp x    dx_j = p_j (dp_j - Σ_c p_c dp_c), 0 if not chosen
    not:       p_j = exp x_j / Σ_{all} exp x       dx_e = [e chosen] p_e dp_e
                                                          - softmax(x)_e Σ_c p_c dp_c

The least bytes: the logits in, k weights and experts out, and a log-sum-exp for each token. The
backward writes the gradients of all E logits, and reads the logits only if not normalised.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from seqlab.kernels.launch import check_types, launch

MOST = 4096
"""The most experts: a token's logits stay in registers."""
STRUCK = tl.constexpr(-(1 << 63))  # below every logit, also -inf


@triton.jit
def upside_down(b_bits):
    """The bits of floats, made to compare as the floats do; and back again.

    Without this, negative floats compare the wrong way round.
    """
    return b_bits ^ ((b_bits >> 31) & 0x7FFFFFFF)


@triton.jit
def numbered(b_x, o_e, BE: tl.constexpr):
    """A logit and its expert in one integer, which sorts by logit, then by lower expert.

    NaN is above everything.
    """
    b_x = tl.where(b_x == b_x, b_x + 0.0, float("nan"))  # one NaN, and one zero: -0.0 + 0.0 is 0.0
    b_score = upside_down(b_x.to(tl.int32, bitcast=True)).to(tl.int64)
    return (b_score << 32) | (BE - 1 - o_e)


@triton.jit
def load_logits(p_x, o_n, o_e, N, E: tl.constexpr):
    """The logits (BN, BE) in float32, with -inf where there is none."""
    p_x += o_n[:, None] * E + o_e[None, :]
    there = (o_n[:, None] < N) & (o_e[None, :] < E)
    return tl.load(p_x, mask=there, other=float("-inf")).to(tl.float32)


@triton.jit
def gate_forward(p_x, p_w, p_e, p_lse, N,
                 E: tl.constexpr, K: tl.constexpr, NORMALISE: tl.constexpr,
                 BN: tl.constexpr, BE: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """Weights and experts of BN tokens."""
    o_n, o_e, o_k = _tokens(BN), tl.arange(0, BE), tl.arange(0, BK)
    b_x = load_logits(p_x, o_n, o_e, N, E)
    b_left = tl.where(o_e[None, :] < E, numbered(b_x, o_e[None, :], BE), STRUCK)
    b_top = tl.max(b_x, 1)
    b_w, b_e = tl.zeros((BN, BK), tl.float32), tl.zeros((BN, BK), tl.int32)
    for j in range(K):
        b_best = tl.max(b_left, 1)
        b_left = tl.where(b_left == b_best[:, None], STRUCK, b_left)
        b_logit = upside_down((b_best >> 32).to(tl.int32)).to(tl.float32, bitcast=True)
        b_expert = (BE - 1 - (b_best & (BE - 1))).to(tl.int32)
        b_w = tl.where(o_k[None, :] == j, tl.exp(b_logit - b_top)[:, None], b_w)
        b_e = tl.where(o_k[None, :] == j, b_expert[:, None], b_e)
    b_sum = tl.sum(b_w, 1) if NORMALISE else tl.sum(tl.exp(b_x - b_top[:, None]), 1)
    there = (o_n[:, None] < N) & (o_k[None, :] < K)
    at = o_n[:, None] * K + o_k[None, :]
    tl.store(p_w + at, (b_w / b_sum[:, None]).to(p_w.dtype.element_ty), mask=there)
    tl.store(p_e + at, b_e.to(tl.int64), mask=there)
    if not NORMALISE:
        tl.store(p_lse + o_n, b_top + tl.log(b_sum), mask=o_n < N)


@triton.jit
def gate_backward(p_x, p_lse, p_w, p_e, p_dw, p_dx, N,
                  E: tl.constexpr, K: tl.constexpr, NORMALISE: tl.constexpr,
                  BN: tl.constexpr, BE: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """The gradient of the logits of BN tokens."""
    o_n, o_e, o_k = _tokens(BN), tl.arange(0, BE), tl.arange(0, BK)
    there = (o_n[:, None] < N) & (o_k[None, :] < K)
    at = o_n[:, None] * K + o_k[None, :]
    b_w = tl.load(p_w + at, mask=there, other=0.0).to(tl.float32)
    b_e = tl.load(p_e + at, mask=there, other=0).to(tl.int32)
    b_g = b_w * tl.load(p_dw + at, mask=there, other=0.0).to(tl.float32)
    b_sum = tl.sum(b_g, 1)[:, None]
    if NORMALISE:
        b_g -= b_w * b_sum
        b_dx = tl.zeros((BN, BE), tl.float32)
    else:
        b_lse = tl.load(p_lse + o_n, mask=o_n < N, other=0.0)
        b_dx = -tl.exp(load_logits(p_x, o_n, o_e, N, E) - b_lse[:, None]) * b_sum
    for j in range(K):
        expert = tl.sum(tl.where(o_k[None, :] == j, b_e, 0), 1)[:, None]
        b_gj = tl.sum(tl.where(o_k[None, :] == j, b_g, 0.0), 1)[:, None]
        b_dx += tl.where(o_e[None, :] == expert, b_gj, 0.0)
    p_dx += o_n[:, None] * E + o_e[None, :]
    tl.store(p_dx, b_dx.to(p_dx.dtype.element_ty), mask=(o_n[:, None] < N) & (o_e[None, :] < E))


@triton.jit
def _tokens(BN: tl.constexpr):
    return (tl.program_id(0) * BN + tl.arange(0, BN)).to(tl.int64)


def _gate(kernel, *args, N, E, K, normalise):
    BE = triton.next_power_of_2(E)
    BN = max(1, 1024 // BE)
    tile = {"BN": BN, "BE": BE, "BK": triton.next_power_of_2(K)}
    launch(kernel, (triton.cdiv(N, BN),), *args, N, E, K, NORMALISE=normalise, configs=(tile,))


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, k, normalise):
        N, E = logits.shape
        ctx.sizes = {"N": N, "E": E, "K": k, "normalise": normalise}
        weights = logits.new_empty(N, k)
        experts = logits.new_empty(N, k, dtype=torch.int64)
        lse = None if normalise else logits.new_empty(N, dtype=torch.float32)
        _gate(gate_forward, logits, weights, experts, lse, **ctx.sizes)
        ctx.save_for_backward(None if normalise else logits, lse, weights, experts)
        ctx.mark_non_differentiable(experts)
        return weights, experts

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dweights, _):
        logits, lse, weights, experts = ctx.saved_tensors
        dlogits = weights.new_empty(ctx.sizes["N"], ctx.sizes["E"])
        args = logits, lse, weights, experts, dweights.contiguous(), dlogits
        _gate(gate_backward, *args, **ctx.sizes)
        return dlogits, None, None


def top_k_gate(
    logits: Float[Tensor, "*N E"], k: int, normalise: bool = True
) -> tuple[Float[Tensor, "*N k"], Int[Tensor, "*N k"]]:
    """`seqlab.ffn.routers.top_k_gate(logits, k, normalise)`, and the gradient of the logits.

    Returns weights and experts.
    """
    check_types(logits=logits)
    *shape, E = logits.shape
    if not 1 <= k <= E:
        raise ValueError(f"k is {k}, logits has {E} experts: a token takes 1 to {E} of them")
    if E > MOST:
        raise ValueError(
            f"logits has {E} experts: this kernel keeps them in registers, {MOST} at most; "
            "use seqlab.ffn"
        )
    if logits.numel() == 0:
        return logits[..., :k], logits.new_empty(*shape, k, dtype=torch.int64)
    weights, experts = _Gate.apply(logits.reshape(-1, E).contiguous(), k, normalise)
    return weights.view(*shape, k), experts.view(*shape, k)
