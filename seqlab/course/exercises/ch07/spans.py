"""Bug hunt: a mask made of differences

*Mend a mask that is right in exact arithmetic and useless in a computer. · 12 minutes · ●●○ · 2 points*

The function below the next cell makes the mask L of chapter 07: L_ij is the product of the gates of tokens j + 1 to i, 1 on the
diagonal and 0 above it. It is right on paper, and public code did it this way. It has **two faults**, which show only
in a computer: with strong gates, and with gates in bfloat16. The cell prints the symptoms.

Write the right version into `spans`. Gates may be exactly 0 (a logarithm of -∞). The result is float32, whatever the type
of the gates.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch07.shared import FLAT, _log_gates, products


def spans(log_a):
    """The mask L: a_{j+1} ⋯ a_i for j ≤ i, and 0 for j > i.

    log_a (..., T), the gates' logarithms, in float32 or bfloat16. Returns (..., T, T) in float32.
    """
    ### BEGIN SOLUTION
    T = log_a.shape[-1]
    steps = log_a.float()[..., None].expand(*log_a.shape, T)  # row i: log a_i
    return steps.tril(-1).cumsum(-2).exp().tril()
    ### END SOLUTION


WHY = r"""
**The first fault** is the difference. After a strong gate, the cumulative sums are large, and subtracting two of them leaves
only rounding. In bfloat16, with 8 bits, this begins at once: a sum of 40 has a step of 0.25. Let each span add up its own
terms instead: write log a_i into row i, clear everything on and above the diagonal, and sum down each column. (A gate of exactly 0
makes it worse: -∞ minus -∞ is not a number.)

**The second fault** is the order of mask and exponential. Above the diagonal the difference is positive and may overflow; ∞ · 0
is not a number. Mask first, so that exp sees numbers of at most 0.

And sum in float32: bfloat16 gates are as good as they are, but their sum must not lose more.

*Common mistakes:* masking before exp with 0 and not again afterwards, which leaves ones above the diagonal. Clearing only
above the diagonal, so that a token's own gate counts. Converting to float32 after the sum.
"""

HINTS = (
    "One fault shows where a gate is strong: look for ∞ · 0. The other where many gates are summed: look at what is subtracted.",
    "L_ij needs the sum of log a over j + 1 … i alone. Can a cumulative sum down column j start at row j + 1?",
    "steps = log_a.float()[..., None].expand(*log_a.shape, T); then tril(-1), cumsum(-2), exp, tril().",
)


def reference(log_a):
    return products(log_a).float()


def cases(rng):
    strong = torch.tensor([[-30000.0, -1.0, -0.5, -0.01, -2.0, -0.25]])
    zero_and_one = torch.tensor([[-0.5, 0.0, FLAT, -0.1, 0.0, -0.2, FLAT]])
    learned = _log_gates(rng, 2, 9, strength=150).requires_grad_()
    return [
        Case("T = 1", {"log_a": _log_gates(rng, 2, 1)}),
        Case("mild gates, odd T", {"log_a": _log_gates(rng, 2, 3, 7)}),
        Case("gates of bfloat16", {"log_a": _log_gates(rng, 2, 48).bfloat16()}),
        Case("one strong gate, then mild ones", {"log_a": strong}),
        Case("gates of exactly 0 and 1", {"log_a": zero_and_one}),
        Case("strong gates, learned", {"log_a": learned}),
    ]


def effort(inputs, effort):
    if not effort.gradient_finite:
        return "The values are right, but their gradient is not finite: a model could not be trained through it."
    return None


TIME_AXIS = None

OUTPUTS = ("L",)


def _in_products(log_a):
    """Rows of cumulative products, one for each start."""
    T, a = log_a.shape[-1], log_a.float().exp()
    rows = [
        torch.cat(
            [
                a.new_zeros(*a.shape[:-1], j),
                torch.ones_like(a[..., :1]),
                a[..., j + 1 :].cumprod(-1),
            ],
            -1,
        )
        for j in range(T)
    ]
    return torch.stack(rows, -1)


def _masked_twice(log_a):
    T = log_a.shape[-1]
    below = torch.ones(T, T, dtype=torch.bool).tril(-1)
    steps = torch.where(below, log_a.float().unsqueeze(-1), 0.0)
    sums = torch.cumsum(steps, dim=-2)
    return sums.masked_fill(~torch.ones(T, T, dtype=torch.bool).tril(), FLAT).exp()


ALTERNATIVES = (_in_products, _masked_twice)

MISTAKES = """
* → T = log_a.shape[-1] ⏎ total = log_a.cumsum(-1) ⏎ return ((total[..., None] - total[..., None, :]).exp() * torch.ones(T, T).tril()).float()
    Both faults are still there: the exponential is taken before the mask, and each span is a
    difference of two cumulative sums.
* → total = log_a.float().cumsum(-1) ⏎ return (total[..., None] - total[..., None, :]).exp().tril()
    The spans are differences of cumulative sums: behind a strong gate both are large, and what is
    left is rounding; with a gate of 0 it is ∞ - ∞. Let each span sum its own terms.
steps.tril(-1).cumsum(-2).exp().tril() → steps.tril(-1).cumsum(-2).exp()
    Above the diagonal stands 1, not 0: exp turned the zeros of the mask into ones. Mask again after
    exp.
steps.tril(-1) → steps.tril()
    Each product has one gate too many: token j's own gate counts as well. The span begins at j + 1, so
    the diagonal of L is 1.
log_a.float()[..., None].expand(*log_a.shape, T) → log_a[..., None].expand(*log_a.shape, T) ; exp().tril() → exp().tril().float()
    The sums are made in bfloat16, which has 8 bits: they lose more at each step. Convert to float32
    before you sum.
exp().tril() → exp().tril(-1)
    The diagonal is 0: a token reads its own write without any gate, so L_ii is 1.
.cumsum(-2) →
    Each entry holds the gate of token i alone: it is the product of all gates between j and i. Look
    for a cumulative sum.
.exp().tril() → .tril()
    These are the sums of the logarithms: L holds products, so the exp is missing.
cumsum(-2) → cumsum(-1)
    The sums run along the rows, over j. Span (j, i] adds up the gates of the tokens i, down a column.
.exp().tril() → .exp().tril().mT
    Your L is transposed: row i is the reading token, so the zeros lie above the diagonal.
log_a.float()[..., None] → log_a.float().exp()[..., None]
    The gates themselves are summed: their logarithms add, log_a as it is given.
* → L = torch.where(torch.isnan(x := solution(log_a)), x, x) ⏎ total = log_a.float().nan_to_num(neginf=-1e4).cumsum(-1) ⏎ return (total[..., None] - total[..., None, :]).masked_fill(torch.ones_like(L).triu(1).bool(), -torch.inf).exp()
    The gates of 0 no longer give nan, but the spans are still differences of cumulative sums: behind a
    strong gate they are mostly rounding. Let each span sum its own terms.
"""
