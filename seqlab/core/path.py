"""Softmax attention whose scores pass the reflections between key and query (PaTH).

    score of s at t = q_tᵀ (I - β_t w_t w_tᵀ) ⋯ (I - β_{s+1} w_{s+1} w_{s+1}ᵀ) k_s

RoPE turns a key by a fixed angle for each token between; here each token chooses what it does to
the keys before it. So token t changes all earlier keys, k_s ← k_s - β_t w_t (w_t·k_s), and then
reads them as attention does. `turned` finds the scores and the changed keys of T tokens at once:
with W the rows w_t, the changes are a triangular system, as in the delta rule.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from seqlab.core.inputs import full_precision, wide


@full_precision
def turned(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B H S K"],
    w: Float[Tensor, "B H T K"],
    beta: Float[Tensor, "B H T 1"],
) -> tuple[Float[Tensor, "B H T S"], Float[Tensor, "B H S K"]]:
    """q·(turned k) for each pair, and each key as the last token leaves it. k: the earlier keys, as
    they were left, then those of the T tokens.
    """
    q, k, w, beta = wide(q), wide(k), wide(w), wide(beta)
    T, S = q.shape[2], k.shape[2]
    # Row t of `removed`: how much of w_t is taken from each key that comes before t.
    wanted = beta * (w @ k.mT).tril(S - T - 1)
    overlap = beta * (w @ w.mT).tril(-1)
    removed = torch.linalg.solve_triangular(overlap, wanted, upper=False, unitriangular=True)
    return q @ k.mT - (q @ w.mT).tril() @ removed, k - removed.mT @ w
