r"""Keys of three parts

*Find the best of n³ experts among k³ sums. · 15 minutes · ●●● · 3 points*

PEER's keys have two halves. With three parts, n = 100 already makes a million experts: expert $(r, s, t)$ has the number $(r\,n + s)\,n + t$ and the score
$a_r + b_s + c_t$. Return the k best scores of each token, the largest first, and their experts. You may not build all n³ sums: the check counts. k is at
most n.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.vocabulary import output, swapped


def three_parts(a, b, c, k):
    """The k largest a_r + b_s + c_t of each token, and their numbers (r n + s) n + t.

    a, b, c (N, n). Returns (scores, experts), both (N, k), the largest first; experts of int64.
    """
    ### BEGIN SOLUTION
    n = a.shape[1]
    (top_a, r), (top_b, s), (top_c, t) = a.topk(k), b.topk(k), c.topk(k)
    sums = top_a[:, :, None, None] + top_b[:, None, :, None] + top_c[:, None, None]
    scores, triple = sums.flatten(1).topk(k)
    r = r.gather(1, triple // k**2)
    s = s.gather(1, triple // k % k)
    t = t.gather(1, triple % k)
    return scores, (r * n + s) * n + t
    ### END SOLUTION


WHY = r"""
**Solution.** The argument of the chapter holds for each part: if r is not among the k best of a, then k better rows with the same s and t beat the triple. So the k
best lie among k³ sums. Decode the flat index in base k to three *places among the best*, and look up there which r, s and t they are; the expert's number is in
base n.

For k = 16 that is 4,096 sums. It can be had cheaper: take the k best of $a_r + b_s$ first (k² sums), then those of that list plus c (k² again).

*Common mistakes:* places among the best used as if they were r, s and t; base k and base n mixed up; the order of the digits turned round.
"""

HINTS = (
    "Suppose (r, s, t) is among the k best. Can r be outside the k best of a?",
    "All k³ sums of the best of each part; topk; then the flat index has three digits in base k, each a place in a list of the best.",
    "triple // k², triple // k % k, triple % k; r = r.gather(1, first digit), and so on; the number is (r n + s) n + t.",
)


def reference(a, b, c, k):
    """All n³ sums."""
    everything = a[:, :, None, None] + b[:, None, :, None] + c[:, None, None, :]
    scores, experts = everything.flatten(1).topk(k)
    return scores, experts


def cases(rng):
    def case(name, N, n, k, size=1.0, learned=False):
        parts = {p: size * torch.randn(N, n, generator=rng) for p in "abc"}
        if learned:
            parts = {p: x.requires_grad_() for p, x in parts.items()}
        return Case(name, parts | {"k": k})

    return [
        case("one token, k = 1", 1, 4, 1),
        case("odd N, k = 2", 5, 7, 2),
        case("k = 3, learned", 4, 6, 3, learned=True),
        case("k = n", 3, 4, 4),
        case("large scores", 3, 9, 4, 100.0),
        case("27,000 experts", 2, 30, 5),
    ]


def effort(inputs, effort):
    n = inputs["a"].shape[1]
    if n >= 30 and effort.largest >= n**3:
        return (
            f"The values are right, but a tensor of {effort.largest:,} numbers was made: the text asks for the best of "
            f"{n**3:,} sums without building them all. Which r can belong to one of the k best?"
        )
    return None


OUTPUTS = ("scores", "experts")

TIME_AXIS = None


def _two_by_two(a, b, c, k):
    def join(x, numbers, y):
        n = y.shape[1]
        (x, i), (y, j) = x.topk(k), y.topk(k)
        best, pair = (x[:, :, None] + y[:, None]).flatten(1).topk(k)
        first = numbers.gather(1, i).gather(1, pair // k)
        return best, first * n + j.gather(1, pair % k)

    ab, numbers = join(a, torch.arange(a.shape[1]).expand(a.shape), b)
    return join(ab, numbers, c)


def _unravelled(a, b, c, k):
    n, rows = a.shape[1], []
    (x, r), (y, s), (z, t) = (p.sort(1, descending=True) for p in (a, b, c))
    for i in range(len(a)):
        sums = x[i, :k, None, None] + y[i, :k, None] + z[i, :k]
        best = sums.flatten().topk(k)
        u, v, w = torch.unravel_index(best.indices, (k, k, k))
        rows.append((best.values, r[i, u] * n * n + s[i, v] * n + t[i, w]))
    return torch.stack([x for x, _ in rows]), torch.stack([e for _, e in rows])


def _from_the_right(a, b, c, k):
    n = a.shape[1]
    bc, pair = (
        (b.topk(k).values[:, :, None] + c.topk(k).values[:, None]).flatten(1).topk(k)
    )
    s = b.topk(k).indices.gather(1, pair // k)
    t = c.topk(k).indices.gather(1, pair % k)
    sums, r = a.topk(k).values[:, :, None] + bc[:, None], a.topk(k).indices
    scores, which = sums.flatten(1).topk(k)
    tail = (s * n + t).gather(1, which % k)
    return scores, r.gather(1, which // k) * n**2 + tail


ALTERNATIVES = (_two_by_two, _unravelled, _from_the_right)

MISTAKES = """
r = r.gather(1, triple // k**2) → r = triple // k**2 ; s = s.gather(1, triple // k % k) → s = triple // k % k ; t = t.gather(1, triple % k) → t = triple % k
    The numbers are made from places among the best. Look up which r, s and t stand at those places.
(r * n + s) * n + t → (r * k + s) * k + t
    The number of an expert is in base n, not k: (r n + s) n + t.
(r * n + s) * n + t → (t * n + s) * n + r
    The digits are turned round: r is the first, t the last.
(r * n + s) * n + t → triple
    These are places among the k³ candidates: turn them into the experts' numbers.
triple // k**2 → triple % k ; triple % k → triple // k**2
    The first and the last digit of the flat index have changed places: r belongs to triple // k².
a.topk(k), b.topk(k), c.topk(k) → a.topk(1), b.topk(k), c.topk(k) ; triple // k**2 → 0 * triple
    Only the best r is tried: each part needs its k best.
(r * n + s) * n + t → (r * n + t) * n + s
    s and t have changed places in the number: it is (r n + s) n + t.
sums.flatten(1).topk(k) → sums.flatten(1).topk(k, largest=False)
    These are the smallest of the candidates: the k largest are asked for.
a.topk(k), b.topk(k), c.topk(k) → a.topk(k, largest=False), b.topk(k, largest=False), c.topk(k, largest=False)
    The candidates are made from the smallest of each part: take the largest.
top_a[:, :, None, None] + top_b[:, None, :, None] + top_c[:, None, None] → top_a[:, :, None, None] * top_b[:, None, :, None] * top_c[:, None, None]
    The parts are multiplied: a score is their sum.
"""

ALSO = (
    swapped("The outputs have changed places: return (scores, experts)."),
    output(
        0,
        lambda s: s.softmax(-1),
        "The scores went through a softmax: return the sums themselves.",
    ),
)
