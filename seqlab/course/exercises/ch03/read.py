r"""Read from the memory

*Look up what S holds for the query q. · 4 minutes · ●○○ · 1 point*

To look something up, multiply the table with a query:

$$y = S\,q, \qquad y_i = \sum_j S_{ij}\,q_j .$$
"""

from torch import einsum

from seqlab.course.exercises.ch03.shared import _memory_cases
from seqlab.course.exercises.vocabulary import softmaxed, unit_length


def read(S, q):
    """Read the memory: y = S q. S: (B, H, V, K), q: (B, H, K). Returns y (B, H, V)."""
    ### BEGIN SOLUTION
    return (S @ q[..., None])[..., 0]
    ### END SOLUTION


WHY = r"""
**Solution.** `@` multiplies the last two axes and treats the others as a batch, so q needs a last axis of size 1,
which is taken away afterwards. `(S * q[..., None, :]).sum(-1)` and `einsum("bhvk,bhk->bhv", S, q)` are the same
sum.

Put S = Σ_j v_j k_jᵀ into it: S q = Σ_j v_j (k_j·q). The read is a sum of *all* stored values, each weighted by how
well its key matches the query. Nothing is searched, and the cost does not depend on how many tokens were stored.

*Common mistakes:* letting q meet the rows (Sᵀ q), scaling by K^-1/2 out of habit, or leaving a softmax on q. The
first raises an error only where K ≠ V.
"""

HINTS = (
    "The read is a weighted sum of the columns of S. What weighs column j?",
    "y = S q: y[i] = Σ_j S[i, j] q[j], in each head of each sequence. The axis K disappears.",
    "Put q where it meets the columns, (B, H, 1, K), multiply and sum over the last axis; or give q a last axis of "
    "size 1 for `@`, and take it away afterwards.",
)


def reference(S, q):
    return sum(S[..., i] * q[..., i : i + 1] for i in range(S.shape[-1]))


def cases(rng):
    return _memory_cases(rng, "q")


TIME_AXIS = None

ALTERNATIVES = (
    lambda S, q: (S * q[..., None, :]).sum(-1),
    lambda S, q: einsum("bhvk,bhk->bhv", S, q),
)

MISTAKES = """
(S @ q[..., None])[..., 0] → einsum("bhvk,bhv->bhk", S, q)
    This reads Sᵀ q: q meets the rows of S. q has width K, so it must meet the columns, the last
    axis of S.
(S @ q[..., None])[..., 0] → (S * q[..., None, :]).sum(-2)
    q stands at the columns, but the sum runs over the rows: the result has width K. Sum over the
    last axis.
q[..., None] → (q / q.shape[-1] ** 0.5)[..., None]
    The read is scaled by K^-1/2. That factor belongs to softmax's scores; here y is S q and nothing
    else.
(S @ q[..., None])[..., 0] → (S @ q[..., None])[..., 0] / q.sum(-1, keepdim=True)
    The read is divided by the sum of q. A normaliser comes later, and then it is made of the stored
    keys.
(S @ q[..., None])[..., 0] → (S @ q[..., None])[..., 0] / q.shape[-1]
    The columns are averaged instead of summed: the result is K times too small. Use sum, not mean.
q[..., None] → F.one_hot(q.argmax(-1), q.shape[-1]).to(S)[..., None]
    Only the column under the largest entry of q is read. Sum all columns, each times its entry of
    q.
[..., 0] → .squeeze()
    squeeze() without an axis takes away every axis of size 1, also B or H. Take away the last one:
    [..., 0] or squeeze(-1).
S @ → S.mT @
    q multiplies S from the left: that reads Sᵀ q. q has width K and must meet the columns, the last
    axis of S: S @ q[..., None].
(S @ q[..., None])[..., 0] → q @ S
    `q @ S` takes (H, K) for a matrix, and multiplies from the left. Make q a column, S @ q[...,
    None], and take the last axis away again.
(S @ q[..., None])[..., 0] → S @ q
    `S @ q` takes (H, K) for a matrix. Make q a column, S @ q[..., None], and take the last axis
    away again.
(S @ q[..., None])[..., 0] → S @ q[..., None]
    y still has the axis of size 1 that q got for `@`. Take it away: (S @ q[..., None])[..., 0].
(S @ q[..., None])[..., 0] → (S * q[..., None]).sum(-1)
    q stands at the rows: q[..., None] is (B, H, K, 1). It must stand at the columns, q[..., None,
    :].
(S @ q[..., None])[..., 0] → S * q[..., None, :]
    The products are not summed: every column of S, times its entry of q. Sum over the last axis.
q[..., None] → (F.elu(q) + 1)[..., None]
    The feature map is applied here, although q comes with it already. Read with q as it is.
(S @ q[..., None])[..., 0] → (S @ q[..., None])[..., 0].sum(1, keepdim=True).expand(S.shape[:3])
    The reads of all heads are summed. Each head reads its own table: keep the axis h in the result.
"""

ALSO = (
    softmaxed(
        "q",
        says="A softmax is left on q. The memory is read with q as it is: that is what keeps it linear.",
    ),
    unit_length("q"),
)
