r"""The bilinear rule for matrices

*Discretise one full system per channel, by solving instead of inverting. · 8 minutes · ●●○ · 2 points*

The chapter has the rule for single rates. S4 starts from full matrices, one step $Δ_d$ per channel:

$$\bar A = (1 - \tfrac{Δ}{2} A)^{-1}(1 + \tfrac{Δ}{2} A) \qquad \bar B = (1 - \tfrac{Δ}{2} A)^{-1} Δ\, B .$$

The 1 is the identity matrix. `torch.linalg.solve(M, X)` returns $M^{-1} X$ for many matrices at once.
"""

import torch

from seqlab.core.discretize import hippo_legs
from seqlab.course.exercise import Case
from seqlab.course.exercises.ch06.shared import _rand, _randn
from seqlab.course.exercises.vocabulary import first_head, swapped, transposed


def bilinear(A, B, dt):
    """The trapezoid rule: h_t = A_bar h_{t-1} + B_bar x_t for each channel.

    A (D, N, N), B (D, N), dt (D,). Returns (A_bar, B_bar), shapes (D, N, N) and (D, N).
    """
    ### BEGIN SOLUTION
    one = torch.eye(B.shape[1])
    half = dt[:, None, None] / 2 * A
    A_bar = torch.linalg.solve(one - half, one + half)
    B_bar = torch.linalg.solve(one - half, dt[:, None] * B)
    return A_bar, B_bar
    ### END SOLUTION


WHY = r"""
**Solution.** The trapezoid rule takes the mean of the slopes at both ends of a step:
$h_t - h_{t-1} = \frac{Δ}{2} A (h_t + h_{t-1}) + Δ B x_t$. Collect $h_t$ on the left: $(1 - \frac{Δ}{2}A)\, h_t = (1 +
\frac{Δ}{2} A)\, h_{t-1} + Δ B x_t$. Then solve.

**Why it is stable.** An eigenvalue $λ$ of A becomes $(1 + \frac{Δ}{2}λ)/(1 - \frac{Δ}{2}λ)$. If the real part of λ is negative,
the numerator is the smaller one, for every Δ.

*Common mistakes:* Δ where Δ/2 belongs; B without the solve; the factor of Δ forgotten on B.
"""

HINTS = (
    "Write the rule as an equation for h_t, with everything that holds h_t on the left.",
    "(1 - Δ/2 A) h_t = (1 + Δ/2 A) h_{t-1} + Δ B x_t: two systems with one matrix on the left.",
    "half = dt[:, None, None] / 2 * A; torch.linalg.solve(one - half, one + half), and the same matrix with "
    "dt[:, None] * B.",
)


def reference(A, B, dt):
    """Ā = 2 M⁻¹ - 1, in float64, by an inverse."""
    A, B, dt = A.double(), B.double(), dt.double()
    M = torch.linalg.inv(torch.eye(A.shape[-1]).double() - dt[:, None, None] / 2 * A)
    A_bar = 2 * M - torch.eye(A.shape[-1]).double()
    return A_bar.float(), (dt[:, None] * (M @ B[..., None])[..., 0]).float()


def cases(rng):
    def case(name, D, N, low=0.05, high=0.5, A=None):
        A = -torch.eye(N) + 0.5 * _randn(rng, D, N, N) if A is None else A
        return Case(
            name,
            {"A": A, "B": _randn(rng, D, N), "dt": _rand(rng, D, low=low, high=high)},
        )

    legs = hippo_legs(6)[0].float().repeat(3, 1, 1)
    return [
        case("one number", 1, 1),
        case("one channel", 1, 4),
        case("N ≠ D", 3, 5),
        case("N = D", 3, 3),
        case("HiPPO", 3, 6, 0.01, 0.2, legs),
        case("A = 0: nothing decays", 2, 3, A=torch.zeros(2, 3, 3)),
        case("long steps", 2, 4, 3.0, 5.0, -torch.eye(4) - 0.2 * _rand(rng, 2, 4, 4)),
    ]


OUTPUTS = ("A_bar", "B_bar")

TIME_AXIS = None


def _one_by_one(A, B, dt):
    one = torch.eye(A.shape[-1])
    pairs = [
        (
            torch.linalg.solve(one - t / 2 * a, one + t / 2 * a),
            torch.linalg.solve(one - t / 2 * a, t * b),
        )
        for a, b, t in zip(A, B, dt, strict=True)
    ]
    return torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])


def _joined(A, B, dt):
    one = torch.eye(A.shape[-1]).expand_as(A)
    half = 0.5 * dt[:, None, None] * A
    right = torch.cat([one + half, (dt[:, None] * B)[..., None]], dim=-1)
    solved = torch.linalg.solve(one - half, right)
    return solved[..., :-1], solved[..., -1]


ALTERNATIVES = (_one_by_one, _joined)

_INVERSE = "The values are right, but a matrix was inverted: torch.linalg.solve costs less and is more exact."

RULED_OUT = {
    "linalg_inv": _INVERSE,
    "inverse": _INVERSE,
    "linalg_inv_ex": _INVERSE,
    "linalg_pinv": _INVERSE,
}

MISTAKES = """
A_bar = torch.linalg.solve(one - half, one + half) → A_bar = one + 2 * half ; B_bar = torch.linalg.solve(one - half, dt[:, None] * B) → B_bar = dt[:, None] * B
    This is Euler's rule, 1 + Δ A and Δ B: the bilinear rule also solves with 1 - Δ/2 A.
A_bar = torch.linalg.solve(one - half, one + half) → A_bar = torch.linalg.solve(one - 2 * half, one.expand_as(A)) ; B_bar = torch.linalg.solve(one - half, dt[:, None] * B) → B_bar = torch.linalg.solve(one - 2 * half, dt[:, None] * B)
    This is the backward Euler rule: it takes only the slope at the end of the step. The bilinear rule takes the mean of
    both ends, Δ/2 on each side.
half = dt[:, None, None] / 2 * A → half = dt[:, None, None] * A
    The half is missing: Δ A stands where Δ/2 · A belongs, on both sides.
torch.linalg.solve(one - half, dt[:, None] * B) → dt[:, None] * B
    Your B_bar is Δ B, without the solve: B too is multiplied by (1 - Δ/2 A)⁻¹.
dt[:, None] * B) → B)
    The factor Δ is missing in B_bar.
dt[:, None] * B) → dt[:, None] / 2 * B)
    Your B_bar is half of what it should be: it has Δ, not Δ/2.
torch.linalg.solve(one - half, one + half) → torch.linalg.solve(one + half, one - half)
    Plus and minus have changed places in A_bar: a decay becomes growth.
half = dt[:, None, None] / 2 * A → half = -dt[:, None, None] / 2 * A
    Plus and minus have changed places in both, or the sign of A has: a decay becomes growth.
half = dt[:, None, None] / 2 * A → half = dt[:, None, None] / 2 * A.mT
    A is transposed in both outputs: the rule has A itself.
torch.linalg.solve(one - half, one + half) → torch.linalg.solve(one - half, one.expand_as(A))
    Your A_bar is (1 - Δ/2 A)⁻¹ alone: the factor 1 + Δ/2 A is missing.
torch.linalg.solve(one - half, one + half) → torch.matrix_exp(2 * half)
    Your A_bar is exp(Δ A), the gate of zero-order hold. The bilinear rule is a quotient.
torch.linalg.solve(one - half, dt[:, None] * B) → torch.linalg.solve(one + half, dt[:, None] * B)
    B_bar is solved with 1 + Δ/2 A: the matrix is 1 - Δ/2 A, the same as for A_bar.
torch.linalg.solve(one - half, dt[:, None] * B) → torch.linalg.solve(one - half.mT, dt[:, None] * B)
    B_bar is solved with the transposed matrix (or B stands on the left of it): it is (1 - Δ/2 A)⁻¹ Δ B.
torch.linalg.solve(one - half, dt[:, None] * B) → (A_bar @ (dt[:, None] * B)[..., None])[..., 0]
    Your B_bar has the factor A_bar: only (1 - Δ/2 A)⁻¹ belongs there, without 1 + Δ/2 A.
torch.linalg.solve(one - half, one + half) → (one + half) / (one - half)
    The quotient is taken entry by entry: for matrices it is a solve.
torch.linalg.solve(one - half, one + half) → (1 + half) / (1 - half)
    The quotient is taken entry by entry, and 1 is added to every entry: for matrices 1 is the identity, and the quotient
    a solve.
"""

ALSO = (
    swapped(),
    first_head(
        "dt",
        says="All channels use the step of the first: dt (D,) must line up with A (D, N, N).",
    ),
    transposed("A_bar"),
)
