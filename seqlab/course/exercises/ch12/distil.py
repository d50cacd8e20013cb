r"""Project: a small state for a long filter

*Replace a filter by a few modes, and decode with them. · 30 minutes · ●●● · 3 points*

A trained filter is close to a sum of a few modes (the chapter's section 7). Find them. Write `distil(h, n)`: for a filter $h_0, \dots, h_{L-1}$ return n complex numbers a and n complex numbers c (each as a real and an imaginary part, by `torch.view_as_real`) with

$$h_l \approx \mathrm{Re} \sum_{i=1}^{n} c_i\, a_i^{\,l}$$

One way needs three steps, all of linear algebra:

1. Put the filter into a Hankel matrix $M_{ij} = h_{i+j}$, with about L/2 rows. Take its singular value decomposition, and keep the n largest directions: $M \approx U S V^\top$.
2. If h is made of n modes, shifting the rows of U by one place is a linear map of its n columns: $U_{\text{without the first row}} = U_{\text{without the last row}}\, A$. Solve for the n × n matrix A by least squares. Its eigenvalues are the a.
3. With a known, c is a linear least-squares problem.

Any other way is welcome. (Not `torch.linalg.pinv` of *complex* numbers: while a check counts operations, PyTorch gets it wrong. `lstsq` is right.) The requirements below are measured, on sums of modes, on a smooth and on a noisy filter, and on the recurrence that the modes make.
"""

import torch

from seqlab.course.exercise import Case, Requirement
from seqlab.course.exercises.ch12.shared import rand, randn


def distil(h, n):
    """h (L,), float64, n at most L / 4. Returns a and c, both (n, 2): real, imaginary."""
    ### BEGIN SOLUTION
    L = len(h)
    i = torch.arange(L // 2)
    U, _, _ = torch.linalg.svd(h[i[:, None] + i])
    U = U[:, :n]
    A = torch.linalg.lstsq(U[:-1], U[1:]).solution
    a = torch.linalg.eigvals(A)
    powers = a ** torch.arange(L)[:, None]  # (L, n)
    c = torch.linalg.lstsq(powers, h[:, None].to(powers.dtype)).solution[:, 0]
    return torch.view_as_real(a), torch.view_as_real(c)
    ### END SOLUTION


WHY = r"""
**Solution.** If $h_l = \sum_i c_i a_i^l$, then $M = W\, \mathrm{diag}(c)\, W^\top$ with the columns $W_{ki} = a_i^k$. Shifting W by a row multiplies column i by $a_i$. The SVD returns the same column space in another basis, so there the shift is a matrix A *similar* to diag(a): same eigenvalues. This is the idea of Prony's method, in a form that survives noise because small singular values are thrown away.

If h is real, the eigenvalues come in conjugate pairs and so do the c, and the sum is real by itself. A pair is one damped wave: Megalodon's average. *Laughing Hyena* fits modes to each filter by another method, a gradient descent, and reports that small states are enough for models trained in the usual way.

*Common mistakes:* the shift solved the wrong way round, which gives 1/a: modes that grow; the singular values left in U on one side only; c from the first n values of h alone, which is exact there and wrong later.
"""

HINTS = (
    "Without noise, M has rank n. Which n numbers describe what happens to its column space if all rows move up by one?",
    "A = lstsq(U[:-1], U[1:]).solution; a = eigvals(A).",
    "powers = a ** torch.arange(L)[:, None]; c = torch.linalg.lstsq(powers, h[:, None].to(powers.dtype)).solution[:, 0].",
)


def _sum_of_modes(rng, L, n_pairs, n_real):
    t = torch.arange(L, dtype=torch.float64)
    h = 0 * t
    for p in range(n_pairs):
        keep, turn = (
            0.8 + 0.18 * rand(rng, 1).double(),
            0.5 + p + 0.4 * rand(rng, 1).double(),
        )
        h = h + (1 + rand(rng, 1).double()) * keep**t * torch.cos(turn * t + 0.5)
    for p in range(n_real):
        h = h + (1 + rand(rng, 1).double()) * (0.95 - 0.25 * p) ** t
    return h


def cases(rng):
    t = torch.arange(64, dtype=torch.float64)
    window = torch.exp(-t / 25)
    smooth = window * torch.sin(
        1.5 * torch.sin(0.11 * t + randn(rng, 1).double()) + 0.3
    )
    noisy = _sum_of_modes(rng, 60, 2, 1)
    noisy = noisy + 3e-3 * noisy.abs().max() * randn(rng, 60).double()
    return [
        Case("one real mode", {"h": _sum_of_modes(rng, 20, 0, 1), "n": 1}),
        Case("a damped wave", {"h": _sum_of_modes(rng, 32, 1, 0), "n": 2}),
        Case("five modes", {"h": _sum_of_modes(rng, 60, 1, 3), "n": 5}),
        Case("five modes and noise", {"h": noisy, "n": 5}),
        Case("a smooth filter", {"h": smooth, "n": 8}),
    ]


def shapes(inputs, values):
    for given, (a, c) in zip(inputs, values, strict=True):
        if {a.shape, c.shape} != {(given["n"], 2)} or a.is_complex() or c.is_complex():
            return (
                False,
                f"a is {tuple(a.shape)}, c is {tuple(c.shape)}, n = {given['n']}",
            )
    return True, "n modes each time"


def fading(inputs, values):
    worst = max(float(a.norm(dim=-1).max()) for a, _ in values[:4])
    return worst <= 1 + 1e-9, f"the largest |a| is {worst:.3f}"


def _complex(pairs):
    return torch.complex(*pairs.double().unbind(-1))


def _error(given, a, c):
    h, a, c = given["h"].double(), _complex(a), _complex(c)
    made = (c * a ** torch.arange(len(h))[:, None]).sum(-1).real
    return float((made - h).norm() / h.norm())


def _below(limit, which):
    def measure(inputs, values):
        errors = [_error(g, *v) for g, v in zip(inputs, values, strict=True)]
        worst = max(errors[which])
        return worst < limit, f"off by {worst:.1e} of the filter's size"

    return measure


def decodes(inputs, values):
    """The recurrence with n numbers gives what the convolution gives."""
    worst = 0.0
    for given, (a, c) in zip(inputs[:3], values[:3], strict=True):
        h, a, c = given["h"].double(), _complex(a), _complex(c)
        x = torch.sin(torch.arange(len(h)) ** 2.0).double()
        state, ys = torch.zeros_like(a), []
        for u in x:
            state = a * state + u
            ys.append((c * state).sum().real)
        right = torch.stack(
            [(h[: t + 1].flip(0) * x[: t + 1]).sum() for t in range(len(x))]
        )
        worst = max(worst, float((torch.stack(ys) - right).norm() / right.norm()))
    return worst < 1e-5, f"off by {worst:.1e} of the outputs' size"


REQUIREMENTS = (
    Requirement(
        "n modes",
        shapes,
        "a and c must be real tensors of shape (n, 2) with exactly n modes in each case; torch.view_as_real makes them.",
    ),
    Requirement(
        "modes that fade",
        fading,
        "Some mode grows, |a| > 1, for a filter that fades. (Solving the shift the other way round gives 1/a.)",
    ),
    Requirement(
        "one real mode",
        _below(1e-6, slice(0, 1)),
        "A filter of one real mode is not recovered: a is the ratio of neighbouring weights, and c, fitted to all of h with powers that start at a^0, is h_0.",
    ),
    Requirement(
        "sums of real modes and waves",
        _below(1e-6, slice(1, 3)),
        "A filter with a damped wave is not recovered: a wave is a pair of complex modes.",
    ),
    Requirement(
        "filters that are only close to a few modes",
        _below(0.04, slice(3, 5)),
        "The noisy or the smooth filter is more than 4 % off: use a Hankel matrix of about L / 2 rows, the n largest directions, and all of h for c.",
    ),
    Requirement(
        "the same text by the recurrence",
        decodes,
        "The recurrence of the modes gives another text than the filter: h_0 belongs to the newest token.",
    ),
)


def _by_balance(h, n):
    """A balanced realisation: both sides of the SVD, and the Hankel matrix one step later."""
    i = torch.arange(len(h) // 2 - 1)
    U, S, Vh = torch.linalg.svd(h[i[:, None] + i])
    left, right = U[:, :n] / S[:n].sqrt(), Vh[:n].mT / S[:n].sqrt()
    a = torch.linalg.eigvals(left.mT @ h[i[:, None] + i + 1] @ right)
    powers = a ** torch.arange(len(h))[:, None]
    both = torch.cat([powers.real, -powers.imag], 1)  # Re(c p) in real arithmetic
    re, im = (torch.linalg.pinv(both) @ h).chunk(2)
    c = torch.complex(re, im)
    return torch.view_as_real(a), torch.view_as_real(c)


ALTERNATIVES = (_by_balance,)

OUTPUTS = ("a", "c")

MISTAKES = """
torch.view_as_real(a), torch.view_as_real(c) → torch.view_as_real(a)[1:], torch.view_as_real(c)
    a and c must be real tensors of shape (n, 2) with exactly n modes in each case; torch.view_as_real makes them.
torch.linalg.lstsq(U[:-1], U[1:]) → torch.linalg.lstsq(U[1:], U[:-1])
    Some mode grows, |a| > 1, for a filter that fades. (Solving the shift the other way round gives 1/a.)
c = torch.linalg.lstsq(powers, h[:, None].to(powers.dtype)).solution[:, 0] → c = torch.ones_like(a)
    A filter of one real mode is not recovered: a is the ratio of neighbouring weights, and c, fitted to all of h with powers that start at a^0, is h_0.
a = torch.linalg.eigvals(A) → a = torch.linalg.eigvals(A).real.to(torch.complex128)
    A filter with a damped wave is not recovered: a wave is a pair of complex modes.
i = torch.arange(L // 2) → i = torch.arange(n + 1)
    The noisy or the smooth filter is more than 4 % off: use a Hankel matrix of about L / 2 rows, the n largest directions, and all of h for c.
"""
