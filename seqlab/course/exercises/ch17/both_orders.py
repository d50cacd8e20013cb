"""The two orders

*Softmax over the chosen, or choose after the softmax. · 5 minutes · ●○○ · 1 point*

A router has logits for each token and takes the k largest. Its weights can be made in two orders:

- *choose, then softmax*: a softmax over the k chosen logits alone (noisy top-k, Mixtral);
- *softmax, then choose*: a softmax over all experts, of which the chosen ones are kept as they are (Switch, Jamba).

Return both as dense tables: a weight for each expert, and exactly 0 for an expert that is not chosen. The names of the parameters must
stay.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.vocabulary import output, swapped


def both_orders(logits, k):
    """Two tables of weights: choose then softmax, softmax then choose.

    logits (N, E), k: how many are chosen. Returns (chosen_first, softmax_first), both (N, E).
    """
    ### BEGIN SOLUTION
    chosen = torch.zeros_like(logits).scatter(-1, logits.topk(k).indices, 1.0)
    softmax_first = logits.softmax(-1) * chosen
    chosen_first = logits.masked_fill(chosen == 0, -torch.inf).softmax(-1)
    return chosen_first, softmax_first
    ### END SOLUTION


WHY = r"""
**Solution.** A mask of the chosen serves both. After the softmax, multiply by it. Before the softmax, set everything else to −∞: its
exponential is exactly 0. (Dividing `softmax_first` by its sum gives `chosen_first` again, unless all chosen probabilities underflow.)

*Common mistakes:* filling with 0 in place of −∞, which is just another logit; dividing both tables by their sums; a softmax over the
tokens.
"""

HINTS = (
    "Make a table that is 1 for the chosen experts and 0 for the others. What must happen with it before a softmax, and what after?",
    "Before a softmax, an expert is left out by a logit of -∞. After it, by a factor of 0.",
    "chosen = zeros.scatter(-1, topk indices, 1.0); logits.masked_fill(chosen == 0, -inf).softmax(-1) and logits.softmax(-1) * chosen.",
)


def reference(logits, k):
    """Token by token in float64, by the definition."""
    first, second = [], []
    for row in logits.double():
        best = set(sorted(range(len(row)), key=lambda e: -row[e].item())[:k])
        weight = (row - row.max()).exp()
        keep = torch.tensor([float(e in best) for e in range(len(row))])
        first.append(weight * keep / (weight * keep).sum())
        second.append(weight * keep / weight.sum())
    return torch.stack(first).float(), torch.stack(second).float()


def cases(rng):
    def case(name, N, E, k, size=1.0, learned=False):
        logits = size * torch.randn(N, E, generator=rng)
        return Case(name, {"logits": logits.requires_grad_(learned), "k": k})

    return [
        case("one token", 1, 4, 2),
        case("k = 1", 5, 4, 1),
        case("odd N, k = 2, learned", 7, 5, 2, learned=True),
        case("all experts chosen", 3, 4, 4),
        case("large logits", 6, 8, 3, 60.0),
    ]


def effort(inputs, effort):
    if not effort.gradient_finite:
        return "The values are right, but the gradient of the logits is not finite: a router could not be trained through it."
    return None


OUTPUTS = ("chosen_first", "softmax_first")

TIME_AXIS = None


def _scattered(logits, k):
    top, index = logits.topk(k)
    zero = torch.zeros_like(logits)
    p = logits.softmax(-1)
    return zero.scatter(-1, index, top.softmax(-1)), zero.scatter(
        -1, index, p.gather(-1, index)
    )


def _divided(logits, k):
    bar = logits.topk(k).values[:, -1:]
    kept = torch.where(logits >= bar, logits, -torch.inf)
    ratio = (
        torch.logsumexp(kept, -1, keepdim=True) - logits.logsumexp(-1, keepdim=True)
    ).exp()
    return kept.softmax(-1), kept.softmax(-1) * ratio


def _by_exp(logits, k):
    e = (logits - logits.amax(-1, keepdim=True)).exp()
    rank = logits.argsort(-1, descending=True).argsort(-1)
    kept = e * (rank < k)
    return kept / kept.sum(-1, keepdim=True), kept / e.sum(-1, keepdim=True)


ALTERNATIVES = (_scattered, _divided, _by_exp)

MISTAKES = """
-torch.inf → 0.0
    The experts that are not chosen get a logit of 0 before the softmax, and e⁰ = 1 is a weight. They need -∞.
softmax_first = logits.softmax(-1) * chosen → softmax_first = logits.masked_fill(chosen == 0, -torch.inf).softmax(-1)
    Both tables add up to 1 in each row. In softmax_first the chosen probabilities stay as they are: the sum is below 1.
chosen_first = logits.masked_fill(chosen == 0, -torch.inf).softmax(-1) → chosen_first = softmax_first
    Both tables are the softmax over all experts. In chosen_first the softmax runs over the chosen alone, so each row adds up to 1.
logits.topk(k).indices → logits.topk(k, largest=False).indices
    These are the weights of the k smallest logits: the k largest are chosen.
softmax_first = logits.softmax(-1) * chosen → softmax_first = logits.softmax(0) * chosen
    In softmax_first the softmax runs over the tokens: it runs over the experts, the last axis.
softmax_first = logits.softmax(-1) * chosen → softmax_first = logits.softmax(-1)
    softmax_first is not cut: experts that are not chosen must have a weight of exactly 0.
chosen_first = logits.masked_fill(chosen == 0, -torch.inf).softmax(-1) → chosen_first = (logits * chosen).softmax(-1) * chosen
    In chosen_first the other experts took part in the softmax with a logit of 0, and were cut off afterwards: leave them out before it.
logits.topk(k).indices → logits.topk(1).indices
    Only the best expert has a weight: k of them are chosen.
"""

ALSO = (
    swapped("The tables have changed places: return (chosen_first, softmax_first)."),
    output(
        0,
        lambda w: w / w.shape[-1],
        "chosen_first is divided by the number of experts: each row must add up to 1.",
    ),
)
