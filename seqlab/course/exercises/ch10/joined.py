r"""Two halves of a text

*Join what two cells know, each at its own scale. · 12 minutes · ●●○ · 2 points*

Without mixing (R = 0) a cell can be computed in pieces, like the scan of chapter 06. One machine reads the first half of a text, another the second half, both from nothing. Each ends with
its c, its n (both divided by its own $e^m$) and its m. The second also knows `log_f`, the sum of all its forget gates' logarithms.

Return c, n and m of the whole text. m shall be the larger of the two exponents in play, as always. A half may be empty: then its c and n are 0 and its m is $-∞$. Even both may.
"""

import torch

from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch10.shared import randn


def joined(c1, n1, m1, c2, n2, m2, log_f):
    """The state after both halves: (c, n, m). All inputs have one shape; log_f is at most 0."""
    ### BEGIN SOLUTION
    old = m1 + log_f
    m = torch.maximum(old, m2)
    top = torch.where(m.isinf(), torch.zeros_like(m), m)  # both empty: -inf - (-inf)
    a, b = (old - top).exp(), (m2 - top).exp()
    return a * c1 + b * c2, a * n1 + b * n2, m
    ### END SOLUTION


WHY = r"""
**Solution.** The true c of the first half is $e^{m_1} c_1$; the second half fades it by $e^{\log f}$. So its exponent is $m_1 + \log f$, and the join is the cell's own step, with a whole half in the place of a token. If both
halves are empty, both exponents are $-∞$ and their difference is not a number: take any finite scale there.

This operator is associative. So the cells of a text can be joined in any order: a parallel scan, as in chapter 06. It is also how decoding is split over several machines, and the same join as that of two
partial softmaxes in chapter 14; the forget gate is what is new.

*Common mistakes:* fading the second half; adding the c's of two different scales; $-∞ - (-∞)$.
"""

HINTS = (
    "What is the exponent of the first half, once the second half has been read? And that of the second?",
    "m = max(m1 + log_f, m2); the halves weigh exp(m1 + log_f - m) and exp(m2 - m). What if m is -inf?",
    "top = torch.where(m.isinf(), 0, m); a, b = (m1 + log_f - top).exp(), (m2 - top).exp(); a * c1 + b * c2.",
)


def reference(c1, n1, m1, c2, n2, m2, log_f):
    """Number by number, in Python's floats."""
    import math

    found = [[], [], []]
    columns = [u.flatten().tolist() for u in (c1, n1, m1, c2, n2, m2, log_f)]
    for a, na, ma, b, nb, mb, f in zip(*columns, strict=True):
        m = max(ma + f, mb)
        wa, wb = (math.exp(u - m) if u > -math.inf else 0.0 for u in (ma + f, mb))
        for row, value in zip(
            found, (wa * a + wb * b, wa * na + wb * nb, m), strict=True
        ):
            row.append(value)
    return tuple(torch.tensor(row).view(c1.shape) for row in found)


def cases(rng):
    def half(shape, size, empty):
        c, n, m = (
            randn(rng, *shape),
            1 + randn(rng, *shape).abs(),
            size * randn(rng, *shape),
        )
        return (0 * c, 0 * n, torch.full_like(m, -torch.inf)) if empty else (c, n, m)

    def case(name, *shape, size=2.0, empty=(False, False), shut=False):
        names = "c1 n1 m1 c2 n2 m2".split()  # noqa: SIM905
        halves = [
            *half(shape, size, empty[0]),
            *half(shape, size, empty[1]),
        ]
        log_f = -size * randn(rng, *shape).abs()
        if shut:
            log_f = torch.full_like(log_f, -torch.inf)
        return Case(name, {**dict(zip(names, halves, strict=True)), "log_f": log_f})

    return [
        case("one number", 1),
        case("a table", 3, 4),
        case("exponents of hundreds", 2, 5, size=300.0),
        case("the first half is empty", 4, empty=(True, False)),
        case("the second half is empty", 4, empty=(False, True)),
        case("both are empty", 2, empty=(True, True)),
        case("the gates of the second half are shut", 3, shut=True),
    ]


def _alike(inputs, outputs):
    """Joining with an empty text on the left changes nothing."""
    (c, n, m), (c2, n2, m2) = outputs
    return all(
        torch.allclose(a, b, atol=1e-4, rtol=1e-4, equal_nan=True)
        for a, b in ((c2, c), (n2, n), (m2, m))
    )


def _again(inputs):
    """The whole as the second half of a text whose first half is empty."""
    c, n, m = reference(**inputs)
    nothing = torch.full_like(m, -torch.inf)
    zero = torch.zeros_like(c)
    return [
        {"c1": zero, "n1": zero, "m1": nothing, "c2": c, "n2": n, "m2": m}
        | {"log_f": torch.zeros_like(m)}
    ]


PROPERTIES = (
    Property(
        "an empty first half changes nothing",
        variants=_again,
        holds=_alike,
        message="With an empty first half the answer must be the second half as it is: its weight is 1.",
    ),
)

OUTPUTS = ("c", "n", "m")

TIME_AXIS = None


def _by_logaddexp(c1, n1, m1, c2, n2, m2, log_f):
    m = torch.stack([m1 + log_f, m2]).amax(0)
    a = torch.where(m1 + log_f == m, torch.ones_like(m), (m1 + log_f - m).exp())
    b = torch.where(m2 == m, torch.ones_like(m), (m2 - m).exp())
    return a * c1 + b * c2, a * n1 + b * n2, m


def _with_nan_to_num(c1, n1, m1, c2, n2, m2, log_f):
    m = torch.maximum(m1 + log_f, m2)
    a = (m1 + log_f - m).nan_to_num(0.0).exp()
    b = (m2 - m).nan_to_num(0.0).exp()
    return a * c1 + b * c2, a * n1 + b * n2, m


ALTERNATIVES = (_by_logaddexp, _with_nan_to_num)

MISTAKES = """
old = m1 + log_f → old = m1
    The first half does not fade: all forget gates of the second half act on it, so its exponent is m1 + log_f.
(m2 - top).exp() → (m2 + log_f - top).exp()
    The second half fades as well: its own gates are in its c and n already.
old = m1 + log_f ⏎ m = torch.maximum(old, m2) ⏎ top = torch.where(m.isinf(), torch.zeros_like(m), m)  # both empty: -inf - (-inf) ⏎ a, b = (old - top).exp(), (m2 - top).exp() → m = torch.maximum(m1 + log_f, m2) ⏎ a, b = log_f.exp(), torch.ones_like(m)
    The halves are added as if they had one scale: each is divided by its own e^m, so bring both to the new m first.
m = torch.maximum(old, m2) → m = torch.maximum(m1, m2)
    m is not the larger of the exponents in play: that of the first half is m1 + log_f.
a * n1 + b * n2 → n1 + n2
    c is right, n is not: the normalisers need the same two weights as the c's.
a * n1 + b * n2 → a * n1 + n2
    The second half's n is not brought to the new scale.
a, b = (old - top).exp(), (m2 - top).exp() → a, b = torch.stack([old - top, m2 - top]).softmax(0)
    The weights are made to add up to 1: then c and n are not those at scale m. (c / n would still be right.)
"""
