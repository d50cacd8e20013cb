r"""An operator for a fading maximum

*Find how two steps become one, for a recurrence that is not a sum. · 8 minutes · ●●○ · 1 point*

A memory keeps the largest score seen so far, and lets it fade:

$$m_t = \max(m_{t-1} + d_t,\; s_t) \qquad d_t \le 0 .$$

(Chapter 10 needs it, to keep exponential gates from overflowing.) One step is the map $m \mapsto \max(m + d, s)$, the pair (d, s).
Two steps in a row are again such a map. Write `join`, which returns its pair, so that this memory can be scanned as well.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch06.shared import _rand, _randn
from seqlab.course.exercises.vocabulary import swapped


def join(d1, s1, d2, s2):
    """The pair (d, s) of both steps, first (d1, s1), then (d2, s2). All four have one shape."""
    ### BEGIN SOLUTION
    return d1 + d2, torch.maximum(s1 + d2, s2)
    ### END SOLUTION


WHY = r"""
**Solution.** Insert the first step into the second: $\max(\max(m + d_1, s_1) + d_2,\; s_2) = \max(m + (d_1 + d_2),\; s_1 + d_2,\; s_2)$.
So the fades add up, and the new score is the larger of $s_2$ and the *faded* $s_1$.

Compare with the chapter's operator: $(a_2 a_1,\; a_2 b_1 + b_2)$. Where it multiplies, this one adds; where it adds, this one takes
the maximum. Any two operations of which the first distributes over the second will do.

*Common mistakes:* fading the later score by the earlier step; not fading $s_1$ at all; taking the larger of the two fades.
"""

HINTS = (
    "Let m go through the first step, then through the second, and write the result as one maximum.",
    "max(x, y) + d = max(x + d, y + d).",
    "max(max(m + d1, s1) + d2, s2) = max(m + (d1 + d2), max(s1 + d2, s2)).",
)


def reference(d1, s1, d2, s2):
    """Both steps, fed with a very large m, which shows the fade, and with a very small one."""

    def both(m):
        return torch.maximum(
            torch.maximum(m + d1.double(), s1.double()) + d2.double(), s2.double()
        )

    large = torch.full(d1.shape, 2.0**20).double()
    return (both(large) - large).float(), both(-large).float()


def cases(rng):
    def case(name, *shape, size=3.0, low=-2.0):
        d1, d2 = (_rand(rng, *shape, low=low, high=0.0) for _ in range(2))
        s1, s2 = (size * _randn(rng, *shape) for _ in range(2))
        return Case(name, {"d1": d1, "s1": s1, "d2": d2, "s2": s2})

    none = case("nothing fades", 2, 5)
    none.inputs["d1"].zero_()
    none.inputs["d2"].zero_()
    return [
        case("a vector", 12),
        case("T and channels", 3, 7, 2),
        none,
        case("strong fading", 4, 6, low=-60.0),
        case("large scores", 9, size=300.0),
        case("two steps", 2, 1),
    ]


OUTPUTS = ("d", "s")

TIME_AXIS = None

ALTERNATIVES = (
    lambda d1, s1, d2, s2: (d2 + d1, torch.where(s1 + d2 > s2, s1 + d2, s2)),
    lambda d1, s1, d2, s2: (
        torch.stack([d1, d2]).sum(0),
        torch.stack([s1 + d2, s2]).amax(0),
    ),
    lambda d1, s1, d2, s2: (d1 + d2, s2 + (s1 + d2 - s2).clamp(min=0)),
)

MISTAKES = """
s1 + d2, s2 → s1, s2 + d1
    The wrong score fades, or the steps have changed places: (d1, s1) comes first, and the second step fades what it left,
    so d2 belongs to s1.
s1 + d2, s2 → s1, s2
    The first score does not fade: the second step adds d2 to it.
d1 + d2 → torch.maximum(d1, d2)
    The larger fade is taken: m fades in both steps, so the fades add up.
d1 + d2 → d1 * d2
    The fades are multiplied. They are added to m, so they add up; factors would be multiplied.
s1 + d2, s2 → s1 + d1, s2
    The first score fades by its own step: it is written after that fade, and only the second step fades it, by d2.
s1 + d2, s2 → s1 + d1 + d2, s2
    The first score fades by both steps: it is written after the first fade, so only d2 is left for it.
s1 + d2, s2 → s1 + d2, s2 + d2
    Both scores fade by d2: s2 is written after that fade.
* → return d1 + d2, s1 + d2 + s2
    The scores are added up: this memory keeps the larger of the two.
* → return d1 + d2, torch.logaddexp(s1 + d2, s2)
    This is a smooth maximum, log(exp + exp): here the larger one is kept as it is.
* → return d1 * d2, d2 * s1 + s2
    This is the operator for sums, (a2 a1, a2 b1 + b2): here a step adds d and takes a maximum.
d1 + d2 → d2
    The first fade is missing: a memory m from before both steps fades by d1 as well.
d1 + d2 → d1
    The second fade is missing: a memory m from before both steps fades by d2 as well.
torch.maximum → torch.minimum
    The smaller score is kept: the memory keeps the larger.
"""

ALSO = (swapped(),)
