r"""Two numbers instead of three

*Keep a mean and a logarithm, and need no unit at all. · 12 minutes · ●●○ · 2 points*

The stable loop keeps three numbers per channel: two sums and their unit. Two are enough: the mean of the past, $\bar v = p / q$, and the logarithm of its weight, $L = \ln q$ (of the true sums). Write one step
of RWKV-4 with this state: return the read $y$ of this token, and the new $\bar v$ and $L$. Before the first token $L = -∞$ and $\bar v = 0$. Keys may be 300 or -300, u may be 100.
"""

import torch
import torch.nn.functional as F

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch09.shared import rand, randn


def two_numbers(w, u, k, v, mean, L):
    """One token. w < 0 and u (D,); k, v, mean and L (B, D). Returns y, mean and L, each (B, D)."""
    ### BEGIN SOLUTION
    y = mean + torch.sigmoid(u + k - L) * (v - mean)
    faded = L + w
    L = torch.logaddexp(faded, k)
    mean = mean + torch.exp(k - L) * (v - mean)
    return y, mean, L
    ### END SOLUTION


WHY = r"""
**Solution.** A weighted mean of two numbers needs only the *share* of one of them. In the read the past weighs $e^{L}$ and the token $e^{u + k}$, so its share is $σ(u + k - L)$. In the state the past has faded to $e^{L + w}$, and the
share of the token is $e^{k - L'}$ with $L' = \ln(e^{L + w} + e^{k})$: `logaddexp`, which has the maximum inside. A decay changes how much the past weighs, and not its mean.

*Another way:* the second share is $σ(k - L - w)$.

*Common mistakes:* fading the mean too; reading after the fade; the bonus in the state.
"""

HINTS = (
    "A mean of two groups is known from the two means and the share of one of them.",
    "In the read the token's share is sigmoid(u + k - L). In the state the past has faded: L + w.",
    "y = mean + sigmoid(u + k - L) (v - mean); L = logaddexp(L + w, k); mean = mean + exp(k - L) (v - mean).",
)


def reference(w, u, k, v, mean, L):
    """Both means as softmaxes over two exponents, in float64."""
    w, u, k, v, mean, L = (x.double() for x in (w, u, k, v, mean, L))
    pair = torch.stack([mean, v])

    def of(old, new):
        exponents = torch.stack([old, new.expand_as(old)])
        return (exponents.softmax(0) * pair).sum(0), exponents.logsumexp(0)

    y, _ = of(L, u + k)
    mean, L = of(L + w, k)
    return y.float(), mean.float(), L.float()


def cases(rng):
    def case(name, B, D, size=2.0, first=False, bonus=1.0, decay=None):
        w = -rand(rng, D) if decay is None else torch.full((D,), decay)
        u = bonus * randn(rng, D).abs()
        k, v = size * randn(rng, B, D), randn(rng, B, D)
        given = {"w": w, "u": u, "k": k, "v": v}
        given = {name: x.requires_grad_() for name, x in given.items()}
        mean, L = randn(rng, B, D), size * randn(rng, B, D)
        if first:
            mean, L = 0 * mean, torch.full_like(L, -torch.inf)
        return Case(name, given | {"mean": mean, "L": L})

    return [
        case("one number", 1, 1),
        case("a table", 3, 5),
        case("the first token", 2, 4, first=True),
        case("keys of hundreds", 4, 3, size=300.0),
        case("a bonus of a hundred", 2, 3, bonus=100.0),
        case("nothing fades", 2, 3, decay=-1e-6),
        case("fades at once", 2, 3, decay=-80.0),
    ]


OUTPUTS = ("y", "mean", "L")

TIME_AXIS = None

TOLERANCE = 1e-4


def _by_sigmoids(w, u, k, v, mean, L):
    y = torch.lerp(mean, v, torch.sigmoid(u + k - L))
    new = torch.lerp(mean, v, torch.sigmoid(k - L - w))
    return y, new, torch.maximum(L + w, k) + F.softplus(-(L + w - k).abs())


def _by_softmax(w, u, k, v, mean, L):
    read = torch.stack([L, u + k]).softmax(0)
    kept = torch.stack([L + w, k.expand_as(L)])
    share = kept.softmax(0)
    return (
        read[0] * mean + read[1] * v,
        share[0] * mean + share[1] * v,
        kept.logsumexp(0),
    )


ALTERNATIVES = (_by_sigmoids, _by_softmax)

MISTAKES = """
torch.sigmoid(u + k - L) → torch.sigmoid(u + k - L - w)
    y reads the past after its decay: at the read of this token the past has not faded yet.
torch.sigmoid(u + k - L) → torch.sigmoid(k - L)
    The bonus is missing: in the read the token weighs e^(u + k).
faded = L + w → faded = L
    The past does not fade: with each token its weight becomes e^w times as large.
L = torch.logaddexp(faded, k) → L = torch.logaddexp(faded, u + k)
    The bonus got into the state: it counts only in the read of its own token.
mean = mean + torch.exp(k - L) * (v - mean) → mean = torch.exp(w) * mean + torch.exp(k - L) * (v - mean)
    The mean fades: a decay changes the weight of the past, not its mean.
torch.logaddexp(faded, k) → torch.maximum(faded, k)
    L is the larger exponent, not the logarithm of the sum: that is the unit of the other form.
y = mean + torch.sigmoid(u + k - L) * (v - mean) → y = mean
    The read leaves out the newest token.
y = mean + torch.sigmoid(u + k - L) * (v - mean) → y = v + torch.sigmoid(u + k - L) * (mean - v)
    The shares in y have changed places: sigmoid(u + k - L) is that of the new value.
faded = L + w → faded = L - w
    The sign of the decay is turned: w is negative, and the past loses weight.
"""
