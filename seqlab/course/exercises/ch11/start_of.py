r"""Choose a half-life

*Invert the gate in log space. · 6 minutes · ●○○ · 1 point*

A channel with parameter $Λ$ and recurrence gate $r$ has $\log a = -8\, r\, \mathrm{softplus}(Λ)$. Someone wants it to have lost half of what it held after `half_life` tokens, if the gate is r at every token. Return $Λ$.

It must also be right for half-lives of ten million tokens, in float32: stay in log space. The names of the parameters must stay.
"""

import math

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch11.shared import rand


def start_of(half_life, r):
    """Λ of channels with this half-life in tokens at gate r. Both (D,); returns (D,)."""
    ### BEGIN SOLUTION
    speed = math.log(2) / (8 * r * half_life)  # softplus(Λ)
    return torch.log(torch.expm1(speed))
    ### END SOLUTION


WHY = r"""
**Solution.** After $n$ tokens $a^n$ is left, so $n \log a = -\log 2$ and $\mathrm{softplus}(Λ) = \log 2 / (8 r n)$. The inverse of $y = \log(1 + e^Λ)$ is $Λ = \log(e^y - 1)$.

For long half-lives y is tiny: $e^y$ rounds to 1 in float32 below $y ≈ 6 · 10^{-8}$, and its difference from 1 is inexact long before. `expm1` computes $e^y - 1$ without that subtraction.

*Common mistakes:* $a$ in place of $\log a$; the factor 8; `log(exp(y) - 1)`, which is $-∞$ for ten million tokens.
"""

HINTS = (
    "What is n log a after n = half_life tokens?",
    "softplus(Λ) = log 2 / (8 r half_life). What is the inverse of softplus, for a very small number?",
    "torch.log(torch.expm1(math.log(2) / (8 * r * half_life))).",
)


def reference(half_life, r):
    """By bisection in float64: no inverse is written."""
    n, gate = half_life.double(), r.double()
    low, high = torch.full_like(n, -60.0), torch.full_like(n, 60.0)
    for _ in range(100):
        middle = (low + high) / 2
        softplus = torch.logaddexp(middle, torch.zeros_like(middle))
        slow = 8 * gate * softplus * n < math.log(2)
        low, high = torch.where(slow, middle, low), torch.where(slow, high, middle)
    return low.float()


def cases(rng):
    def case(name, D, low, high, least=0.1):
        half_life = low + (high - low) * rand(rng, D)
        return Case(
            name, {"half_life": half_life, "r": least + (1 - least) * rand(rng, D)}
        )

    return [
        case("one channel", 1, 5, 20),
        case("a few tokens", 4, 1, 10),
        case("shorter than a token", 3, 0.02, 0.3),
        case("hundreds", 7, 100, 1000),
        case("ten million tokens", 5, 1e7, 2e7),
        case("an open gate", 3, 10, 50, 1.0),
    ]


TIME_AXIS = None

TOLERANCE = 1e-4


def _by_softplus(half_life, r):
    y = math.log(2) / half_life / r / 8
    return y + torch.log(-torch.expm1(-y))


ALTERNATIVES = (_by_softplus,)

MISTAKES = """
math.log(2) / (8 * r * half_life) → math.log(2) / (r * half_life)
    The factor 8 is missing: log a is -8 r softplus(Λ).
math.log(2) / (8 * r * half_life) → math.log(2) / (8 * half_life)
    The gate r is missing: the half-life is that at gate r, not at 1.
math.log(2) / (8 * r * half_life) → 1 / (8 * r * half_life)
    After this many tokens 1/e is left: half is asked for, so log 2 is missing.
torch.log(torch.expm1(speed)) → torch.log(speed)
    This inverts exp: the inverse of softplus is log(exp(y) - 1). (They agree for long half-lives only.)
torch.log(torch.expm1(speed)) → speed
    This is softplus(Λ), not Λ.
math.log(2) / (8 * r * half_life) → math.log(2) * r / (8 * half_life)
    The gate is on the wrong side: a larger r forgets faster, so it divides.
math.log(2) / (8 * r * half_life) → math.log(2) * half_life / (8 * r)
    The half-life is on the wrong side: a longer one needs a smaller softplus(Λ).
torch.log(torch.expm1(speed)) → torch.nn.functional.softplus(speed)
    softplus is applied once more: its inverse is asked for.
"""
