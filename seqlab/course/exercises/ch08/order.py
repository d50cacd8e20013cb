r"""Project: three items in order, by hand

*Choose the keys of two reflections per token so that a table keeps an order. · 25 minutes · ●●● · 3 points*

The chapter trained a layer to follow permutations of three items. Here *you* choose its numbers. The table has one row, and starts as $S = (1, 2, 3)$: item 1 at place 0, item 2 at place 1, item 3 at place 2. A token is a
permutation `p` of (0, 1, 2) and puts at place $i$ what was at place `p[i]`. For each token you give **two** writes with $v = 0$, that is $S \leftarrow S\,(I - \beta_1 k_1 k_1^\top)(I - \beta_2 k_2 k_2^\top)$.

Write `two_writes(p)`. It returns `k` (2, 3) and `beta` (2,):

- after **each** of 2,000 tokens the table is the true order, to within 0.01;
- each key has length 1, each $\beta$ is between 0 and 2;
- both are float32, and depend on `p` alone.
"""

import torch

from seqlab.course.exercise import Case, Requirement


def two_writes(p):
    """p, a tuple such as (1, 2, 0): k (2, 3) and beta (2,)."""
    ### BEGIN SOLUTION
    k, beta, here = torch.eye(3)[:2], torch.zeros(2), [0, 1, 2]
    n = 0
    for place in range(2):
        other = here.index(p[place])
        if other != place:  # swap the two places
            k[n] = 0
            k[n, place], k[n, other] = 0.5**0.5, -(0.5**0.5)
            beta[n] = 2.0
            here[place], here[other] = here[other], here[place]
            n += 1
    return k, beta
    ### END SOLUTION


WHY = r"""
**Solution.** A swap of places $i$ and $j$ is the reflection along $(e_i - e_j) / \sqrt 2$: that direction turns over, everything across it stays. Every permutation of three items is at most two swaps: bring the right item to place 0, then
to place 1. What is left over gets $\beta = 0$.

In float32, $2 k k^\top$ is off by a rounding or so, and 2,000 tokens do not add up to 0.01: a reflection neither grows nor shrinks an error. With $\beta = 1.99$ each token would lose a part of the order.

With $n$ items, $n - 1$ swaps are enough, so a DeltaProduct with $n - 1$ writes can keep the order of $n$ items. One write per token can do swaps alone.

*Common mistakes:* the swaps in the wrong order, which exchanges the two permutations that move all three; the inverse permutation, with the same symptom; keys of length $\sqrt 2$.
"""

HINTS = (
    "Which reflection swaps two numbers and leaves the third?",
    "Along (e_i - e_j) / √2. Build the permutation from at most two swaps, in the order in which they act.",
    "For place 0: find where p[0] is now, swap it there. Then the same for place 1. Unused writes: beta 0 and any unit key.",
)


def cases(rng):
    def text(name, length):
        from itertools import permutations

        orders = list(permutations(range(3)))
        drawn = torch.randint(6, (length,), generator=rng).tolist()
        return orders, drawn

    orders, _ = text("", 1)
    return [Case(f"p = {p}", {"p": p}) for p in orders]


def _moves(inputs, values):
    """p -> the matrix by which a row is multiplied."""
    found = {}
    for given, (k, beta) in zip(inputs, values, strict=True):
        A = torch.eye(3)
        for key, b in zip(k.float(), beta.float(), strict=True):
            A = A - b * torch.outer(A @ key, key)
        found[given["p"]] = A
    return found


def _off(inputs, values, length, only=None):
    moves = _moves(inputs, values)
    orders = [
        p
        for p in moves
        if only is None
        or sum(a != b for a, b in zip(p, (0, 1, 2), strict=True)) in only
    ]
    rng, worst = torch.Generator().manual_seed(length), 0.0
    S, items = torch.tensor([1.0, 2.0, 3.0]), [1, 2, 3]
    for n in torch.randint(len(orders), (length,), generator=rng).tolist():
        S = S @ moves[orders[n]]
        items = [items[i] for i in orders[n]]
        worst = max(worst, (S - torch.tensor(items).float()).abs().max().item())
        if worst != worst or worst > 100:
            return 100.0
    return worst


def shapes(inputs, values):
    for k, beta in values:
        if (tuple(k.shape), tuple(beta.shape)) != ((2, 3), (2,)):
            return False, f"k {tuple(k.shape)}, beta {tuple(beta.shape)}"
    return True, "they fit"


def single(inputs, values):
    found = {str(u.dtype).removeprefix("torch.") for pair in values for u in pair}
    return found == {"float32"}, ", ".join(sorted(found))


def in_range(inputs, values):
    off = max((k.float().norm(dim=1) - 1).abs().max().item() for k, _ in values)
    low = min(b.min().item() for _, b in values)
    high = max(b.max().item() for _, b in values)
    fine = off < 1e-5 and low >= 0 and high <= 2
    return fine, f"lengths within {off:.1g} of 1, β from {low:.3g} to {high:.3g}"


def swaps(inputs, values):
    worst = _off(inputs, values, 8, only=(0, 2))
    return worst < 0.01, f"off by at most {worst:.2g}"


def rounds(inputs, values):
    worst = _off(inputs, values, 8)
    return worst < 0.01, f"off by at most {worst:.2g}"


def long(inputs, values):
    worst = _off(inputs, values, 2000)
    return worst < 0.01, f"off by at most {worst:.2g}"


REQUIREMENTS = (
    Requirement(
        "k (2, 3) and beta (2,)",
        shapes,
        "The shapes do not fit: a tensor k (2, 3), two keys of three channels, and a tensor beta (2,), two strengths.",
    ),
    Requirement(
        "float32",
        single,
        "k and beta must be float32, the type in which a layer computes.",
    ),
    Requirement(
        "keys of length 1, β between 0 and 2",
        in_range,
        "A key is not of length 1, or a β lies outside 0 … 2: a layer cannot make such a write.",
    ),
    Requirement(
        "texts of 8 tokens that swap two items, or none",
        swaps,
        "Swaps go wrong (or the token that moves nothing does): a swap of i and j is a reflection along e_i - e_j, and an unused write has β = 0.",
    ),
    Requirement(
        "texts of 8 tokens of all kinds",
        rounds,
        "Swaps are right, moving all three round is not: it takes two swaps. If you have two, try them in the other order.",
    ),
    Requirement(
        "2,000 tokens",
        long,
        "Short texts are right, long ones are not: something shrinks or grows a little at every token.",
    ),
)

OUTPUTS = ("k", "beta")


def _by_table(p):
    swap = {(0, 1): 0, (0, 2): 1, (1, 2): 2}
    keys = torch.tensor([[1.0, -1, 0], [1, 0, -1], [0, 1, -1]]) / 2**0.5
    plans = {
        (0, 1, 2): [],
        (1, 0, 2): [(0, 1)],
        (2, 1, 0): [(0, 2)],
        (0, 2, 1): [(1, 2)],
        (1, 2, 0): [(0, 1), (1, 2)],
        (2, 0, 1): [(0, 2), (1, 2)],
    }
    plan = [swap[s] for s in plans[tuple(p)]]
    idle = [0] * (2 - len(plan))
    return keys[plan + idle], torch.tensor([2.0] * len(plan) + [0.0] * len(idle))


ALTERNATIVES = (_by_table,)

MISTAKES = """
return k, beta → return k, beta[:, None]
    The shapes do not fit: a tensor k (2, 3), two keys of three channels, and a tensor beta (2,), two strengths.
0.5**0.5, -(0.5**0.5) → 1.0, -1.0
    A key is not of length 1, or a β lies outside 0 … 2: a layer cannot make such a write.
0.5**0.5, -(0.5**0.5) → 0.5**0.5, 0.5**0.5
    Swaps go wrong (or the token that moves nothing does): a swap of i and j is a reflection along e_i - e_j, and an unused write has β = 0.
return k, beta → return k.flip(0), beta.flip(0)
    Swaps are right, moving all three round is not: it takes two swaps. If you have two, try them in the other order.
beta[n] = 2.0 → beta[n] = 1.9995
    Short texts are right, long ones are not: something shrinks or grows a little at every token.
return k, beta → return k.double(), beta.double()
    k and beta must be float32, the type in which a layer computes.
"""
