r"""Project: a delay line

*Build a linear system of a few numbers that returns what it heard a given time ago. · 30 minutes · ●●● · 4 points*

A shift register delays a signal by `delay` tokens exactly, with `delay` numbers of state. For signals that change slowly that is a
waste. Write `delay_line(delay)`, which returns the matrices of a discrete system

$$h_t = A\,h_{t-1} + B\,x_t \qquad y_t = C\,h_t$$

as float64 tensors A (N, N), B (N,) and C (N,), such that

- the state has **at most 24 numbers**, whatever the delay;
- the system is **stable**: all eigenvalues of A have |λ| < 1;
- a **constant** input comes out as itself, within 1 %, after a while;
- **slow** signals come out delayed: for waves of period 4 · delay the error is at most 5 % of the signal;
- **faster** ones as well: for waves of period delay, at most 10 %.

The error is the root mean square of $y_t - x_{t - delay}$, against that of x, after the system has heard 6 · delay tokens. The check asks for
several delays between 40 and 400. Everything of `seqlab.core.discretize` may be used.
"""

import math

import torch

from seqlab.core import discretize
from seqlab.core.discretize import hippo_legt
from seqlab.course.exercise import Case, Requirement


def delay_line(delay):
    """(A, B, C) of h_t = A h_{t-1} + B x_t, y_t = C h_t, with y_t near x_{t - delay}. At most 24 numbers of state.

    Returns A (N, N), B (N,), C (N,), float64.
    """
    ### BEGIN SOLUTION
    N = 16
    A, B = hippo_legt(N)
    A, B = discretize.bilinear_matrix(A, B[:, None], 1 / delay)
    n = torch.arange(N, dtype=torch.float64)
    C = (2 * n + 1).sqrt() * (-1) ** n  # the polynomials at the far end of the window
    return A, B[:, 0], C
    ### END SOLUTION


WHY = r"""
**Solution.** HiPPO-LegT keeps a polynomial fit of the last `delay` tokens. What was heard `delay` ago stands at the far end of that window,
$z = -1$, where the polynomial $\sqrt{2n+1} P_n$ has the value $\sqrt{2n+1}\,(-1)^n$. Those are the entries of C. The ODE has a window of length 1, so a
token is a step of $1/delay$.

This is how the "Legendre memory unit" was found: as the best delay line of N numbers. With N = 16 it follows waves down to a small part of the
window; the more numbers, the faster the waves.

*Other ways:* zero-order hold instead of the bilinear rule; any change of basis; fitting C by least squares to the states of any rich stable system.

*Common mistakes:* reading with the values at $z = +1$ returns the present; too few numbers pass the slow waves and fail the faster ones.
"""

HINTS = (
    "Which memory of the chapter keeps the last `delay` tokens, and where in it does the oldest one stand?",
    "HiPPO-LegT with steps of 1/delay, read at z = -1: √(2n+1) P_n(-1) = √(2n+1) (-1)^n.",
    "A, B = hippo_legt(16); A, B = discretize.bilinear_matrix(A, B[:, None], 1 / delay); "
    "C = (2 * n + 1).sqrt() * (-1) ** n.",
)

SECONDS = 10.0


def cases(rng):
    return [Case(f"a delay of {d}", {"delay": d}) for d in (100, 40, 400)]


def answers_to(value, x):
    """y for each row of x (B, T), by powers of A: blocks of states at once."""
    A, B, C = (u.double() for u in value)
    kernel, h = [], B
    for _ in range(x.shape[1]):
        kernel.append(C @ h)
        h = A @ h
    n = 2 * x.shape[1]
    spectrum = torch.fft.rfft(torch.stack(kernel), n) * torch.fft.rfft(x, n)
    return torch.fft.irfft(spectrum, n)[:, : x.shape[1]]


def error(value, delay, period):
    """The relative error for a sine and a cosine of this period, after 6 delays."""
    t = torch.arange(8 * delay).double()
    x = torch.stack(
        [torch.sin(2 * math.pi * t / period), torch.cos(2 * math.pi * t / period)]
    )
    y = answers_to(value, x)
    wrong = y[:, 6 * delay :] - x[:, 5 * delay : 7 * delay]
    found = wrong.square().mean().sqrt() / x.square().mean().sqrt()
    return found.item() if found.isfinite() else math.inf


def right_shapes(inputs, values):
    for A, B, C in values:
        N = A.shape[-1]
        if A.shape != (N, N) or B.shape != (N,) or C.shape != (N,):
            return False, f"A {tuple(A.shape)}, B {tuple(B.shape)}, C {tuple(C.shape)}"
    return True, "they fit"


def few(inputs, values):
    n = max(len(A) for A, _, _ in values)
    return n <= 24, f"{n} numbers"


def stable(inputs, values):
    top = max(torch.linalg.eigvals(A.double()).abs().max().item() for A, _, _ in values)
    return top < 1, f"the largest |λ| is {top:.4g}"


def constant(inputs, values):
    worst = 0.0
    for A, B, C in values:
        one = torch.eye(len(A), dtype=torch.float64)
        total = C.double() @ torch.linalg.solve(one - A.double(), B.double())
        worst = max(worst, abs(total.item() - 1))
    return worst <= 0.01, f"off by {worst:.1%}"


def slow(inputs, values):
    worst = max(
        error(v, i["delay"], 4 * i["delay"])
        for i, v in zip(inputs, values, strict=True)
    )
    return worst <= 0.05, f"an error of {worst:.1%}"


def faster(inputs, values):
    worst = max(
        error(v, i["delay"], i["delay"]) for i, v in zip(inputs, values, strict=True)
    )
    return worst <= 0.10, f"an error of {worst:.1%}"


REQUIREMENTS = (
    Requirement(
        "A (N, N), B (N,), C (N,)",
        right_shapes,
        "The shapes do not fit: A must be (N, N), B and C (N,), with one N.",
    ),
    Requirement(
        "at most 24 numbers",
        few,
        "The state is too large: at most 24 numbers, also for a delay of 400.",
    ),
    Requirement(
        "stable",
        stable,
        "The system grows: an eigenvalue of A has |λ| of 1 or more. Is the sign of the rates right, and the rule of "
        "discretisation one that keeps decays?",
    ),
    Requirement(
        "a constant comes through",
        constant,
        "A constant input does not come out as itself: C (1 - A)⁻¹ B should be 1. Look at the size of C, and at the step in B.",
    ),
    Requirement(
        "slow waves",
        slow,
        "Slow waves do not come out delayed by `delay`. If your state keeps a window, how long is it, and at which place of it does C read? If it does not, which delay do A and C make?",
    ),
    Requirement(
        "faster waves",
        faster,
        "Slow waves come out right, faster ones do not: a few more numbers of state can follow them.",
    ),
)


def _held(delay):
    A, B = hippo_legt(20)
    A, B = discretize.zero_order_hold_matrix(A, B[:, None], 1 / delay)
    root = (2 * torch.arange(20).double() + 1).sqrt()
    root[1::2] *= -1
    return A, B[:, 0], root


def _other_basis(delay):
    A, B, C = delay_line(delay)
    Q = torch.linalg.qr(
        torch.randn(16, 16, generator=torch.Generator().manual_seed(1)).double()
    ).Q
    return Q @ A @ Q.T, Q @ B, Q @ C


def _fitted(delay):
    """Any stable basis will do: C by least squares on the waves themselves."""
    A, B, _ = _held(delay)
    t = torch.arange(10 * delay).double()
    periods = (1.0, 1.3, 2.0, 4.0, 10.0)
    waves = [
        f(2 * math.pi * t / (p * delay))
        for p in periods
        for f in (torch.sin, torch.cos)
    ]
    waves.append(torch.ones_like(t))
    rows, wanted = [], []
    for x in waves:
        h = torch.zeros_like(B)
        for s, x_t in enumerate(x):
            h = A @ h + B * x_t
            if s > 5 * delay and s % 7 == 0:
                rows.append(h)
                wanted.append(x[s - delay])
    H = torch.stack(rows)
    one = 1e-9 * torch.eye(len(B), dtype=torch.float64)
    return A, B, torch.linalg.solve(H.T @ H + one, H.T @ torch.stack(wanted))


OUTPUTS = ("A", "B", "C")

ALTERNATIVES = (_held, _other_basis)

MISTAKES = """
return A, B[:, 0], C → return A, B, C
    The shapes do not fit: A must be (N, N), B and C (N,), with one N.
N = 16 → N = 32
    The state is too large: at most 24 numbers, also for a delay of 400.
discretize.bilinear_matrix(A, B[:, None], 1 / delay) → discretize.bilinear_matrix(-A, B[:, None], 1 / delay)
    The system grows: an eigenvalue of A has |λ| of 1 or more. Is the sign of the rates right, and the rule of discretisation one that keeps decays?
return A, B[:, 0], C → return A, delay * B[:, 0], C
    A constant input does not come out as itself: C (1 - A)⁻¹ B should be 1. Look at the size of C, and at the step in B.
(2 * n + 1).sqrt() * (-1) ** n → (2 * n + 1).sqrt()
    Slow waves do not come out delayed by `delay`. If your state keeps a window, how long is it, and at which place of it does C read? If it does not, which delay do A and C make?
N = 16 → N = 4
    Slow waves come out right, faster ones do not: a few more numbers of state can follow them.
"""
