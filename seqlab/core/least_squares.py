"""A memory that is solved at every read: the best table for all pairs so far (MesaNet).

    S_t = a_t S_{t-1} + β_t v_t k_tᵀ        R_t = a_t R_{t-1} + β_t k_t k_tᵀ
    y_t = S_t (R_t + Λ)⁻¹ q_t

W = S_t (R_t + Λ)⁻¹ is the table that makes Σ_s w_s ‖v_s - W k_s‖² + tr(W Λ Wᵀ) smallest, where w_s
is what the decays since s have left of β_s: ridge regression on the text. Linear attention is one
gradient step of it, the delta rule one step a token. q and k (B, T, H, K), v (B, T, H, V), log_a
(B, T, H, 1) ≤ 0, beta (B, T, H) ≥ 0, ridge (H, K) > 0, the diagonal of Λ. Both forms return y and
the sums (S, R).
"""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from seqlab.core.inputs import at_least_one, check_inputs, full_precision, wide
from seqlab.core.recurrence import decays

Keys = Float[Tensor, "B T H K"]
Values = Float[Tensor, "B T H V"]
LogDecay = Float[Tensor, "B T H 1"]
Strength = Float[Tensor, "B T H"]
Ridge = Float[Tensor, "H K"]


class Sums(NamedTuple):
    """The sums of v kᵀ and of k kᵀ."""

    S: Float[Tensor, "B H V K"]
    R: Float[Tensor, "B H K K"]


@full_precision
def recurrent(
    q: Keys,
    k: Keys,
    v: Values,
    log_a: LogDecay,
    beta: Strength,
    ridge: Ridge,
    *,
    state: Sums | None = None,
) -> tuple[Values, Sums]:
    """The equations, token by token. How a model decodes."""
    xs, (S, R) = _prepare(q, k, v, log_a, beta, state)
    ys = []
    for q_t, k_t, v_t, log_a_t, beta_t in zip(*(x.unbind(2) for x in xs), strict=True):
        a, write = log_a_t.exp()[..., None], beta_t * k_t
        S = a * S + v_t[..., None] * write[..., None, :]
        R = a * R + k_t[..., None] * write[..., None, :]
        ys.append((S @ _solved(R, ridge, q_t)[..., None])[..., 0])
    return torch.stack(ys, dim=1).to(v.dtype), Sums(S, R)


@full_precision
def chunkwise(
    q: Keys,
    k: Keys,
    v: Values,
    log_a: LogDecay,
    beta: Strength,
    ridge: Ridge,
    *,
    state: Sums | None = None,
    chunk_size: int = 32,
) -> tuple[Values, Sums]:
    """C tokens at once. How a model trains. Each token needs its own R, K² numbers a token."""
    at_least_one(chunk_size=chunk_size)
    xs, (S, R) = _prepare(q, k, v, log_a, beta, state)
    ys = []
    for q_c, k_c, v_c, log_a_c, beta_c in zip(*(x.split(chunk_size, 2) for x in xs), strict=True):
        between, since_start, _ = decays(log_a_c)
        weight = between[:, :, 0] * beta_c.mT  # (B, H, i, j): what is left of β_j at token i
        outer = k_c[..., None] * k_c[..., None, :]  # (B, H, C, K, K)
        Rs = torch.einsum("bhij, bhjkl -> bhikl", weight, outer)
        Rs = Rs + since_start[..., None] * R[:, :, None]
        x = _solved(Rs, ridge[:, None], q_c)
        ys.append((since_start * x) @ S.mT + ((x @ k_c.mT) * weight) @ v_c)
        S = since_start[:, :, -1:] * S + (v_c.mT * weight[:, :, -1:]) @ k_c
        R = Rs[:, :, -1]
    return rearrange(torch.cat(ys, dim=2), "b h t v -> b t h v").to(v.dtype), Sums(S, R)


def _solved(R, ridge, q):
    """x with (R + Λ) x = q."""
    return torch.linalg.solve(R + torch.diag_embed(ridge.to(R.dtype)), q)


def _prepare(q, k, v, log_a, beta, state) -> tuple[list[Tensor], Sums]:
    """The inputs as (B, H, T, ·) in float32 or wider, and the first sums."""
    check_inputs(q, k, v, log_a, None, None if state is None else state.S)
    q = wide(q)
    xs = [x.to(q.dtype).transpose(1, 2) for x in (q, k, v, log_a, beta[..., None])]
    B, _, H, K = q.shape
    if state is None:
        state = Sums(q.new_zeros(B, H, v.shape[-1], K), q.new_zeros(B, H, K, K))
    return xs, Sums(state.S.to(q.dtype), state.R.to(q.dtype))


FORMS = {"recurrent": recurrent, "chunkwise": chunkwise}
