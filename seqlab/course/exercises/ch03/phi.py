r"""A feature map that is never negative

*Write φ(x) = elu(x) + 1, which makes every score φ(q)·φ(k) positive. · 3 minutes · ●○○ · 1 point*

Softmax weighs a pair with exp(q·k), which is always positive. Linear attention weighs it with φ(q)·φ(k). If every
feature is positive, so is every weight. The usual choice is

$$φ(x) = \mathrm{elu}(x) + 1.$$

A model trains through φ, so its gradient must be finite too, for an x of 200 as well.
"""

import torch
import torch.nn.functional as F

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch03.shared import _numbers


def phi(x):
    """The feature map φ(x) = elu(x) + 1, entry by entry. x and φ(x): (B, T, H, K), or any other shape."""
    ### BEGIN SOLUTION
    return F.elu(x) + 1
    ### END SOLUTION


WHY = r"""
**Solution.** elu(x) is x above zero and exp(x) - 1 below. Adding 1 gives x + 1 above zero and exp(x) below, so φ is
positive everywhere.

Why not relu, which is never negative either? Its features are exactly 0 for half of the inputs, and so is their
gradient. A token whose features are all 0 can neither be found nor learn to be found. exp(x) below zero keeps a
slope.

*Common mistakes:* leaving out the + 1, or putting it inside, as elu(x + 1). Both go down to -1. Then a sum of
weights can be zero, and dividing by it (03.8) fails.
"""

HINTS = (
    "Look at elu at x = 0 and far to the left: what must be added so that it never falls below 0?",
    "elu(x) = x for x > 0, and exp(x) - 1 for x ≤ 0. It is in torch.nn.functional, imported as F.",
    "return F.elu(...) + ...",
)


def reference(x):
    return x.clamp(max=0).exp() + x.clamp(min=0)


def cases(rng):
    return [
        Case("a row from -3 to 3", {"x": torch.linspace(-3, 3, 7)}),
        Case("T = 1", {"x": _numbers(rng, 1, 1, 1, 4)}),
        Case("odd T, two heads", {"x": 2 * _numbers(rng, 2, 5, 2, 3)}),
        Case("all negative", {"x": -_numbers(rng, 1, 4, 2, 3).abs() - 0.1}),
        Case("from -200 to 200", {"x": torch.linspace(-200, 200, 8).requires_grad_()}),
    ]


def effort(inputs, effort):
    if effort.gradient_finite:
        return None
    return (
        "The values are right, but the gradient is not finite where x is large: exp(x) overflows there, and "
        "torch.where multiplies its infinite slope by 0, which is NaN. F.elu has no such trap; or clamp x before exp."
    )


OUTPUTS = ("φ(x)",)

TIME_AXIS = None

ALTERNATIVES = (lambda x: torch.where(x > 0, x + 1, x.clamp(max=0).exp()),)

MISTAKES = """
F.elu(x) + 1 → F.elu(x)
    The + 1 is missing: elu(x) alone falls to -1, so scores can be negative. Print phi of -2.
elu → relu
    This is relu(x) + 1: all negative inputs give the same 1. Use elu, which is exp(x) - 1 there.
F.elu(x) + 1 → F.relu(x)
    This is relu(x): it is 0 for all negative inputs, and their gradient is 0 too. Use elu(x) + 1.
F.elu(x) + 1 → F.elu(x + 1)
    The 1 is added before elu, not after: elu(x + 1) still falls to -1. Add it to the result.
F.elu(x) + 1 → x.exp()
    This is exp(x) everywhere. φ is exp(x) for x ≤ 0 only; for x > 0 it is x + 1. F.elu chooses.
F.elu(x) + 1 → F.elu(F.elu(x) + 1) + 1
    This is elu(x) + 2: the 1 is added twice, or the map is applied twice. Its smallest value is 1,
    not 0.
+ 1 → - 1
    This is elu(x) - 1: the sign of the 1 is wrong. elu reaches down to -1, so add 1 to lift it
    above 0.
F.elu(x) + 1 → x.softmax(-1)
    This is a softmax over the features: each feature now depends on the others. φ acts on every
    number alone.
F.elu(x) + 1 → torch.where(x > 0, x + 1, x.exp() - 1)
    The 1 is added on the right only, to x > 0. elu(x) + 1 is x + 1 there and exp(x) - 1 + 1 on the
    left.
F.elu(x) + 1 → torch.where(x > 0, x, x.exp())
    The 1 is missing on the right. elu(x) + 1 is exp(x) for x ≤ 0, and x + 1 for x > 0.
F.elu(x) + 1 → torch.where(x > 0, x + 1, x.exp() + 1)
    The left side is 1 too high. There elu(x) = exp(x) - 1, so elu(x) + 1 is exp(x), not exp(x) + 1.
F.elu(x) + 1 → torch.where(x > 0, x.exp(), x + 1)
    The two branches are swapped: exp(x) belongs to x ≤ 0, and x + 1 to x > 0.
F.elu(x) → F.elu(x, alpha=2)
    alpha is 2: elu then falls to -2, and φ to -1. Leave alpha at 1, its default.
F.elu(x) + 1 → F.softplus(x)
    This is softplus(x) = log(1 + exp(x)): also positive, but another map. At 0 it gives 0.69;
    elu(0) + 1 is 1.
"""
