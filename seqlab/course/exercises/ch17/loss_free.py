"""A bias that only chooses

*Route with the loss-free bias, and update it. · 10 minutes · ●●○ · 2 points*

Scores s lie between 0 and 1, and each token takes the k experts with the largest s + bias. Its weights are the scores s of the chosen, divided by
their sum; all other experts have weight 0. Then the bias moves: by `rate` upwards for an expert below the mean load, by `rate` downwards for one
above it, and not at all for one that is exactly at the mean. The load counts the tokens of *all* sequences.

Return the weights as a table, and the new bias. The bias that you are given must not be changed.
"""

import torch
import torch.nn.functional as F

from seqlab.course.exercise import Case
from seqlab.course.exercises.vocabulary import first_sequence, old_state, swapped


def loss_free(scores, bias, k, rate):
    """Weights (B, T, E) with 0 for those not chosen, and the bias for the next step (E,).

    scores (B, T, E) in (0, 1), bias (E,).
    """
    ### BEGIN SOLUTION
    experts = (scores + bias).topk(k).indices
    chosen = F.one_hot(experts, len(bias)).sum(-2).float()  # 1 for those chosen
    weights = scores * chosen
    weights = weights / weights.sum(-1, keepdim=True)
    load = chosen.flatten(0, 1).sum(0)
    return weights, bias + rate * (load.mean() - load).sign()
    ### END SOLUTION


WHY = r"""
**Solution.** The bias appears twice, and never in a weight: in `topk`, and in its own update. So it has no gradient and disturbs none. A token whose favourite expert is
full in the long run is sent elsewhere, but its output still depends only on its own scores.

The step has a fixed size. With a step in proportion to the error, an expert with ten times the mean load would be pushed away at
once, and return as fast; the authors found the sign slightly better.

*Common mistakes:* the bias in the weights (then it acts like a loss without a gradient: it changes what the layer computes); the sign
turned round; the load of one sequence.
"""

HINTS = (
    "Where does the bias belong: in the choice, in the weights, or in both?",
    "Choose by (scores + bias).topk(k). Weights: scores of the chosen over their sum. Bias: + rate · sign(mean load - load).",
    "chosen = F.one_hot(experts, E).sum(-2).float(); weights = scores * chosen, divided by their sum; load = chosen.flatten(0, 1).sum(0).",
)


def reference(scores, bias, k, rate):
    """Token by token, with plain numbers."""
    B, T, E = scores.shape
    load, rows = [0] * E, []
    for row in scores.flatten(0, 1):
        order = sorted(range(E), key=lambda e: -(row[e] + bias[e]).item())[:k]
        total = sum(row[e] for e in order)
        rows.append(
            torch.stack(
                [row[e] / total if e in order else 0 * row[e] for e in range(E)]
            )
        )
        for e in order:
            load[e] += 1
    mean = B * T * k / E
    step = [rate * ((mean > n) - (mean < n)) for n in load]
    return torch.stack(rows).view(B, T, E), bias + torch.tensor(step)


def cases(rng):
    def case(name, B, T, E, k, rate=0.01, size=0.3, learned=False):
        scores = torch.randn(B, T, E, generator=rng).sigmoid()
        bias = size * torch.randn(E, generator=rng)
        scores = scores.requires_grad_(learned)
        return Case(name, {"scores": scores, "bias": bias, "k": k, "rate": rate})

    return [
        case("one token", 1, 1, 4, 2),
        case("no bias", 2, 5, 4, 2, size=0.0),
        case("odd T, k = 3", 3, 7, 5, 3),
        case("a large bias, below 0 too", 2, 6, 6, 2, size=3.0),
        case("k = 1, learned", 2, 8, 4, 1, learned=True),
        case("k = 2, learned, a large rate", 2, 8, 4, 2, 0.5, learned=True),
        case("all chosen: the load is even", 1, 3, 3, 3),
    ]


OUTPUTS = ("weights", "bias")

TIME_AXIS = {"weights": 1, "bias": None}


def _gathered(scores, bias, k, rate):
    experts = torch.topk(scores.detach() + bias, k, dim=-1).indices
    picked = scores.gather(-1, experts)
    picked = picked / picked.sum(dim=-1, keepdim=True)
    load = torch.bincount(experts.flatten(), minlength=len(bias)).float()
    weights = torch.zeros_like(scores).scatter(-1, experts, picked)
    return weights, bias + rate * torch.sign(load.mean() - load)


def _by_rank(scores, bias, k, rate):
    rank = (scores + bias).argsort(-1, descending=True).argsort(-1)
    kept = torch.where(rank < k, scores, torch.zeros(()))
    load = (rank < k).float().mean((0, 1))
    up, down = (load < k / len(bias) - 1e-6), (load > k / len(bias) + 1e-6)
    return kept / kept.sum(-1, keepdim=True), bias + rate * (up.float() - down.float())


def _by_softmax_of_logs(scores, bias, k, rate):
    experts = (scores + bias).topk(k).indices
    chosen = torch.nn.functional.one_hot(experts, len(bias)).sum(-2)
    logs = scores.log().masked_fill(chosen == 0, -torch.inf)
    load = chosen.sum((0, 1)).float()
    return logs.softmax(-1), bias + rate * (load.mean() - load).sign()


ALTERNATIVES = (_gathered, _by_rank, _by_softmax_of_logs)

MISTAKES = """
weights = scores * chosen → weights = (scores + bias) * chosen
    The bias is in the weights: it chooses, and never weighs. Use the scores alone there.
(scores + bias).topk(k).indices → scores.topk(k).indices
    The bias is not used in the choice: the experts with the largest s + bias are taken.
(load.mean() - load).sign() → (load - load.mean()).sign()
    The bias moves the wrong way: it rises for an expert below the mean load.
(load.mean() - load).sign() → (load.mean() - load)
    The step is in proportion to the error: it has a fixed size, rate, so the sign is missing.
weights = weights / weights.sum(-1, keepdim=True) → weights = weights
    The weights are not divided by their sum: in each row they add up to 1.
weights = weights / weights.sum(-1, keepdim=True) → weights = weights / scores.sum(-1, keepdim=True)
    The weights are divided by the sum over all experts: divide by that of the chosen alone.
load = chosen.flatten(0, 1).sum(0) → load = chosen[0].sum(0)
    The load counts the first sequence alone: it counts the tokens of all of them.
load = chosen.flatten(0, 1).sum(0) → load = weights.flatten(0, 1).sum(0)
    The load adds up weights: it counts tokens, whatever their weight.
load = chosen.flatten(0, 1).sum(0) → load = scores.flatten(0, 1).sum(0)
    The load adds up scores, of the chosen and of all others: it counts the tokens that each expert serves.
weights = weights / weights.sum(-1, keepdim=True) → weights = weights.masked_fill(chosen == 0, -torch.inf).softmax(-1)
    The weights are a softmax of the scores: here they are the scores divided by their sum.
bias + rate * (load.mean() - load).sign() → rate * (load.mean() - load).sign()
    The new bias is the step alone: add it to the old bias.
"""

ALSO = (
    old_state("bias", 1),
    swapped("The outputs have changed places: return (weights, bias)."),
    first_sequence("scores"),
)
