"""The recurrence with separate keys for erasing and writing: a diagonal plus low-rank gate (DPLR).

    S_t = S_{t-1} (diag(a_t) + e_t f_tᵀ) + v_t k_tᵀ        y_t = S_t q_t

The old table is read under e_t, before it fades, and the answer is written under f_t. The delta
rule of `seqlab.core.recurrence` has one key for both, e = -a k and f = β k; RWKV-7 needs two, hence
code of its own. Shapes as there: q, k, e, f (B, T, H, K), v (B, T, H, V), log_a (B, T, H, 1 or K)
≤ 0, S (B, H, V, K). Both forms return (y, S_T).
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from seqlab.core.inputs import at_least_one, check_inputs, full_precision, wide

Keys = Float[Tensor, "B T H K"]
Values = Float[Tensor, "B T H V"]
LogDecay = Float[Tensor, "B T H A"]  # A = 1: one decay per head; A = K: one per key channel
State = Float[Tensor, "B H V K"]


@full_precision
def recurrent(
    q: Keys, k: Keys, v: Values, e: Keys, f: Keys, log_a: LogDecay, *, state: State | None = None
) -> tuple[Values, State]:
    """The equation, token by token. How a model decodes."""
    xs, S = _prepare(q, k, v, e, f, log_a, state)
    ys = []
    for q_t, k_t, v_t, e_t, f_t, log_a_t in zip(*(x.unbind(2) for x in xs), strict=True):
        answer = S @ e_t[..., None]  # (B, H, V, 1)
        S = S * log_a_t.exp()[..., None, :] + answer * f_t[..., None, :]
        S = S + v_t[..., None] * k_t[..., None, :]
        ys.append((S @ q_t[..., None])[..., 0])
    return torch.stack(ys, dim=1).to(v.dtype), S


@full_precision
def chunkwise(
    q: Keys,
    k: Keys,
    v: Values,
    e: Keys,
    f: Keys,
    log_a: LogDecay,
    *,
    state: State | None = None,
    chunk_size: int = 16,
) -> tuple[Values, State]:
    """C tokens at once. How a model trains.

    u_t = S_{t-1} e_t, the answer found under e_t, is a sum over the earlier writes of the chunk,
    other u among them: a triangular system. With u solved, every token writes v kᵀ + u fᵀ, and the
    rest is linear attention with a decay.
    """
    at_least_one(chunk_size=chunk_size)
    xs, S = _prepare(q, k, v, e, f, log_a, state)
    ys = []
    for chunk in zip(*(x.split(chunk_size, dim=2) for x in xs), strict=True):
        y, S = _chunk(S, *chunk)
        ys.append(y)
    return rearrange(torch.cat(ys, dim=2), "b h t v -> b t h v").to(v.dtype), S


def _chunk(S, q, k, v, e, f, log_a):
    C = q.shape[2]
    since_start = log_a.cumsum(2).exp()  # (B, H, C, K)
    between = _between(log_a)  # (B, H, C, C, K)
    # e_t reads the table as token t - 1 left it, as q_{t-1} does: with row t - 1 of the decays.
    readers = torch.stack([q, F.pad(e[:, :, 1:], (0, 0, 0, 1))], dim=3)  # (B, H, C, 2, K)
    writers = torch.stack([k, f], dim=3)
    # All writers as token i sees them, (B, H, C, 2C, K).
    faded = (writers[:, :, None] * between[..., None, :]).flatten(3, 4)
    weights = rearrange(readers @ faded.mT, "b h i r (j w) -> r w b h i j", j=C)
    qk, qf = weights[0]
    ek, ef = F.pad(weights[1, :, :, :, :-1], (0, 0, 1, 0))
    e_decayed = e * F.pad(since_start[:, :, :-1], (0, 0, 1, 0), value=1.0)
    found = e_decayed @ S.mT + ek @ v
    u = torch.linalg.solve_triangular(-ef, found, upper=False, unitriangular=True)
    y = (q * since_start) @ S.mT + qk @ v + qf @ u
    to_end = between[:, :, -1]
    return y, S * since_start[:, :, -1:] + v.mT @ (k * to_end) + u.mT @ (f * to_end)


def _between(log_a):
    """Decay from j to i (B, H, i, j, K), 0 for j > i.

    Each sum of logs runs over its own span, so exp never sees a positive number.
    """
    C = log_a.shape[2]
    ones = torch.ones(C, C, dtype=torch.bool, device=log_a.device)
    later = ones.tril(-1)[..., None]  # i > j
    spans = torch.where(later, log_a[:, :, :, None], 0.0).cumsum(2)
    return torch.where(ones.tril()[..., None], spans.exp(), 0.0)


def _prepare(q, k, v, e, f, log_a, state) -> tuple[list[Tensor], Tensor]:
    """The inputs as (B, H, T, ·) in float32 or wider, and the first state."""
    check_inputs(q, k, v, log_a, None, state)
    for name, x in (("e", e), ("f", f)):
        if x.shape != q.shape:
            ours, theirs = tuple(x.shape), tuple(q.shape)
            raise ValueError(f"{name} has shape {ours}, q has {theirs}: they must match")
    q = wide(q)
    xs = [x.to(q.dtype).transpose(1, 2) for x in (q, k, v, e, f, log_a.expand_as(q))]
    B, _, H, K = q.shape
    return xs, q.new_zeros(B, H, v.shape[-1], K) if state is None else state.to(q.dtype)


FORMS = {"recurrent": recurrent, "chunkwise": chunkwise}
