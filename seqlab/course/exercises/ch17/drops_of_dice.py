"""Drops of a fair router

*Compute how much is dropped although the router is fair. · 8 minutes · ●●○ · 1 point*

64 tokens choose two *different* experts each among 16, by dice: every pair of experts is equally likely. The capacity factor is 1, so each expert has exactly as
many places as the mean load, 2 · 64 / 16 = 8. What share of all 128 choices is expected to be dropped? Answer to within 0.001.
"""

import math

### BEGIN SOLUTION
N, E, k, places = 64, 16, 2, 8
chance = k / E  # that one token chooses a given expert
load = [math.comb(N, n) * chance**n * (1 - chance) ** (N - n) for n in range(N + 1)]
too_many = sum(p * max(n - places, 0) for n, p in enumerate(load))
share_dropped = E * too_many / (k * N)
### END SOLUTION

WHY = r"""
**Solution.** A token chooses a given expert with probability k / E = 1/8, and at most once. Tokens are independent, so an expert's load is binomial with 64 tries and
mean 8. It turns away max(n − 8, 0). All 16 experts together turn away 16 times the expectation of that; over 128 choices that is 13.1 %.

A quick estimate: the load is about normal with variance 7, so the mean excess is √(7 / 2π) = 1.06 of 8, or 13.2 %: nearly right. Dropping falls with the square root of the number of
tokens for each expert: with four times the tokens, half the share.

*Common mistakes:* 1/16 for the chance, as with one choice; the chance that *some* token is dropped; dividing by tokens in place of choices.
"""

HINTS = (
    "What is the distribution of the load of one expert? How many does it turn away if its load is n?",
    "The load is binomial: 64 tokens, each with probability 2/16. Turned away: max(n - 8, 0).",
    "16 · Σ_n C(64, n) (1/8)^n (7/8)^(64 - n) max(n - 8, 0) / 128.",
)

_P = [math.comb(64, n) * 7 ** (64 - n) / 8**64 for n in range(65)]
reference = 16 / 128 * sum(p * (n - 8) for n, p in enumerate(_P) if n > 8)

OUTPUTS = ("share_dropped",)

TOLERANCE = 0.001 / 0.1305

ALTERNATIVES = (0.1305,)

MISTAKES = """
chance = k / E → chance = 1 / E
    Each token is given one choice: with two different ones, a given expert is chosen with probability 2/16.
share_dropped = E * too_many / (k * N) → share_dropped = E * too_many / N
    This is divided by the tokens: the question is about the 128 choices, two for each token.
share_dropped = E * too_many / (k * N) → share_dropped = too_many
    This is how many choices *one* expert turns away, as a number. Sixteen experts turn away that many each, out of 128.
too_many = sum(p * max(n - places, 0) for n, p in enumerate(load)) → too_many = sum(p for n, p in enumerate(load) if n > places)
    The excess is left out: an expert with n choices turns n - 8 of them away, not one.
share_dropped = E * too_many / (k * N) → share_dropped = sum(p for n, p in enumerate(load) if n > places)
    This is the chance that an expert is overfull. The question is how many of the choices are dropped.
places = 64, 16, 2, 8 → places = 64, 16, 2, 10
    This is the answer for a capacity factor of 1.25, with 10 places. Here it is 1, with 8 places.
share_dropped = E * too_many / (k * N) → share_dropped = 0.0
    A fair router is even on average, not in each batch: some experts get more than 8 choices by chance.
"""
