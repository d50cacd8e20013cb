r"""When does float16 break?

*Compute the token at which a normaliser overflows. · 5 minutes · ●○○ · 1 point*

A cell without a stabiliser has $\tilde\imath = 0$ and $f = e^{1/2}$ at every token, and starts with n = 0. So $n_1 = 1$, $n_2 = e^{1/2} + 1$, and so on. The largest number of float16 is
65,504. At which token t, counted from 1, is the true $n_t$ larger than that for the first time?
"""

import math

### BEGIN SOLUTION
growth = math.exp(0.5)
token = math.ceil(math.log(65504 * (growth - 1) + 1) / 0.5)
### END SOLUTION

WHY = r"""
**Solution.** A geometric sum: $n_t = (g^t - 1) / (g - 1)$ with $g = e^{1/2} ≈ 1.65$. It passes 65,504 where $g^t > 65{,}504 · 0.6487 + 1 ≈ 42{,}495$, that is at $t > 2 \ln 42{,}495 ≈ 21.3$: at token 22.

*Common mistakes:* only the last term, $g^{t-1}$, which needs 24 tokens; rounding down; the logarithm of 65,504 alone.
"""

HINTS = (
    "Write n_t as a sum of powers of g = e^½. What is such a sum?",
    "n_t = (g^t - 1) / (g - 1). Solve n_t > 65,504 for t, and round up.",
    "math.ceil(math.log(65504 * (g - 1) + 1) / 0.5).",
)

reference = 22

TOLERANCE = 1e-6

OUTPUTS = ("token",)

ALTERNATIVES = (22.0, 1 + 21)

MISTAKES = """
math.ceil(math.log(65504 * (growth - 1) + 1) / 0.5) → math.log(65504 * (growth - 1) + 1) / 0.5
    This is where the formula meets 65,504, between two tokens: the first whole t beyond it is asked for.
math.ceil → math.floor
    At this token the sum is still below 65,504: the next one is the first above.
math.ceil(math.log(65504 * (growth - 1) + 1) / 0.5) → math.ceil(math.log(65504) / 0.5) + 1
    This counts the last term alone, or leaves out the factor g - 1: n is the sum of all powers.
math.ceil(math.log(65504 * (growth - 1) + 1) / 0.5) → math.ceil(math.log(65504 * (growth - 1) + 1))
    The gate is taken to be e: it is e^½, so the logarithm is divided by ½.
math.ceil(math.log(65504 * (growth - 1) + 1) / 0.5) → math.ceil(math.log(65504) / 0.5)
    This is where g^t passes 65,504, so the factor g - 1 of the geometric sum is left out (or tokens are counted from 0, and the last term alone is taken).
"""
