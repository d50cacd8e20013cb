r"""Zero-order hold, also at a rate of 0

*Write the gain so that neither it nor its gradient breaks where A = 0. · 8 minutes · ●●○ · 2 points*

Zero-order hold has the gate $e^{Δ A}$ and the gain

$$b = \int_0^{Δ} e^{s A}\, ds = \frac{e^{Δ A} - 1}{A}.$$

A rate of 0 is a plain sum, and b is then Δ. But the quotient is 0/0 there, and near 0 it loses its digits. Write
`gain(A, dt)`, right to 1 part in a million for every A in the check. A model trains A, so the gradient with respect to A must be
finite everywhere, also at 0: a NaN in a branch that `torch.where` does not choose still spoils it.
"""

import numpy as np
import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.vocabulary import input_


def gain(A, dt):
    """What multiplies x in one step: (exp(dt A) - 1) / A, elementwise, and dt where A is 0.

    A and dt: float64, of one shape, dt > 0. Returns b, of the same shape.
    """
    ### BEGIN SOLUTION
    z = dt * A
    near = z.abs().lt(2e-2)
    far = torch.where(near, dt, z)  # any number but 0 will do where it is near
    series = 1 + z / 2 + z * z / 6
    return dt * torch.where(near, series, torch.expm1(far) / far)
    ### END SOLUTION


WHY = r"""
**Solution.** With $z = Δ A$ the gain is $Δ\,(e^z - 1)/z$, and the second factor is the mean of $e^u$ for u from 0 to z. It
is smooth: $1 + z/2 + z^2/6 + …$. So use the series near 0 and the quotient elsewhere, with `expm1`, which keeps the digits that
`exp(z) - 1` loses.

**Why the inner `where`.** The gradient of `torch.where(near, p, q)` sends 0 into the branch that was not chosen. If that branch
computed 0/0, its own derivative is NaN, and 0 · NaN is NaN. So the *input* of the unused branch must be harmless too.

*Common mistakes:* adding an epsilon to A moves the answer near 0, and still divides by 0 at A = -ε. Euler's gain Δ is the first
term of the series only.
"""

HINTS = (
    "Let z = dt · A. What is (exp(z) - 1) / z near 0, as a series?",
    "1 + z/2 + z²/6 near 0, torch.expm1(z) / z elsewhere, times dt; two torch.where keep 0/0 out of both values and "
    "gradients.",
    "near = z.abs() < 2e-2; far = torch.where(near, dt, z); then dt * torch.where(near, 1 + z / 2 + z * z / 6, "
    "torch.expm1(far) / far).",
)


def reference(A, dt):
    """The integral of exp(s A) from 0 to dt, by Gauss's rule."""
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(60))
    s = dt[..., None] * (nodes + 1) / 2
    return dt * ((s * A[..., None]).exp() * weights / 2).sum(-1)


def cases(rng):
    def draw(low, high, *shape):
        size = low + (high - low) * torch.rand(
            *shape, generator=rng, dtype=torch.float64
        )
        return size

    rates = {
        "one rate": draw(-3, -1, 1),
        "a rate of 0": torch.zeros(3, dtype=torch.float64),
        "rates near 0": draw(-3.9, -2.5, 5) * 0.01,
        "tiny rates": draw(-1, 1, 2, 4) * 1e-9,
        "minus a small power of ten": -(10.0 ** -torch.arange(4, 13).double()),
        "all at once": torch.cat([draw(-2, -0.3, 4), torch.zeros(1).double()]),
        "growth": draw(0.3, 2, 4),
        "large rates": draw(-90, -60, 3, 2),
    }
    return [
        Case(name, {"A": A.requires_grad_(), "dt": draw(0.3, 0.5, *A.shape)})
        for name, A in rates.items()
    ]


def effort(inputs, cost):
    if cost.gradient_finite:
        return None
    return (
        "The values are right, but the gradient with respect to A is NaN or inf at a rate of 0: the branch that "
        "torch.where does not choose divides by 0. Give that branch a harmless input."
    )


OUTPUTS = ("b",)

TIME_AXIS = None

TOLERANCE = 1e-6


def _by_sinh(A, dt):
    """exp(z/2) sinh(z/2) / (z/2), the quotient through sinh."""
    half = dt * A / 2
    near = half.abs() < 1e-2
    safe = torch.where(near, torch.ones_like(half), half)
    return dt * half.exp() * torch.where(near, 1 + half**2 / 6, safe.sinh() / safe)


def _by_quadrature(A, dt):
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(80))
    z = (dt * A).unsqueeze(-1)
    return dt * torch.einsum("...n, n -> ...", (z * (nodes + 1) / 2).exp(), weights / 2)


def _by_halves(A, dt):
    """The series on a step 2⁻⁸ as long, then eight doublings: b(2 dt) = b (1 + exp(dt A))."""
    z = dt * A / 2**8
    b, a = dt / 2**8 * (1 + z / 2 + z**2 / 6 + z**3 / 24 + z**4 / 120), z.exp()
    for _ in range(8):
        b, a = b * (1 + a), a * a
    return b


ALTERNATIVES = (
    _by_quadrature,
    _by_sinh,
    _by_halves,
)

MISTAKES = """
* → return dt + 0 * A
    This is Euler's gain, dt, whatever A is: it is only the first term of dt (1 + z/2 + …).
* → return dt / (1 - dt * A / 2)
    This is the gain of the bilinear rule, dt / (1 - dt A / 2). Zero-order hold has (exp(dt A) - 1) / A.
* → return (dt * A).exp()
    This is the gate exp(dt A). The gain is its integral over the step, (exp(dt A) - 1) / A.
return dt * torch.where → return torch.where
    The factor dt is missing: this is (exp(z) - 1) / z with z = dt A, and the gain is dt times that.
* → return ((dt * A).exp() - 1) / A
    This is the quotient, right except where A is 0: there it is 0/0, which is NaN. Use the series near 0.
* → return torch.expm1(dt * A) / A
    This is the quotient with all its digits, but where A is 0 it is 0/0, which is NaN. Use the series near 0.
* → return torch.expm1(dt * (A + 1e-8)) / (A + 1e-8)
    An epsilon is added to A. That only moves the division by 0: to the rate that is minus the epsilon. Use the series near 0.
* → return dt * ((dt * A).exp() - 1) / (dt * A).where(A != 0, 1)
    Where A is 0 this gives 0, but a rate of 0 is a plain sum: the gain there is dt.
* → return torch.where(A == 0, dt, ((dt * A).exp() - 1) / A.where(A != 0, 1))
    Exactly 0 is taken care of, but near it the difference exp(z) - 1 loses its digits: torch.expm1 keeps them, or the
    series.
* → return ((dt * A).exp() - 1) / (A + 1e-6)
    An epsilon is added to A: where A is tiny, or 0, the quotient is then far from dt. Use the series near 0.
torch.expm1(far) / far) → torch.expm1(far) / far) * dt
    dt is multiplied in twice, for rates near 0 as well as for others: the gain is dt (exp(z) - 1) / z.
z = dt * A → z = -dt * A
    The sign of the rate is turned: this is (1 - exp(-dt A)) / A, as if decay were growth.
torch.expm1(far) / far → torch.exp(far) / far
    Away from 0 the - 1 is missing: this is dt exp(z) / z. The gain is dt (exp(z) - 1) / z.
torch.expm1(far) / far → (1 - far.exp()) / far
    Away from 0 the gain has the wrong sign: it is exp(z) - 1 over z, not 1 - exp(z).
* → return dt * (1 + dt * A / 2)
    These are two terms of the series everywhere. They are good near 0 only: use the quotient elsewhere.
* → return dt * (1 + dt * A / 2 + (dt * A) ** 2 / 6)
    This is the series everywhere. It is good near 0 only: use the quotient elsewhere.
"""

ALSO = (
    input_(
        "A",
        torch.exp,
        "A is used as if it were the log of the rate: it is the rate itself.",
    ),
    input_(
        "dt",
        lambda dt: torch.nn.functional.softplus(dt),
        "dt goes through a softplus: it is the step itself here.",
    ),
)
