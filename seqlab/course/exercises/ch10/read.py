r"""The normaliser's maximum, at another scale

*Read a stabilised memory. · 6 minutes · ●○○ · 1 point*

The mLSTM's read is $y = S q / \max(|n · q|, 1)$, for the true S and n. Kept are $S' = e^{-m} S$ and $n' = e^{-m} n$. Write the read from S', n', m and q, without ever
building S: m may be 500 or -500, and $e^{500}$ is no number of float32.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch10.shared import randn


def read(S, n, m, q):
    """S' (B, H, V, K), n' (B, H, K), m (B, H), q (B, H, K): y (B, H, V)."""
    ### BEGIN SOLUTION
    top = torch.einsum("bhvk, bhk -> bhv", S, q)
    size = (n * q).sum(-1).abs()
    return top / torch.maximum(size, torch.exp(-m))[..., None]
    ### END SOLUTION


WHY = r"""
**Solution.** Divide numerator and denominator by $e^m$: $y = S' q / \max(|n' · q|, e^{-m})$. For m = 500 the second number underflows to 0, and the first decides. For m = -500 it is inf, and y is 0: so
little has been written that a read returns (nearly) nothing. That is the purpose of the 1: it keeps a memory with hardly anything in it from being blown up to full size.

*Common mistakes:* comparing with 1; with $e^{m}$; the absolute value forgotten ($n · q$ may be negative, and then the sign of y turns).
"""

HINTS = (
    "Write S = e^m S' and n = e^m n' into the fraction, and divide above and below by e^m.",
    "y = S' q / max(|n'·q|, e^(-m)).",
    "torch.einsum('bhvk, bhk -> bhv', S, q) / torch.maximum((n * q).sum(-1).abs(), torch.exp(-m))[..., None].",
)


def reference(S, n, m, q):
    """In float64, by logarithms of the denominator."""
    S, n, m, q = (u.double() for u in (S, n, m, q))
    dot = torch.einsum("bhk, bhk -> bh", n, q).abs()
    log_size = torch.maximum(dot.log(), -m)
    y = torch.einsum("bhvk, bhk -> bhv", S, q)
    return (y.sign() * (y.abs().log() - log_size[..., None]).exp()).float()


def cases(rng):
    def case(name, B, H, K, V, low=-1.0, high=3.0):
        m = low + (high - low) * torch.rand(B, H, generator=rng)
        return Case(
            name,
            {
                "S": randn(rng, B, H, V, K),
                "n": randn(rng, B, H, K),
                "m": m,
                "q": randn(rng, B, H, K),
            },
        )

    return [
        case("one head", 1, 1, 3, 3),
        case("K ≠ V", 2, 3, 5, 2),
        case("m is 0: the two conditions meet", 2, 4, 4, 3, 0.0, 0.0),
        case("m of 500", 2, 2, 4, 3, 450.0, 500.0),
        case("m of -20: little is written", 2, 2, 4, 3, -20.0, -15.0),
        case("m of -500: next to nothing", 1, 2, 4, 3, -500.0, -450.0),
    ]


OUTPUTS = ("y",)

TIME_AXIS = None


def _by_matrix(S, n, m, q):
    size = (n[..., None, :] @ q[..., None])[..., 0].abs()
    return (S @ q[..., None])[..., 0] / size.maximum((-m).exp()[..., None])


def _by_clamp(S, n, m, q):
    dot = torch.einsum("bhk, bhk -> bh", n, q)
    least = torch.exp(-m)
    size = torch.where(dot.abs() > least, dot.abs(), least)
    return torch.einsum("bhvk, bhk -> bhv", S, q) / size[:, :, None]


ALTERNATIVES = (_by_matrix, _by_clamp)

MISTAKES = """
torch.exp(-m) → torch.ones_like(m)
    The denominator is compared with 1: that belongs to the true n. Here n is divided by e^m, so the 1 becomes e^(-m).
torch.exp(-m) → torch.exp(m)
    The sign of m is turned: dividing 1 by e^m gives e^(-m).
.abs() →
    The absolute value is missing: n·q may be negative, and its size counts.
torch.maximum(size, torch.exp(-m)) → size
    The maximum is left out: where little is written, n·q is near 0 and y is blown up.
torch.maximum(size, torch.exp(-m)) → size + torch.exp(-m)
    The two are added: the larger of them is asked for.
torch.maximum(size, torch.exp(-m)) → torch.minimum(size, torch.exp(-m))
    This takes the smaller of the two.
(n * q).sum(-1).abs() → (n * q).abs().sum(-1)
    The absolute value is taken before the sum: it is that of the whole dot product.
torch.exp(-m) → m.abs()
    The denominator is compared with |m|: the scale is e^m, so 1 becomes e^(-m).
"""
