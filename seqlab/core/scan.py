"""The elementwise recurrence h_t = a_t h_{t-1} + b_t, computed in any order.

A step is the map h -> a h + b. Two steps in a row are again one step,

    (a₂, b₂) ∘ (a₁, b₁) = (a₂ a₁, a₂ b₁ + b₂),

and it does not matter which pair is joined first. So a sum over time need not be a loop over time.

    form            work (joins)      depth (steps one after another)
    sequential      T                 T
    chunked         about 2 T         about 2 √T
    blelloch        about 2 T         about 2 log₂ T
    hillis_steele   about T log₂ T    log₂ T

Each form takes a and b (B, T, ...), real or complex, and h0 (B, ...), and returns h (B, T, ...),
the last state in h[:, -1]; with return_cost=True it returns (h, Cost). An axis of a may be 1 where
that of b is longer: constant over time, or the same for many channels. Gates of exactly 0 are
allowed: nothing is divided. `linear_scan` is what mixers train with: the chunked order in place,
and a backward that is the same scan run from the end.
"""

import math
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
from jaxtyping import Inexact
from torch import Tensor

Gates = Inexact[Tensor, "..."]
Sequence = Inexact[Tensor, "B T *width"]
Start = Inexact[Tensor, "B *width"]


@dataclass
class Cost:
    """work: joins of two steps, counted along time. depth: how many must wait for another."""

    work: int = 0
    depth: int = 0

    def count(self, joins: int) -> None:
        self.work += joins
        self.depth += 1


def sequential(a: Gates, b: Sequence, h0: Start | None = None, *, return_cost: bool = False):
    """The definition: one step after another."""
    a, b = _prepare(a, b, h0)
    hs = [b[:, 0]]
    cost = Cost()
    for a_t, b_t in zip(a[:, 1:].unbind(1), b[:, 1:].unbind(1), strict=True):
        cost.count(1)
        hs.append(a_t * hs[-1] + b_t)
    return _answer(torch.stack(hs, dim=1), cost, return_cost)


def hillis_steele(a: Gates, b: Sequence, h0: Start | None = None, *, return_cost: bool = False):
    """Join each step with the one 1, 2, 4, ... before it (Hillis & Steele 1986).

    The least depth, and the most work.
    """
    a, b = _prepare(a, b, h0)
    cost = Cost()
    span = 1
    while span < b.shape[1]:
        joined_a, joined_b = _join((a[:, :-span], b[:, :-span]), (a[:, span:], b[:, span:]), cost)
        a = torch.cat([a[:, :span], joined_a], dim=1)
        b = torch.cat([b[:, :span], joined_b], dim=1)
        span *= 2
    return _answer(b, cost, return_cost)


def blelloch(a: Gates, b: Sequence, h0: Start | None = None, *, return_cost: bool = False):
    """Up a tree of pairs and down again (Blelloch 1990): little work, little depth, any T."""
    cost = Cost()
    _, h = _tree(*_prepare(a, b, h0), cost)
    return _answer(h, cost, return_cost)


def _tree(a, b, cost):
    """All prefixes of (a, b).

    The prefixes of the pairs (0 1) (2 3) ... are the odd ones; one more join gives the even ones.
    """
    T = b.shape[1]
    if T == 1:
        return a, b
    evens = a[:, ::2], b[:, ::2]
    odds = a[:, 1::2], b[:, 1::2]
    pairs = _join([x[:, : T // 2] for x in evens], odds, cost)
    odds = _tree(*pairs, cost)
    first = [x[:, :1] for x in evens]
    if T > 2:
        rest = _join([x[:, : (T - 1) // 2] for x in odds], [x[:, 1:] for x in evens], cost)
        evens = [torch.cat([x, y], dim=1) for x, y in zip(first, rest, strict=True)]
    else:
        evens = first
    return [_interleave(x, y) for x, y in zip(evens, odds, strict=True)]


def _interleave(evens, odds):
    """x_0 y_0 x_1 y_1 ...; there may be one more x than y."""
    n = odds.shape[1]
    paired = torch.stack([evens[:, :n], odds], dim=2).flatten(1, 2)
    return torch.cat([paired, evens[:, n:]], dim=1)


def chunked(
    a: Gates,
    b: Sequence,
    h0: Start | None = None,
    *,
    chunk_size: int | None = None,
    return_cost: bool = False,
):
    """All chunks at once, each from a state of 0; then states are carried from chunk to chunk."""
    a, b = _prepare(a, b, h0)
    T = b.shape[1]
    C = chunk_size or math.isqrt(T - 1) + 1
    n = math.ceil(T / C)
    cost = Cost()
    a = _fill(a, n * C).unflatten(1, (n, C))  # (B, n, C, ...)
    b = _fill(b, n * C).unflatten(1, (n, C))
    # Split once: the gradient of each `x[:, :, i]` would span all T steps.
    first, *rest = zip(a.unbind(2), b.unbind(2), strict=True)
    prefixes = accumulate(rest, partial(_join, cost=cost), initial=first)
    a, b = (torch.stack(x, dim=2) for x in zip(*prefixes, strict=True))
    ends = [b[:, 0, -1]]  # the state at the end of each chunk, but for the last
    for gate, end in zip(a[:, 1:-1, -1].unbind(1), b[:, 1:-1, -1].unbind(1), strict=True):
        cost.count(1)
        ends.append(gate * ends[-1] + end)
    if n > 1:
        cost.count(T - C)
        carried = a[:, 1:] * torch.stack(ends, dim=1)[:, :, None] + b[:, 1:]
        b = torch.cat([b[:, :1], carried], dim=1)
    return _answer(b.flatten(1, 2)[:, :T], cost, return_cost)


def linear_scan(a: Gates, b: Sequence, h0: Start | None = None) -> Sequence:
    """h_t = a_t h_{t-1} + b_t for training: about 3 √T vectorised steps forward, as many backward.

    Only h is stored: one tensor as large as the answer. The result is float32 at least, also for
    bf16 inputs. A second derivative raises a RuntimeError.
    """
    check_scan(a, b, h0)
    dtype = _common_dtype(a, b, h0)
    a, b = a.to(dtype), b.to(dtype)
    h0 = None if h0 is None else h0.to(dtype)
    if b.shape[1] == 1:  # decoding: one step is no scan
        return torch.addcmul(b, a, torch.zeros_like(b) if h0 is None else h0[:, None])
    return _LinearScan.apply(a, b, h0)


class _LinearScan(torch.autograd.Function):
    """Its gradient by b_t is G_t = g_t + ā_{t+1} G_{t+1}: the same scan, run from the end."""

    @staticmethod
    def forward(a, b, h0):
        h = torch.empty_like(b, memory_format=torch.contiguous_format)
        _scan(a, b, h0, out=h)
        return h

    @staticmethod
    def setup_context(ctx, inputs, output):
        a, _, h0 = inputs
        ctx.save_for_backward(a, output, h0)

    @staticmethod
    def backward(ctx, g):
        return _ScanGradient.apply(*ctx.saved_tensors, g, ctx.needs_input_grad[0])

    @staticmethod
    def vmap(info, in_dims, a, b, h0):
        n = info.batch_size
        a, b, h0 = (_as_channel(x, d, n) for x, d in zip((a, b, h0), in_dims, strict=True))
        return _LinearScan.apply(a, b, h0), -1


class _ScanGradient(torch.autograd.Function):
    """The backward as a function of its own, so that `torch.func` can map over it."""

    @staticmethod
    def forward(a, h, h0, g, gate_too):
        over_time = a.conj().expand(-1, h.shape[1], *a.shape[2:])
        G = torch.empty_like(h)
        G[:, -1] = g[:, -1]
        _scan(over_time[:, 1:], g[:, :-1], g[:, -1], out=G[:, :-1], backwards=True)
        grad_a = _gate_gradient(G, h, h0, a.shape) if gate_too else None
        return grad_a, G, None if h0 is None else over_time[:, 0] * G[:, 0]

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *gradients):
        raise RuntimeError(
            "linear_scan has no second derivative: use chunked to differentiate a gradient"
        )

    @staticmethod
    def vmap(info, in_dims, a, h, h0, g, gate_too):
        xs = zip((a, h, h0, g), in_dims[:4], strict=True)
        a, h, h0, g = (_as_channel(x, d, info.batch_size) for x, d in xs)
        grads = _ScanGradient.apply(a, h, h0, g, gate_too)
        return grads, tuple(None if x is None else -1 for x in grads)


def _as_channel(x, dim, n):
    """For vmap: x with its mapped axis as the last one, a channel; without one, x for all n."""
    if x is None:
        return None
    return x[..., None].expand(*x.shape, n) if dim is None else x.movedim(dim, -1)


def _gate_gradient(G, h, h0, shape):
    """G_t h̄_{t-1}, summed over the axes that a was broadcast to."""
    grad = torch.empty_like(h)
    torch.mul(G[:, 1:], h[:, :-1].conj(), out=grad[:, 1:])
    grad[:, 0] = 0 if h0 is None else G[:, 0] * h0.conj()
    return grad.sum_to_size(shape)


FORMS = {
    "scan": linear_scan,
    "sequential": sequential,
    "hillis_steele": hillis_steele,
    "blelloch": blelloch,
    "chunked": chunked,
}


def _scan(a, b, h0, out, backwards=False):
    """Write h into `out`, from the first step to the last, or backwards.

    The T steps are n chunks of C; the one run last may be shorter. Step i of all chunks is one
    strided slice, so all chunks advance together. They run twice: once from 0, to learn what each
    adds and how much it forgets, and once from the state in which the chunk before it ended.
    """
    T = out.shape[1]
    if T == 0:
        return
    C = math.isqrt(T - 1) + 1
    n = math.ceil(T / C)
    a = a.expand(-1, T, *a.shape[2:])
    b = b.expand_as(out)
    step = partial(_step, C=C, backwards=backwards)
    first = partial(_first, backwards=backwards)
    h = torch.zeros_like(out[:, :n])  # the state before each chunk, chunks in the order of time
    if h0 is not None:
        first(h, 1).copy_(h0[:, None])
    if n > 1:
        # Every chunk but the one run last ends in gate · start + end.
        gate = first(step(a, 0), n - 1).clone()
        end = first(step(b, 0), n - 1).clone()
        for i in range(1, C):
            a_i = first(step(a, i), n - 1)
            b_i = first(step(b, i), n - 1)
            torch.addcmul(b_i, a_i, end, out=end)
            gate *= a_i
        for k in reversed(range(n - 1)) if backwards else range(n - 1):
            before, after = (k + 1, k) if backwards else (k, k + 1)
            torch.addcmul(end[:, k], gate[:, k], h[:, before], out=h[:, after])
    for i in range(C):
        now = step(out, i)
        torch.addcmul(step(b, i), step(a, i), first(h, now.shape[1]), out=now)
        h = now


def _step(x, i, C, backwards):
    """Step i of every chunk: x[:, i], x[:, i + C], ...; counted from the end if backwards."""
    start = (x.shape[1] - 1 - i) % C if backwards else i
    return x[:, start::C]


def _first(x, m, backwards):
    """The m chunks that are run first: the last m of x if backwards."""
    return x[:, x.shape[1] - m :] if backwards else x[:, :m]


def _join(earlier, later, cost):
    """(a₂, b₂) ∘ (a₁, b₁) = (a₂ a₁, a₂ b₁ + b₂), for many pairs at once."""
    (a1, b1), (a2, b2) = earlier, later
    cost.count(b2.shape[1])
    return a2 * a1, a2 * b1 + b2


def _prepare(a, b, h0):
    """a and b with one shape and one dtype, and the first state written into the first step."""
    check_scan(a, b, h0)
    dtype = _common_dtype(a, b, h0)
    a, b = torch.broadcast_tensors(a.to(dtype), b.to(dtype))
    if h0 is not None:
        b = torch.cat([a[:, :1] * h0[:, None] + b[:, :1], b[:, 1:]], dim=1)
    return a, b


def _fill(x, length):
    """x with zeros appended along time, up to `length`."""
    missing = x.new_zeros(x.shape[0], length - x.shape[1], *x.shape[2:])
    return torch.cat([x, missing], dim=1)


def _answer(h, cost, return_cost):
    return (h, cost) if return_cost else h


def _common_dtype(*xs):
    dtype = torch.float32
    for x in xs:
        dtype = dtype if x is None else torch.promote_types(dtype, x.dtype)
    return dtype


def check_scan(a: Tensor, b: Tensor, h0: Tensor | None) -> None:
    """ValueError, in one sentence, for shapes that the recurrence cannot take."""
    if b.ndim < 2 or b.shape[1] == 0:
        raise ValueError(f"b has shape {tuple(b.shape)}: (B, T, ...) with T at least 1 is needed")
    fits = a.ndim == b.ndim and all(m in (1, n) for m, n in zip(a.shape, b.shape, strict=True))
    if not fits:
        raise ValueError(
            f"a has shape {tuple(a.shape)}, b has {tuple(b.shape)}: "
            "each axis of a must be that of b or 1"
        )
    wanted = b[:, 0].shape
    if h0 is not None and h0.shape != wanted:
        raise ValueError(f"h0 has shape {tuple(h0.shape)}: (B, ...) = {tuple(wanted)} is needed")
