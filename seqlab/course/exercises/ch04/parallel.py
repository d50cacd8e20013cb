r"""Retention, all pairs at once

*Read retention as attention with D in the place of the softmax. · 8 minutes · ●○○ · 1 point*

With D the whole of retention is one line for each head:

$$Y = (Q\,K^\top \odot D)\,V .$$

⊙ multiplies entry by entry. All tokens are read at once, without a loop over them. D is given, so this does not depend on your answer to 04.4.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch04.shared import (
    CAUSAL,
    _gammas,
    _qkv,
    _retnet_gammas,
    decay_mask_reference,
)
from seqlab.course.exercises.vocabulary import (
    decay_squared,
    first_head,
    pairs_at_once,
)


def parallel(q, k, v, D):
    """Retention by pairs: y_i = Σ_j D_ij (q_i · k_j) v_j, or y = (Q Kᵀ ⊙ D) V for each head. No softmax, no 1/√K.

    q, k (B, T, H, K), v (B, T, H, V), D (H, T, T). Returns y (B, T, H, V).
    """
    ### BEGIN SOLUTION
    scores = torch.einsum("bihk, bjhk -> bhij", q, k)  # (B, H, T, T)
    return torch.einsum("bhij, bjhv -> bihv", scores * D, v)
    ### END SOLUTION


WHY = r"""
**Solution.** y_i = S_i q_i, and S_i = Σ_{j≤i} γ^(i-j) v_j k_jᵀ. Put one into the other: y_i = Σ_j γ^(i-j) (k_j·q_i)
v_j. This is attention in which D stands where the softmax was. D is the causal mask as well, because it is 0 above
the diagonal.

**What it costs.** The scores have T² entries for each head. In exchange there is no loop over time: a few matrix
products do everything. The state has vanished, and with it the cheap decoding. 04.9 gets both.

*Common mistakes:* A softmax, a division by the row sums, or a 1/√K: none belongs here (the layer scales k before).
Adding D to the scores, as one adds a bias or a -inf mask before a softmax. q and k swapped, which transposes the
scores.
"""

HINTS = (
    "It is attention: scores of all pairs, a weight for each, a mix of the values. Only the middle step is new.",
    "Take softmax(Q Kᵀ / √K) V, leave out the softmax and the root, and let each score meet its own entry of D: "
    "score (i, j) and D_ij are about the same reader i and the same written token j.",
    "torch.einsum('bihk,bjhk->bhij', q, k) gives the scores, D (H, T, T) lines up with them as it is, "
    "and 'bhij,bjhv->bihv' mixes the values.",
)


def reference(q, k, v, D):
    y = torch.zeros_like(v)
    for i in range(q.shape[1]):
        for j in range(i + 1):
            y[:, i] += (
                D[:, i, j, None] * (q[:, i] * k[:, j]).sum(-1, keepdim=True) * v[:, j]
            )
    return y


def cases(rng):
    def case(name, shape, gamma):
        return Case(
            name, {**_qkv(rng, *shape), "D": decay_mask_reference(gamma, shape[1])}
        )

    return [
        case("one head, T = 3", (1, 3, 1, 4, 4), _gammas(rng, 1)),
        case("T = 1", (2, 1, 2, 4, 4), _gammas(rng, 2)),
        case("odd T", (2, 7, 2, 4, 4), _gammas(rng, 2)),
        case("K ≠ V", (1, 12, 3, 5, 2), _gammas(rng, 3)),
        case("T = H", (2, 3, 3, 4, 6), _gammas(rng, 3)),
        case("the decays of the paper", (2, 19, 4, 6, 3), _retnet_gammas(4)),
        case("γ near 0", (1, 30, 2, 4, 4), torch.tensor([1e-3, 0.05])),
        case("T = 64", (1, 64, 1, 3, 2), _gammas(rng, 1)),
    ]


effort = pairs_at_once


PROPERTIES = (CAUSAL,)

ALTERNATIVES = (
    lambda q, k, v, D: (
        (q.transpose(1, 2) @ k.permute(0, 2, 3, 1) * D) @ v.transpose(1, 2)
    ).transpose(1, 2),
    lambda q, k, v, D: torch.einsum("bihk, bjhk, hij, bjhv -> bihv", q, k, D, v),
)

MISTAKES = """
scores * D → scores.tril()
    D only cuts off the future, its decay is lost: look for scores masked instead of multiplied by
    D.
scores * D → scores
    D is left out: every token reads the future too. Look for the product of the scores with D.
scores * D → scores + D
    D is added to the scores: it is a factor. Look for + between the scores and D.
scores * D → scores * D.mT
    Your D is transposed: row i of the scores and of D must be the reader.
q, k) → k, q)
    Here q and k have changed places: score ij is q_i · k_j. Look at the order of i and j.
scores * D → (scores * D).masked_fill(D.new_ones(D.shape[-2:]).triu(1).bool(), -torch.inf).softmax(-1)
    A softmax is taken over the weighted scores: retention has none. Look for softmax.
scores * D → scores * D / q.shape[-1] ** 0.5
    Your scores are divided by √K: here the caller scales, so look for a 1/√K.
scores * D → scores * D / (scores * D).sum(-1, keepdim=True)
    Your weights are divided by their row sums: retention has no normaliser. Look for a division.
scores * D → scores.softmax(-1) * D
    A softmax is taken before D is multiplied in: retention weighs with the scores themselves. Look
    for softmax.
scores * D → (scores + D.log()).softmax(-1)
    This is softmax attention with log D as a bias: retention has no softmax. D is a factor on the
    scores.
scores * D → scores * D / (scores * D).sum(-1, keepdim=True).abs().clamp(min=1)
    Your weights are divided by their row sums, at least 1: a rescaling of the paper that its norm
    cancels again. Leave it out.
scores * D → D.expand(len(q), -1, -1, -1)
    The values are mixed with D alone: q and k are not used. Look for the scores Q Kᵀ.
scores * D, v → scores.tril(), torch.einsum("hij, bjhv -> bihv", D, v)
    D is multiplied into v, and the scores are cut off at the diagonal: the pairs are then mixed
    twice. Multiply D into the scores, entry by entry.
scores * D → scores.sum(1, keepdim=True) * D
    Your scores of all heads are summed: every head uses the same ones. Keep the axis h in the
    scores.
* → return (q @ k.mT * D) @ v
    The heads read each other, not the tokens: @ multiplies the last two axes, which are H and K.
    Move time next to K first, to (B, H, T, K), and back at the end.
scores * D → scores @ D
    Your D is matrix-multiplied with the scores: ⊙ multiplies entry by entry, so write * and not @.
return torch.einsum("bhij, bjhv -> bihv", scores * D, v) → return torch.einsum("bhij, bjhv -> bhiv", scores * D, v).reshape(v.shape)
    Your last step reshapes (B, H, T, V) into (B, T, H, V), which cuts the numbers up anew and mixes
    heads with tokens: transpose the two axes.
* → q, k, v = (x.reshape(len(x), x.shape[2], x.shape[1], -1) for x in (q, k, v)) ⏎ y = (q @ k.mT * D) @ v ⏎ return y.transpose(1, 2).reshape(len(y), y.shape[2], y.shape[1], -1)
    You reshape (B, T, H, K) into (B, H, T, K), which cuts the numbers up anew and mixes heads with
    tokens: transpose the two axes.
* → return (q @ k.mT) @ v
    The heads read each other, not the tokens, and without D: @ multiplies the last two axes, which
    are H and K. Move time next to K first, to (B, H, T, K), and back at the end.
scores * D → scores.masked_fill(D.new_ones(D.shape[-2:]).triu(1).bool(), -torch.inf) * D
    The future is masked with -inf before D is multiplied in, and -inf · 0 is nan. D is 0 in the
    future already: no mask is needed.
scores * D → scores.masked_fill(D.new_ones(D.shape[-2:]).triu(1).bool(), -1e9)
    The future is masked with -1e9, and D is left out. A large negative score vanishes only in an
    exp; here the score is the weight. Multiply by D, which is 0 in the future.
scores * D → scores.masked_fill(D.new_ones(D.shape[-2:]).triu(1).bool(), -torch.inf)
    The future is masked with -inf, and D is left out. That is for scores which go through exp; here
    the score is the weight. Multiply by D, which is 0 in the future.
"""

ALSO = (
    decay_squared(
        "D", says="The decay is applied twice, D²: look for a second product with D."
    ),
    first_head(
        "D",
        says="All heads use the mask of the first: look at how D (H, T, T) is lined up with the scores.",
    ),
)
