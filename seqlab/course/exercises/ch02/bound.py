r"""How far does a gradient reach?

*Turn a singular value into a number of steps. · 5 minutes · ●○○ · 1 point*

The recurrent matrix of an Elman network has the largest singular value 0.95. After how many steps back is the norm of
$\partial h_T / \partial h_t$ *certainly* below $10^{-6}$, whatever the data and the other weights? Give the smallest whole number of steps
for which the chapter's bound says so.
"""

import math

### BEGIN SOLUTION
steps = math.ceil(math.log(1e-6) / math.log(0.95))
### END SOLUTION

WHY = r"""
**Solution.** Each Jacobian is $\mathrm{diag}(1 - h^2)\,R$. The diagonal is at most 1, so the norm of a product of n of them is at most $0.95^n$.
This is below $10^{-6}$ from $n = \ln 10^{-6} / \ln 0.95 ≈ 269.3$ on, so from 270 steps.

In practice it is over much sooner: tanh's slope is below 1 wherever h is not 0, and R seldom stretches the same direction twice.

*Common mistakes:* rounding down gives a norm just above $10^{-6}$; the bound multiplies the factors, it does not add up what each loses.
"""

HINTS = (
    "Which number bounds the norm of one Jacobian, and which the norm of a product of n?",
    "0.95ⁿ < 10⁻⁶. Take logarithms, and mind that ln 0.95 is negative.",
    "steps = math.ceil(math.log(1e-6) / math.log(0.95)).",
)

reference = 270

TOLERANCE = 0.001

OUTPUTS = ("steps",)

ALTERNATIVES = (270, 270.0, next(n for n in range(10_000) if 0.95**n < 1e-6))

MISTAKES = """
math.ceil(math.log(1e-6) / math.log(0.95)) → int(math.log(1e-6) / math.log(0.95))
    269 steps give 0.95^269, just above 10⁻⁶: round up.
math.ceil(math.log(1e-6) / math.log(0.95)) → math.log(1e-6) / math.log(0.95)
    This is where the bound equals 10⁻⁶. The smallest whole number of steps below it was asked for.
math.log(1e-6) → math.log(1e-3)
    This reaches 10⁻³, or it takes each step's factor as 0.95², which gives the same number: the bound on n steps is 0.95ⁿ.
math.log(0.95) → math.log(0.95**0.5)
    This takes the square root of 0.95 for one step: the factor of a step is the singular value itself.
math.ceil(math.log(1e-6) / math.log(0.95)) → math.ceil(math.log(1e-6, 10) / math.log(0.95))
    Two logarithms of different bases are divided: take both to the same base.
math.ceil(math.log(1e-6) / math.log(0.95)) → math.ceil(math.log(0.5) / math.log(0.95))
    This is where the bound has halved: 10⁻⁶ was asked for.
math.ceil(math.log(1e-6) / math.log(0.95)) → math.ceil((1 - 1e-6) / 0.05)
    This takes 0.05 away at each step: the factors multiply, 0.95ⁿ.
"""
