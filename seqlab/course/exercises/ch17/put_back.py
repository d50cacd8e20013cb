r"""The way back

*Undo a dispatch by sorting: gather with the inverse of the sort. · 12 minutes · ●●○ · 2 points*

Dispatch by sorting lines the (token, slot) pairs up by expert; within an expert they keep their order, token by token and slot by slot. The experts have
run, and `served` holds their outputs in that order. The chapter adds them back with `index_add`. Find each row by the *inverse* of the sort instead: then
the result needs no addition from many places at once, which on a GPU is neither ordered nor reproducible.

Some pairs were dropped: their expert is −1, and they have no row in `served`. They add nothing. Return the sum over the slots,

$$y_n = \sum_j w_{nj}\, E_{nj}(x_n)$$
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.vocabulary import output


def put_back(served, experts, weights):
    """y (N, D). served (P, D): a row for each pair that was kept, sorted by expert. experts, weights (N, k); expert -1: dropped."""
    ### BEGIN SOLUTION
    N, k = experts.shape
    expert = experts.flatten()
    # dropped pairs go behind all others
    order = expert.float().masked_fill(expert < 0, torch.inf).argsort(stable=True)
    place = order.argsort()  # the inverse: where each pair stands
    rows = served.new_zeros(N * k, served.shape[1])
    rows[: len(served)] = served
    return (rows[place].view(N, k, -1) * weights[..., None]).sum(1)
    ### END SOLUTION


WHY = r"""
**Solution.** `order[i]` is the pair that stands at place i. The inverse, `order.argsort()`, is the place at which pair i stands: sorting a permutation undoes
it. With it every pair *gathers* its row, and a sum over the slots finishes. Dropped pairs sort behind everything, where rows of zeros wait for them.

Forward dispatch is a gather and this is a gather too; in the backward pass both become each other's.

*Common mistakes:* using `order` where its inverse is needed (right only if the sort changes nothing, or swaps pairs); −1 left as it is, so that dropped pairs
sort to the *front*; an unstable sort, which is right in tests of small size and wrong later.
"""

HINTS = (
    "order = argsort tells which pair stands at each place. You need the opposite: where does each pair stand?",
    "The inverse of a permutation is its own argsort. Dropped pairs must sort behind the last expert, where you add rows of zeros.",
    "place = order.argsort(); rows = zeros (N k, D) that begin with served; y = (rows[place].view(N, k, -1) * weights[..., None]).sum(1).",
)


def reference(served, experts, weights):
    """Row by row, expert by expert."""
    pairs = [
        (n, j)
        for e in range(int(experts.max()) + 1)
        for n in range(len(experts))
        for j in range(experts.shape[1])
        if experts[n, j] == e
    ]
    y = [served.new_zeros(served.shape[1]) for _ in experts]
    for row, (n, j) in zip(served, pairs, strict=True):
        y[n] = y[n] + weights[n, j] * row
    return torch.stack(y)


def cases(rng):
    def case(name, N, E, k, D, dropped=0.0, learned=False):
        logits = torch.randn(N, E, generator=rng)
        weights, experts = logits.softmax(-1).topk(k)
        lost = torch.rand(N, k, generator=rng) < dropped
        lost[0, 0] = False
        experts = experts.masked_fill(lost, -1)
        served = torch.randn(int((experts >= 0).sum()), D, generator=rng)
        inputs = {"served": served.requires_grad_(learned), "experts": experts}
        return Case(name, inputs | {"weights": weights.requires_grad_(learned)})

    return [
        case("one token, two experts", 1, 4, 2, 3),
        case("k = 1", 7, 3, 1, 2),
        case("odd N, k = 2", 9, 4, 2, 5),
        case("k = 3, learned", 6, 5, 3, 2, learned=True),
        case("some dropped", 11, 4, 2, 3, 0.3),
        case("most dropped, learned", 12, 3, 2, 4, 0.8, True),
        case("many tokens", 40, 4, 2, 2),
    ]


OUTPUTS = ("y",)

TIME_AXIS = 0


def _inverse_by_scatter(served, experts, weights):
    flat = experts.reshape(-1)
    keep = (flat >= 0).nonzero()[:, 0]
    order = keep[flat[keep].argsort(stable=True)]
    place = torch.full_like(flat, len(served))
    place[order] = torch.arange(len(order))
    rows = torch.cat([served, served.new_zeros(1, served.shape[1])])
    return torch.einsum("nkd, nk -> nd", rows[place].view(*experts.shape, -1), weights)


def _by_counting(served, experts, weights):
    flat = experts.flatten()
    here = (flat[:, None] == torch.arange(int(flat.max()) + 1)).long()
    start = here.sum(0).cumsum(0) - here.sum(0)
    place = ((here.cumsum(0) - 1 + start) * here).sum(1)
    rows = served[place] * (flat >= 0)[:, None]
    return (rows.unflatten(0, experts.shape) * weights.unsqueeze(-1)).sum(1)


ALTERNATIVES = (_inverse_by_scatter, _by_counting)

_ADDS = "The values are right, but rows from many places are added into one: gather each row by the inverse of the sort instead."

RULED_OUT = {
    "index_add": _ADDS,
    "index_add_": _ADDS,
    "scatter_add": _ADDS,
    "scatter_add_": _ADDS,
}

MISTAKES = """
rows[place] → rows[order]
    The order is used where its inverse is needed: order tells which pair stands at a place, and you need the place of each pair.
expert.float().masked_fill(expert < 0, torch.inf).argsort(stable=True) → expert.argsort(stable=True)
    The dropped pairs sort to the front, as -1 is the smallest, and all others read a row too late. They must sort behind the last expert.
* weights[..., None] → * (experts >= 0)[..., None]
    The weights are missing: each row counts with its weight.
rows[place].view(N, k, -1) → rows.view(N, k, -1)
    The rows are taken as they come, sorted by expert: they must be brought back to the order of the pairs.
weights[..., None]).sum(1) → weights[..., None]).mean(1)
    This is the mean over the slots: it is their sum.
* weights[..., None] → * weights.flatten()[order].view(N, k, 1)
    The weights are put into the order of the experts, and the rows are not: both must be in the order of the pairs.
rows[place].view(N, k, -1) → rows[place].view(k, N, -1).transpose(0, 1)
    The pairs are taken slot by slot: they are numbered token by token.
.sum(1) → [:, 0]
    Only the first slot is returned: add up all k.
expert = experts.flatten() → expert = experts.T.flatten() ; rows[place].view(N, k, -1) → rows[place].view(k, N, -1).transpose(0, 1)
    Within an expert the pairs are lined up slot by slot: they keep their order token by token, then slot by slot.
* weights[..., None] → * (weights * (experts >= 0) / (weights * (experts >= 0)).sum(-1, keepdim=True).clamp(min=1e-9))[..., None]
    The weights are divided by the sum of those that were kept. They stay as they are.
"""

ALSO = (
    output(
        0,
        lambda y: y.flip(0),
        "The tokens come in reverse order.",
    ),
)
