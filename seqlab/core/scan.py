"""The elementwise recurrence h_t = a_t h_{t-1} + b_t, read in any order.

A step is the map h -> a h + b. Two steps in a row are again one: (a₂, b₂) ∘ (a₁, b₁) = (a₂ a₁, a₂
b₁ + b₂), and it does not matter which pair is joined first. So a sum over time need not be a loop
over time.

    form            work (joins)      depth (steps one after another)
    sequential      T                 T
    chunked         about 2 T         about 2 √T
    blelloch        about 2 T         about 2 log₂ T
    hillis_steele   about T log₂ T    log₂ T

Each takes a and b (B, T, ...), real or complex, and h0 (B, ...), and returns h (B, T, ...), the
last state in h[:, -1]; with return_cost=True (h, Cost). a may be smaller than b wherever it would
broadcast: constant over time, the same for many channels. Gates of exactly 0 are allowed: nothing
is divided. `linear_scan` is what mixers train with: the chunked order in place, and a backward that
is the same scan run from the end.
"""

import math
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
from jaxtyping import Inexact
from torch import Tensor
from torch.autograd.function import once_differentiable

Gates = Inexact[Tensor, "..."]
Sequence = Inexact[Tensor, "B T *width"]
Start = Inexact[Tensor, "B *width"]


@dataclass
class Cost:
    """work: joins of two steps, counted along time. depth: how many of them must wait for
    another.
    """

    work: int = 0
    depth: int = 0

    def count(self, joins: int) -> None:
        self.work += joins
        self.depth += 1


def sequential(a: Gates, b: Sequence, h0: Start | None = None, *, return_cost: bool = False):
    """The definition: one step after another."""
    a, b = _prepare(a, b, h0)
    hs, cost = [b[:, 0]], Cost()
    for a_t, b_t in zip(a[:, 1:].unbind(1), b[:, 1:].unbind(1), strict=True):
        cost.count(1)
        hs.append(a_t * hs[-1] + b_t)
    return _answer(torch.stack(hs, dim=1), cost, return_cost)


def hillis_steele(a: Gates, b: Sequence, h0: Start | None = None, *, return_cost: bool = False):
    """Each step joins what lies 1, 2, 4, ... before it (Hillis & Steele 1986): least depth, most
    work.
    """
    a, b = _prepare(a, b, h0)
    span, cost = 1, Cost()
    while span < b.shape[1]:
        joined = _join((a[:, :-span], b[:, :-span]), (a[:, span:], b[:, span:]), cost)
        a, b = (torch.cat([x[:, :span], y], dim=1) for x, y in zip((a, b), joined, strict=True))
        span *= 2
    return _answer(b, cost, return_cost)


def blelloch(a: Gates, b: Sequence, h0: Start | None = None, *, return_cost: bool = False):
    """Up a tree of pairs and down again (Blelloch 1990): little work and little depth. Any T, not
    only powers of 2.
    """
    cost = Cost()
    _, h = _tree(*_prepare(a, b, h0), cost)
    return _answer(h, cost, return_cost)


def _tree(a, b, cost):
    """All prefixes of (a, b). Those of the pairs (0 1) (2 3) ... are the odd ones; one more join
    gives the even.
    """
    T = b.shape[1]
    if T == 1:
        return a, b
    evens, odds = (a[:, ::2], b[:, ::2]), (a[:, 1::2], b[:, 1::2])
    pairs = _join([x[:, : T // 2] for x in evens], odds, cost)
    odds = _tree(*pairs, cost)
    if T > 2:
        rest = _join([x[:, : (T - 1) // 2] for x in odds], [x[:, 1:] for x in evens], cost)
        evens = [torch.cat([x[:, :1], y], dim=1) for x, y in zip(evens, rest, strict=True)]
    else:
        evens = [x[:, :1] for x in evens]
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
    """All chunks at once, each from a state of 0; then the states are carried from chunk to chunk,
    and added.
    """
    a, b = _prepare(a, b, h0)
    T, cost = b.shape[1], Cost()
    C = chunk_size or math.isqrt(T - 1) + 1
    n = math.ceil(T / C)
    a, b = (
        _fill(x, n * C, value).unflatten(1, (n, C)) for x, value in ((a, 1), (b, 0))
    )  # (B, n, C, ...)
    first, *rest = zip(
        a.unbind(2), b.unbind(2), strict=True
    )  # cut once: a slice's gradient is as long as the sequence
    prefixes = list(accumulate(rest, partial(_join, cost=cost), initial=first))
    a, b = (torch.stack(x, dim=2) for x in zip(*prefixes, strict=True))
    starts = [b[:, 0, -1]]
    for gate, end in zip(a[:, 1:-1, -1].unbind(1), b[:, 1:-1, -1].unbind(1), strict=True):
        cost.count(1)
        starts.append(gate * starts[-1] + end)
    if n > 1:
        cost.count(T - C)
        b = torch.cat(
            [b[:, :1], a[:, 1:] * torch.stack(starts, dim=1)[:, :, None] + b[:, 1:]], dim=1
        )
    return _answer(b.flatten(1, 2)[:, :T], cost, return_cost)


def linear_scan(a: Gates, b: Sequence, h0: Start | None = None) -> Sequence:
    """h_t = a_t h_{t-1} + b_t for training: about 3 √T vectorised steps forward, as many backward.

    Nothing but h is stored, and no more of it than the answer. The result is float32 at least, also
    for bf16 inputs.
    """
    check_scan(a, b, h0)
    dtype = _common_dtype(a, b, h0)
    return _LinearScan.apply(a.to(dtype), b.to(dtype), None if h0 is None else h0.to(dtype))


class _LinearScan(torch.autograd.Function):
    """With G_t the gradient of the loss by b_t: G_t = g_t + ā_{t+1} G_{t+1}: the same recurrence,
    from the end.
    """

    @staticmethod
    def forward(ctx, a, b, h0):
        h = torch.empty_like(b, memory_format=torch.contiguous_format)
        _scan(a, b, h0, out=h)
        ctx.save_for_backward(a, h, h0)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        a, h, h0 = ctx.saved_tensors
        over_time = a.conj().expand(-1, h.shape[1], *a.shape[2:])
        G = torch.empty_like(h)
        G[:, -1] = g[:, -1]
        _scan(over_time[:, 1:], g[:, :-1], g[:, -1], out=G[:, :-1], backwards=True)
        grad_a = _gate_gradient(G, h, h0, a.shape) if ctx.needs_input_grad[0] else None
        return grad_a, G, None if h0 is None else over_time[:, 0] * G[:, 0]


def _gate_gradient(G, h, h0, shape):
    """G_t h̄_{t-1}, summed over what a was broadcast to."""
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
    """Write h into `out`. Each chunk is run twice, and all chunks at once: to learn where it ends,
    then from where the one before it ended. `out[:, i::C]` is step i of every chunk; the last chunk
    may be shorter.
    """
    T = out.shape[1]
    if T == 0:
        return
    C = math.isqrt(T - 1) + 1
    n = math.ceil(T / C)
    a, b = a.expand(-1, T, *a.shape[2:]), b.expand_as(out)
    step = (lambda x, i: x[:, (T - 1 - i) % C :: C]) if backwards else (lambda x, i: x[:, i::C])
    first = (lambda x, m: x[:, x.shape[1] - m :]) if backwards else (lambda x, m: x[:, :m])
    h = torch.zeros_like(out[:, :n])
    if h0 is not None:
        first(h, 1).copy_(h0[:, None])
    if n > 1:
        gate, end = (first(step(x, 0), n - 1).clone() for x in (a, b))
        for i in range(1, C):
            a_i, b_i = (first(step(x, i), n - 1) for x in (a, b))
            torch.addcmul(b_i, a_i, end, out=end)
            gate *= a_i
        for k in reversed(range(n - 1)) if backwards else range(n - 1):
            before, after = (k + 1, k) if backwards else (k, k + 1)
            torch.addcmul(end[:, k], gate[:, k], h[:, before], out=h[:, after])
    for i in range(C):
        now = step(out, i)
        torch.addcmul(step(b, i), step(a, i), first(h, now.shape[1]), out=now)
        h = now


def _join(earlier, later, cost):
    """(a₂, b₂) ∘ (a₁, b₁) = (a₂ a₁, a₂ b₁ + b₂), for many pairs at once."""
    (a1, b1), (a2, b2) = earlier, later
    cost.count(b2.shape[1])
    return a2 * a1, a2 * b1 + b2


def _prepare(a, b, h0):
    """a and b of one shape and dtype, and the first state written into the first step."""
    check_scan(a, b, h0)
    dtype = _common_dtype(a, b, h0)
    a, b = torch.broadcast_tensors(a.to(dtype), b.to(dtype))
    if h0 is not None:
        b = torch.cat([a[:, :1] * h0[:, None] + b[:, :1], b[:, 1:]], dim=1)
    return a, b


def _fill(x, length, value):
    missing = length - x.shape[1]
    return (
        torch.cat([x, x.new_full((x.shape[0], missing, *x.shape[2:]), value)], dim=1)
        if missing
        else x
    )


def _answer(h, cost, return_cost):
    return (h, cost) if return_cost else h


def _common_dtype(*xs):
    dtype = torch.float32
    for x in xs:
        dtype = dtype if x is None else torch.promote_types(dtype, x.dtype)
    return dtype


def check_scan(a, b, h0):
    """ValueError, in one sentence, for shapes the recurrence has no meaning for."""
    if b.ndim < 2 or b.shape[1] == 0:
        raise ValueError(f"b has shape {tuple(b.shape)}: (B, T, ...) with T at least 1 is needed")
    fits = a.ndim == b.ndim and all(m in (1, n) for m, n in zip(a.shape, b.shape, strict=True))
    if not fits:
        raise ValueError(
            f"a has shape {tuple(a.shape)}, b has {tuple(b.shape)}: each axis of a must be that of b or 1"
        )
    if h0 is not None and h0.shape != b[:, 0].shape:
        raise ValueError(
            f"h0 has shape {tuple(h0.shape)}: (B, ...) = {tuple(b[:, 0].shape)} is needed"
        )
