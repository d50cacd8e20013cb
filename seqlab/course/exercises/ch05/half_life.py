r"""How far does a new gate see?

*Compute the half-life that a bias sets. · 5 minutes · ●○○ · 1 point*

A gate $a = σ(z)^{1/τ}$ with τ = 16 starts with z = 3 for every token, because its bias starts at 3. What is its half-life, in tokens? An answer within
0.2 % of itself is right.
"""

import math

### BEGIN SOLUTION
log_a = math.log(1 / (1 + math.exp(-3))) / 16
half_life = math.log(0.5) / log_a
### END SOLUTION

WHY = r"""
**Solution.** $\ln a = \ln σ(3) / 16 = -0.0486 / 16 = -0.00304$, and half is left after $\ln \frac12 / \ln a ≈ 228$ tokens. With z = 0 it would be 16: a bias of 3 makes it 14
times as long. For large z, $\ln σ(z) ≈ -e^{-z}$, so the half-life grows about as $e^z$: a bias is a strong dial.

*Common mistakes:* the time constant $1/|\ln a| ≈ 329$, after which 1/e is left; leaving out τ (14); dividing z by τ inside the sigmoid.
"""

HINTS = (
    "Half is left after n tokens if aⁿ = ½. Take logarithms.",
    "n = ln ½ / ln a, and ln a = ln σ(3) / 16.",
    "math.log(0.5) / (math.log(1 / (1 + math.exp(-3))) / 16).",
)

_LOG_A = -0.04858735157374196 / 16

reference = -0.6931471805599453 / _LOG_A

TOLERANCE = 2e-3

OUTPUTS = ("half_life",)

ALTERNATIVES = (228.26, 16 * 0.6931471805599453 / 0.048587351573742)

MISTAKES = """
math.log(0.5) → math.log(math.exp(-1))
    This is the time constant, after which 1/e is left: at a half-life, ½ is left.
/ 16 → / 1
    The power 1/τ is left out: it makes the half-life 16 times as long.
/ 16 → * 16
    ln a is multiplied by 16: the power is 1/τ, so it is divided.
1 / (1 + math.exp(-3)) → 1 / (1 + math.exp(3))
    The sign of z is turned: σ(3) = 1 / (1 + exp(-3)) is near 1.
math.log(1 / (1 + math.exp(-3))) / 16 → math.log(1 / (1 + math.exp(-3 / 16)))
    z is divided by τ inside the sigmoid: the power acts on σ(z), so τ divides its logarithm.
math.log(0.5) / log_a → math.exp(log_a)
    This is the gate a itself: the number of tokens after which half is left was asked for.
math.log(0.5) / log_a → log_a
    This is the logarithm of the gate: the number of tokens after which half is left was asked for.
math.log(0.5) / log_a → -math.log(0.5) / log_a
    The sign is turned: both logarithms are negative, so their quotient is positive.
(1 + math.exp(-3)) → (1 + math.exp(-0))
    This is the half-life at z = 0. Here z starts at 3.
"""
