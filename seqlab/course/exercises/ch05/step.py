r"""One token, a gate for each channel

*Write GLA's step for all heads. · 6 minutes · ●○○ · 1 point*

One token arrives, and `log_a` holds the logarithm of its gate for each key channel of each head:

$$S_t = S_{t-1}\,\mathrm{diag}(a_t) + v_t k_t^\top, \qquad y_t = S_t\,q_t .$$
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch05.shared import _gates, _randn
from seqlab.course.exercises.vocabulary import (
    first_sequence,
    heads_mixed,
    old_state,
    scaled,
    swapped,
)


def step(S, q, k, v, log_a):
    """One token of GLA: fade the columns of S, write v kᵀ, read with q.

    S (B, H, V, K), q, k and log_a (B, H, K), v (B, H, V). Returns (y, S), y (B, H, V), S (B, H, V, K).
    """
    ### BEGIN SOLUTION
    a = log_a.exp()
    S = S * a[..., None, :] + v[..., :, None] * k[..., None, :]
    return (S @ q[..., None])[..., 0], S
    ### END SOLUTION


WHY = r"""
**Solution.** A diagonal matrix on the right of S scales its columns, and columns are key channels. So a (B, H, K) gets a new axis for the
rows, `a[..., None, :]`, just as k does in the write.

*Common mistakes:* `a[..., :, None]` fades rows, which runs without an error where K = V; using the logarithm as the factor; fading the new write
too; reading before writing.
"""

HINTS = (
    "A diagonal matrix on the right scales columns. Which axis of S are the columns?",
    "S * a[..., None, :] fades column by column; the write is added whole, and the read comes last.",
    "a = log_a.exp(); S = S * a[..., None, :] + v[..., :, None] * k[..., None, :]; y = (S @ q[..., None])[..., 0].",
)


def reference(S, q, k, v, log_a):
    """As matrices: S diag(a) + v kᵀ."""
    S = S @ torch.diag_embed(log_a.exp()) + torch.einsum("bhv, bhk -> bhvk", v, k)
    return torch.einsum("bhvk, bhk -> bhv", S, q), S


def cases(rng):
    def case(name, B, H, K, V, log_a=None, size=1.0):
        log_a = _gates(rng, B, H, K, low=0.2) if log_a is None else log_a
        log_a = log_a.clone().requires_grad_()
        one = {
            n: size * _randn(rng, B, H, w) for n, w in (("q", K), ("k", K), ("v", V))
        }
        return Case(name, {"S": size * _randn(rng, B, H, V, K), **one, "log_a": log_a})

    half = torch.zeros(2, 2, 4)
    half[..., ::2] = -torch.inf
    return [
        case("one head", 2, 1, 4, 3),
        case("K ≠ V", 2, 3, 5, 2),
        case("K = V = H", 3, 4, 4, 4),
        case("gates of 0 and 1", 2, 2, 4, 6, log_a=half),
        case("B = 1", 1, 2, 3, 7),
        case("large values", 2, 2, 6, 4, size=50.0),
    ]


OUTPUTS = ("y", "S")

TIME_AXIS = None

ALTERNATIVES = (
    lambda S, q, k, v, log_a: (
        torch.einsum("bhvk, bhk -> bhv", S, log_a.exp() * q)
        + (k * q).sum(-1, keepdim=True) * v,
        torch.einsum("bhvk, bhk -> bhvk", S, log_a.exp())
        + v[..., None] @ k[..., None, :],
    ),
    lambda S, q, k, v, log_a: (
        lambda new: (torch.einsum("bhvk, bhk -> bhv", new, q), new)
    )(S * log_a.exp().unsqueeze(-2) + v.unsqueeze(-1) * k.unsqueeze(-2)),
    lambda S, q, k, v, log_a: (lambda new: ((new * q[..., None, :]).sum(-1), new))(
        (S.mT * log_a.exp()[..., None] + k[..., None] * v[..., None, :]).mT
    ),
)

MISTAKES = """
a[..., None, :] → a[..., :, None]
    The rows fade: the gate belongs to the key channels, which are the columns, the last axis of S. (This runs only where
    K = V.)
a = log_a.exp() → a = log_a
    log_a is used as the factor itself: it is a logarithm, so exp is missing.
a = log_a.exp() → a = log_a.exp().mean(-1, keepdim=True).expand_as(log_a)
    All columns fade alike: each key channel has a gate of its own.
a = log_a.exp() → a = 1 - log_a.exp()
    1 - a is kept and a is forgotten: it should be the other way round.
a = log_a.exp() → a = torch.ones_like(log_a)
    Nothing fades: S is multiplied by the gate before the write.
S * a[..., None, :] + v[..., :, None] * k[..., None, :] → (S + v[..., :, None] * k[..., None, :]) * a[..., None, :]
    The new pair fades too: fade first, then write.
v[..., :, None] * k[..., None, :] → v[..., :, None] * ((1 - a) * k)[..., None, :]
    The write is scaled by 1 - a: that is HGRN-2's or GSA's share, or a moving average. GLA writes v kᵀ whole.
return (S @ q[..., None])[..., 0], S → return ((S - v[..., :, None] * k[..., None, :]) @ q[..., None])[..., 0], S
    Your read comes before the write: a token reads its own pair too.
S * a[..., None, :] + v → S + v ; q[..., None])[..., 0] → (a * q)[..., None])[..., 0]
    The query fades instead of the state: then even the token's own pair is read faded, and the S handed on has not
    faded at all.
v[..., :, None] * k[..., None, :] → k[..., :, None] * v[..., None, :]
    The write is k vᵀ, which fits only where K = V: v belongs to the rows, k to the columns.
S = S * a[..., None, :] + v[..., :, None] * k[..., None, :] → new = S * a[..., None, :] + v[..., :, None] * k[..., None, :] ; q[..., None])[..., 0], S → q[..., None])[..., 0], new
    Your read is from the old S, before it fades and before the write: y_t reads S_t.
S @ q[..., None] → S.mT @ q[..., None]
    The read is Sᵀ q, which fits only where K = V: q meets the columns, the last axis of S.
a = log_a.exp() → a = torch.sigmoid(log_a)
    log_a goes through a sigmoid: it is already the logarithm of the gate, so the gate is its exp.
"""

ALSO = (
    swapped(),
    old_state(),
    scaled("q"),
    heads_mixed("log_a", 1),
    first_sequence("log_a"),
)
