r"""From a half-life to a parameter

*Compute the decay parameter that gives a channel its half-life. · 4 minutes · ●○○ · 1 point*

In RWKV-4 to -6 the learned decay parameter is d, and the weight of a value falls by the factor $e^{-e^{d}}$ with each token. Which d makes a channel forget half of a value in 1,000 tokens?
"""

import math

### BEGIN SOLUTION
rate = math.log(2) / 1000
d = math.log(rate)
### END SOLUTION

WHY = r"""
**Solution.** After n tokens $e^{-n e^{d}}$ is left. That is ½ where $n\, e^{d} = \ln 2$. So $d = \ln(\ln 2 / 1000) ≈ -7.27$. A step of 1 in d changes the half-life by the factor e: the parameter is a logarithm of a rate.

*Common mistakes:* one logarithm too few, which gives the rate (about 0.0007) and not d; the sign.
"""

HINTS = (
    "What is left of a value after n tokens, as a formula with d?",
    "exp(-1000 exp(d)) = 1/2. Take the logarithm twice.",
    "d = math.log(math.log(2) / 1000).",
)

reference = -7.274268199563801

TOLERANCE = 1e-6

OUTPUTS = ("d",)

ALTERNATIVES = (math.log(math.log(2)) - math.log(1000), -7.2742682)

MISTAKES = """
d = math.log(rate) → d = rate
    This is the rate e^d by which the exponent falls: d is its logarithm.
d = math.log(rate) → d = -rate
    This is w, the exponent's change with each token: w = -e^d, and d is asked for.
d = math.log(rate) → d = -math.log(rate)
    The sign is wrong, or the rate is upside down: with this d a value would be gone at once.
math.log(2) / 1000 → 1 / 1000
    After 1,000 tokens this leaves 1/e, not one half.
d = math.log(rate) → d = 0.5 ** (1 / 1000)
    This is the decay itself, the factor of one token: d is the parameter in e^(-e^d).
d = math.log(rate) → d = math.log10(rate)
    This is a logarithm to base 10: e^d needs the natural one.
"""
