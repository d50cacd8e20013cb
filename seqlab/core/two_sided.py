"""The equation with a gate on both sides: the rows of the state decay as well as its columns.

    S_t = diag(b_t) S_{t-1} diag(a_t) + v_t k_tᵀ        y_t = S_t q_t

`seqlab.core.recurrence` decays columns (key channels), which is all that most architectures ask
for. Here log_b (B, T, H, V) is the log decay of each row, a value channel. DFW gates both sides;
ABC and GSA keep their slots' keys in the rows. Both gates are ≤ 0 in log, of any width 1 or full,
and optional. Everything else is as in `seqlab.core.recurrence`.
"""

from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from seqlab.core.inputs import at_least_one, check_inputs, full_precision
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
    """Chunks of C tokens, each by all its pairs: the recurrence with C = 1, the parallel form with
    C = T.
    """
    check_inputs(q, k, v, log_a, None, state)
    at_least_one(chunk_size=chunk_size)
    if log_b is not None:
        _check_rows(log_b, v)
    wide = torch.promote_types(q.dtype, torch.float32)
    still = q.new_zeros(*q.shape[:3], 1, dtype=wide)  # a log decay of 0: nothing is forgotten
    xs = [q, k, v, still if log_a is None else log_a, still if log_b is None else log_b]
    xs = [x.to(wide).transpose(1, 2).split(chunk_size, dim=2) for x in xs]
    S = (
        q.new_zeros(*xs[0][0].shape[:2], v.shape[-1], q.shape[-1], dtype=wide)
        if state is None
        else state.to(wide)
    )
    ys = []
    for chunk in zip(*xs, strict=True):
        y, S = _chunk(*chunk, S)
        ys.append(y)
    return rearrange(torch.cat(ys, dim=2), "b h t v -> b t h v").to(v.dtype), S


def _chunk(q, k, v, log_a, log_b, S):
    """All pairs inside the chunk, and S from before it. Token j in the read of i: (q_i·(a k_j)) (b
    ⊙ v_j).
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
        raise ValueError(
            f"log_b has shape {tuple(log_b.shape)}: (B, T, H, 1) or v's {tuple(v.shape)} is needed"
        )
    if not torch.compiler.is_compiling() and (log_b > 0).any():
        raise ValueError(
            f"log_b reaches {log_b.max():.3g}: a log decay is at most 0 (pass log b, with b in [0, 1])"
        )


FORMS = {
    "recurrent": partial(chunkwise, chunk_size=1),
    "parallel": partial(chunkwise, chunk_size=2**62),
    "chunkwise": chunkwise,
}
