"""The equation with a gate on both sides: the rows of the state decay as well as its columns.

    S_t = diag(b_t) S_{t-1} diag(a_t) + v_t k_tᵀ        y_t = S_t q_t

`seqlab.core.recurrence` decays columns (key channels), which is all that most architectures need.
Here log_b (B, T, H, V) is also the log decay of each row, a value channel. DFW gates both sides;
ABC and GSA keep the keys of their slots in the rows. Both gates are optional and at most 0 in log;
each has width 1 or full width. Everything else is as in `seqlab.core.recurrence`.
"""

from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from seqlab.core.inputs import at_least_one, check_decay, check_inputs, full_precision, wide
from seqlab.core.recurrence import Keys, LogDecay, State, Values, decays, pairs

RowDecay = Float[Tensor, "B T H b"]  # b = 1: all rows alike; b = V: one decay per value channel


@full_precision
def chunkwise(
    q: Keys,
    k: Keys,
    v: Values,
    *,
    log_a: LogDecay | None = None,
    log_b: RowDecay | None = None,
    state: State | None = None,
    chunk_size: int = 16,
) -> tuple[Values, State]:
    """Chunks of C tokens, each by all its pairs.

    With C = 1 this is the recurrence; with C = T it is the parallel form.
    """
    check_inputs(q, k, v, log_a, None, state)
    at_least_one(chunk_size=chunk_size)
    if log_b is not None:
        _check_rows(log_b, v)
    q = wide(q)
    B, T, H, K = q.shape
    no_decay = q.new_zeros(B, T, H, 1)
    log_a = no_decay if log_a is None else log_a
    log_b = no_decay if log_b is None else log_b
    S = q.new_zeros(B, H, v.shape[-1], K) if state is None else state.to(q.dtype)
    xs = [x.to(q.dtype).transpose(1, 2) for x in (q, k, v, log_a, log_b)]
    ys = []
    for chunk in zip(*(x.split(chunk_size, dim=2) for x in xs), strict=True):
        y, S = _chunk(S, *chunk)
        ys.append(y)
    return rearrange(torch.cat(ys, dim=2), "b h t v -> b t h v").to(v.dtype), S


def _chunk(S, q, k, v, log_a, log_b):
    """All pairs inside the chunk, and S for all that came before it.

    Token j adds (q_i·(a k_j)) (b ⊙ v_j) to the read of i.
    """
    a_between, a_start, a_end = decays(log_a)
    b_between, b_start, b_end = decays(log_b)
    weights = pairs(q, k, a_between)  # (B, H, C, C)
    if b_between.shape[2] == 1:
        inside = (weights * b_between[:, :, 0]) @ v
    else:
        inside = torch.einsum("bhij, bhvij, bhjv -> bhiv", weights, b_between, v)
    y = inside + b_start * ((q * a_start) @ S.mT)
    S = b_start[:, :, -1, :, None] * S * a_start[:, :, -1:]
    return y, S + (v * b_end).mT @ (k * a_end)


def _check_rows(log_b, v):
    if log_b.shape[:3] != v.shape[:3] or log_b.shape[-1] not in (1, v.shape[-1]):
        ours, theirs = tuple(log_b.shape), tuple(v.shape)
        raise ValueError(f"log_b has shape {ours}: (B, T, H, 1) or v's {theirs} is needed")
    check_decay("log_b", log_b)


FORMS = {
    "recurrent": partial(chunkwise, chunk_size=1),
    "parallel": partial(chunkwise, chunk_size=2**62),
    "chunkwise": chunkwise,
}
