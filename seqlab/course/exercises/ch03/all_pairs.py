r"""The parallel form

*Compute all reads at once from the T × T scores and a causal mask, without a state. · 12 minutes · ●●○ · 2 points*

Put the sum S_t = Σ_{j≤t} v_j k_jᵀ into the read. What comes out needs no state:

$$y_t = \sum_{j \le t} (q_t \cdot k_j)\, v_j .$$

All pairs (t, j) can be computed at once, as in attention: scores, a causal mask, times the values. Only the softmax
is missing. For all t at once: a loop over tokens, or a state for each of them, gives the right numbers, but it is 03.6,
and the check says so.
"""

import seqlab.core.recurrence as core
from seqlab.course.exercise import Case
from seqlab.course.exercises.ch03.shared import (
    CAUSAL,
    SIZES,
    _pair_by_pair,
    _tokens,
    causal_softmax,  # noqa: F401 (for the edits)
)
from seqlab.course.exercises.vocabulary import pairs_at_once, scaled


def all_pairs(q, k, v):
    """The parallel form: y_t = Σ_{j ≤ t} (q_t·k_j) v_j, for all t at once, without softmax and without scaling.

    q, k: (B, T, H, K), v: (B, T, H, V). Returns y (B, T, H, V).
    """
    ### BEGIN SOLUTION
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, ·)
    scores = (q @ k.mT).tril()  # (B, H, T, T)
    return (scores @ v).transpose(1, 2)
    ### END SOLUTION


WHY = r"""
**Solution.** `@` works on the last two axes, so time is moved next to the width first. `tril()` keeps j ≤ t, the
diagonal too. Without a softmax a masked score is simply 0; the -inf of usual attention is there for the exp.

The brackets make all the difference. (Q Kᵀ) V builds a T × T matrix: T² K work, but every row at the same time. Q
(Kᵀ V) would build a K × V table. The causal mask stands between the two and forbids moving the brackets for the
whole sequence. That is why the recurrent form exists, and why 03.10 joins the two.

*Common mistakes:* multiplying (B, T, H, K) with `@` directly, which lets the *heads* attend to each other and even
has the right shape; `tril(-1)`; leaving in the softmax or its scaling.
"""

HINTS = (
    "This is causal attention without the softmax. What must the score of a later token be, to add nothing?",
    "y_t = Σ_{j ≤ t} (q_t·k_j) v_j: scores q kᵀ in each head, 0 where j > t, times v. The diagonal stays.",
    'scores = einsum("bihk,bjhk->bhij", q, k).tril(), then another einsum of scores with v, which gives "bihv".',
)


def cases(rng):
    sizes = [SIZES[0], ("T = 256", 1, 256, 1, 3, 2), *SIZES[1:]]
    return [Case(name, _tokens(rng, *s)) for name, *s in sizes]


effort = pairs_at_once


def _where_the_pairs_part(t, inputs):
    if t > 0:
        return "which tokens does the mask let this one read, and is each weight the plain q_t·k_j?"
    return (
        "y_0 is (q_0·k_0) v_0 and nothing else. Are the axes in the right order? Is anything scaled, or sent through φ "
        "or exp? May token 0 read itself, and only itself?"
    )


def reference(q, k, v):
    return _pair_by_pair(q, k, v)[0]


parts_hint = _where_the_pairs_part

PROPERTIES = (CAUSAL,)

ALTERNATIVES = (
    lambda q, k, v: core.parallel(q, k, v)[0],
    lambda q, k, v: (
        ((q[:, :, None] * k[:, None]).sum(-1).movedim(-1, 1).tril()) @ v.transpose(1, 2)
    ).transpose(1, 2),
)

MISTAKES = """
(q @ k.mT).tril() → q @ k.mT
    There is no causal mask: token t reads the tokens after it. Set the scores with j > t to 0.
.tril() → .tril(-1)
    The mask hides the diagonal: token t cannot read itself. Keep j = t: tril(), not tril(-1).
tril → triu
    The mask is the wrong way round: token t reads only itself and the later ones. Rows are queries
    and columns are keys: keep the lower triangle.
.tril() → .tril(1)
    The mask lets one later token through: tril(1) keeps j ≤ t + 1. Use tril(), which keeps j ≤ t.
.tril() → .triu(1)
    The mask keeps exactly what it should hide: token t reads only the later ones. Set those with j
    > t to 0, not j ≤ t.
.tril() → .tril().mT
    The scores are transposed after the mask: token t reads itself and the later ones. Rows are
    queries, columns are keys; leave them so.
.tril() → .exp().tril()
    The scores go through exp. Linear attention weighs v_j with the score itself, and 0 in the
    future.
.tril() → .tril().softmax(-1)
    Scores of the future are set to 0 before a softmax, where 0 still weighs exp(0) = 1. Here no
    softmax is wanted at all.
.tril() → .tril() / torch.arange(1.0, 1 + q.shape[2])[:, None]
    Each y is divided by the number of tokens so far. y_t is a sum, not a mean.
x.transpose(1, 2) → x.reshape(x.shape[0], x.shape[2], x.shape[1], -1) ; (scores @ v).transpose(1, 2) → (scores @ v).reshape(v.shape[0], v.shape[2], v.shape[1], -1)
    `reshape` or `view` does not move an axis: it cuts the numbers anew, and mixes time with heads.
    Use transpose(1, 2), or einsum.
(scores @ v).transpose(1, 2) → (scores @ v).reshape(v.shape[0], v.shape[2], v.shape[1], -1)
    `reshape` takes y back from (B, H, T, V), and mixes time with heads: it cuts the numbers anew.
    Use transpose(1, 2).
* → scores = einsum("bihk,bjhk->bijh", q, k).tril() ⏎ return einsum("bijh,bjhv->bihv", scores, v)
    tril() masks the last two axes, and here these are a token and the head. Put the scores into the
    order (B, H, T, T) first.
* → return solution(F.elu(q) + 1, F.elu(k) + 1, v)
    The feature map is applied here, although q and k come with it already. Use q and k as they are.
(q @ k.mT).tril() → causal_softmax(q @ k.mT)
    A softmax is left in. Linear attention weighs v_j with the score itself: q_t·k_j, and 0 in the
    future.
(q @ k.mT).tril() → causal_softmax(q @ k.mT / q.shape[-1] ** 0.5)
    A softmax with 1/√K is left in: this is the usual attention. Use the score itself, and 0 in the
    future.
.tril() → .softmax(-1).tril()
    The future is masked after a softmax, so it still takes part in the sum below the fraction. Here
    no softmax is wanted at all.
q @ k.mT → k @ q.mT
    The scores are transposed: row t holds k_t·q_j. Queries are the rows and keys the columns: q kᵀ,
    then mask.
(q @ k.mT).tril() → (q @ k.mT).masked_fill(torch.ones(q.shape[2], q.shape[2]).triu(1).bool(), -torch.inf)
    The future is masked with -inf. That is for scores which go through exp; here a masked score
    must be 0.
scores @ v → scores / scores.sum(-1, keepdim=True) @ v
    Each row is divided by its sum. The normaliser is the next exercise; here y_t is the plain sum.
* → return (q @ k.mT).tril() @ v
    The heads attend to each other, not the tokens: `@` multiplies the last two axes, which are H
    and K. Move time next to K first, to (B, H, T, K), and back at the end.
* → return (q @ k.mT) @ v
    The heads attend to each other, and without a mask: `@` multiplies the last two axes, which are
    H and K. Move time next to K first, to (B, H, T, K), and back at the end.
scores @ v → scores.sum(1, keepdim=True) @ v
    The scores of all heads are summed: every head uses the same weights. Keep the axis h in the
    scores.
(q @ k.mT).tril() → (q @ k.mT).masked_fill(torch.ones(q.shape[2], q.shape[2]).triu(1).bool(), -1e9)
    The future is masked with -1e9. A large negative score vanishes only in an exp; here the score
    itself is the weight, so a masked score must be 0.
(q @ k.mT).tril() → (q @ k.mT).relu().tril()
    Negative scores are set to 0. q and k come with their feature map, and the weight is q_t·k_j as
    it is, negative or not.
"""

ALSO = (
    scaled(
        "q",
        says="The scores are scaled by K^-1/2. Linear attention here uses q·k as it is: remove the factor.",
    ),
)
