"""First choices first

*Give out places to tokens that choose several experts. · 12 minutes · ●●○ · 2 points*

In the chapter a token has one choice, and tokens take places in their order. With k choices there is more to decide. GShard's rule, which many
trainers use: *all first choices come before all second choices*, and so on. Within the same rank, the order is that of the tokens. Each
expert has the same number of places, over all ranks together. A choice that finds its expert full is dropped.

Return the weights with 0 for each choice that is dropped. Weights that stay are not changed. A token never chooses the same expert twice.
"""

import torch
import torch.nn.functional as F

from seqlab.course.exercise import Case
from seqlab.course.exercises.vocabulary import output


def drop(weights, experts, n_experts, places):
    """The weights, with 0 where a choice is dropped.

    weights (N, k), experts (N, k) of int64: column j is the choice of rank j. places: those of each expert.
    """
    ### BEGIN SOLUTION
    N, k = experts.shape
    queue = experts.T.flatten()  # all first choices, then all second ones
    asked = F.one_hot(queue, n_experts)
    turn = (asked.cumsum(0) * asked).sum(-1)  # 1 for the first who asks
    kept = (turn <= places).view(k, N).T
    return weights * kept
    ### END SOLUTION


WHY = r"""
**Solution.** Put all choices into one queue in the order in which they are served: transpose, then flatten. A cumulative sum of one-hot rows
counts, for each expert, how many have asked so far; each choice reads its own expert's count. Who reads at most `places` is served. The last
line takes the queue back to (N, k).

Why first choices first? Otherwise a second choice of an early token takes a place from the first choice of a later one, and the first
choice has the larger weight.

*Common mistakes:* flattening without the transpose (token by token); a count for each rank, so that an expert has places twice; scaling the weights that are
left.
"""

HINTS = (
    "In which order are the N k choices served? Put them into one queue in that order.",
    "experts.T.flatten() is the queue. One-hot rows and a cumulative sum count how many asked for each expert so far.",
    "asked = F.one_hot(queue, n_experts); turn = (asked.cumsum(0) * asked).sum(-1); kept = (turn <= places).view(k, N).T.",
)


def reference(weights, experts, n_experts, places):
    """One choice after the other."""
    left, kept = [places] * n_experts, torch.zeros_like(weights)
    for rank in range(experts.shape[1]):
        for n, e in enumerate(experts[:, rank].tolist()):
            if left[e]:
                left[e] -= 1
                kept[n, rank] = 1
    return weights * kept


def _choices(rng, N, E, k, lean=0.0):
    logits = torch.randn(N, E, generator=rng) + lean * torch.arange(E)
    return logits.softmax(-1).topk(k)


def cases(rng):
    def case(name, N, E, k, places, lean=0.0, learned=False):
        weights, experts = _choices(rng, N, E, k, lean)
        inputs = {"weights": weights.requires_grad_(learned), "experts": experts}
        return Case(name, inputs | {"n_experts": E, "places": places})

    return [
        case("one token", 1, 3, 2, 1),
        case("k = 1", 9, 3, 1, 2),
        case("odd N, k = 2", 11, 4, 2, 3),
        case("k = 3, learned", 10, 4, 3, 4, learned=True),
        case("nearly all want one expert", 12, 4, 2, 3, 2.0),
        case("room for all", 6, 3, 2, 6),
        case("no place at all", 4, 3, 2, 0),
    ]


OUTPUTS = ("weights",)

TIME_AXIS = None


def _sorted(weights, experts, n_experts, places):
    N, k = experts.shape
    queue = experts.T.reshape(-1)
    order = queue.argsort(stable=True)
    load = torch.bincount(queue, minlength=n_experts)
    start = (load.cumsum(0) - load)[queue[order]]
    turn = torch.empty_like(order)
    turn[order] = torch.arange(N * k) - start
    return torch.where((turn < places).view(k, N).T, weights, 0.0)


def _rank_by_rank(weights, experts, n_experts, places):
    used, columns = torch.zeros(n_experts, dtype=torch.int64), []
    for rank in range(experts.shape[1]):
        e = experts[:, rank]
        asked = F.one_hot(e, n_experts)
        before = (asked.cumsum(0) - asked + used).gather(1, e[:, None])[:, 0]
        columns.append(weights[:, rank] * (before < places))
        used = used + asked.sum(0)
    return torch.stack(columns, 1)


def _pairwise(weights, experts, n_experts, places):
    N, k = experts.shape
    queue = experts.T.flatten()
    rivals = (queue[:, None] == queue).tril(-1).sum(1)
    rivals = rivals.view(k, N).T
    kept = rivals.lt(places)
    return weights * kept


ALTERNATIVES = (_sorted, _rank_by_rank, _pairwise)

MISTAKES = """
experts.T.flatten() → experts.flatten() ; .view(k, N).T → .view(N, k)
    Places are given token by token: the second choice of an early token comes before the first choice of a later one.
asked.cumsum(0) * asked → asked.view(k, N, -1).cumsum(1).view(k * N, -1) * asked
    Each rank has places of its own, so an expert serves too many. The places are shared by all ranks.
return weights * kept → kept = weights * kept ⏎ return kept / kept.sum(-1, keepdim=True).clamp(min=1e-9) * weights.sum(-1, keepdim=True)
    The weights that are left are scaled up. They stay as they are.
return weights * kept → return weights * kept.all(-1, keepdim=True)
    A token with one dropped choice loses all of them. Only the choice that finds its expert full is dropped.
experts.T.flatten() → experts.T.flip(0).flatten() ; .view(k, N).T → .view(k, N).flip(0).T
    The last choices are served first: all first choices come before all second ones.
experts.T.flatten() → experts.flip(0).T.flatten() ; .view(k, N).T → .view(k, N).T.flip(0)
    The last token is served first: within a rank, the order is that of the tokens.
return weights * kept → return weights * ~kept
    Kept and dropped have changed places: these are the choices that find no room.
return weights * kept → return kept.float() + 0 * weights
    This is 1 for each choice that is kept: the weights are missing.
experts.T.flatten() → experts.T.gather(1, weights[:, 0].argsort(descending=True).expand(k, N)).flatten() ; .view(k, N).T → .view(k, N).T.gather(0, weights[:, 0].argsort(descending=True).argsort()[:, None].expand(N, k))
    Tokens with a larger first weight are served first. The order within a rank is that of the tokens in the text.
return weights * kept → return weights * (kept & kept.cummin(1).values)
    A token whose first choice is dropped loses its second one too. Each choice is dropped or kept on its own.
"""

ALSO = (
    output(
        0,
        lambda w: w.cumsum(1),
        "The weights of a token are added up from rank to rank: each choice keeps its own.",
    ),
)
