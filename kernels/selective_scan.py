"""Mamba's selective scan (Gu & Dao 2023, arXiv:2312.00752), forward and backward.

    h_t = exp(Δ_t A) h_{t-1} + Δ_t x_t B_t        y_t = Σ_n C_tn h_tn

Each of E channels has N numbers h. A program holds h of BE channels, (BN, BE), in registers and
walks along time, one step of the equation after the other. The loads of BT tokens are issued
together, ahead of the steps that need them. Of all the h, only the first of each such chunk is
saved. The backward walks from the end, BH tokens at a time. From the first h of their chunk it
steps forward to these tokens, computes their h again, and then goes back through them.

    dh_t = C_t dy_t + exp(Δ_{t+1} A) dh_{t+1}
    dl_t = dh_t exp(Δ_t A) h_{t-1}, the gradient of the log decay Δ_t A
    dA = Σ_t Δ dl        dB = Σ_e Δ x dh        dC = Σ_e dy h
    d(Δ x) = Σ_n B dh    dΔ = Σ_n A dl + x d(Δ x)

Sums over channels cross programs: each program writes its part of dB and dC, and PyTorch adds the
parts. No atomics.

Bytes of the forward: x, Δ and y once, B and C once for every BE channels, and N numbers of state
for each channel and chunk. Of the backward: x, Δ, dy, dx and dΔ once, C once and B twice for every
BE channels, the parts of dB and dC, N numbers for each channel and chunk; and half of x, Δ and B
again, to step to the second half of a chunk. Exponentials: N for each number of y, 2.25 N in the
backward.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from seqlab.core.inputs import at_least_one
from seqlab.kernels.launch import check_types, launch
from seqlab.kernels.tiles import LOG2E

FORWARD = tuple(
    {"BE": BE, "num_warps": warps} for BE, warps in ((32, 1), (64, 2), (128, 4), (16, 1), (64, 4))
)
BACKWARD = tuple({"num_warps": warps} for warps in (1, 2))
"""The first does not spill on any target; a GPU tries them all.

There are few warps, so that few threads share a channel's h.
"""
CHANNELS = 16
"""The channels of a program of the backward, which writes their part of dB and dC."""
TOKENS = 8
"""The most tokens of a chunk."""
HELD = 64
"""The numbers of state of a channel that the backward holds at once: 4 tokens if N = 16."""
KEY = ("T", "E")


@triton.jit
def load_token(p, start, i: tl.constexpr, T, E, BE: tl.constexpr):
    """Token start + i of this program's channels, (1, BE). Past the end it is 0, so h stays."""
    o_e = tl.program_id(0) * BE + tl.arange(0, BE)[None, :]
    p += tl.cast(start, tl.int64) * E
    return tl.load(p + (i * E + o_e), mask=(start + i < T) & (o_e < E), other=0.0).to(tl.float32)


@triton.jit
def store_token(p, b, start, i: tl.constexpr, T, E, BE: tl.constexpr):
    """b (1, BE) to token start + i of this program's channels."""
    o_e = tl.program_id(0) * BE + tl.arange(0, BE)[None, :]
    p += tl.cast(start, tl.int64) * E
    tl.store(p + (i * E + o_e), b.to(p.dtype.element_ty), mask=(start + i < T) & (o_e < E))


@triton.jit
def load_column(p, start, i: tl.constexpr, T, N: tl.constexpr, BN: tl.constexpr):
    """The row of B or C of token start + i, the same for all channels, (BN, 1)."""
    o_n = tl.arange(0, BN)[:, None]
    p += tl.cast(start, tl.int64) * N
    return tl.load(p + (i * N + o_n), mask=(start + i < T) & (o_n < N), other=0.0).to(tl.float32)


@triton.jit
def store_column(p, b, start, i: tl.constexpr, T, N: tl.constexpr, BN: tl.constexpr):
    """The sum of b (BN, BE) over channels to the row of dB or dC of token start + i."""
    o_n = tl.arange(0, BN)
    p += tl.cast(start, tl.int64) * N
    tl.store(p + (i * N + o_n), tl.sum(b, 1), mask=(start + i < T) & (o_n < N))


@triton.jit
def states(E, N: tl.constexpr, BN: tl.constexpr, BE: tl.constexpr):
    """Offsets in (E, N) of this program's numbers, (BN, BE), and which of them exist."""
    o_n = tl.arange(0, BN)[:, None]
    o_e = tl.program_id(0) * BE + tl.arange(0, BE)[None, :]
    return o_e * N + o_n, (o_n < N) & (o_e < E)


@triton.jit
def selective_forward(p_x, p_dt, p_A, p_B, p_C, p_first, p_y, p_h, p_last, T, E,
                      N: tl.constexpr, BN: tl.constexpr,
                      BT: tl.constexpr, BE: tl.constexpr):  # fmt: skip
    """y, the first h of every chunk, and the last h."""
    i_b, chunks = tl.program_id(1).to(tl.int64), tl.cdiv(T, BT)
    p_x, p_dt, p_y = p_x + i_b * T * E, p_dt + i_b * T * E, p_y + i_b * T * E
    p_B, p_C = p_B + i_b * T * N, p_C + i_b * T * N
    p_h += i_b * chunks * N * E
    o_s, there = states(E, N, BN, BE)
    b_A = tl.load(p_A + o_s, mask=there, other=0.0).to(tl.float32) * LOG2E
    b_h = tl.load(p_first + i_b * E * N + o_s, mask=there, other=0.0).to(tl.float32)
    for start in range(0, T, BT):
        tl.store(p_h + o_s, b_h, mask=there)
        p_h += N * E
        xs, dts, ys = (), (), ()
        for i in tl.static_range(BT):
            xs += (load_token(p_x, start, i, T, E, BE),)
            dts += (load_token(p_dt, start, i, T, E, BE),)
        for i in tl.static_range(BT):
            b_B = load_column(p_B, start, i, T, N, BN)
            b_C = load_column(p_C, start, i, T, N, BN)
            b_h = tl.exp2(dts[i] * b_A) * b_h + dts[i] * xs[i] * b_B
            ys += (tl.sum(b_C * b_h, 0, keep_dims=True),)
        for i in tl.static_range(BT):
            store_token(p_y, ys[i], start, i, T, E, BE)
    tl.store(p_last + i_b * E * N + o_s, b_h.to(p_last.dtype.element_ty), mask=there)


@triton.jit
def selective_backward(p_x, p_dt, p_A, p_B, p_C, p_h, p_dy, p_dlast,
                       p_dx, p_ddt, p_dA, p_dB, p_dC, p_dfirst, T, E,
                       N: tl.constexpr, BN: tl.constexpr,
                       BT: tl.constexpr, BH: tl.constexpr, BE: tl.constexpr):  # fmt: skip
    """All gradients of BE channels; dA, dB and dC in parts. BH: the tokens held at a time."""
    i_b, chunks = tl.program_id(1).to(tl.int64), tl.cdiv(T, BT)
    p_x, p_dt, p_dy = p_x + i_b * T * E, p_dt + i_b * T * E, p_dy + i_b * T * E
    p_dx, p_ddt = p_dx + i_b * T * E, p_ddt + i_b * T * E
    p_B, p_C = p_B + i_b * T * N, p_C + i_b * T * N
    i_part = i_b * tl.num_programs(0) + tl.program_id(0)
    p_dB, p_dC = p_dB + i_part * T * N, p_dC + i_part * T * N
    p_h += i_b * chunks * N * E
    o_s, there = states(E, N, BN, BE)
    b_A = tl.load(p_A + o_s, mask=there, other=0.0).to(tl.float32)
    b_dh = tl.load(p_dlast + i_b * E * N + o_s, mask=there, other=0.0).to(tl.float32)
    b_dA = tl.zeros((BN, BE), tl.float32)
    for j in range(chunks):
        chunk = (chunks - 1 - j) * BT
        p_first = p_h + tl.cast(chunks - 1 - j, tl.int64) * N * E
        b_first = tl.load(p_first + o_s, mask=there, other=0.0)
        for part in range(BT // BH):
            start = chunk + BT - (part + 1) * BH
            b_h = b_first
            for t in range(chunk, start):
                b_dt = load_token(p_dt, t, 0, T, E, BE)
                b_x = load_token(p_x, t, 0, T, E, BE)
                b_B = load_column(p_B, t, 0, T, N, BN)
                b_h = tl.exp2(b_dt * (b_A * LOG2E)) * b_h + b_dt * b_x * b_B
            hs, xs, dts, dys = (b_h,), (), (), ()
            for i in tl.static_range(BH):
                xs += (load_token(p_x, start, i, T, E, BE),)
                dts += (load_token(p_dt, start, i, T, E, BE),)
                dys += (load_token(p_dy, start, i, T, E, BE),)
            for i in tl.static_range(BH - 1):
                b_B = load_column(p_B, start, i, T, N, BN)
                # exp here, exp2 below: if both were the same, the compiler would keep every result
                # in registers instead of computing it again.
                hs += (tl.exp(dts[i] * b_A) * hs[i] + dts[i] * xs[i] * b_B,)
            for i in tl.static_range(BH - 1, -1, -1):
                b_B = load_column(p_B, start, i, T, N, BN)
                b_C = load_column(p_C, start, i, T, N, BN)
                b_v = dts[i] * xs[i]
                b_a = tl.exp2(dts[i] * (b_A * LOG2E))
                b_r = b_a * hs[i]  # h - Δ x B would lose a small r to rounding
                b_dh += b_C * dys[i]
                b_dl = b_dh * b_r
                b_dA += dts[i] * b_dl
                b_dv = tl.sum(b_B * b_dh, 0, keep_dims=True)
                b_ddt = tl.sum(b_A * b_dl, 0, keep_dims=True) + xs[i] * b_dv
                store_column(p_dB, b_v * b_dh, start, i, T, N, BN)
                store_column(p_dC, dys[i] * (b_r + b_v * b_B), start, i, T, N, BN)
                store_token(p_dx, dts[i] * b_dv, start, i, T, E, BE)
                store_token(p_ddt, b_ddt, start, i, T, E, BE)
                b_dh *= b_a
    tl.store(p_dA + i_b * E * N + o_s, b_dA, mask=there)
    tl.store(p_dfirst + i_b * E * N + o_s, b_dh.to(p_dfirst.dtype.element_ty), mask=there)


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dt, A, B, C, first, BT):
        batch, T, E = x.shape
        N = A.shape[1]
        y = torch.empty_like(x)
        last = torch.empty_like(first, dtype=dt.dtype)
        h = x.new_empty(batch, triton.cdiv(T, BT), E, N, dtype=torch.float32)

        def grid(meta):
            return triton.cdiv(E, meta["BE"]), batch

        args = x, dt, A, B, C, first, y, h, last, T, E, N, triton.next_power_of_2(N), BT
        launch(selective_forward, grid, *args, configs=FORWARD, key=KEY)
        ctx.save_for_backward(x, dt, A, B, C, h)
        ctx.BT, ctx.dtype = BT, first.dtype
        ctx.set_materialize_grads(False)
        return y, last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy, dlast):
        x, dt, A, B, C, h = ctx.saved_tensors
        batch, T, E = x.shape
        N = A.shape[1]
        parts = triton.cdiv(E, CHANNELS)
        dy = torch.zeros_like(x) if dy is None else dy.contiguous()
        dlast = h.new_zeros(batch, E, N) if dlast is None else dlast.contiguous()
        dx, ddt = torch.empty_like(x), torch.empty_like(dt)
        dA = h.new_empty(batch, E, N)
        dB, dC = (h.new_empty(batch, parts, T, N) for _ in range(2))
        dfirst = h.new_empty(batch, E, N, dtype=ctx.dtype)
        BN = triton.next_power_of_2(N)
        BH = min(ctx.BT, max(1, HELD // BN))
        given = x, dt, A, B, C, h, dy, dlast
        args = *given, dx, ddt, dA, dB, dC, dfirst, T, E, N, BN, ctx.BT, BH, CHANNELS
        launch(selective_backward, (parts, batch), *args, configs=BACKWARD, key=KEY)
        dA, dB, dC = dA.sum(0).to(A.dtype), dB.sum(1).to(B.dtype), dC.sum(1).to(C.dtype)
        return dx, ddt, dA, dB, dC, dfirst, None


def selective_scan(
    x: Float[Tensor, "B T E"],
    dt: Float[Tensor, "B T E"],
    A: Float[Tensor, "E N"],
    B: Float[Tensor, "B T N"],
    C: Float[Tensor, "B T N"],
    *,
    state: Float[Tensor, "B E 1 N"] | None = None,
    chunk_size: int = 128,
) -> tuple[Float[Tensor, "B T E 1"], Float[Tensor, "B E 1 N"]]:
    """`seqlab.mixers.mamba.selective_scan`, and its gradients.

    Returns y in x's type, and the last state in Δ's. chunk_size: the most tokens of a chunk. Apart
    from rounding, the answer does not depend on it.
    """
    for group in ({"x": x}, {"dt": dt, "A": A}, {"B": B, "C": C}, {"state": state}):
        check_types(**group)
    at_least_one(chunk_size=chunk_size)
    batch, T, E = x.shape
    N = A.shape[-1]
    shapes = {
        "dt": (dt, (batch, T, E)),
        "A": (A, (E, N)),
        "B": (B, (batch, T, N)),
        "C": (C, (batch, T, N)),
        "state": (state, (batch, E, 1, N)),
    }
    for name, (tensor, shape) in shapes.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}: {shape} is needed for x {tuple(x.shape)}"
            )
    if T == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: T must be at least 1")
    BT = 1 << (min(chunk_size, T, TOKENS).bit_length() - 1)
    first = dt.new_zeros(batch, E, N) if state is None else state[:, :, 0].contiguous()
    y, last = _SelectiveScan.apply(*(u.contiguous() for u in (x, dt, A, B, C)), first, BT)
    return y[..., None], last[:, :, None]
