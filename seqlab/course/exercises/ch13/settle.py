r"""Choose a step size, and wait

*Use the two laws of section 1 in the other direction. · 8 minutes · ●○○ · 1 point*

Keys are random directions of length 1 in 8 channels, and noise of standard deviation 0.3 is added to each number of the values. You want the delta rule to settle at an error of 0.01 per number. This is the floor of section 1, where answers are compared with $A k$ without the noise. First find the $β$ below 1 that does.

Then: **how many tokens** does it take until the error *above the floor* has fallen to one hundredth of what it is for the empty table? Give the number of tokens, whole or not.
"""

### BEGIN SOLUTION
import math

noise, floor = 0.3**2, 0.01
beta = 2 * floor / (noise + floor)
factor = 1 - beta * (2 - beta) / 8
tokens = math.log(0.01) / math.log(factor)
### END SOLUTION

WHY = r"""
**Solution.** From $f = \frac{β}{2 - β} σ^2$ follows $β\,(σ^2 + f) = 2 f$, so $β = 0.02 / 0.1 = 0.2$. The error above the floor is multiplied by $1 - 0.2 · 1.8 / 8 = 0.955$ for each token, so it takes $\log 0.01 / \log 0.955 ≈ 100$ tokens.

A tenth of the noise in the answers therefore costs a hundred tokens of the same rule. With $β = 1$ the same takes 34 tokens, and the floor is the noise itself. That is why a layer lets the token choose the step.

*Common mistakes:* the standard deviation in place of the variance; $β$ in place of $β\,(2 - β)$ in the speed; the 8 channels forgotten: a key shortens only the part of the error that lies along it.
"""

HINTS = (
    "Solve floor = β / (2 - β) σ² for β. σ² is a variance.",
    "β = 2 f / (σ² + f) = 0.2. What is left above the floor is multiplied by 1 - β (2 - β) / 8 per token.",
    "log(0.01) / log(1 - 0.2 * 1.8 / 8).",
)

reference = 100.01977667246168

TOLERANCE = 1e-2

OUTPUTS = ("tokens",)

ALTERNATIVES = (100.0, 100.5)

MISTAKES = """
noise, floor = 0.3**2, 0.01 → noise, floor = 0.3, 0.01
    The standard deviation was used: the floor contains the variance, 0.09.
factor = 1 - beta * (2 - beta) / 8 → factor = 1 - beta / 8
    The speed is β (2 - β) / 8, not β / 8.
factor = 1 - beta * (2 - beta) / 8 → factor = 1 - beta * (2 - beta)
    The 8 channels are missing: a key shortens only the part of the error along it.
factor = 1 - beta * (2 - beta) / 8 → factor = (1 - beta)
    This is what is left along one key: all 8 channels have to be learned.
beta = 2 * floor / (noise + floor) → beta = floor / noise
    Solve the floor for β again: β / (2 - β) is 1 / 9, so β is not.
math.log(0.01) / math.log(factor) → math.log(0.5) / math.log(factor)
    This is a half-life: one hundredth is asked for.
factor = 1 - beta * (2 - beta) / 8 → factor = (1 - beta * (2 - beta) / 8) ** 0.5
    This is the speed of the distance: the error is a square, and falls twice as fast.
"""
