r"""How long does a counter last?

*Compute when an eigenvalue that is not quite -1 loses count. · 6 minutes · ●○○ · 1 point*

A parity counter of one channel has $k = 1$. At a one it uses $\beta = 1.96$ where 2 is needed, and writes $v = \frac12$, so $S = \frac12$ would stay where it is. At a zero nothing happens. It starts at $S = 0$ and answers "odd" if $S > \frac12$.

In exact arithmetic its answers are right for ever. But a real read has noise: take an answer to be safe if $S$ is at least 0.1 away from $\frac12$. After which one in a row, counted from 1, is the answer *unsafe* for the first time?
"""

import math

### BEGIN SOLUTION
factor = abs(1 - 1.96)
ones = math.ceil(math.log(0.1 / 0.5) / math.log(factor))
### END SOLUTION

WHY = r"""
**Solution.** Measure from the fixed point: $S' - \frac12 = (1 - \beta)(S - \frac12)$. So the distance starts at ½ and is multiplied by $|1 - \beta| = 0.96$ at each one; its sign alternates, which is the counting. It is below 0.1 as soon as
$0.96^n < 0.2$, that is $n > \ln 0.2 / \ln 0.96 = 39.4$: after 40 ones.

The chapter's trained DeltaNet came much closer to −1. That is why it held at 256 bits.

*Common mistakes:* the distance measured from 0; rounding down; $\ln 0.1$, which forgets that the distance starts at ½.
"""

HINTS = (
    "Which S does the token leave where it is? Measure the distance from there.",
    "S - ½ is multiplied by 1 - β = -0.96 at each one, and starts at -½.",
    "math.ceil(math.log(0.1 / 0.5) / math.log(0.96)).",
)

reference = 40

TOLERANCE = 1e-6

OUTPUTS = ("ones",)

ALTERNATIVES = (40.0, 39 + 1)

MISTAKES = """
math.ceil(math.log(0.1 / 0.5) / math.log(factor)) → math.log(0.1 / 0.5) / math.log(factor)
    This is where the distance would be exactly 0.1, between two ones: the first whole number beyond it is asked for.
math.ceil → math.floor
    After this one the distance is still above 0.1: the next one is the first below.
math.log(0.1 / 0.5) → math.log(0.1)
    The distance starts at ½, not at 1.
math.log(0.1 / 0.5) → math.log(0.1 / 0.5 / 0.5)
    The distance starts at ½, and it is the distance that has to be below 0.1: no further factor of ½.
factor = abs(1 - 1.96) → factor = 1.96 / 2
    The factor is |1 - β| = 0.96, not β / 2.
math.log(0.1 / 0.5) → math.log(0.4 / 0.5)
    This is where S is 0.1 away from 0 or 1: it has to come within 0.1 of ½.
math.ceil(math.log(0.1 / 0.5) / math.log(factor)) → math.ceil(math.log(0.1 / 0.5) / math.log(factor)) + 1
    One too many: after n ones the distance is ½ · 0.96ⁿ, and it is below 0.1 one earlier.
factor = abs(1 - 1.96) → factor = 2 - 1.96
    The factor is |1 - β| = 0.96: 0.04 is the share of the distance that each one takes away.
"""
