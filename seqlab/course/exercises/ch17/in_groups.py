"""Groups, and a trap

*Limit a token to a few groups of experts. · 10 minutes · ●●○ · 2 points*

DeepSeek-V3's experts sit in groups of equal size, one group after the other: with 8 experts in 4 groups, experts 0 and 1 form the first
group. A token may use only `top_groups` groups. The score of a group is the sum of its *two largest* entries of `choice`, which is s + bias. The best
groups are kept, and within them the k experts with the largest `choice` are chosen.

Return 1 for each expert that is chosen and 0 for the others. Beware: the bias may make a `choice` negative. A group has at least two experts, and the
kept groups have at least k.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.vocabulary import input_


def in_groups(choice, n_groups, top_groups, k):
    """Which experts are chosen, as a table of 1 and 0. choice (N, E). Returns (N, E)."""
    ### BEGIN SOLUTION
    groups = choice.unflatten(-1, (n_groups, -1))  # (N, groups, E / groups)
    score = groups.topk(2).values.sum(-1)
    best = score.topk(top_groups).indices
    out = torch.ones_like(score, dtype=torch.bool).scatter(-1, best, False)
    allowed = groups.masked_fill(out[..., None], -torch.inf).flatten(-2)
    return torch.zeros_like(choice).scatter(-1, allowed.topk(k).indices, 1.0)
    ### END SOLUTION


WHY = r"""
**Solution.** Two choices, one inside the other: first of groups, by the sum of their two best, then of experts, with all other groups set to −∞.

The trap is the mask. A published version fills with 0, which is safe as long as all scores are positive: sigmoids are. Then the bias came,
and a `choice` may be below 0. Such an expert loses against the zeros of a forbidden group, and the token is sent where it must not go. Nothing crashes;
the traffic grows, and the balance is off.

*Common mistakes:* 0 in place of −∞; the group's largest entry, or its sum, as its score; experts dealt out to groups like cards.
"""

HINTS = (
    "Give the experts an axis of groups. Score the groups, keep the best, and rule out the others before the second choice.",
    "choice.unflatten(-1, (n_groups, -1)); a group's score is topk(2).values.sum(-1); others are ruled out by -∞, not by 0.",
    "allowed = groups.masked_fill(out[..., None], -torch.inf).flatten(-2), then a topk of k and a scatter of ones.",
)


def reference(choice, n_groups, top_groups, k):
    """With plain lists."""
    N, E = choice.shape
    size, table = E // n_groups, torch.zeros(N, E)
    for n, row in enumerate(choice.tolist()):
        groups = [list(range(g * size, (g + 1) * size)) for g in range(n_groups)]
        groups.sort(key=lambda g: -sum(sorted((row[e] for e in g), reverse=True)[:2]))
        allowed = [e for g in groups[:top_groups] for e in g]
        for e in sorted(allowed, key=lambda e: -row[e])[:k]:
            table[n, e] = 1
    return table


def cases(rng):
    def case(name, N, E, n_groups, top_groups, k, shift=0.0, spread=0.2):
        s = torch.randn(N, E, generator=rng).sigmoid()
        bias = spread * torch.randn(E, generator=rng) + shift
        sizes = {"n_groups": n_groups, "top_groups": top_groups, "k": k}
        return Case(name, {"choice": s + bias} | sizes)

    return [
        case("one token", 1, 8, 4, 2, 2),
        case("odd N, groups of 3", 7, 12, 4, 2, 3),
        case("groups of 4", 9, 16, 4, 2, 4),
        case("one group of four", 6, 12, 4, 1, 2),
        case("some choices below 0", 12, 16, 8, 3, 5, -0.5, 0.4),
        case("all choices below 0", 10, 12, 4, 2, 4, -3.0),
        case("all groups kept", 5, 8, 2, 2, 3),
    ]


OUTPUTS = ("chosen",)

TIME_AXIS = None


def _by_threshold(choice, n_groups, top_groups, k):
    N, E = choice.shape
    groups = choice.view(N, n_groups, E // n_groups)
    score = groups.sort(-1, descending=True).values[..., :2].sum(-1)
    bar = score.topk(top_groups).values[:, -1:]
    out = (score < bar).repeat_interleave(E // n_groups, dim=1)
    left = torch.where(out, torch.tensor(-1e30), choice)
    return (left >= left.topk(k).values[:, -1:]).float()


def _row_by_row(choice, n_groups, top_groups, k):
    size, rows = choice.shape[1] // n_groups, []
    for row in choice:
        score = torch.stack([g.topk(2).values.sum() for g in row.split(size)])
        kept = torch.cat(
            [torch.arange(g * size, (g + 1) * size) for g in score.topk(top_groups)[1]]
        )
        chosen = torch.zeros(len(row))
        chosen[kept[row[kept].topk(k).indices]] = 1.0
        rows.append(chosen)
    return torch.stack(rows)


def _shifted(choice, n_groups, top_groups, k):
    """Made positive first, a mask of 0 is safe. The shift changes no order."""
    c = (choice - choice.min() + 1).unflatten(1, (n_groups, -1))
    score = c.topk(2, dim=-1).values.sum(-1)
    keep = torch.nn.functional.one_hot(score.topk(top_groups).indices, n_groups)
    left = (c * keep.sum(1)[..., None]).flatten(1)
    picked = torch.nn.functional.one_hot(left.topk(k).indices, choice.shape[1])
    return picked.sum(1).float()


ALTERNATIVES = (_by_threshold, _row_by_row, _shifted)

MISTAKES = """
-torch.inf → 0.0
    The groups that are not kept are filled with 0, and 0 beats a negative choice. Rule them out by -∞.
groups.topk(2).values.sum(-1) → groups.amax(-1)
    A group is scored by its largest entry alone: its score is the sum of the two largest.
groups.topk(2).values.sum(-1) → groups.sum(-1)
    A group is scored by the sum (or the mean) of all its entries: only the two largest count.
allowed = groups.masked_fill(out[..., None], -torch.inf).flatten(-2) → allowed = choice
    The groups are ignored: these are the k best of all experts.
choice.unflatten(-1, (n_groups, -1)) → choice.unflatten(-1, (-1, n_groups)).mT ; .flatten(-2) → .mT.flatten(-2)
    Experts are dealt out to the groups like cards. A group holds neighbours: the first E / n_groups experts form the first one.
score.topk(top_groups).indices → score.topk(top_groups, largest=False).indices
    The worst groups are kept: keep those with the largest score.
return torch.zeros_like(choice).scatter(-1, allowed.topk(k).indices, 1.0) → return (allowed > -torch.inf).float()
    All experts of the kept groups are chosen: within those groups only the k best are.
return torch.zeros_like(choice).scatter(-1, allowed.topk(k).indices, 1.0) → return (~out.repeat_interleave(groups.shape[-1], -1) * (choice >= choice.topk(k).values[:, -1:])).float()
    The k best of all experts are taken first, and those outside the kept groups are lost. First the groups, then k experts within them.
allowed.topk(k).indices → allowed.topk(k, largest=False).indices
    The smallest entries are chosen. What is ruled out by -∞ comes first then.
"""

ALSO = (
    input_(
        "choice",
        lambda c: -c,
        "Everything is turned round: the largest choices win, for groups and for experts.",
    ),
)
