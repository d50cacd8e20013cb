r"""The parallel form, with shut gates

*Build all logarithms of weights where some forget gates are 0. · 12 minutes · ●●○ · 2 points*

The chapter's parallel form writes $D_{ij} = F_i - F_j + \tilde\imath_j$ with a running sum F of log f. If a gate is *shut* (f = 0, log f = $-∞$: a document begins), F is $-∞$ from there on, and $F_i - F_j$ is
$-∞ - (-∞)$, not a number. Write $D$ and m so that shut gates work:

- `D` (T, T): $\log f_{j+1} + … + \log f_i + \tilde\imath_j - m_i$ for j ≤ i, $-∞$ above the diagonal;
- `m` (T,): the largest entry of each row before m was subtracted.

Call no loop over tokens: the check counts operations.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch10.shared import log_gates, randn
from seqlab.course.exercises.vocabulary import transposed


def log_weights(i, log_f):
    """i and log_f (T,), log_f at most 0 and perhaps -inf. Returns D (T, T) and m (T,)."""
    ### BEGIN SOLUTION
    T = len(i)
    later = torch.ones(T, T, dtype=torch.bool).triu(1)
    steps = log_f[:, None].expand(T, T)  # row i, column j: log f_i
    spans = steps.masked_fill(~later.mT, 0.0).cumsum(0)  # from j + 1 on
    D = (spans + i).masked_fill(later, -torch.inf)
    m = D.amax(1)
    return D - m[:, None], m
    ### END SOLUTION


WHY = r"""
**Solution.** Sum each span on its own: column j of a table that holds $\log f_i$ below the diagonal and 0 elsewhere, summed from the top down. No differences, so $-∞$ is never subtracted from $-∞$: a span with a shut gate in it is
$-∞$, and every other span does not see that gate. Row i always has at least its own entry, $\tilde\imath_i$, so m is finite.

The same sums are more exact for open gates, too: exercise 07.1 is about that.

*Common mistakes:* a difference of running sums; putting 0 above the diagonal; subtracting m of the column.
"""

HINTS = (
    "Each span of gates can be summed on its own, for all spans at once.",
    "A table with log f_i in row i, masked to 0 on and above the diagonal; its cumulative sum down the columns holds the spans.",
    "log_f[:, None].expand(T, T).masked_fill(torch.ones(T, T).triu() == 1, 0).cumsum(0), plus i, then -inf above the diagonal, then the largest of each row.",
)


def reference(i, log_f):
    """Span by span."""
    T, rows = len(i), []
    for t in range(T):
        row = [
            log_f[s + 1 : t + 1].double().sum() + i[s].double() for s in range(t + 1)
        ]
        rows.append(
            torch.stack([*row, *[torch.tensor(-torch.inf).double()] * (T - t - 1)])
        )
    D = torch.stack(rows)
    m = D.amax(1)
    return (D - m[:, None]).float(), m.float()


def cases(rng):
    def case(name, T, size=2.0, shut=(), gate=(0.3, 0.99)):
        log_f = log_gates(rng, T, low=gate[0], high=gate[1])
        log_f[list(shut)] = -torch.inf
        return Case(
            name, {"i": (size * randn(rng, T)).requires_grad_(), "log_f": log_f}
        )

    return [
        case("T = 1", 1),
        case("T = 2", 2),
        case("odd T, no gate is shut", 7),
        case("one gate is shut", 8, shut=[3]),
        case("the first gate is shut", 6, shut=[0]),
        case("three gates are shut, two in a row", 11, shut=[2, 3, 8]),
        case("open gates", 5, gate=(1.0, 1.0)),
        case("loud tokens", 9, size=200.0),
        case("long, one gate is shut", 70, shut=[40]),
    ]


def effort(inputs, cost):
    T = len(inputs["i"])
    if T >= 64 and cost.calls >= T:
        return f"The values are right, but this walks over tokens: {cost.calls} torch operations for {T}. Sum all spans at once."
    return None


OUTPUTS = ("D", "m")

TIME_AXIS = {"D": 0, "m": 0}


def _by_product(i, log_f):
    """Finite parts by differences, shut gates counted apart."""
    shut = log_f.isinf()
    F = log_f.masked_fill(shut, 0.0).cumsum(0)
    count = shut.cumsum(0)
    D = F[:, None] - F + i
    D = D.masked_fill(count[:, None] != count, -torch.inf)
    D = D.masked_fill(torch.ones_like(D).triu(1).bool(), -torch.inf)
    m = D.max(1).values
    return D - m[:, None], m


ALTERNATIVES = (_by_product,)

MISTAKES = """
spans = steps.masked_fill(~later.mT, 0.0).cumsum(0)  # from j + 1 on → spans = steps.masked_fill(later, 0.0).cumsum(0)
    The spans are one gate too long: the gate of token j itself does not act on what token j writes.
.masked_fill(later, -torch.inf) → .masked_fill(later, 0.0)
    Above the diagonal there is 0, a weight of 1: later tokens must not be read. Put -inf there.
(spans + i) → (spans + i[:, None])
    The input gate is that of the reading token: it belongs to the writing one, so it goes along the columns.
return D - m[:, None], m → return D - m, m
    m is subtracted along the columns: each row has its own.
return D - m[:, None], m → return D, m
    m is not subtracted from D.
(spans + i) → spans
    The input gates are missing.
m = D.amax(1) → m = D.diagonal()
    m is the token's own exponent, the largest entry of its column: the largest of its row is asked for, as an older token may be louder.
m = D.amax(1) → m = D.logsumexp(1)
    m is the log-sum-exp of the row: the stabiliser takes the largest entry.
"""

ALSO = (transposed("D"),)
