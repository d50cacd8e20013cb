r"""Rows that fade, columns that fade

*Write the recurrence of decaying fast weights. · 10 minutes · ●●○ · 2 points*

DFW gates every cell of the state by a number for its row times one for its column:

$$S_t = (b_t a_t^\top) \odot S_{t-1} + v_t k_t^\top, \qquad y_t = S_t q_t .$$

Write `fast_weights(q, k, v, log_a, log_b, S)` for a whole text and a given first state. A loop over tokens is allowed. Do not build $b_t a_t^\top$ for all
tokens at once: that is T states, and the check sees the largest tensor.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch05.shared import CAUSAL, _gates, _qkv, _randn
from seqlab.course.exercises.vocabulary import (
    early,
    late,
    old_state,
    scaled,
    state_ignored,
    swapped,
)


def fast_weights(q, k, v, log_a, log_b, S):
    """S_t = (b_t a_tᵀ) ⊙ S_{t-1} + v_t k_tᵀ and y_t = S_t q_t for all t.

    q, k and log_a (B, T, H, K), v and log_b (B, T, H, V), S (B, H, V, K) before the first token. Returns (y, S): y
    (B, T, H, V), and S after the last token.
    """
    ### BEGIN SOLUTION
    ys = []
    for t in range(q.shape[1]):
        rows, columns = log_b[:, t, :, :, None], log_a[:, t, :, None, :]
        S = (rows + columns).exp() * S
        S = S + v[:, t, :, :, None] * k[:, t, :, None, :]
        ys.append((S @ q[:, t, :, :, None])[..., 0])
    return torch.stack(ys, dim=1), S
    ### END SOLUTION


WHY = r"""
**Solution.** The logarithm of a product is a sum: `log_b[…, :, None] + log_a[…, None, :]` is the logarithm of $b_t a_t^\top$. One gate of V × K numbers is
made for each token and thrown away.

**Why rank one.** A free gate for each of the V K cells would need a matrix of D × V K weights. Two vectors are cheap, and $\mathrm{diag}(b)\,S\,\mathrm{diag}(a)$
still has a chunkwise form, because both factors can be taken out of a sum over tokens.

*Common mistakes:* a and b exchanged, which runs where K = V; the sum of the factors instead of their product; only one side.
"""

HINTS = (
    "What is the logarithm of b aᵀ, cell by cell?",
    "log_b[:, t, :, :, None] + log_a[:, t, :, None, :], then exp, times S; then the write, then the read.",
    "S = (rows + columns).exp() * S + v[:, t, :, :, None] * k[:, t, :, None, :]; ys.append((S @ q[:, t, :, :, None])[..., 0]).",
)


def reference(q, k, v, log_a, log_b, S):
    """As matrices, diag(b) S diag(a), in float64."""
    q, k, v, log_a, log_b, S = (u.double() for u in (q, k, v, log_a, log_b, S))
    ys = []
    for t in range(q.shape[1]):
        left, right = (
            torch.diag_embed(log_b[:, t].exp()),
            torch.diag_embed(log_a[:, t].exp()),
        )
        S = left @ S @ right + torch.einsum("bhv, bhk -> bhvk", v[:, t], k[:, t])
        ys.append(torch.einsum("bhvk, bhk -> bhv", S, q[:, t]))
    return torch.stack(ys, dim=1).float(), S.float()


def cases(rng):
    def case(name, B, T, H, K, V, low=0.4, empty=False):
        S = torch.zeros(B, H, V, K) if empty else _randn(rng, B, H, V, K)
        gates = {
            "log_a": _gates(rng, B, T, H, K, low=low),
            "log_b": _gates(rng, B, T, H, V, low=low, high=0.9),
        }
        return Case(name, {**_qkv(rng, B, T, H, K, V), **gates, "S": S})

    closed = case("gates of 0 and 1", 1, 5, 2, 4, 4)
    closed.inputs["log_a"][:, ::2] = 0.0
    closed.inputs["log_b"][:, 3] = -torch.inf
    made = [
        case("T = 1, K ≠ V", 2, 1, 3, 5, 2),
        case("an empty state", 2, 4, 2, 3, 5, empty=True),
        case("odd T, K = V", 1, 7, 2, 4, 4),
        case("one head", 2, 6, 1, 5, 3),
        closed,
        case("strong decay", 1, 6, 2, 3, 4, low=0.01),
        case("long", 1, 40, 2, 6, 5),
    ]
    for one in made:
        one.inputs["log_a"].requires_grad_()
        one.inputs["log_b"].requires_grad_()
    return made


PROPERTIES = (CAUSAL,)


def effort(inputs, cost):
    B, T, H, K = inputs["q"].shape
    V = inputs["v"].shape[-1]
    if T < 40 or cost.largest < B * T * H * K * V:
        return None
    return "The values are right, but a tensor of T × V × K numbers was made: make the gate of one token at a time, or factor it."


OUTPUTS = ("y", "S")


def _loop(q, k, v, log_a, log_b, S):
    ys = []
    for q_t, k_t, v_t, a, b in zip(
        *(x.unbind(1) for x in (q, k, v, log_a.exp(), log_b.exp())), strict=True
    ):
        S = (
            torch.einsum("bhv, bhvk, bhk -> bhvk", b, S, a)
            + v_t[..., None] * k_t[..., None, :]
        )
        ys.append(torch.einsum("bhvk, bhk -> bhv", S, q_t))
    return torch.stack(ys, 1), S


def _rows_then_columns(q, k, v, log_a, log_b, S):
    y = torch.zeros_like(v)
    for t in range(q.shape[1]):
        S = S * log_b[:, t].exp()[..., None]
        S = S * log_a[:, t].exp()[..., None, :]
        S = S + v[:, t][..., None] @ k[:, t][..., None, :]
        y[:, t] = (S * q[:, t][..., None, :]).sum(-1)
    return y, S


ALTERNATIVES = (_loop, _rows_then_columns)

MISTAKES = """
(rows + columns).exp() * S → (rows.exp() + columns.exp()) * S
    The two factors are added: a cell's gate is their product, b aᵀ.
(rows + columns).exp() * S → rows * columns * S
    The logarithms are used as factors: exp is missing.
(rows + columns).exp() * S → columns.exp() * S
    Only the columns fade: this is GLA. The rows fade as well, by b.
(rows + columns).exp() * S → rows.exp() * S
    Only the rows fade: the columns fade as well, by a.
(rows + columns).exp() * S → (rows + columns).exp() + S
    The gate is added to the state: it is a factor.
(rows + columns).exp() * S → (rows - columns).exp() * S
    The rows fade, but the columns grow: both logarithms are added.
S = (rows + columns).exp() * S ⏎ S = S + v[:, t, :, :, None] * k[:, t, :, None, :] → S = (rows + columns).exp() * (S + v[:, t, :, :, None] * k[:, t, :, None, :])
    The new pair fades too: fade first, then write.
log_b[:, t, :, :, None], log_a[:, t, :, None, :] → log_b[:, 0, :, :, None], log_a[:, 0, :, None, :]
    All tokens fade by the gates of the first: each has its own.
ys.append((S @ q[:, t, :, :, None])[..., 0]) → ys.append(((S - v[:, t, :, :, None] * k[:, t, :, None, :]) @ q[:, t, :, :, None])[..., 0])
    Your read comes before the write: a token reads its own pair too.
log_b[:, t, :, :, None], log_a[:, t, :, None, :] → log_a[:, t, :, :, None], log_b[:, t, :, None, :]
    a and b have changed places, which fits only where K = V: a belongs to the columns, b to the rows.
(rows + columns).exp() * S → torch.maximum(rows, columns).exp() * S
    A cell fades by the larger of the two gates: it fades by both, their product.
"""

ALSO = (
    swapped(),
    old_state(),
    state_ignored("S"),
    scaled("k"),
    late(),
    early(),
)
