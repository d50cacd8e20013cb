r"""HGRN-2's tied write

*Make a key from what is forgotten, and lose no digits. · 10 minutes · ●●○ · 2 points*

HGRN-2 has no key. What a channel forgets is the strength of its write, $k = 1 - a$. And its gate has a lower bound, low for the first layers of a
stack and high for the last:

$$a = β + (1 - β)\,σ(z), \qquad 0 \le β < 1 .$$

Write `tied(z, bound)`, which returns $(k, \ln a)$. Both must be right to a few parts in a million *of themselves*: also k where a rounds to 1, and
$\ln a$ where β is 0 and a rounds to 0. The gradient of z has to be finite everywhere.
"""

import math

import torch
import torch.nn.functional as F

from seqlab.course.exercise import Case
from seqlab.course.exercises.vocabulary import input_, swapped


def tied(z, bound):
    """The write 1 - a and log a, for a = bound + (1 - bound) σ(z). z (B, T, K), 0 <= bound < 1. Both returned (B, T, K)."""
    ### BEGIN SOLUTION
    k = (1 - bound) * torch.sigmoid(-z)
    log_a = torch.log1p(-k) if bound else F.logsigmoid(z)
    return k, log_a
    ### END SOLUTION


WHY = r"""
**Solution.** $1 - a = (1 - β)(1 - σ(z)) = (1 - β)\,σ(-z)$: no difference of nearly equal numbers is left. The logarithm then follows from k,
$\ln a = \ln(1 - k)$, and `log1p` keeps the digits of a tiny k. Only where β = 0 can k round to 1; there `logsigmoid` knows better.

*Another way:* closed gates by a formula of their own, chosen with `torch.where`. Then clamp what each branch sees: the branch that is not chosen gets a
gradient of 0, and 0 · inf is NaN.

*Common mistakes:* `1 - a` for open gates is a difference of two numbers near 1: at z = 20 nothing is left of it, and such a channel never writes.
`torch.log(a)` rounds to 0 in the same place.
"""

HINTS = (
    "1 - σ(z) is itself a sigmoid. Of what?",
    "k = (1 - β) σ(-z), and ln a = ln(1 - k). torch.log1p keeps the digits of a small k.",
    "k = (1 - bound) * torch.sigmoid(-z); log_a = torch.log1p(-k) if bound else F.logsigmoid(z).",
)


def reference(z, bound):
    """The definitions, with digits to spare: sigmoids of ±z in float64."""
    z = z.double()
    e = (-z.abs()).exp()
    small, large = e / (1 + e), 1 / (1 + e)
    k = (1 - bound) * torch.where(z > 0, small, large)
    a = torch.where(z > 0, 1 - k, bound + (1 - bound) * small)
    log_a = torch.where(z > 0, torch.log1p(-k), a.log())
    return k.float(), log_a.float()


def cases(rng):
    def case(name, *shape, bound=0.3, shift=0.0, size=1.0):
        z = size * torch.randn(*shape, generator=rng) + shift
        return Case(name, {"z": z.requires_grad_(), "bound": bound})

    return [
        case("T = 1", 2, 1, 4),
        case("odd T", 2, 7, 3),
        case("no bound", 2, 6, 4, bound=0.0),
        case("a high bound", 1, 6, 4, bound=0.95),
        case("open gates", 1, 5, 4, shift=22.0, size=0.5),
        case("closed gates, no bound", 2, 5, 4, bound=0.0, shift=-25.0),
        case("open gates, no bound", 1, 5, 4, bound=0.0, shift=22.0, size=0.5),
        case("closed gates", 2, 5, 4, shift=-25.0),
        case(
            "z of -200 and lower, no bound", 1, 5, 3, bound=0.0, shift=-300.0, size=30.0
        ),
    ]


def effort(inputs, cost):
    if cost.gradient_finite:
        return None
    return (
        "The values are right, but the gradient of z is NaN or inf somewhere. A branch that torch.where does not choose still gets a gradient, "
        "and 0 · inf is NaN: let no branch overflow or take the logarithm of 0."
    )


OUTPUTS = ("k", "log_a")

TIME_AXIS = 1

TOLERANCE = 1e-5


def _by_halves(z, bound):
    """Open gates from k, closed ones as log((β + eᶻ) / (1 + eᶻ)); each half sees only its own z."""
    k = (1 - bound) * torch.sigmoid(-z)
    opened = torch.log1p(-(1 - bound) * torch.sigmoid(-z.clamp(min=0)))
    low = z.clamp(max=0)
    closed = torch.logaddexp(torch.tensor(bound).log(), low) - F.softplus(low)
    return k, torch.where(z > 0, opened, closed)


def _mixed_in_logs(z, bound):
    k = (1 - bound) / (1 + z.exp())
    if not bound:
        return k, -F.softplus(-z)
    log_a = torch.logaddexp(
        torch.tensor(math.log(bound)), F.logsigmoid(z) + math.log1p(-bound)
    )
    return k, torch.where(z > 0, torch.log1p(-k), log_a)


def _by_float64(z, bound):
    k = (1 - bound) * torch.sigmoid(-z.double())
    log_a = torch.log1p(-k) if bound else F.logsigmoid(z.double())
    return k.float(), log_a.float()


ALTERNATIVES = (_by_halves, _mixed_in_logs, _by_float64)

MISTAKES = """
* → a = bound + (1 - bound) * torch.sigmoid(z) ⏎ return 1 - a, a.log()
    Something is computed from an a that has rounded to 1 for open gates (or, without a bound, to 0 for closed ones): 1 - a, log a or both
    have lost their digits there. Start from 1 - σ(z) = σ(-z), and use log1p.
log_a = torch.log1p(-k) if bound else F.logsigmoid(z) → log_a = torch.logaddexp(torch.tensor(float(bound)).log(), math.log1p(-bound) + F.logsigmoid(z)) ; return k, log_a → return -torch.expm1(log_a), log_a
    log a is a sum of two terms in logarithms, and k is made from it. For open gates the sum is near 1, so its logarithm has lost its digits, and k with it: start from 1 - σ(z) = σ(-z), and use log1p.
log_a = torch.log1p(-k) if bound else F.logsigmoid(z) → log_a = torch.logaddexp(torch.tensor(float(bound)).log(), math.log1p(-bound) + F.logsigmoid(z))
    k is right. log a is a sum of two terms in logarithms: for open gates the sum is near 1, and its logarithm has lost its digits. Use log1p(-k) there.
torch.log1p(-k) if bound else F.logsigmoid(z) → (bound + (1 - bound) * torch.sigmoid(z)).log()
    k is right, log a is not: for open gates a rounds to 1 (and without a bound, closed ones round to 0), so its logarithm has lost its digits. Use log1p(-k) and logsigmoid.
k = (1 - bound) * torch.sigmoid(-z) → k = torch.sigmoid(-z) ; torch.log1p(-k) → torch.log1p(-(1 - bound) * k)
    The factor 1 - β is missing in k: 1 - a = (1 - β)(1 - σ(z)).
torch.log1p(-k) if bound else F.logsigmoid(z) → F.logsigmoid(z)
    log a leaves out the bound: it is the logarithm of σ(z) alone.
torch.log1p(-k) if bound else F.logsigmoid(z) → torch.log1p(-k)
    Where the bound is 0 and the gate closes, k rounds to 1 and its log1p is -inf: use logsigmoid there.
return k, log_a → return k, log_a.exp()
    This is a itself: its logarithm was asked for.
return k, log_a → return log_a.exp(), log_a
    The write is a, what is kept: it should be what is forgotten, 1 - a.
(1 - bound) * torch.sigmoid(-z) → (1 - bound) * torch.sigmoid(z)
    The gate is turned round: a large z should keep, so k = (1 - β) σ(-z).
return k, log_a → return torch.ones_like(k), log_a
    The write is 1 everywhere: in HGRN-2 a channel takes in what it forgets, 1 - a.
torch.log1p(-k) if bound else F.logsigmoid(z) → F.logsigmoid(z).clamp(min=math.log(bound) if bound else -200)
    The bound is applied as a clamp: a = max(β, σ(z)). It should be mixed in, β + (1 - β) σ(z).
"""

ALSO = (
    swapped(),
    input_(
        "z",
        lambda z: z / 16,
        "z is divided by 16 inside the sigmoid: HGRN-2 has a bound in the place of a 1/τ.",
    ),
)
