r"""A bias for a half-life

*Start a forget gate where it remembers long enough. · 5 minutes · ●○○ · 1 point*

At the start of training the weights are so small that a forget gate is about $f = \sigma(b)$ at every token. Which bias b gives the cell a
half-life of 1,000 tokens? Give it to four digits: 1 part in 10,000 is accepted.
"""

import math

### BEGIN SOLUTION
f = 0.5 ** (1 / 1000)
bias = math.log(f / (1 - f))
### END SOLUTION

WHY = r"""
**Solution.** A half-life of 1,000 means $f^{1000} = \tfrac12$, so $f = 2^{-1/1000} ≈ 0.99931$. The sigmoid is inverted by the logit:
$b = \ln \frac{f}{1 - f} ≈ 7.27$.

A good approximation: $1 - f ≈ \ln 2 / n$ for a half-life n, so $b ≈ \ln(n / \ln 2)$. Ten times the half-life costs $\ln 10 ≈ 2.3$ in the bias.

*Common mistakes:* "chrono" initialisation's $\ln(T - 1)$ is about the time after which $1/e$ is left, not one half: it gives 6.91.
"""

HINTS = (
    "First find f: which number, multiplied with itself 1,000 times, gives one half?",
    "f = 2^(-1/1000), and the inverse of the sigmoid is ln(f / (1 - f)).",
    "f = 0.5 ** (1 / 1000); bias = math.log(f / (1 - f)).",
)

reference = math.log(0.5**0.001 / (1 - 0.5**0.001))

TOLERANCE = 1e-4

OUTPUTS = ("bias",)

ALTERNATIVES = (7.274, -math.log(2**0.001 - 1), math.log(1000 / math.log(2)))

MISTAKES = """
0.5 ** (1 / 1000) → math.exp(-1 / 1000)
    This is about ln 1000, the bias at which 1/e is left after 1,000 tokens (also that of chrono initialisation): at a half-life, one half is left.
0.5 ** (1 / 1000) → 0.9993
    f is rounded to 0.9993 before the logit. What counts is 1 - f, and of 0.00069 that leaves one digit: round at the end.
math.log(f / (1 - f)) → f
    This is the gate f itself: the bias is where the sigmoid has this value.
math.log(f / (1 - f)) → math.log((1 - f) / f)
    The sign is wrong: this bias closes the gate as far as it should open it.
math.log(f / (1 - f)) → math.atanh(f)
    This inverts a tanh: a gate is a sigmoid, whose inverse is ln(f / (1 - f)).
math.log(f / (1 - f)) → math.log10(f / (1 - f))
    This takes the logarithm to base 10: the sigmoid is made of e.
0.5 ** (1 / 1000) → 0.5 ** (1 / 100)
    This is the bias for a half-life of 100 tokens.
math.log(f / (1 - f)) → -math.log(f)
    This is the decay rate -ln f: the bias is the logit of f.
0.5 ** (1 / 1000) → 0.5 ** (2 / 1000)
    The half-life of this bias is 500 tokens: f is applied once a token.
"""
