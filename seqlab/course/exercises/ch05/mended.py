r"""Bug hunt: gates that explode backwards

*Find what is wrong in code whose numbers look right. · 15 minutes · ●●● · 3 points*

This function computes a text, or a part of one, by all pairs, with one gate per head and a state from before. Forward it looks right on gentle inputs. It
has **two bugs**. Run the cell below to see two symptoms. Then write the right version into `mended`. You may copy the code and change a few lines. It has
to stay a form of all pairs: the check refuses a walk over tokens.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch05.shared import (
    CAUSAL,
    _gates,
    _qkv,
    _randn,
    by_pairs,
)
from seqlab.course.exercises.vocabulary import (
    old_state,
    state_ignored,
    swapped,
)


def mended(q, k, v, log_a, S):
    """S_t = a_t S_{t-1} + v_t k_tᵀ and y_t = S_t q_t for all t, by all pairs.

    q, k (B, T, H, K), v (B, T, H, V), log_a (B, T, H) at most 0, S (B, H, V, K) before the first token. Returns (y, S):
    y (B, T, H, V), and S after the last token.
    """
    ### BEGIN SOLUTION
    G = log_a.cumsum(1).mT  # (B, H, T)
    later = torch.ones(G.shape[-1], G.shape[-1]).triu(1).bool()
    span = (G[..., :, None] - G[..., None, :]).masked_fill(later, -torch.inf)
    scores = torch.einsum("bihk, bjhk -> bhij", q, k) * span.exp()
    y = torch.einsum("bhij, bjhv -> bihv", scores, v)
    y = y + torch.einsum("bhi, bhvk, bihk -> bihv", G.exp(), S, q)
    left = (G[..., -1:] - G).exp()
    new = torch.einsum("bhj, bjhv, bjhk -> bhvk", left, v, k)
    return y, G[..., -1, None, None].exp() * S + new
    ### END SOLUTION


WHY = r"""
**The first bug** is the order of mask and exponential. Above the diagonal the difference $G_i - G_j$ is *positive*, and its exponential overflows as soon as the gates
are strong. `tril` puts zeros there, so the forward pass never shows it. But the gradient of exp is exp, and backward the zero meets it: 0 · inf is NaN, in
the gradient of every gate. Put $-\infty$ there *before* exp.

**The second bug** is a decay that is one gate short. S was handed over *before* the first token, so the first token's gate acts on it as well:
the state weighs $e^{G_i}$ in the read of token i, not $e^{G_i - G_0}$. The same holds for the state that is handed on.

*Common mistakes:* clamping the exponent at 0 keeps exp finite, but leaves ones above the diagonal: then the mask must still be applied.
"""

HINTS = (
    "There are two bugs. One shows only backwards, when gates are strong; the other only if S is not empty.",
    "exp of what lies above the diagonal is inf there. And how many gates has S met when token 0 reads it?",
    "(G[..., :, None] - G[..., None, :]).masked_fill(later, -torch.inf).exp(), and G.exp() and G[..., -1].exp() for the state, "
    "without subtracting G[..., :1].",
)

reference = by_pairs


def cases(rng):
    def case(name, B, T, H, K, V, low=0.5, high=0.98, empty=False):
        S = torch.zeros(B, H, V, K) if empty else _randn(rng, B, H, V, K)
        log_a = _gates(rng, B, T, H, low=low, high=high).requires_grad_()
        return Case(name, {**_qkv(rng, B, T, H, K, V), "log_a": log_a, "S": S})

    return [
        case("T = 1, K ≠ V", 2, 1, 3, 5, 2),
        case("an empty state", 2, 4, 2, 3, 5, empty=True),
        case("odd T, K = V", 1, 7, 2, 4, 4),
        case("T = H", 2, 4, 4, 3, 5),
        case("strong gates", 1, 24, 2, 3, 4, low=1e-6, high=1e-3),
        case("gates near 1", 2, 9, 2, 4, 3, low=0.9999, high=1.0),
        case("long", 1, 70, 2, 4, 3),
    ]


PROPERTIES = (CAUSAL,)


def effort(inputs, cost):
    T = inputs["q"].shape[1]
    if not cost.gradient_finite:
        return (
            "The values are right, but the gradient of log_a is NaN or inf where gates are strong: exp still meets the positive differences "
            "above the diagonal. Mask first, then exp."
        )
    if T >= 64 and cost.calls >= 3 * T:
        return f"The values are right, but this walks over tokens: {cost.calls} torch operations for {T}. Keep all pairs."
    return None


OUTPUTS = ("y", "S")


def _by_sums(q, k, v, log_a, S):
    """Each span summed on its own: cumulative sums of a masked table."""
    T = q.shape[1]
    steps = log_a.mT[..., :, None].expand(-1, -1, T, T).tril(-1)
    D = steps.cumsum(-2).masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).exp()
    start = log_a.mT.cumsum(-1).exp()
    y = (torch.einsum("bihk, bjhk -> bhij", q, k) * D) @ v.transpose(1, 2)
    y = y + start[..., None] * torch.einsum("bhvk, bihk -> bhiv", S, q)
    new = torch.einsum("bhj, bjhv, bjhk -> bhvk", D[..., -1, :], v, k)
    return y.transpose(1, 2), start[..., -1:, None] * S + new


def _as_a_token(q, k, v, log_a, S):
    """The state as K more writes before the text, one per column."""
    B, T, H, K = q.shape
    one = torch.eye(K)[None, :, None].expand(B, K, H, K)
    keys, values = torch.cat([one, k], 1), torch.cat([S.permute(0, 3, 1, 2), v], 1)
    G = torch.cat([log_a.new_zeros(B, K, H), log_a.cumsum(1)], 1).mT
    later = torch.arange(K + T) > torch.arange(K, K + T)[:, None]
    D = (G[..., K:, None] - G[..., None, :]).masked_fill(later, -torch.inf).exp()
    y = torch.einsum("bihk, bjhk, bhij, bjhv -> bihv", q, keys, D, values)
    return y, torch.einsum("bhj, bjhv, bjhk -> bhvk", D[..., -1, :], values, keys)


ALTERNATIVES = (_by_sums, _as_a_token)

MISTAKES = """
G.exp(), S → (G - G[..., :1]).exp(), S ; G[..., -1, None, None].exp() * S → (G[..., -1] - G[..., 0])[..., None, None].exp() * S
    The state lacks the gate of the first token: S was handed over before it, so it fades by G_i, with nothing subtracted.
    (The other bug shows in the gradient only.)
G.exp(), S → (G - G[..., :1]).exp(), S
    The state that is handed on is right, the one that is read lacks the gate of the first token.
G[..., -1, None, None].exp() * S → (G[..., -1] - G[..., 0])[..., None, None].exp() * S
    The reads are right; the state that is handed on lacks the gate of the first token.
.masked_fill(later, -torch.inf) → .clamp(max=0)
    The exponent is cut off at 0, so later tokens are read with weight 1: they must not be read at all. Mask with -inf.
G.exp(), S → torch.ones_like(G), S
    The given state does not fade in the reads: it weighs exp(G_i) at token i.
(G[..., -1:] - G).exp() → torch.ones_like(G)
    The writes have not faded in the state that is handed on: token j's weighs exp(G_last - G_j).
(G[..., -1:] - G).exp() → G.exp()
    The writes fade from the start in the state that is handed on: what counts is how much fades after j, exp(G_last - G_j).
G = log_a.cumsum(1).mT → G = (log_a.cumsum(1) - log_a).mT
    The sums are one gate short: G_t includes the gate of token t itself.
triu(1) → triu(0)
    The diagonal is masked as well: a token reads its own pair.
span.exp() → span
    The scores are multiplied by the logarithm of the decay: exp is missing.
"""

ALSO = (
    swapped(),
    old_state(),
    state_ignored("S"),
)
