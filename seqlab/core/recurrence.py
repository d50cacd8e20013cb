"""The equation of the course, and its forms.

    S_t = S_{t-1} A_t + v_t k_tᵀ        y_t = S_t q_t

The state S (B, H, V, K) is a table with one column per key direction. A_t = diag(a_t) decays the
columns; log_a holds log a_t ≤ 0, one number per head (B, T, H, 1) or one per key channel
(B, T, H, K). A write strength beta (B, T, H) turns the write into the delta rule: v_t is replaced
by beta_t (v_t - S k_t), with S already decayed.

`recurrent`, `parallel` and `chunkwise` take q and k (B, T, H, K) and v (B, T, H, V). They return
the same (y, S_T) up to rounding. Nothing here scales q or normalises k: callers do. The state and
the decays are float32 at least, also for bf16 inputs and under autocast, where q, k and v may have
different dtypes. Wrong shapes, mixed dtypes and a positive log_a raise a ValueError or TypeError
of one sentence (`inputs.py`).
"""

from collections.abc import Callable, Iterator
from itertools import repeat as repeat_forever

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from seqlab.core.inputs import at_least_one, check_inputs, full_precision, wide

Keys = Float[Tensor, "B T H K"]
Values = Float[Tensor, "B T H V"]
LogDecay = Float[Tensor, "B T H A"]  # A = 1: one decay per head; A = K: one per key channel
Strength = Float[Tensor, "B T H"]
State = Float[Tensor, "B H V K"]


def step(
    S: Float[Tensor, "B H V K"],
    q: Float[Tensor, "B H K"],
    k: Float[Tensor, "B H K"],
    v: Float[Tensor, "B H V"],
    log_a: Float[Tensor, "B H A"] | None = None,
    beta: Float[Tensor, "B H"] | None = None,
) -> tuple[Float[Tensor, "B H V"], Float[Tensor, "B H V K"]]:
    """The equation, one token: decay, write, read. Returns (y, S)."""
    if log_a is not None:
        S = S * log_a.exp()[..., None, :]
    if beta is not None:
        v = beta[..., None] * (v - _read(S, k))
    S = S + v[..., :, None] * k[..., None, :]
    return _read(S, q), S


@full_precision
def recurrent(
    q: Keys,
    k: Keys,
    v: Values,
    *,
    log_a: LogDecay | None = None,
    beta: Strength | None = None,
    state: State | None = None,
) -> tuple[Values, State]:
    """Fold `step` over time: O(T) work, O(1) memory, no parallelism. How a model decodes."""
    check_inputs(q, k, v, log_a, beta, state)
    xs, S = _heads_first(q, k, v, log_a, beta, state)
    ys = []
    for q_t, k_t, v_t, log_a_t, beta_t in _over_time(xs, lambda x: x.unbind(dim=2)):
        y, S = step(S, q_t, k_t, v_t, log_a_t, beta_t)
        ys.append(y)
    return torch.stack(ys, dim=1).to(v.dtype), S


@full_precision
def parallel(
    q: Keys,
    k: Keys,
    v: Values,
    *,
    log_a: LogDecay | None = None,
    beta: Strength | None = None,
    state: State | None = None,
) -> tuple[Values, State]:
    """All pairs at once: O(T²) work and memory. How the equation is derived."""
    check_inputs(q, k, v, log_a, beta, state)
    xs, S = _heads_first(q, k, v, log_a, beta, state)
    y, S = _parallel(S, *xs)
    return rearrange(y, "b h t v -> b t h v").to(v.dtype), S


@full_precision
def chunkwise(
    q: Keys,
    k: Keys,
    v: Values,
    *,
    log_a: LogDecay | None = None,
    beta: Strength | None = None,
    state: State | None = None,
    chunk_size: int = 64,
) -> tuple[Values, State]:
    """Fold `parallel` over chunks of C tokens: O(T C) work. How a model trains.

    With C = 1 this is `recurrent`; with C = T it is `parallel`.
    """
    check_inputs(q, k, v, log_a, beta, state)
    at_least_one(chunk_size=chunk_size)
    xs, S = _heads_first(q, k, v, log_a, beta, state)
    ys = []
    for chunk in _over_time(xs, lambda x: x.split(chunk_size, dim=2)):
        y, S = _parallel(S, *chunk)
        ys.append(y)
    return rearrange(torch.cat(ys, dim=2), "b h t v -> b t h v").to(v.dtype), S


def _parallel(S, q, k, v, log_a, beta):
    """`parallel` on (B, H, T, ·): pairs inside the chunk, and S for all that came before it."""
    between = since_start = to_end = None
    if log_a is not None:
        between, since_start, to_end = decays(log_a)
    if beta is not None:
        # Each write removes what the earlier ones left under its key: a triangular system, solved
        # for all t at once.
        beta = beta[..., None]
        overlap = beta * pairs(k, k, between).tril(-1)  # (B, H, T, T)
        v = beta * (v - _times(k, since_start) @ S.mT)
        v = torch.linalg.solve_triangular(overlap, v, upper=False, unitriangular=True)
    y = _times(q, since_start) @ S.mT + pairs(q, k, between) @ v
    if since_start is not None:
        S = S * since_start[:, :, -1:]
    return y, S + v.mT @ _times(k, to_end)


def decays(
    log_a: Float[Tensor, "B H T A"],
) -> tuple[Float[Tensor, "B H A T T"], Float[Tensor, "B H T A"], Float[Tensor, "B H T A"]]:
    """Decay from j to i, from the start to i, and from j to the end.

    Each sum of logs runs over its own span (j, i] only. So exp never sees a positive number, a gate
    of exactly 0 is allowed, and a strong decay early in the chunk costs no precision later:
    exp(G_i - G_j), never exp(G_i) exp(-G_j).
    """
    T = log_a.shape[2]
    steps = repeat(log_a, "b h i a -> b h a i j", j=T).tril(-1)
    between = steps.cumsum(-2).exp().tril()
    return between, log_a.cumsum(2).exp(), between[..., -1, :].mT


def pairs(q: Tensor, k: Tensor, between: Tensor | None) -> Float[Tensor, "B H T T"]:
    """Weight of token j in the read of token i, 0 for j > i. q, k (B, H, T, K)."""
    if between is None:
        return (q @ k.mT).tril()
    # A scalar decay factors out of the dot product: nothing of size (T, T, K) is made.
    if between.shape[2] == 1:
        return (q @ k.mT) * between[:, :, 0]
    return torch.einsum("bhik, bhkij, bhjk -> bhij", q, between, k)


def _read(S, q):
    return (S @ q[..., None])[..., 0]


def _times(x, decay):
    return x if decay is None else x * decay


def _over_time(xs: list[Tensor | None], cut: Callable[[Tensor], tuple]) -> Iterator[tuple]:
    """The pieces of all inputs, in the order of time; None for each absent input.

    Split once: the gradient of each slice `x[:, t]` would span all T steps, O(T²) in total.
    """
    pieces = [repeat_forever(None) if x is None else cut(x) for x in xs]
    return zip(*pieces, strict=False)  # not strict: None is repeated without end


def _heads_first(q, k, v, log_a, beta, state) -> tuple[list[Tensor | None], Tensor]:
    """The inputs as (B, H, T, ·) in float32 or wider, and the first state."""
    q = wide(q)
    xs = [None if x is None else x.to(q.dtype).transpose(1, 2) for x in (q, k, v, log_a, beta)]
    B, _, H, K = q.shape
    return xs, q.new_zeros(B, H, v.shape[-1], K) if state is None else state.to(q.dtype)


FORMS = {"recurrent": recurrent, "parallel": parallel, "chunkwise": chunkwise}
