"""The equation of the course, and its forms.

    S_t = S_{t-1} A_t + v_t k_tᵀ        y_t = S_t q_t

The state S (B, H, V, K) is a table with one column per key direction. A_t = diag(a_t) decays the
columns; log_a holds log a_t ≤ 0, one number per head (B, T, H, 1) or one per key channel (B, T, H,
K). A write strength beta (B, T, H) turns the write into the delta rule: v_t is replaced by beta_t
(v_t - S k_t), with S already decayed.

`recurrent`, `parallel` and `chunkwise` take q, k (B, T, H, K) and v (B, T, H, V) and return the
same (y, S_T) up to rounding. Nothing here scales q or normalises k: callers do. State and decays
are float32 at least, also for bf16 input, and under autocast, where q, k and v may come in
different dtypes. Wrong shapes, mixed dtypes and a positive log_a raise ValueError or TypeError with
one sentence (`inputs.py`).
"""

from itertools import repeat as repeat_forever

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from seqlab.core.inputs import at_least_one, check_inputs, full_precision

Keys = Float[Tensor, "B T H K"]
Values = Float[Tensor, "B T H V"]
LogDecay = Float[Tensor, "B T H A"]  # A = 1: a decay per head; A = K: one per key channel
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
    for token in _over_time(xs, lambda x: x.unbind(dim=2)):
        y, S = step(S, *token)
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
    y, S = _parallel(*xs, S)
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
        y, S = _parallel(*chunk, S)
        ys.append(y)
    return rearrange(torch.cat(ys, dim=2), "b h t v -> b t h v").to(v.dtype), S


def _parallel(q, k, v, log_a, beta, S):
    """`parallel` on (B, H, T, ·) tensors: inside the chunk by pairs, from before the chunk through
    S.
    """
    between, since_start, to_end = decays(log_a)
    if beta is not None:
        # Each write removes what the earlier ones left under its key: a triangular system, solved
        # for all t at once.
        beta = beta[..., None]
        overlap = beta * pairs(k, k, between).tril(-1)  # (B, H, T, T)
        v = beta * (v - _times(k, since_start) @ S.mT)
        v = torch.linalg.solve_triangular(overlap, v, upper=False, unitriangular=True)
    y = _times(q, since_start) @ S.mT + pairs(q, k, between) @ v
    S = S if log_a is None else S * since_start[:, :, -1:]
    return y, S + v.mT @ _times(k, to_end)


def decays(log_a: Float[Tensor, "B H T A"] | None):
    """Decay from j to i (B, H, A, T, T), from the start to i and from j to the end (B, H, T, A).

    Each sum of logs runs over its own span (j, i] only. So exp never sees a positive number, a gate
    of exactly 0 is allowed, and a strong decay early in the chunk costs no precision later: exp(G_i
    - G_j), never exp(G_i) exp(-G_j).
    """
    if log_a is None:
        return None, None, None
    T = log_a.shape[2]
    steps = repeat(log_a, "b h i a -> b h a i j", j=T).tril(-1)
    between = steps.cumsum(-2).exp().tril()
    return between, log_a.cumsum(2).exp(), between[..., -1, :].mT


def pairs(q, k, between):
    """Weight of token j in the read of token i, 0 for j > i (B, H, T, T)."""
    if between is None:
        return (q @ k.mT).tril()
    if (
        between.shape[2] == 1
    ):  # a scalar decay factors out of the dot product: nothing of size (T, T, K)
        return (q @ k.mT) * between[:, :, 0]
    return torch.einsum("bhik, bhkij, bhjk -> bhij", q, between, k)


def _read(S, q):
    return (S @ q[..., None])[..., 0]


def _times(x, decay):
    return x if decay is None else x * decay


def _over_time(xs, cut):
    """The pieces of all inputs, time by time. Cut once, not sliced: a slice's gradient is as long
    as the sequence.
    """
    pieces = [repeat_forever(None) if x is None else cut(x) for x in xs]
    return zip(*pieces, strict=False)  # an absent input goes on for ever


def _heads_first(q, k, v, log_a, beta, state):
    """Inputs as (B, H, T, ·) in float32 or wider, and the first state."""
    wide = torch.promote_types(q.dtype, torch.float32)
    xs = [None if x is None else x.to(wide).transpose(1, 2) for x in (q, k, v, log_a, beta)]
    B, _, H, K = q.shape
    S = q.new_zeros(B, H, v.shape[-1], K, dtype=wide) if state is None else state.to(wide)
    return xs, S


FORMS = {"recurrent": recurrent, "parallel": parallel, "chunkwise": chunkwise}
