"""From continuous time to tokens: h' = A h + B x becomes h_t = a h_{t-1} + b x_t.

Each token is one step of length dt.

    zero-order hold   a = exp(dt A)                         b = A⁻¹ (a - 1) B
    bilinear          a = (1 - dt A / 2)⁻¹ (1 + dt A / 2)   b = (1 - dt A / 2)⁻¹ dt B
    Euler             a = 1 + dt A                          b = dt B

Zero-order hold is exact if x is constant during a step. The bilinear rule keeps every decay a
decay. Euler explodes where |1 + dt A| > 1. Each has a function for diagonal A (any shape; returns
the gate, and the gain that multiplies B) and one for full A (`_matrix`). Below are the A that such
models start with (HiPPO-LegS and its normal form, HiPPO-LegT, S4D's, LRU's
ring) and the dt.
"""

import math

import torch
from jaxtyping import Complex, Float, Inexact
from torch import Tensor

from seqlab.core.inputs import wide

Rate = Inexact[Tensor, "..."]
Matrix = Inexact[Tensor, "N N"]
Vector = Complex[Tensor, " N"]


def zero_order_hold(A: Rate, dt: Float[Tensor, "..."]) -> tuple[Rate, Rate]:
    """Gate exp(dt A) and gain (exp(dt A) - 1) / A, which is dt where A is 0."""
    z = dt * A
    return z.exp(), dt * _mean_exponential(z)


def bilinear(A: Rate, dt: Float[Tensor, "..."]) -> tuple[Rate, Rate]:
    """Gate (1 + dt A / 2) / (1 - dt A / 2) and gain dt / (1 - dt A / 2): the trapezoid rule."""
    half = dt * A / 2
    return (1 + half) / (1 - half), dt / (1 - half)


def euler(A: Rate, dt: Float[Tensor, "..."]) -> tuple[Rate, Rate]:
    """Gate 1 + dt A and gain dt."""
    return 1 + dt * A, dt.expand(torch.broadcast_shapes(A.shape, dt.shape))


def zero_order_hold_matrix(A: Matrix, B: Inexact[Tensor, "N M"], dt: float):
    """(Ā, B̄) for any A, also a singular one: the top rows of exp(dt [[A, B], [0, 0]])."""
    N, M = B.shape
    joined = torch.cat([torch.cat([A, B], dim=1), A.new_zeros(M, N + M)])
    top = torch.linalg.matrix_exp(joined * dt)[:N]
    return top[:, :N], top[:, N:]


def bilinear_matrix(A: Matrix, B: Inexact[Tensor, "N M"], dt: float):
    """(Ā, B̄) = (1 - dt A / 2)⁻¹ (1 + dt A / 2, dt B)."""
    one = torch.eye(len(A), dtype=A.dtype, device=A.device)
    solved = torch.linalg.solve(one - dt / 2 * A, torch.cat([one + dt / 2 * A, dt * B], dim=1))
    return solved[:, : len(A)], solved[:, len(A) :]


def euler_matrix(A: Matrix, B: Inexact[Tensor, "N M"], dt: float):
    """(Ā, B̄) = (1 + dt A, dt B)."""
    return torch.eye(len(A), dtype=A.dtype, device=A.device) + dt * A, dt * B


def hippo_legs(n: int) -> tuple[Float[Tensor, "N N"], Float[Tensor, " N"]]:
    """HiPPO-LegS (Gu et al. 2020, arXiv:2008.07669), in float64: (A, B).

    Under h' = (A h + B x) / t, h_n(t) is the coefficient of the n-th Legendre polynomial in the
    whole past x(0 .. t). A_nk = -√((2n+1)(2k+1)) below the diagonal, -(n + 1) on it, 0 above.
    """
    root = (2 * torch.arange(n, dtype=torch.float64) + 1).sqrt()
    diagonal = torch.diag(torch.arange(1.0, n + 1, dtype=torch.float64))
    return -(torch.outer(root, root).tril(-1) + diagonal), root


def hippo_legt(n: int) -> tuple[Float[Tensor, "N N"], Float[Tensor, " N"]]:
    """HiPPO-LegT (the same paper), in float64: (A, B) for a window of length 1.

    Under h' = A h + B x, h_n(t) is about the coefficient of the n-th Legendre polynomial in
    x(t - 1 .. t); for a window of length θ divide both by θ. About, because the value that leaves
    the window is taken from the polynomial itself. A_nk = -√((2n+1)(2k+1)), and above the diagonal
    times (-1)^(n-k).
    """
    order = torch.arange(n, dtype=torch.float64)
    root = (2 * order + 1).sqrt()
    sign = (-1.0) ** (order[:, None] - order)
    return -torch.outer(root, root) * torch.where(order[:, None] < order, sign, 1.0), root


def legs_dplr(n: int) -> tuple[Vector, Vector, Vector, Complex[Tensor, "N N"]]:
    """HiPPO-LegS as diagonal plus low rank: (Λ, P, B, V) with A = V (diag(Λ) - P P*) V*.

    S4 (Gu et al. 2021, arXiv:2111.00396). The eigenvectors of A alone are too ill-conditioned to
    use. But A + p pᵀ with p = √(n + 1/2) is -1/2 plus a skew matrix, so it is normal: V is unitary,
    and all of Λ has real part -1/2. P and B are V* p and V* B. Λ, P, B and the columns of V form
    conjugate pairs: first the n/2 with positive frequency, rising, then their conjugates. An odd n
    raises a ValueError.
    """
    if n % 2:
        raise ValueError(f"n is {n}: conjugate pairs need an even number of modes")
    A, B = hippo_legs(n)
    p = (torch.arange(n, dtype=torch.float64) + 0.5).sqrt()
    skew = A + torch.outer(p, p) + torch.eye(n, dtype=torch.float64) / 2
    frequency, V = torch.linalg.eigh(-1j * skew)  # rising, from -ω to ω
    frequency, V = frequency[n // 2 :], V[:, n // 2 :]  # of each pair, the positive one
    frequency = torch.cat([frequency, -frequency])
    V = torch.cat([V, V.conj()], dim=1)
    rates = torch.complex(torch.full_like(frequency, -0.5), frequency)
    return rates, V.mH @ p.to(V.dtype), V.mH @ B.to(V.dtype), V


def s4d_lin(n: int) -> Complex[Tensor, " half"]:
    """-1/2 + iπk, k = 0 .. n/2 - 1 (S4D, Gu et al. 2022, arXiv:2206.11893): S4D-Lin.

    Equally spaced frequencies: a Fourier basis that fades.
    """
    k = torch.arange(n // 2, dtype=torch.float64)
    return torch.complex(torch.full_like(k, -0.5), math.pi * k)


def s4d_inv(n: int) -> Complex[Tensor, " half"]:
    """-1/2 + i (n/π) (n / (2k + 1) - 1), k = 0 .. n/2 - 1: S4D-Inv, near HiPPO's frequencies."""
    k = torch.arange(n // 2, dtype=torch.float64)
    return torch.complex(torch.full_like(k, -0.5), n / math.pi * (n / (2 * k + 1) - 1))


def s4d_legs(n: int) -> Complex[Tensor, " half"]:
    """The Λ of HiPPO-LegS, without its low-rank part; the positive frequencies only: S4D-LegS."""
    return legs_dplr(n)[0][: n // 2]


def s4d_real(n: int) -> Float[Tensor, " N"]:
    """-(k + 1), k = 0 .. n - 1: pure decays, the diagonal of HiPPO-LegS. Mamba starts here."""
    return -torch.arange(1.0, n + 1, dtype=torch.float64)


S4D = {"lin": s4d_lin, "inv": s4d_inv, "legs": s4d_legs, "real": s4d_real}


def lru_ring(
    n: int, r_min: float = 0.0, r_max: float = 1.0, max_phase: float = 2 * math.pi
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """(ν, θ) of λ = exp(-exp(ν) + i exp(θ)), uniform on the ring r_min ≤ |λ| ≤ r_max.

    LRU (Orvieto et al. 2023, arXiv:2303.06349). Uniform by area: |λ|² is uniform, not |λ|. Phases
    are uniform up to max_phase; below 2π only slow rotations are left, which long inputs need.
    """
    u = torch.rand(n, dtype=torch.float64)
    phase = max_phase * torch.rand(n, dtype=torch.float64)
    squared = u * (r_max**2 - r_min**2) + r_min**2  # |λ|²
    nu = (-0.5 * squared.log()).log()
    return nu, phase.log()


def draw_dt(n: int, dt_min: float = 1e-3, dt_max: float = 0.1) -> Float[Tensor, " n"]:
    """Step lengths with a uniform logarithm: as many in [0.001, 0.01] as in [0.01, 0.1]."""
    u = torch.rand(n, dtype=torch.float64)
    return (math.log(dt_min) + u * (math.log(dt_max) - math.log(dt_min))).exp()


def softplus_inverse(y: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x with softplus(x) = y > 0: y + log(1 - exp(-y)), exact for small y too."""
    return y + (-torch.expm1(-y)).log()


def as_pairs(z: Inexact[Tensor, "..."]) -> Float[Tensor, "... two"]:
    """A complex tensor as real pairs, in the default dtype: so `.double()` works on parameters."""
    return torch.view_as_real(z.resolve_conj()).to(torch.get_default_dtype())


def as_complex(pairs: Float[Tensor, "... two"]) -> Complex[Tensor, "..."]:
    """Real pairs as a complex tensor, of float32 at least."""
    return torch.view_as_complex(wide(pairs).contiguous())


def _mean_exponential(z):
    """(exp(z) - 1) / z, the mean of exp over [0, z].

    Near 0 by its series: the gradient of the quotient loses all its digits there.
    """
    near = z.abs() < torch.finfo(z.dtype).eps ** (1 / 3)
    series = 1 + z / 2 + z.square() / 6
    return torch.where(near, series, torch.expm1(z) / torch.where(near, 1, z))
