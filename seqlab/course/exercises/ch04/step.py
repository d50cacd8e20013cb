r"""One token with decay

*Add forgetting to the linear-attention step. · 8 minutes · ●○○ · 1 point*

One token arrives. Decay the state, write the new pair, then read:

$$S_t = γ\,S_{t-1} + v\,k^\top, \qquad y = S_t\,q .$$

This is one token, so there is no time axis.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch04.shared import _gammas, _qkv, _randn, _retnet_gammas
from seqlab.course.exercises.vocabulary import (
    decay_as_its_log,
    decay_squared,
    first_head,
    heads_mixed,
    old_state,
    one_minus,
    scaled,
    swapped,
)


def step(S, q, k, v, gamma):
    """One token of retention: S_t = γ S_{t-1} + v kᵀ, then y = S_t q, in each head of each sequence.

    S (B, H, V, K), q and k (B, H, K), v (B, H, V), gamma (H,). Returns (y, S_t), y (B, H, V), S_t (B, H, V, K).
    """
    ### BEGIN SOLUTION
    S = gamma[:, None, None] * S + v[..., :, None] * k[..., None, :]
    y = torch.einsum("bhvk, bhk -> bhv", S, q)
    return y, S
    ### END SOLUTION


WHY = r"""
**Solution.** Only one factor is new against linear attention. The old state is decayed before the write, so a pair
written m tokens ago has met γ exactly m times. The pair of this token has met it 0 times: it weighs 1, and the read
sees it.

*Common mistakes:* γ (S + v kᵀ) decays the new pair too, so every weight has one power of γ too many. (1 - γ) v kᵀ
is a moving average; retention adds the write whole. `gamma * S` without new axes lines H up with K: it fails where
the two differ, and is silently wrong where they are equal. `S *= ...` changes the state of whoever called the
function.
"""

HINTS = (
    "Three things happen, in this order: decay the old state, write the new pair, read.",
    "A pair written m tokens ago must have met γ exactly m times. So this token's own pair has met it 0 times, "
    "and the read sees it, whole.",
    "gamma[:, None, None] lines H up with S (B, H, V, K); v[..., :, None] * k[..., None, :] is the write; "
    "torch.einsum('bhvk,bhk->bhv', S, q) is the read.",
)


def reference(S, q, k, v, gamma):
    S = torch.einsum("h, bhvk -> bhvk", gamma, S) + torch.einsum(
        "bhv, bhk -> bhvk", v, k
    )
    return torch.einsum("bhvk, bhk -> bhv", S, q), S


def _step(S, q, k, v, gamma, *, decay=True, write=1.0, decay_write=False, read="after"):
    g = gamma[:, None, None]
    kept = g * S if decay else S
    new = kept + write * (g if decay_write else 1) * v[..., None] * k[..., None, :]
    return ({"after": new, "before": S, "kept": kept}[read] @ q[..., None]).squeeze(
        -1
    ), new


def cases(rng):
    shapes = {
        "one head": (2, 1, 4, 4),
        "K ≠ V": (2, 3, 5, 2),
        "H = K = V": (3, 4, 4, 4),
        "B = 1": (1, 2, 3, 7),
    }
    names = {"K ≠ V": _gammas, "B = 1": lambda rng, H: _gammas(rng, H, 0.01, 0.1)}

    def case(name, B, H, K, V):
        S = torch.zeros(B, H, V, K) if name == "one head" else _randn(rng, B, H, V, K)
        one = {n: x[:, 0] for n, x in _qkv(rng, B, 1, H, K, V).items()}
        return Case(
            name,
            {
                "S": S,
                **one,
                "gamma": names.get(name, lambda rng, H: _retnet_gammas(H))(rng, H),
            },
        )

    return [case(name, *shape) for name, shape in shapes.items()]


OUTPUTS = ("y", "S")

TIME_AXIS = None

ALTERNATIVES = (
    _step,
    lambda S, q, k, v, gamma: (
        gamma[:, None] * (S @ q[..., None])[..., 0] + (k * q).sum(-1, keepdim=True) * v,
        gamma.view(1, -1, 1, 1) * S + v.unsqueeze(-1) @ k.unsqueeze(-2),
    ),
)

MISTAKES = """
gamma[:, None, None] * S → S
    Your state is not decayed: this is linear attention. Look for γ S.
gamma[:, None, None] * S + v[..., :, None] * k[..., None, :] → gamma[:, None, None] * (S + v[..., :, None] * k[..., None, :])
    The new pair is decayed too: γ multiplies S after the write. Decay first, then write.
S = gamma → y = torch.einsum("bhvk, bhk -> bhv", S, q) ⏎ S = gamma ; y = torch.einsum("bhvk, bhk -> bhv", S, q) → pass
    Your read meets the old state: a token reads its own pair too. Look at which S meets q.
y = torch.einsum("bhvk, bhk -> bhv", S, q) → y = torch.einsum("bhvk, bhk -> bhv", S - v[..., :, None] * k[..., None, :], q)
    Your read comes after the decay but before the write: a token reads its own pair too. Look at
    which S meets q.
+ v[..., :, None] → + (1 - gamma)[:, None, None] * v[..., :, None]
    Your write is scaled by 1 - γ, a moving average: retention adds v kᵀ whole. Look at what
    multiplies it.
gamma[:, None, None] * S + → 0 * S +
    Your write replaces the state instead of adding to it: look for γ S in the sum.
gamma[:, None, None] * S + → S + gamma[:, None, None] *
    Only the write is decayed and the old state is kept whole: look at what γ multiplies.
einsum("bhvk, bhk -> bhv", S, q) → einsum("bhvk, bhk -> bhv", S, q) * gamma[:, None] ; gamma[:, None, None] * S → S
    Your read is decayed instead of the state: γ is in y but not in the S handed over. Look at what
    γ multiplies.
v[..., :, None] → (v[..., :, None] - torch.einsum("h, bhvk, bhk -> bhv", gamma, S, k)[..., None])
    What the key held before is taken away first, v - S k: that is the delta rule of a later
    chapter. Write v kᵀ.
v[..., :, None] * k[..., None, :] → k[..., :, None] * v[..., None, :]
    Your write is k vᵀ, which fits only where K = V: S is (B, H, V, K), so v belongs to the rows, k
    to the columns.
bhvk, bhk -> bhv → bhvk, bhv -> bhk
    Your read is Sᵀ q, which fits only where K = V: q has width K, so it meets the columns, the last
    axis of S.
return y → return y[..., None]
    Your y has one axis too many: S @ q[..., None] is (B, H, V, 1). Take the last axis away with
    [..., 0].
gamma[:, None, None] * S → gamma * S
    Your decays line up with the key channels, the last axis of S, not with the heads: gamma (H,)
    needs two new axes after H, gamma[:, None, None].
gamma[:, None, None] * S → gamma[:, None] * S
    Your decays line up with the rows of S, not with the heads: gamma (H,) needs two new axes after
    H, gamma[:, None, None].
einsum("bhvk, bhk -> bhv", S, q) → einsum("bhvk, bhk -> bhv", gamma[:, None, None] * S, q)
    Your read is decayed once more: y is γ times too small. After the write, y is S q as it is.
"""

ALSO = (
    first_head(
        "gamma",
        says="All heads use the decay of the first: look at how gamma (H,) is lined up with S (B, H, V, K).",
    ),
    decay_as_its_log(
        "gamma",
        says="Here gamma is used as if it were log γ: it is the factor itself, between 0 and 1. Look for an exp.",
    ),
    one_minus(
        "gamma",
        says="Here 1 - γ is kept and γ forgotten: γ is the share that stays. Look for 1 - gamma.",
    ),
    decay_squared(
        "gamma",
        says="The decay is applied twice, γ²: look for a second product with gamma.",
    ),
    heads_mixed("gamma", 0),
    old_state(),
    swapped("The outputs have changed places: return (y, S), not (S, y)."),
    scaled(
        "q",
        says="Your read is scaled by K^-1/2: here the caller scales, so y is S q and nothing else.",
    ),
)
