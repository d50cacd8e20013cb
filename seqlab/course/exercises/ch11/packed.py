r"""Documents in a row

*The gates of the RG-LRU where new documents begin inside a text. · 8 minutes · ●○○ · 2 points*

Training texts are often several documents, one after another. Where `starts` is True a document begins. There nothing of the past may be kept ($a = 0$), and the input is written whole: the factor in front of it is 1, not $\sqrt{1 - a^2}$
of the gate that the token would otherwise have. Everywhere else both are the chapter's.

`r` is the recurrence gate after its sigmoid. Return $a$ and the factor. The names of the parameters must stay.
"""

import torch
import torch.nn.functional as F

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch11.shared import rand, randn
from seqlab.course.exercises.vocabulary import swapped


def packed(r, Lambda, starts):
    """a and the factor of the write, both (B, T, D). r (B, T, D), Lambda (D,), starts (B, T), bool."""
    ### BEGIN SOLUTION
    log_a = -8 * r * F.softplus(Lambda)
    a, factor = log_a.exp(), (-torch.expm1(2 * log_a)).sqrt()
    new = starts[..., None]
    return a.masked_fill(new, 0.0), factor.masked_fill(new, 1.0)
    ### END SOLUTION


WHY = r"""
**Solution.** The chapter's two formulas, and two masks. With $a = 0$ the factor $\sqrt{1 - a^2}$ *is* 1, so one mask on a before the square root would do as well, if its gradient is looked after.
A multiplication by 0 gives the same; adding $-∞$ to $\log a$ works for a, and gives $-\mathrm{expm1}(-∞) = 1$ for the factor.

*Common mistakes:* closing the gate and leaving the factor, so that the first token of a document is written with a small weight, which shows most in slow channels; a mask along the wrong axis.
"""

HINTS = (
    "Compute both as if no document began, then mend the tokens where one does.",
    "log a = -8 r softplus(Λ), factor = sqrt(-expm1(2 log a)). At a start: 0 and 1.",
    "a.masked_fill(starts[..., None], 0.0), factor.masked_fill(starts[..., None], 1.0).",
)


def reference(r, Lambda, starts):
    """The factor from the sum rule: cosine and sine of one angle."""
    e = torch.sigmoid(-Lambda)  # exp(-softplus(Λ))
    open_ = (~starts[..., None]).to(r.dtype)
    a = (8 * r * e.log()).exp() * open_
    return a, torch.sin(torch.acos(a.double())).to(r.dtype)


def cases(rng):
    def case(name, B, T, D, starts=(), size=2.0):
        given = torch.zeros(B, T, dtype=torch.bool)
        given[:, list(starts)] = True
        r = 0.05 + 0.95 * rand(rng, B, T, D)
        inputs = {
            "r": r.requires_grad_(),
            "Lambda": (size * randn(rng, D) - 1).requires_grad_(),
        }
        return Case(name, inputs | {"starts": given})

    rows = case("the rows differ", 2, 5, 3)
    rows.inputs["starts"][0, 2] = rows.inputs["starts"][1, 4] = True
    return [
        case("T = 1, a start", 1, 1, 2, [0]),
        case("no start", 2, 5, 3),
        case("a start at the first token", 2, 7, 3, [0]),
        case("three documents", 1, 9, 4, [0, 3, 7]),
        rows,
        case("every token starts", 2, 4, 3, range(4)),
    ]


OUTPUTS = ("a", "factor")

TOLERANCE = 1e-3

TIME_AXIS = {"a": 1, "factor": 1}


def _by_infinity(r, Lambda, starts):
    log_a = torch.where(starts[..., None], -torch.inf, -8 * r * F.softplus(Lambda))
    return log_a.exp(), (-torch.expm1(2 * log_a)).sqrt()


def _by_product(r, Lambda, starts):
    kept = (~starts)[..., None].to(r.dtype)
    a = torch.exp(-8 * r * torch.log1p(Lambda.exp())) * kept
    return a, (1 - a**2).sqrt()


ALTERNATIVES = (_by_infinity, _by_product)

MISTAKES = """
factor.masked_fill(new, 1.0) → factor
    a is right; the factor at a start is that of an ordinary token: the first token of a document is written whole, with 1.
a.masked_fill(new, 0.0) → a
    The factor is right; a is not 0 at a start, so the document before is still read.
a.masked_fill(new, 0.0) → a.masked_fill(new, 1.0)
    a is 1 at a start, which keeps everything of the past: it must be 0.
factor.masked_fill(new, 1.0) → factor.masked_fill(new, 0.0)
    The factor is 0 at a start, so its token is lost: it must be 1.
log_a = -8 * r * F.softplus(Lambda) → log_a = -r * F.softplus(Lambda)
    The constant 8 is missing from log a.
(-torch.expm1(2 * log_a)).sqrt() → 1 - log_a.exp()
    The factor is 1 - a: that keeps a mean, not a norm. √(1 - a²) is asked for.
(-torch.expm1(2 * log_a)).sqrt() → (-torch.expm1(log_a)).sqrt()
    The factor is √(1 - a): a has to be squared, so log a is doubled.
(-torch.expm1(2 * log_a)).sqrt() → -torch.expm1(2 * log_a)
    The square root is missing from the factor.
F.softplus(Lambda) → torch.sigmoid(Lambda)
    Λ goes through a sigmoid: log a needs softplus(Λ).
new = starts[..., None] → new = starts[:1, :, None]
    Every text has the starts of the first one: each row has its own.
"""

ALSO = (swapped(),)
