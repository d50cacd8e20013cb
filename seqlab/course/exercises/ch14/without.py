r"""Take a part out again

*Invert the merge. · 12 minutes · ●●○ · 2 points*

B rows have read all their keys: `y` and `lse` are the whole. You also have the read of *some* of these keys alone, `y1` and `lse1`; a page of the cache, say, that is to be
dropped. Find the read of the rest, y2 and lse2, without the keys.

The part may have seen nothing (lse1 = -∞, y1 = 0). There is always a rest. The log-sum-exps may be in the thousands, so their exponentials are infinite.
"""

import torch

from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch14.shared import _close, _randn, pair_by_pair
from seqlab.course.exercises.vocabulary import swapped


def without(y, lse, y1, lse1):
    """The read without a part. y, y1 (B, V), lse, lse1 (B,); returns (y2, lse2)."""
    ### BEGIN SOLUTION
    kept = -torch.expm1(lse1 - lse)  # 1 - e^(lse1 - lse): the share of the rest
    gone = (lse1 - lse).exp()
    rest = y - gone[:, None] * y1
    return rest / kept[:, None], lse + kept.log()
    ### END SOLUTION


WHY = r"""
**Solution.** The merge is a weighted mean: $y = g\,y_1 + (1 - g)\,y_2$ with $g = e^{\mathrm{lse}_1 - \mathrm{lse}}$, the part's share of the whole. Solve for $y_2$. The rest has
the share $1 - g$ of the whole weight, so $\mathrm{lse}_2 = \mathrm{lse} + \log(1 - g)$. Only a difference of log-sum-exps is exponentiated, so nothing overflows.

`expm1` keeps $1 - g$ exact where the part was nearly everything. But no formula saves $y - g y_1$ there: two nearly equal vectors are subtracted, and what was rounded
before is all that is left. Merging only adds positive weights, so it never has this trouble. That is why systems keep the parts and merge again where
they can.

*Common mistakes:* the sign, which merges a second time; forgetting to divide by what is left; lse - lse1 as the new lse.
"""

HINTS = (
    "Write down the merge as a weighted mean of y1 and y2. What is the weight of y1, if you know the whole?",
    "g = e^(lse1 - lse), y = g y1 + (1 - g) y2, and the whole weight e^lse loses the share g.",
    "y2 = (y - g y1) / (1 - g) and lse2 = lse + log(1 - g), with 1 - g = -expm1(lse1 - lse).",
)


def reference(y, lse, y1, lse1):
    """From the weights themselves, in float64, in units of e^lse."""
    whole, part = torch.ones_like(lse).double(), (lse1.double() - lse.double()).exp()
    left = whole - part
    y2 = (whole[:, None] * y.double() - part[:, None] * y1.double()) / left[:, None]
    return y2.float(), (lse.double() + left.log()).float()


def cases(rng):
    def case(name, B, V, n1, n2, shift=0.0, scale=1.0):
        q, k = scale * _randn(rng, B, 4), _randn(rng, n1 + n2, 4)
        v = _randn(rng, n1 + n2, V)
        every = torch.ones(B, n1 + n2, dtype=torch.bool)
        y, lse = pair_by_pair(q, k, v, every)
        first = torch.arange(n1 + n2) < n1
        y1, lse1 = pair_by_pair(q, k, v, every & first)
        return Case(name, {"y": y, "lse": lse + shift, "y1": y1, "lse1": lse1 + shift})

    return [
        case("one row, a part of one key", 1, 3, 1, 1),
        case("half of the keys", 4, 3, 5, 5),
        case("a small part", 3, 5, 1, 12),
        case("a large part", 3, 2, 8, 3),
        case("a part that saw nothing", 3, 4, 0, 6),
        case("log-sum-exps in the thousands", 4, 3, 4, 4, shift=2000.0),
        case("far below zero", 4, 3, 4, 4, shift=-2000.0),
        case("uneven scores", 5, 3, 4, 6, scale=1.5),
    ]


PROPERTIES = (
    Property(
        "only differences of log-sum-exps count for y",
        variants=lambda inputs: [
            {**inputs, "lse": inputs["lse"] + 4, "lse1": inputs["lse1"] + 4}
        ],
        holds=lambda inputs, outputs: _close(outputs[0][0], outputs[1][0], 1e-2),
        message="y2 changes if 4 is added to both log-sum-exps: only their difference is a share.",
    ),
)

OUTPUTS = ("y2", "lse2")

TIME_AXIS = None


def _log1p(y, lse, y1, lse1):
    share = torch.exp(lse1 - lse)
    y2 = (y - share.unsqueeze(-1) * y1) / (1 - share).unsqueeze(-1)
    return y2, lse + torch.log1p(-share)


def _by_odds(y, lse, y1, lse1):
    """y2 = y + (y - y1) g / (1 - g): away from the part."""
    odds = 1 / torch.expm1(lse - lse1)
    moved = torch.where(
        odds[:, None] > 0, odds[:, None] * (y - y1), torch.zeros_like(y)
    )
    return y + moved, lse - torch.log1p(odds)


ALTERNATIVES = (_log1p, _by_odds)

MISTAKES = """
y - gone[:, None] * y1 → y + gone[:, None] * y1
    The part is added once more: it must be taken away.
rest / kept[:, None] → rest
    The rest is not divided by its share of the weight, 1 - e^(lse1 - lse): its own weights must add up
    to 1.
rest / kept[:, None] → rest / gone[:, None].clamp(min=1e-30)
    The rest is divided by the part's share: its own is 1 minus that.
y - gone[:, None] * y1 → y - y1
    The part is taken away whole. In y it has the weight e^(lse1 - lse), not 1.
y - gone[:, None] * y1 → y - kept[:, None] * y1
    The part is taken away with the weight of the rest: its own is e^(lse1 - lse).
lse + kept.log() → lse - lse1.clamp(min=-1e30)
    The new lse is a difference of the two given ones. Weights are subtracted, not their logarithms.
lse + kept.log() → lse
    The lse that you return is that of the whole: the rest has less weight.
lse + kept.log() → lse - kept.log()
    The new lse is larger than that of the whole: log(1 - e^(lse1 - lse)) is negative, and it is added.
lse + kept.log() → kept.log()
    This is the logarithm of the rest's share: add the lse of the whole.
return rest / kept[:, None], lse + kept.log() → w1, w2 = gone, 1 - gone ⏎ return w1[:, None] * y1 + w2[:, None] * y, lse + kept.log()
    y and y1 are mixed as in a merge: solve the merge's equation for the other part.
"""

ALSO = (swapped("The outputs have changed places: return (y2, lse2)."),)
