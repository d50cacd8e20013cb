r"""Project: a memory three times too full

*Design a feature map that finds 24 pairs again under keys of 8 numbers. · 30 minutes · ●●● · 3 points*

Section 5 of the chapter found the limit: under random keys of K numbers, K pairs fill the memory. Here K = 8, and
24 pairs are stored, each with one of 8 values. Read with the keys as they are, the memory gives the right value
back about six times in ten.

You may put a feature map in front of it. `features(x)` is applied to keys and queries alike, and the check builds the
memory itself: $S = \sum_j v_j\,\varphi(k_j)^\top$, where $v_j$ has a 1 in the place of its value and 0 elsewhere, and
reads the largest entry of $S\,\varphi(q)$. There is no normaliser, and features may be negative. Find a φ that

- returns the same finite features for a vector, whatever else is in the batch and however often it is asked;
- has **at most 128 features**, so that the state stays below 8 × 128 numbers;
- finds the right value for **at least 90 %** of the keys;
- finds it for **at least 80 %** of queries that are not quite the key: a random step of 0.3 was added to the key, and the
  sum scaled back to length 1.

There is more than one way. Ask yourself what $\varphi(q) \cdot \varphi(k)$ should be, as a function of the
angle between the two.
"""

import torch
import torch.nn.functional as F

from seqlab.course.exercise import Case, Requirement

PAIRS, VALUES, MEMORIES = 24, 8, 100


def features(x):
    """Features of unit vectors. x (..., 8); returns (..., D) with D at most 128."""
    ### BEGIN SOLUTION
    i, j, m = torch.combinations(torch.arange(8), r=3, with_replacement=True).T
    distinct = 1 + (i != j).int() + (j != m).int()
    orders = torch.tensor([1.0, 3.0, 6.0])[distinct - 1]
    return x[..., i] * x[..., j] * x[..., m] * orders.sqrt()
    ### END SOLUTION


WHY = r"""
**Solution.** The memory answers with weights $\varphi(q)\cdot\varphi(k_j)$. For the raw keys they are cosines, and a
random cosine in 8 dimensions is about $1/\sqrt 8 = 0.35$: 23 of those drown the one that is 1. The third power of the
cosine is still 1 for the key itself, and about 0.13 for the others. So look for features with
$\varphi(q)\cdot\varphi(k) = (q\cdot k)^3$.

Multiply out: $(q\cdot k)^3 = \sum_{ijm} (q_i q_j q_m)(k_i k_j k_m)$, which is a dot product of 512 products of three
entries. They do not depend on the order of i, j, m, so only 120 are different; each gets the root of the
number of its orders (1, 3 or 6), once from q and once from k. 120 features fit.

*Other ways:* the weights of a sharp softmax over 128 fixed directions, `softmax(20 * x @ W.T, -1)`, reach both bounds, though
only just. *What falls short:* ELU + 1 finds a fifth, because all its weights are positive and similar;
the second power with its 36 features 86 %; a one-hot code of the nearest direction finds nine of ten exact keys, but
only about half of the inexact ones, since a small step may cross a border.
"""

HINTS = (
    "23 small weights drown the one that is 1. Which function of the cosine keeps 1 and makes the small ones smaller?",
    "(q·k)³ is a dot product: of all products q_i q_j q_m with all products k_i k_j k_m.",
    "Of 512 products only 120 differ: torch.combinations(torch.arange(8), 3, with_replacement=True) lists them; "
    "give each the root of the number of its orders.",
)


def unit(x):
    return F.normalize(x, dim=-1)


def cases(rng):
    keys = unit(torch.randn(MEMORIES, PAIRS, 8, generator=rng))
    step = 0.3 * torch.randn(MEMORIES, PAIRS, 8, generator=rng) / 8**0.5
    return [
        Case("keys", {"x": keys}),
        Case("inexact queries", {"x": unit(keys + step)}),
        Case("the first key alone", {"x": keys[0, 0]}),
    ]


def the_same_each_time(inputs, outputs):
    first, again = outputs[0][0, 0], outputs[2]
    if not all(bool(y.isfinite().all()) for y in outputs):
        return False, "some are not finite"
    gap = (first - again).abs().max().item()
    return gap <= 1e-4, f"the first key, asked again alone, differs by up to {gap:.2g}"


def at_most_128(inputs, outputs):
    n = outputs[0].shape[-1]
    return n <= 128, f"{n} features"


def found(keys, queries):
    """The share of values that come back right."""
    rng = torch.Generator().manual_seed(0)
    stored = torch.randint(VALUES, (MEMORIES, PAIRS), generator=rng)
    S = F.one_hot(stored, VALUES).to(keys).mT @ keys
    return ((queries @ S.mT).argmax(-1) == stored).double().mean().item()


def recall(inputs, outputs):
    share = found(outputs[0], outputs[0])
    return share >= 0.9, f"{share:.0%}"


def recall_nearby(inputs, outputs):
    share = found(outputs[0], outputs[1])
    return share >= 0.8, f"{share:.0%}"


REQUIREMENTS = (
    Requirement(
        "finite, and the same each time",
        the_same_each_time,
        "The features of one vector must be finite, and may depend on nothing else: if directions are drawn, draw them "
        "once (with a generator of their own), and use no statistics of the batch.",
    ),
    Requirement(
        "at most 128 features",
        at_most_128,
        "The state is too large. Products of entries in another order are the same number: keep each once.",
    ),
    Requirement(
        "90 % of the keys find their value",
        recall,
        "Too many values are lost: the weights of the other 23 keys are still too large beside that of the right one. "
        "Print φ(q)·φ(k) for two random unit vectors, and compare it with φ(k)·φ(k).",
    ),
    Requirement(
        "80 % of the inexact queries find it",
        recall_nearby,
        "A query near its key is not recognised: φ changes too much over a small step. Features that jump cannot be "
        "trained through either.",
    ),
    Requirement(
        "in float32, as x is",
        lambda inputs, outputs: (
            outputs[0].dtype == torch.float32,
            str(outputs[0].dtype),
        ),
        "The features should have the precision of x, float32.",
    ),
)

DIRECTIONS = unit(torch.randn(128, 8, generator=torch.Generator().manual_seed(1)))

ALTERNATIVES = (
    lambda x: (20 * x @ DIRECTIONS.mT).softmax(-1),
    lambda x: torch.stack(
        [
            x[..., i]
            * x[..., j]
            * x[..., m]
            * len({(i, j, m), (i, m, j), (j, i, m), (j, m, i), (m, i, j), (m, j, i)})
            ** 0.5
            for i in range(8)
            for j in range(i, 8)
            for m in range(j, 8)
        ],
        dim=-1,
    ),
)

MISTAKES = """
* → return (3 * x @ torch.randn(8, 128)).softmax(-1)
    The features of one vector must be finite, and may depend on nothing else: if directions are drawn, draw them
    once (with a generator of their own), and use no statistics of the batch.
* → return torch.einsum("...i,...j,...m->...ijm", x, x, x).flatten(-3)
    The state is too large. Products of entries in another order are the same number: keep each once.
* → return F.elu(x) + 1
    Too many values are lost: the weights of the other 23 keys are still too large beside that of the right one.
    Print φ(q)·φ(k) for two random unit vectors, and compare it with φ(k)·φ(k).
* → return F.one_hot((x @ DIRECTIONS.mT).argmax(-1), 128).float()
    A query near its key is not recognised: φ changes too much over a small step. Features that jump cannot be
    trained through either.
x[..., i] * → x.double()[..., i] *
    The features should have the precision of x, float32.
"""
