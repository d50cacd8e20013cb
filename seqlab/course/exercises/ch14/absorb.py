r"""One more block of scores

*Carry a maximum and a sum from block to block. · 8 minutes · ●○○ · 1 point*

B rows have read some scores. All that each row remembers is `top`, the largest so far, and `total` = $\sum_j e^{s_j - \mathrm{top}}$ over
what it has read. Now each row gets a block of n more scores. Return the new `top` and the new `total`.

Two things the chapter left out: a row may have read nothing yet (`top` is -∞, `total` is 0), and scores may be -∞, because a mask hid
them; even all scores of a block. No NaN may come out. Scores may be as large as 10,000.
"""

import torch

from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch14.shared import _close, _randn
from seqlab.course.exercises.vocabulary import swapped


def absorb(top, total, scores):
    """The maximum and the sum after a block. top, total (B,), scores (B, n); returns (top, total)."""
    ### BEGIN SOLUTION
    new = torch.maximum(top, scores.amax(-1))
    # exp(-inf - 0) is 0, but -inf - -inf is NaN
    unit = torch.where(new.isfinite(), new, torch.zeros_like(new))
    old = (top - unit).exp() * total
    return new, old + (scores - unit[:, None]).exp().sum(-1)
    ### END SOLUTION


WHY = r"""
**Solution.** The sum counts units of $e^{\mathrm{top}}$. The new maximum is a new unit: convert the old sum once, by $e^{\mathrm{old} - \mathrm{new}} \le 1$,
and add the block's terms in the new unit. If everything so far is hidden, the maximum is -∞ and every difference would be -∞ minus -∞.
Any finite number in its place will do, because exp(-∞) is 0.

*Common mistakes:* the old sum taken over without its factor; the factor turned upside down, which overflows; the block's terms in the
block's own unit and not in the common one.
"""

HINTS = (
    "In which unit is the old sum counted, and in which must the new one be?",
    "new = max(top, the block's largest); total' = e^(top - new) · total + Σ e^(s - new). Where is -inf - -inf?",
    "new = torch.maximum(top, scores.amax(-1)); put 0 in place of a new of -inf before you subtract it.",
)


def reference(top, total, scores):
    """By the log-sum-exp of everything, in float64."""
    before = top.double() + total.double().log()
    everything = torch.cat([before[:, None], scores.double()], -1).logsumexp(-1)
    new = torch.cat([top[:, None], scores], -1).amax(-1)
    total = torch.where(new == -torch.inf, 0.0, (everything - new.double()).exp())
    return new, total.float()


def cases(rng):
    def case(name, B, n, scale=1.0, before=5, hide=0.0):
        read = scale * _randn(rng, B, before)
        top = read.amax(-1)
        scores = scale * _randn(rng, B, n)
        hidden = torch.rand(B, n, generator=rng) < hide
        total = (read - top[:, None]).exp().sum(-1)
        return Case(
            name,
            {
                "top": top,
                "total": total,
                "scores": scores.masked_fill(hidden, -torch.inf),
            },
        )

    nothing = {"top": torch.full((3,), -torch.inf), "total": torch.zeros(3)}
    return [
        case("one score", 4, 1),
        case("blocks of 7", 3, 7),
        case("scores in the thousands", 3, 5, 4000.0),
        case("some scores hidden", 4, 6, 2.0, hide=0.5),
        case("a block all hidden", 3, 4, hide=1.0),
        Case("nothing read before", nothing | {"scores": _randn(rng, 3, 5)}),
        Case("nothing at all", nothing | {"scores": torch.full((3, 5), -torch.inf)}),
        case("the larger scores come later", 5, 6, 3.0, before=2),
    ]


def _halves(inputs):
    n = inputs["scores"].shape[1] // 2
    if n == 0:
        return []
    top, total = reference(inputs["top"], inputs["total"], inputs["scores"][:, :n])
    return [{"top": top, "total": total, "scores": inputs["scores"][:, n:]}]


PROPERTIES = (
    Property(
        "two halves = one block",
        variants=_halves,
        holds=lambda inputs, outputs: (
            len(outputs) == 1
            or all(_close(a, b) for a, b in zip(*outputs, strict=True))
        ),
        message="A block read in two halves gives something else than the block at once.",
    ),
)

OUTPUTS = ("top", "total")

TIME_AXIS = None


def _one_by_one(top, total, scores):
    for s in scores.unbind(-1):
        new = torch.where(s > top, s, top)
        unit = torch.nan_to_num(new, neginf=0.0)
        total = total * torch.exp(top - unit) + torch.exp(s - unit)
        top = new
    return top, total


def _as_one_more_score(top, total, scores):
    everything = torch.cat([top[:, None], scores], 1)
    new = everything.amax(1, keepdim=True)
    weights = torch.where(everything == -torch.inf, 0.0, torch.exp(everything - new))
    ones = torch.ones_like(scores)
    return new[:, 0], (weights * torch.cat([total[:, None], ones], 1)).sum(1)


ALTERNATIVES = (_one_by_one, _as_one_more_score)

MISTAKES = """
(top - unit).exp() * total → total
    The old sum is taken over as it is. It counts units of e^top, and the new unit is larger where the
    maximum has risen.
(top - unit).exp() * total → (top - unit).exp() * 1
    The factor e^(old - new) is there, but not what it multiplies: the old sum.
torch.maximum(top, scores.amax(-1)) → scores.amax(-1)
    Your maximum is that of the block alone: what was read before may hold a larger score.
(scores - unit[:, None]).exp().sum(-1) → (scores - scores.amax(-1, keepdim=True).clamp(min=-1e30)).exp().sum(-1)
    The block's terms are in the block's own unit, e^(its largest): both parts of the sum need that of
    the common maximum.
return new, old + → return top, old +
    The top that you return is the old one: return the new maximum.
old + (scores - unit[:, None]).exp().sum(-1) → (scores - unit[:, None]).exp().sum(-1)
    What was read before is lost: the new sum holds this block only.
(scores - unit[:, None]).exp().sum(-1) → (scores - unit[:, None]).exp().mean(-1)
    The block's terms are averaged: add them up.
old + (scores - unit[:, None]).exp().sum(-1) → (old + (scores - unit[:, None]).exp().sum(-1)).log()
    This is the logarithm of the sum: return the sum itself.
"""

ALSO = (swapped("The outputs have changed places: return (top, total)."),)
