"""Mamba's selective scan (Gu & Dao 2023, arXiv:2312.00752), forward and backward: the state is never held for all t.

    h_t = exp(Δ_t A) h_{t-1} + Δ_t x_t B_t        y_t = Σ_n C_tn h_tn        N numbers h for each of E channels

A program takes BE channels and walks along time, BT tokens at once. x, Δ and y of such a tile stay in registers while
the N recurrences are scanned one after another. Between tiles h goes through memory: that is the one row of a chunk
that the backward needs. It walks from the end, scans each chunk anew from its stored h, and then, with
r_t = exp(Δ_t A) h_{t-1}, what was left of the state,

    dh_t = C_t dy_t + exp(Δ_{t+1} A) dh_{t+1}        dl_t = dh_t r_t, the gradient of the log decay Δ_t A
    dA = Σ_t Δ dl        dB = Σ_e Δ x dh        dC = Σ_e dy h        d(Δ x) = Σ_n B dh        dΔ = Σ_n A dl + x d(Δ x)

Sums over channels cross programs: each leaves its part of dB and dC, and PyTorch adds them up. No atomics.

Bytes: x, Δ and y once, B and C once for every BE channels, h once out and in for every chunk; backward x, Δ, dy, dx and
dΔ once, B, C and the parts of dB and dC once for every BE channels, h once in and dh once out and in for every chunk.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from seqlab.inputs import at_least_one
from seqlab.kernels.launch import check_types, launch

CHUNKS = 16, 64
"""The shortest and the longest chunk: a tile is one, in registers."""
FORWARD = tuple({"BE": BE, "num_warps": warps} for BE, warps in ((64, 8), (32, 4), (64, 4), (32, 8), (16, 4), (128, 8)))
BACKWARD = tuple({"num_warps": warps} for warps in (8, 4, 16))
"""The first needs no spills on any target; a GPU tries them all."""
CHANNELS = 64
"""The channels of a program of the backward: their parts of dB and dC are kept."""
KEY = ("T", "E", "N")


@triton.jit
def join(a1, h1, a2, h2):
    """First a chunk with decay a1 that ends in h1 if begun at 0, then a second."""
    return a2 * a1, a2 * h1 + h2


@triton.jit
def join_and_keep(a1, h1, r1, a2, h2, r2):
    """The same, and what the last step left of the state before it: not h minus what was written, which cancels."""
    kept = a2 * h1
    return a2 * a1, kept + h2, kept + r2


@triton.jit
def join_back(a1, p1, d1, a2, p2, d2):
    """From the end: a is the decay of the earliest step of a stretch, p that of all its others, d its dh."""
    back = p2 * a1
    return a2, back * p1, back * d1 + d2


@triton.jit
def tile(start, T, E, BT: tl.constexpr, BE: tl.constexpr):
    """Offsets of BT tokens and of this program's channels in (T, E), and which of them are there."""
    o_t, o_e = start + tl.arange(0, BT)[:, None], tl.program_id(0) * BE + tl.arange(0, BE)[None, :]
    return o_t.to(tl.int64) * E + o_e, (o_t < T) & (o_e < E)


@triton.jit
def store_row(p, b, keep, BT: tl.constexpr, BE: tl.constexpr):
    """One row of a tile, from the threads that hold it: nothing is summed or moved."""
    tl.store(tl.broadcast_to(p, (BT, BE)), b, mask=keep)


@triton.jit
def selective_forward(p_x, p_dt, p_A, p_B, p_C, p_y, p_h, T, E, N,
                      BT: tl.constexpr, BE: tl.constexpr):  # fmt: skip
    """A (N, E), B and C (N, T) of each sequence; h (chunks + 1, N, E), in the first the state to begin with."""
    i_b, chunks = tl.program_id(1).to(tl.int64), tl.cdiv(T, BT)
    p_x, p_dt, p_y = p_x + i_b * T * E, p_dt + i_b * T * E, p_y + i_b * T * E
    p_B, p_C, p_h = p_B + i_b * N * T, p_C + i_b * N * T, p_h + i_b * (chunks + 1) * N * E
    o_e, o_last = tl.program_id(0) * BE + tl.arange(0, BE)[None, :], tl.arange(0, BT)[:, None] == BT - 1
    for i in range(chunks):
        o_t = i * BT + tl.arange(0, BT)[:, None]
        o, there = tile(i * BT, T, E, BT, BE)
        b_dt = tl.load(p_dt + o, mask=there, other=0.0).to(tl.float32)  # no such token: nothing decays or is written
        b_v = tl.load(p_x + o, mask=there, other=0.0).to(tl.float32) * b_dt
        b_y = tl.zeros((BT, BE), tl.float32)
        for n in range(N):
            b_A = tl.load(p_A + n * E + o_e, mask=o_e < E, other=0.0).to(tl.float32)  # (1, BE)
            b_B = tl.load(p_B + n * T + o_t, mask=o_t < T, other=0.0).to(tl.float32)  # (BT, 1)
            b_C = tl.load(p_C + n * T + o_t, mask=o_t < T, other=0.0).to(tl.float32)
            b_h0 = tl.load(p_h + n * E + o_e, mask=o_e < E, other=0.0)
            b_a, b_h = tl.associative_scan((tl.exp(b_dt * b_A), b_v * b_B), 0, join)
            b_h += b_a * b_h0
            b_y += b_C * b_h
            store_row(p_h + (N + n) * E + o_e, b_h, o_last & (o_e < E), BT, BE)
        tl.store(p_y + o, b_y.to(p_y.dtype.element_ty), mask=there)
        p_h += N * E
        tl.debug_barrier()  # the h just stored is there for all threads of the program


@triton.jit
def selective_backward(p_x, p_dt, p_A, p_B, p_C, p_h, p_dy, p_dx, p_ddt, p_dA, p_dB, p_dC, p_dh, T, E, N,
                       BT: tl.constexpr, BE: tl.constexpr, BN: tl.constexpr):  # fmt: skip
    """dh (2, N, E) of each sequence: what the chunks hand each other, read from one half and written to the other."""
    i_b, chunks = tl.program_id(1).to(tl.int64), tl.cdiv(T, BT)
    p_x, p_dt, p_dy = p_x + i_b * T * E, p_dt + i_b * T * E, p_dy + i_b * T * E
    p_dx, p_ddt = p_dx + i_b * T * E, p_ddt + i_b * T * E
    p_B, p_C, p_h = p_B + i_b * N * T, p_C + i_b * N * T, p_h + i_b * (chunks + 1) * N * E
    p_dh, part = p_dh + i_b * 2 * N * E, (i_b * tl.num_programs(0) + tl.program_id(0)) * N * T
    p_dB, p_dC = p_dB + part, p_dC + part
    o_e, o_n, first = (
        tl.program_id(0) * BE + tl.arange(0, BE),
        tl.arange(0, BN)[:, None],
        tl.arange(0, BT)[:, None] == 0,
    )
    b_dA = tl.zeros((BN, BE), tl.float32)
    for j in range(chunks):
        i = chunks - 1 - j
        o_t = i * BT + tl.arange(0, BT)
        o, there = tile(i * BT, T, E, BT, BE)
        b_dt = tl.load(p_dt + o, mask=there, other=0.0).to(tl.float32)
        b_x = tl.load(p_x + o, mask=there, other=0.0).to(tl.float32)
        b_dy = tl.load(p_dy + o, mask=there, other=0.0).to(tl.float32)
        b_v = b_x * b_dt
        b_dv, b_ddt = tl.zeros((BT, BE), tl.float32), tl.zeros((BT, BE), tl.float32)
        for n in range(N):
            b_A = tl.load(p_A + n * E + o_e, mask=o_e < E, other=0.0).to(tl.float32)[None, :]
            b_B = tl.load(p_B + n * T + o_t, mask=o_t < T, other=0.0).to(tl.float32)[:, None]
            b_C = tl.load(p_C + n * T + o_t, mask=o_t < T, other=0.0).to(tl.float32)[:, None]
            b_h0 = tl.load(p_h + (tl.cast(i, tl.int64) * N + n) * E + o_e, mask=o_e < E, other=0.0)[None, :]
            b_end = tl.load(p_dh + (j % 2 * N + n) * E + o_e, mask=o_e < E, other=0.0)[None, :]
            b_a = tl.exp(b_dt * b_A)
            b_p, b_h, b_r = tl.associative_scan((b_a, b_v * b_B, tl.zeros_like(b_a)), 0, join_and_keep)
            b_h, b_r = b_h + b_p * b_h0, b_r + b_p * b_h0
            tl.store(p_dC + n * T + o_t, tl.sum(b_dy * b_h, 1), mask=o_t < T)
            ones = tl.full((BT, BE), 1.0, tl.float32)
            _, b_p, b_dh = tl.associative_scan((b_a, ones, b_dy * b_C), 0, join_back, reverse=True)
            b_dh += b_p * b_end
            tl.store(p_dB + n * T + o_t, tl.sum(b_v * b_dh, 1), mask=o_t < T)
            p_back = p_dh + ((j + 1) % 2 * N + n) * E + o_e[None, :]
            store_row(p_back, b_a * b_dh, first & (o_e < E)[None, :], BT, BE)
            b_dl = b_dh * b_r
            b_dv += b_B * b_dh
            b_ddt += b_A * b_dl
            b_dA += tl.where(o_n == n, tl.sum(b_dt * b_dl, 0)[None, :], 0.0)
        tl.store(p_dx + o, (b_dv * b_dt).to(p_dx.dtype.element_ty), mask=there)
        tl.store(p_ddt + o, (b_ddt + b_dv * b_x).to(p_ddt.dtype.element_ty), mask=there)
        tl.debug_barrier()
    tl.store(p_dA + (i_b * N + o_n) * E + o_e[None, :], b_dA, mask=(o_n < N) & (o_e < E)[None, :])


class _SelectiveScan(torch.autograd.Function):
    """A (N, E), B and C (B, N, T), state (B, N, E): what is read together lies together."""

    @staticmethod
    def forward(ctx, x, dt, A, B, C, state, BT):
        (batch, T, E), N = x.shape, len(A)
        y = torch.empty_like(x)
        h = x.new_empty(batch, triton.cdiv(T, BT) + 1, N, E, dtype=torch.float32)
        h[:, 0] = state
        args = x, dt, A, B, C, y, h, T, E, N, BT
        launch(selective_forward, lambda meta: (triton.cdiv(E, meta["BE"]), batch), *args, configs=FORWARD, key=KEY)
        ctx.save_for_backward(x, dt, A, B, C, h)
        ctx.BT, ctx.dtype = BT, state.dtype
        ctx.set_materialize_grads(False)
        return y, h[:, -1].to(state.dtype, copy=True)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy, dlast):
        x, dt, A, B, C, h = ctx.saved_tensors
        (batch, T, E), N = x.shape, len(A)
        parts, chunks = triton.cdiv(E, CHANNELS), triton.cdiv(T, ctx.BT)
        dy = torch.zeros_like(x) if dy is None else dy.contiguous()
        dx, ddt = torch.empty_like(x), torch.empty_like(dt)
        dA, dh = (h.new_empty(batch, *rows, N, E) for rows in ((), (2,)))
        dh[:, 0] = 0 if dlast is None else dlast
        dB, dC = (h.new_empty(batch, parts, N, T) for _ in range(2))
        args = x, dt, A, B, C, h, dy, dx, ddt, dA, dB, dC, dh, T, E, N, ctx.BT, CHANNELS, triton.next_power_of_2(N)
        launch(selective_backward, (parts, batch), *args, configs=BACKWARD, key=KEY)
        dB, dC = (d.sum(1).to(like.dtype) for d, like in ((dB, B), (dC, C)))
        return dx, ddt, dA.sum(0).to(A.dtype), dB, dC, dh[:, chunks % 2].to(ctx.dtype), None


def selective_scan(
    x: Float[Tensor, "B T E"],
    dt: Float[Tensor, "B T E"],
    A: Float[Tensor, "E N"],
    B: Float[Tensor, "B T N"],
    C: Float[Tensor, "B T N"],
    *,
    state: Float[Tensor, "B E 1 N"] | None = None,
    chunk_size: int = 64,
) -> tuple[Float[Tensor, "B T E 1"], Float[Tensor, "B E 1 N"]]:
    """`seqlab.mixers.mamba.selective_scan`, and its gradients. Returns y and the last state.

    y has x's type and the state Δ's, everything between is float32. chunk_size is rounded to a power of 2 in CHUNKS.
    """
    check_types(x=x)
    check_types(dt=dt, A=A)
    check_types(B=B, C=C)
    check_types(state=state)
    (batch, T, E), N = x.shape, A.shape[-1]
    shapes = {"dt": (dt, x.shape), "A": (A, (E, N)), "B": (B, (batch, T, N)), "C": (C, (batch, T, N))}
    for name, (tensor, shape) in (shapes | {"state": (state, (batch, E, 1, N))}).items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}: {tuple(shape)} is needed for x {tuple(x.shape)}")
    if T == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: T must be at least 1")
    at_least_one(chunk_size=chunk_size)
    shortest, longest = CHUNKS
    BT = min(longest, max(shortest, triton.next_power_of_2(min(chunk_size, T))))
    h = dt.new_zeros(batch, N, E) if state is None else state[:, :, 0].mT
    rows = (u.mT.contiguous() for u in (A, B, C))
    y, h = _SelectiveScan.apply(x.contiguous(), dt.contiguous(), *rows, h, BT)
    return y[..., None], h.mT[:, :, None].contiguous()
