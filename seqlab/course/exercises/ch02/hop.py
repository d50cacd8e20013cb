r"""One hop of a memory network

*Write attention over a memory that may be empty. · 10 minutes · ●●○ · 2 points*

A hop compares the question u with an embedding A of each fact, and adds the weighted sum of another embedding C to it:

$$p = \mathrm{softmax}_n\; u \cdot (A\,x_n) \qquad u' = u + \sum_n p_n\, C\,x_n$$

In a batch, stories have different numbers of facts: `there` is False for places that hold none. They get the weight 0. A story with *no* facts keeps its u, and all its
weights are 0. No value may become NaN, and the scores may be of any size.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch02.shared import _rand, _randn
from seqlab.course.exercises.vocabulary import first_sequence, swapped


def hop(u, facts, A, C, there):
    """One hop. u (B, K), facts (B, N, D), A and C (K, D), there (B, N) of bool. Returns (u, p): (B, K) and (B, N)."""
    ### BEGIN SOLUTION
    scores = torch.einsum("bk, bnk -> bn", u, facts @ A.mT)
    scores = scores.masked_fill(~there, torch.finfo(scores.dtype).min)
    p = scores.softmax(dim=-1) * there
    return u + torch.einsum("bn, bnk -> bk", p, facts @ C.mT), p
    ### END SOLUTION


WHY = r"""
**Solution.** The mask goes in *before* the softmax, so that the weights of the facts that are there add up to 1. The most negative finite number does what -∞ does, except in a story
with no facts at all: there -∞ gives 0/0 = NaN, while equal numbers give equal weights, which the last product sets to 0.

The last product changes nothing in other stories: their masked weights are 0 already.

*Common mistakes:* masking only after the softmax leaves weights that add up to less than 1; setting scores to 0 is no mask at all, because $e^0 = 1$.
"""

HINTS = (
    "What would the softmax of a row do in which every score is -∞? And where must the mask come, before or after it?",
    "masked_fill with the most negative finite number, softmax, then times the mask.",
    "scores = einsum('bk, bnk -> bn', u, facts @ A.mT).masked_fill(~there, torch.finfo(u.dtype).min); p = scores.softmax(-1) * there; "
    "u + einsum('bn, bnk -> bk', p, facts @ C.mT).",
)


def reference(u, facts, A, C, there):
    """One story at a time, only over the facts that are there, in float64."""
    new, weights = [], []
    for u_b, facts_b, there_b in zip(u.double(), facts.double(), there, strict=True):
        p = torch.zeros(len(facts_b)).double()
        found = facts_b[there_b]
        if len(found):
            scores = torch.stack([(u_b * (A.double() @ x)).sum() for x in found])
            p[there_b] = (scores - scores.max()).exp() / (
                scores - scores.max()
            ).exp().sum()
        new.append(
            u_b + sum((w * (C.double() @ x) for w, x in zip(p, facts_b, strict=True)))
        )
        weights.append(p)
    return torch.stack(new).float(), torch.stack(weights).float()


def cases(rng):
    def case(name, there, D, K, scale=1.0):
        there = torch.tensor(there).bool()
        B, N = there.shape
        inputs = {
            "u": scale * _randn(rng, B, K),
            "facts": _randn(rng, B, N, D),
            "A": _randn(rng, K, D) / D**0.5,
            "C": _randn(rng, K, D),
            "there": there,
        }
        return Case(name, inputs)

    low = case("scores far below 0", [[1, 1, 0], [1, 0, 1]], 3, 2)
    low.inputs.update(
        u=40 + _rand(rng, 2, 2), facts=1 + _rand(rng, 2, 3, 3), A=-1 - _rand(rng, 2, 3)
    )
    return [
        low,
        case("one fact", [[1]], 3, 2),
        case("all are there, D ≠ K", [[1, 1, 1], [1, 1, 1]], 5, 3),
        case("D = K", [[1, 1, 1, 1], [1, 0, 1, 1]], 3, 3),
        case("some are missing", [[1, 0, 1, 0, 0], [0, 1, 1, 1, 0]], 4, 3),
        case("a story with no facts", [[0, 0, 0], [1, 1, 0]], 4, 2),
        case("no story has any", [[0, 0], [0, 0]], 2, 3),
        case("large scores", [[1, 1, 1, 0], [0, 1, 1, 1]], 4, 3, 100.0),
    ]


OUTPUTS = ("u", "p")

TIME_AXIS = None


def _absorbed(u, facts, A, C, there):
    """A moves to the question, C behind the sum."""
    scores = (facts @ (u @ A)[..., None])[..., 0]
    lowest = torch.finfo(scores.dtype).min
    p = torch.where(there, scores, lowest).softmax(-1).where(there, 0)
    return u + torch.einsum("bn, bnd -> bd", p, facts) @ C.mT, p


def _by_exponentials(u, facts, A, C, there):
    scores = torch.matmul(facts @ A.T, u.unsqueeze(-1)).squeeze(-1)
    top = (
        scores.where(there, torch.tensor(-1e30)).amax(1, keepdim=True).clamp(min=-1e20)
    )
    weight = (scores - top).clamp(max=0).exp() * there
    p = weight / weight.sum(1, keepdim=True).clamp(min=1e-30)
    return u + (p.unsqueeze(1) @ (facts @ C.T)).squeeze(1), p


def _story_by_story(u, facts, A, C, there):
    new, weights = [], []
    for b in range(len(u)):
        p = torch.zeros(facts.shape[1])
        if there[b].any():
            p[there[b]] = (facts[b][there[b]] @ A.mT @ u[b]).softmax(0)
        new.append(u[b] + p @ facts[b] @ C.mT)
        weights.append(p)
    return torch.stack(new), torch.stack(weights)


ALTERNATIVES = (_absorbed, _by_exponentials, _story_by_story)

MISTAKES = """
scores = scores.masked_fill(~there, torch.finfo(scores.dtype).min) → pass
    Places without a fact are masked after the softmax only: the weights of the others must add up to 1, so mask before it.
scores = scores.masked_fill(~there, torch.finfo(scores.dtype).min) → pass ; softmax(dim=-1) * there → softmax(dim=-1)
    Places without a fact take part as if they held one: there is not used.
torch.finfo(scores.dtype).min) → -10.0)
    The score of places without a fact is not low enough: where the other scores are lower still, those places win.
masked_fill(~there, torch.finfo(scores.dtype).min) → masked_fill(~there, 0)
    A score of 0 is no mask: e⁰ is 1, so places without a fact take weight from the others.
softmax(dim=-1) * there → softmax(dim=-1)
    A story with no facts gets equal weights on nothing: they must be 0, and u must stay.
torch.finfo(scores.dtype).min) → -torch.inf)
    The weights of a story with no facts are NaN. If all of its scores are -∞, the softmax is 0/0: use a finite number.
return u + torch → return torch
    The question is lost: the answer is added to u.
facts @ C.mT → facts @ A.mT
    The facts are read through A, with which they are compared: they are read through C.
"bk, bnk -> bn", u, facts @ A.mT → "bk, bnk -> bn", u, facts @ C.mT
    The facts are compared through C, through which they are read: they are compared through A.
u, facts @ A.mT) → u, facts @ A.mT) / u.shape[1] ** 0.5
    The scores are divided by √K: the text asks for no scale.
scores.softmax(dim=-1) → scores.softmax(dim=0)
    The softmax runs over the stories: each story has weights over its facts.
(~there, → (there,
    The mask is turned around: the facts that are there are hidden.
scores.softmax(dim=-1) → scores.exp()
    The weights are not divided by their sum: exp without the softmax.
"""

ALSO = (swapped(), first_sequence("u"))
