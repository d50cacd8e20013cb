r"""The decay mask

*Write all decays between all pairs of tokens at once, without overflow. · 12 minutes · ●●○ · 2 points*

Unfold the recurrence: token i reads the pair of token j with a weight that depends on their distance. The mask D
holds all these weights:

$$D_{ij} = γ^{\,i-j} \ \text{ where } j \le i, \qquad D_{ij} = 0 \ \text{ where } j > i .$$

γ^(i-j) can be had as a product, γ^i · γ^(-j). Do not use it: with γ = 0.001 and j = 13 the second factor is 10³⁹,
more than float32 can hold. Take the difference first, mask it with -inf where j > i, and then take exp: D_ij =
exp((i - j) ln γ).

The order matters although a mask at the end gives the same D: later chapters learn the decay, so the check also asks
for the gradient of γ.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch04.shared import (
    _gammas,
    _retnet_gammas,
    decay_mask_reference,
)


def decay_mask(gamma, T):
    """The decay mask D (H, T, T): D_ij = γ^(i-j) where j ≤ i, and 0 where j > i.

    D and its gradient in gamma are finite for every γ in (0, 1].

    gamma (H,), T an int. Row i is the token that reads, column j the token that is read.
    """
    ### BEGIN SOLUTION
    n = torch.arange(T)
    distance = n[:, None] - n  # (T, T)
    logs = distance * gamma.log()[:, None, None]  # (H, T, T)
    return logs.masked_fill(distance < 0, -torch.inf).exp()
    ### END SOLUTION


WHY = r"""
**Solution.** D depends on the distance i - j alone. Its diagonal is 1: a token reads its own pair undecayed. Below
it the weights fall by γ from one diagonal to the next. exp(-inf) is exactly 0, so the future is closed, and every
exponent that is left is at most 0, so nothing can overflow.

**Why not the product.** On paper γ^i · γ^(-j) is the same number. In float32 it is 0 · inf = nan as soon as the
decay is strong or the text is long. Take differences of logarithms *before* exp: every later chapter that decays a
state needs this rule again.

**Why not mask at the end.** `exp(...).tril()` holds the right numbers: inf stood above the diagonal, and 0 replaced
it. But the gradient goes back through the exponential, whose derivative there is inf. The mask sends it 0, and 0 · inf
is nan. With -inf *before* exp the derivative is exp(-inf) = 0.

*Common mistakes:* Filling in 0 *before* exp puts 1 above the diagonal. Masking with `distance <= 0` hides the token
from itself. Swapping rows and columns gives a mask that reads only the future.
"""

HINTS = (
    "Row i is the reader, column j what it reads. The entry depends on the distance i - j alone; "
    "above the diagonal it is 0.",
    "A power of γ is the exp of a multiple of ln γ, and exp gives 0 at one place only, -inf. So close the future "
    "while it is still an exponent: the exponents that are left are at most 0.",
    "n = torch.arange(T); distance = n[:, None] - n; logs = distance * gamma.log()[:, None, None]; "
    "fill logs with -inf where distance < 0; then exp.",
)


def _distances(T):
    return (torch.arange(T)[:, None] - torch.arange(T)).float()


def cases(rng):
    cases = [
        Case("one head, T = 3", {"gamma": torch.tensor([0.5]), "T": 3}),
        Case("T = 1", {"gamma": _gammas(rng, 2), "T": 1}),
        Case("odd T", {"gamma": _gammas(rng, 3), "T": 7}),
        Case("the decays of the paper", {"gamma": _retnet_gammas(4), "T": 40}),
        Case("γ = 1", {"gamma": torch.tensor([1.0, 0.8]), "T": 6}),
        Case("γ near 0", {"gamma": torch.tensor([1e-3, 0.02]), "T": 60}),
    ]
    for case in cases:
        case.inputs["gamma"].requires_grad_()  # a decay that is learned: see `effort`
    return cases


def effort(inputs, effort):
    """Masked after the exponential the values are right, and the gradient is inf · 0."""
    if effort.gradient_finite:
        return None
    return (
        "The values are right, but the gradient of γ is not finite, so no decay could be learned through your mask. "
        "Above the diagonal powers grow to inf before they are hidden, and backwards inf · 0 is nan. "
        "Close the future before the exponential: -inf where j > i, then exp, and nothing in place after it."
    )


reference = decay_mask_reference


def parts_hint(t, inputs):
    return (
        f"print D[0, {t}]. It should rise to 1 on the diagonal, by a factor 1/γ from entry to "
        "entry, and then be 0."
    )


OUTPUTS = ("D",)

ALTERNATIVES = (
    lambda gamma, T: sum(
        torch.diag_embed((gamma**n)[:, None].expand(-1, T - n), offset=-n)
        for n in range(T)
    ),
    lambda gamma, T: (
        torch.einsum("h, ij -> hij", gamma.log(), _distances(T))
        .masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf)
        .exp()
    ),
)

MISTAKES = """
* → n = torch.arange(T) ⏎ return torch.tril(gamma[:, None, None] ** n[:, None] * gamma[:, None, None] ** -n)
    The product γ^i · γ^(-j) overflows where γ is small: the answer holds inf or nan. Take the
    difference i - j first, then the power.
-torch.inf → 0.0
    1 stands above the diagonal, where D is 0: an exponent of 0 there gives γ⁰ = 1. Close the future
    with -inf in the exponent.
distance = n[:, None] - n → distance = (n[:, None] - n).abs()
    Your mask is symmetric, γ^|i-j|: token i would read the future. Look at j > i.
logs.masked_fill(distance < 0, -torch.inf) → logs
    Above the diagonal stands γ^(i-j), which is more than 1: the mask is missing. Look at j > i.
n[:, None] - n → n - n[:, None]
    Your D is transposed: row i is the reader, column j what it reads. Look at which arange stands
    in the rows.
logs = distance → logs = (distance + 1)
    One power too many, γ^(i-j+1): a token reads its own pair undecayed. Look at the diagonal, i =
    j.
distance < 0 → distance <= 0
    The diagonal is masked away: a token reads its own pair, D_ii = 1. Look at < against ≤.
logs = distance → logs = (distance - 1)
    One power too few, γ^(i-j-1): look at i = j, where the power is 0, and at i = j + 1, where it is
    1.
gamma.log() → 0 * gamma.log()
    This is a plain causal mask without decay: look for γ^(i-j).
.exp() →
    This is log D, or D before the exp: look at the last step.
gamma.log() → gamma[:1].expand_as(gamma).log()
    All heads have the decay of the first: look at how gamma (H,) is lined up with (T, T).
return logs.masked_fill(distance < 0, -torch.inf).exp() → D = logs.masked_fill(distance < 0, -torch.inf).exp() ⏎ return D / D.sum(-1, keepdim=True)
    Your rows are normalised to sum to 1: retention does not do this here. Look for a division or a
    softmax.
return logs.masked_fill(distance < 0, -torch.inf).exp() → D = logs.masked_fill(distance < 0, -torch.inf).exp() ⏎ return D / D.sum(-1, keepdim=True).sqrt()
    Your rows are divided by the root of their sums, a rescaling of the paper that its norm cancels
    again: leave it out.
logs.masked_fill(distance < 0, -torch.inf).exp() → logs.exp() * (distance >= 0)
    Your mask is multiplied in after the exp: above the diagonal exp overflows where γ is small, and
    inf · 0 is nan. Fill in -inf before the exp.
* → n = torch.arange(T) ⏎ distance = (n[:, None] - n).float() ⏎ return gamma[:, None, None] ** distance.masked_fill(distance < 0, -torch.inf)
    Here -inf went into the exponent of γ, and γ^(-inf) is inf: it belongs into (i - j) ln γ, after
    the product.
logs = distance → logs = -distance
    Your powers grow with the distance, γ^(j-i): look at the sign of i - j.
distance < 0 → distance > 0
    Your mask closes the past and leaves the future open: look at which side of the diagonal gets
    -inf.
gamma.log() → gamma
    The logarithm of γ is missing: this is exp((i - j) γ), not exp((i - j) ln γ).
gamma.log() → gamma.log2()
    Two bases are mixed: exp undoes the natural logarithm, not log₂. Look at the logarithm of γ.
distance = n[:, None] - n → distance = (T - 1 - n).expand(T, T) ; distance < 0 → n[:, None] < n
    Your weights are counted from the end of the text, γ^(T-1-j): D depends on the distance from the
    reader, γ^(i-j).
"""
