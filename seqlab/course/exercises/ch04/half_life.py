"""The half-life of a memory

*Turn a decay into a length in tokens. · 5 minutes · ●○○ · 1 point*

A pair is written into head h = 2, whose decay is γ = 1 - 2⁻⁷. Nothing else is written. After how many tokens does
it weigh half of what it weighed when it was written? Give a number that is right to within 0.1 token. It need not
be whole.
"""

import math

### BEGIN SOLUTION
half_life = math.log(0.5) / math.log(1 - 2**-7)
### END SOLUTION

WHY = r"""
**Solution.** After n tokens the pair weighs γⁿ. Set γⁿ = ½ and take logarithms: n ln γ = ln ½, so n = ln ½ / ln γ.
Both logarithms are negative and their quotient is positive. Any base will do, as long as it is the same in both.

*Common mistakes:* 1 / (1 - γ) is the time constant: after so many tokens the weight is 1/e, not ½. ln 2 / (1 - γ)
uses ln γ ≈ γ - 1, which is good for γ near 1 and here already off by more than 0.3 tokens. 0.5 / (1 - γ) takes away
the same amount at each token; a decay takes away the same share of what is left.
"""

HINTS = (
    "After n tokens a pair weighs γⁿ. For which n is that ½?",
    "γⁿ = ½, so n · ln γ = ln ½. Both logarithms must have the same base.",
    "half_life = math.log(0.5) / math.log(gamma), with gamma = 1 - 2 ** (-5 - 2).",
)

reference = math.log(0.5) / math.log(1 - 2**-7)

TOLERANCE = 0.1 / 88.376

ALTERNATIVES = (-1 / math.log2(1 - 2**-7), math.log(2) / -math.log1p(-(2**-7)), 88.4)

MISTAKES = """
math.log(0.5) / math.log(1 - 2**-7) → 1 / 2**-7
    This is 1 / (1 - γ), the time constant: there a pair still weighs 1/e, about 0.37. Look at γⁿ =
    ½.
math.log(0.5) / math.log(1 - 2**-7) → 0.5 / 2**-7
    This is 0.5 / (1 - γ), as if each token took away the same amount: each takes the same share of
    what is left. Look at γⁿ = ½.
math.log(0.5) / math.log(1 - 2**-7) → math.log(2) / 2**-7
    This is ln 2 / (1 - γ), which uses ln γ ≈ γ - 1: close, but not within 0.1 token; use ln γ
    itself.
0.5 → 2
    You have ln 2 over ln γ, which is below 0: it must be ln ½ over ln γ.
math.log(0.5) → -1
    This is -1 over ln γ: either the time after which a pair weighs 1/e (half_life asks for ½), or
    log₂ ½ over ln γ (the two need one base). It must be ln ½ over ln γ.
math.log(1 → math.log2(1
    Two bases are mixed, ln ½ over log₂ γ: look at the logarithm in the denominator.
2**-7 → 2**-8
    The head is taken one too high, γ = 1 - 2⁻⁸: that is the head h = 3; h = 2 has 5 + 2 in the
    exponent.
2**-7 → 2**-6
    The head is taken one too low, γ = 1 - 2⁻⁶: that is the head h = 1; h counts from 0, look at 5 +
    h.
2**-7 → 2**-5
    This is the half-life of the head h = 0, γ = 1 - 2⁻⁵: the question is about h = 2, γ = 1 - 2⁻⁷.
math.log(0.5) / math.log(1 - 2**-7) → math.floor(math.log(0.5) / math.log(1 - 2**-7))
    This is rounded down to a whole token: the answer is asked for to within 0.1, so do not round.
math.log(0.5) / math.log(1 - 2**-7) → math.ceil(math.log(0.5) / math.log(1 - 2**-7))
    This is rounded up to a whole token: the answer is asked for to within 0.1, so do not round.
math.log(0.5) / math.log(1 - 2**-7) → 1 - 2**-7
    This is γ itself: it is the weight after one token. Look for the n with γⁿ = ½.
math.log(0.5) / math.log(1 - 2**-7) → math.log(1 - 2**-7) / math.log(0.5)
    The fraction is upside down: n ln γ = ln ½ gives n = ln ½ / ln γ.
"""
