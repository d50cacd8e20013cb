r"""A row that sees nothing

*Let a softmax over nothing be 0, and its gradient too. · 10 minutes · ●●○ · 2 points*

If there are more queries than keys, or a text is only padding, a mask may hide *every* key from a query. A softmax over -∞ alone is NaN, and one NaN destroys a training run.
Kernels agree that such a row reads 0 and has lse = -∞.

Write a softmax with a mask (True: may look) that returns the weights P and the log-sum-exp of each row. Its gradient with respect to the scores must be finite also where a row sees nothing: a model is trained
through it.
"""

import torch

from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch14.shared import _close, _randn
from seqlab.course.exercises.vocabulary import swapped


def blind(scores, mask):
    """Weights (B, T_q, T_k) and lse (B, T_q). scores (B, T_q, T_k), mask (T_q, T_k) of bool, True: may look."""
    ### BEGIN SOLUTION
    nothing = ~mask.any(-1)  # (T_q,)
    # Blind rows keep their scores.
    s = scores.masked_fill(~(mask | nothing[:, None]), -torch.inf)
    P = s.softmax(-1).masked_fill(nothing[:, None], 0)
    lse = s.logsumexp(-1).masked_fill(nothing, -torch.inf)
    return P, lse
    ### END SOLUTION


WHY = r"""
**Solution.** Let a blind row keep its scores, so that its softmax is an ordinary one, and replace its result afterwards. Scores, weights and gradient are finite at every step.

Another right way masks everything with `masked_fill`, takes the softmax (NaN in blind rows) and puts 0 in place of NaN. Its gradient is finite for a reason that is easily lost: `masked_fill` passes
no gradient to what it hid, so the NaN never reaches the scores. Hide by *adding* a mask of 0 and -∞ instead, as much code does, and the values are the same. But an addition passes everything on, and every score of a blind row gets the
gradient NaN.

*Common mistakes:* an added -∞ with `nan_to_num` after it; -1e9 in place of -∞, which makes a blind row attend to all keys evenly; lse = 0 for a row whose total weight is 0.
"""

HINTS = (
    "Where does the NaN arise, and can it be avoided there and not removed later?",
    "A row that sees nothing may keep its scores; its weights and its lse are replaced afterwards.",
    "nothing = ~mask.any(-1); hide with ~(mask | nothing[:, None]); then masked_fill the softmax by 0, the logsumexp by -inf.",
)


def reference(scores, mask):
    """Exponentials and sums, in float64."""
    top = scores.detach().double().amax(-1, keepdim=True)
    for_seen = torch.where(mask, scores.double(), -torch.inf)
    top = torch.where(
        for_seen.amax(-1, keepdim=True) > -torch.inf,
        for_seen.amax(-1, keepdim=True),
        top,
    )
    w = torch.where(mask, torch.exp(torch.where(mask, scores.double(), top) - top), 0.0)
    total = w.sum(-1, keepdim=True)
    P = w / torch.where(total > 0, total, 1.0)
    lse = torch.where(total > 0, top + total.clamp(min=1e-300).log(), -torch.inf)
    return P.float(), lse[..., 0].float()


def cases(rng):
    def case(name, B, T_q, T_k, mask, scale=1.0, learned=False):
        scores = scale * _randn(rng, B, T_q, T_k)
        scores = scores.requires_grad_() if learned else scores
        return Case(name, {"scores": scores, "mask": mask})

    def causal(T_q, T_k):
        return torch.ones(T_q, T_k, dtype=torch.bool).tril(T_k - T_q)

    holes = torch.rand(7, 5, generator=rng) < 0.5
    holes[2] = False
    holes[3] = True
    return [
        case("T = 1, seen", 2, 1, 1, torch.ones(1, 1, dtype=torch.bool)),
        case("T = 1, not seen", 2, 1, 1, torch.zeros(1, 1, dtype=torch.bool)),
        case("causal, square", 2, 6, 6, causal(6, 6)),
        case("more queries than keys", 2, 7, 4, causal(7, 4)),
        case("more queries than keys, learned", 2, 7, 4, causal(7, 4), learned=True),
        case("rows with holes", 3, 7, 5, holes),
        case("large scores, learned", 1, 7, 5, holes, 3000.0, True),
    ]


def effort(inputs, effort):
    if not effort.gradient_finite:
        return "The values are right, but the gradient of the scores is not finite: a NaN was made, and covered in the value only. Avoid it where it arises, or let no gradient pass there."
    return None


PROPERTIES = (
    Property(
        "hidden scores do not count",
        variants=lambda inputs: [
            {
                **inputs,
                "scores": torch.where(inputs["mask"], inputs["scores"].detach(), 7.0),
            }
        ],
        holds=lambda inputs, outputs: (
            _close(outputs[0][0], outputs[1][0])
            and bool(
                (outputs[0][1] == outputs[1][1])
                .logical_or((outputs[0][1] - outputs[1][1]).abs() < 1e-2)
                .all()
            )
        ),
        message="A hidden score changes the weights or the lse.",
    ),
)

OUTPUTS = ("P", "lse")

TIME_AXIS = 1


def _by_hand(scores, mask):
    low = torch.finfo(scores.dtype).min
    top = torch.where(mask, scores, low).amax(-1, keepdim=True).detach()
    e = torch.where(mask, torch.exp(torch.where(mask, scores - top, 0.0)), 0.0)
    total = e.sum(-1, keepdim=True)
    empty = ~mask.any(-1)
    P = e / torch.where(empty[:, None], 1.0, total)
    lse = (top + torch.where(empty[:, None], 1.0, total).log())[..., 0]
    return P, torch.where(empty, -torch.inf, lse)


def _only_rows_that_see(scores, mask):
    """Rows that see something are computed, the others are left as they were made."""
    some = mask.any(-1)
    P = torch.zeros_like(scores)
    lse = torch.full_like(scores[..., 0], -torch.inf)
    s = torch.where(mask[some], scores[:, some], -torch.inf)
    P[:, some], lse[:, some] = torch.softmax(s, -1), torch.logsumexp(s, -1)
    return P, lse


def _covered(scores, mask):
    """NaN is made, but masked_fill passes no gradient to what it hid."""
    s = scores.masked_fill(~mask, -torch.inf)
    return s.softmax(-1).nan_to_num(), s.logsumexp(-1)


ALTERNATIVES = (_by_hand, _only_rows_that_see, _covered)

MISTAKES = """
.softmax(-1).masked_fill(nothing[:, None], 0) → .softmax(-1)
    A row that sees nothing has weights: what it reads must be 0.
s.logsumexp(-1).masked_fill(nothing, -torch.inf) → s.logsumexp(-1)
    The lse of a row that sees nothing is that of scores it may not see: its total weight is 0, and the
    logarithm of that is -∞.
s.logsumexp(-1).masked_fill(nothing, -torch.inf) → s.logsumexp(-1).masked_fill(nothing, 0)
    The lse of a row that sees nothing is 0, as if its weights added up to 1: they add up to 0.
~(mask | nothing[:, None]) → mask & ~nothing[:, None]
    The mask is turned round: True means that a query may look.
masked_fill(~(mask | nothing[:, None]), -torch.inf) → masked_fill(~(mask | nothing[:, None]), 0.0)
    A hidden score is set to 0, and e^0 is 1: it must become -∞.
P = s.softmax(-1) → P = s.softmax(-2).nan_to_num()
    The softmax runs over the queries: each row of weights, over the keys, must add up to 1.
lse = s.logsumexp(-1) → lse = s.exp().sum(-1)
    This is the sum of the exponentials: return its logarithm.
s = scores.masked_fill(~(mask | nothing[:, None]), -torch.inf) → s = scores
    The mask is used for rows that see nothing, but not for the others.
lse = s.logsumexp(-1) → lse = s.amax(-1)
    This is the largest score of each row, not the logarithm of the sum.
"""

ALSO = (swapped("The outputs have changed places: return (P, lse)."),)
