"""Rules of discretisation against their equations, and starts against the authors' numbers."""

import math

import pytest
import torch
import torch.nn.functional as F

from seqlab.core import discretize
from seqlab.core.discretize import hippo_legs, legs_dplr

RULES = {
    "zero-order hold": (discretize.zero_order_hold, discretize.zero_order_hold_matrix),
    "bilinear": (discretize.bilinear, discretize.bilinear_matrix),
    "euler": (discretize.euler, discretize.euler_matrix),
}
rules = pytest.mark.parametrize("rule", RULES)
DT = torch.tensor(0.07, dtype=torch.float64)


def close(ours, theirs, tolerance=1e-12):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def diagonal():
    rate, frequency = torch.rand(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    return torch.complex(-rate, 9 * frequency)


@rules
def test_a_diagonal_matrix_is_its_diagonal(rule):
    A, B = diagonal(), torch.randn(5, 2, dtype=torch.complex128)
    elementwise, matrix = RULES[rule]
    gate, gain = elementwise(A, DT)
    close(matrix(torch.diag(A), B, DT.item()), (torch.diag(gate), gain[:, None] * B))


def test_zero_order_hold_solves_the_equation_exactly():
    """For constant x, h(dt) = exp(dt A) h + ∫ exp((dt - s) A) B x ds, here by rectangles."""
    A, B = torch.randn(4, 4, dtype=torch.float64), torch.randn(4, 1, dtype=torch.float64)
    a, b = discretize.zero_order_hold_matrix(A, B, DT.item())
    close(a, torch.linalg.matrix_exp(DT * A))
    middles = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000 * DT
    integral = (torch.linalg.matrix_exp(middles[:, None, None] * A) @ B).mean(0) * DT
    close(b, integral, 1e-8)


@rules
def test_two_half_steps_come_closer_than_one(rule):
    """Half the dt, and the error after one unit of time is 1/2 (Euler), 1/4 (bilinear) or 0."""
    A, B = hippo_legs(4)
    exact = discretize.zero_order_hold_matrix(A, B[:, None], 1.0)
    errors = []
    for n in (2000, 4000):
        a, b = RULES[rule][1](A, B[:, None], 1 / n)
        h = torch.linalg.matrix_power(a, n)
        one = torch.eye(4, dtype=a.dtype)
        total = torch.linalg.solve(one - a, (one - h) @ b)
        errors.append(max((h - exact[0]).abs().max(), (total - exact[1]).abs().max()))
    if rule == "zero-order hold":
        assert max(errors) < 1e-9
    else:
        assert errors[0] / errors[1] == pytest.approx({"bilinear": 4, "euler": 2}[rule], rel=0.02)


def test_a_rate_of_zero_adds_up_its_input():
    """A = 0 is an integrator: gate 1, gain dt; and the gradient there is dt² / 2, with no 0 / 0."""
    A = torch.tensor([0.0, 1e-12, 1e-7, 1e-5, 1e-3], dtype=torch.float64).requires_grad_()
    gate, gain = discretize.zero_order_hold(A, DT)
    assert gate[0] == 1 and gain[0] == DT
    (grad,) = torch.autograd.grad(gain.sum(), A)
    close(grad, DT**2 / 2 + DT**3 * A.detach() / 3 + DT**4 * A.detach() ** 2 / 8, 1e-9)


def test_bilinear_keeps_every_decay_stable_and_euler_does_not():
    A = torch.tensor([-1.0, -50.0, -1000.0], dtype=torch.float64)
    for rule in (discretize.bilinear, discretize.zero_order_hold):
        assert (rule(A, DT)[0].abs() < 1).all()
    assert discretize.euler(A, DT)[0].abs().gt(1).tolist() == [False, True, True]


@pytest.mark.parametrize("n", [2, 8, 64])
def test_hippo_legs_is_normal_plus_rank_one(n):
    """A = V (Λ - P P*) V*, V unitary, Re Λ = -1/2, in conjugate pairs."""
    A, B = hippo_legs(n)
    rates, P, B_normal, V = legs_dplr(n)
    close(V @ (torch.diag(rates) - torch.outer(P, P.conj())) @ V.mH, A.to(V.dtype), 1e-11)
    close(V @ B_normal, B.to(V.dtype), 1e-11)
    close(V.mH @ V, torch.eye(n, dtype=V.dtype))
    assert (rates.real == -0.5).all() and (rates[: n // 2].imag > 0).all()
    for u in (rates, P, B_normal, V):
        assert torch.equal(u[..., : n // 2], u[..., n // 2 :].conj())


def test_hippo_legs_remembers_the_coefficients_of_legendre():
    """A constant has one coefficient, the first; x(t) = t, seen up to t, is t/2 (P_0 + P_1).

    With h' = (A h + B x) / t: a constant needs A h + B = 0; for x = t, h = t c with c = A c + B.
    """
    A, B = hippo_legs(6)
    close(torch.linalg.solve(A, -B), torch.eye(6, dtype=torch.float64)[0])
    expected = torch.zeros(6, dtype=torch.float64)
    expected[0], expected[1] = 1 / 2, 1 / (2 * math.sqrt(3))  # h_n scales with √(2n + 1) P_n
    close(torch.linalg.solve(torch.eye(6, dtype=torch.float64) - A, B), expected)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_hippo_legt_is_the_best_delay_of_its_order(n):
    """Read at the far end of the window, its transfer function C (s - A)^-1 B is the Padé
    approximant of exp(-s), a delay of 1: both series agree in the first 2 n coefficients.
    """
    A, B = discretize.hippo_legt(n)
    order = torch.arange(n, dtype=torch.float64)
    C = (2 * order + 1).sqrt() * (-1) ** order
    h, found = B, []
    for _ in range(2 * n):
        h = torch.linalg.solve(A, h)
        found.append(-C @ h)
    expected = [(-1.0) ** k / math.factorial(k) for k in range(2 * n)]
    close(torch.stack(found), torch.tensor(expected, dtype=torch.float64), 1e-9)


def test_hippo_legs_has_the_eigenvalues_of_its_diagonal_and_no_usable_eigenvectors():
    A, _ = hippo_legs(32)
    eigenvectors = torch.linalg.eig(A)[1]
    assert torch.linalg.cond(eigenvectors) > 1e12 > 1.001 > torch.linalg.cond(legs_dplr(32)[3])


@pytest.mark.parametrize("n", [4, 64])
def test_the_diagonal_starts(n):
    k = range(n // 2)
    lin = [complex(-0.5, math.pi * i) for i in k]
    close(discretize.S4D["lin"](n), torch.tensor(lin, dtype=torch.complex128))
    inv = [complex(-0.5, n / math.pi * (n / (2 * i + 1) - 1)) for i in k]
    close(discretize.S4D["inv"](n), torch.tensor(inv, dtype=torch.complex128))
    assert discretize.S4D["real"](n).tolist() == [-(i + 1) for i in range(n)]
    assert len(discretize.S4D["legs"](n)) == n // 2


def test_the_inverse_start_follows_the_frequencies_of_hippo():
    """Why S4D has S4D-Inv: the k-th largest frequency nears n² / (π (2k + 1)) as n grows."""
    errors = []
    for n in (32, 128, 512):
        legs, inv = discretize.s4d_legs(n).imag.flip(0)[:4], discretize.s4d_inv(n).imag[:4]
        errors.append(((legs - inv).abs() / legs).max().item())
    assert errors[0] > 2 * errors[1] > 4 * errors[2] and errors[2] < 0.02


@pytest.mark.parametrize("r_min, r_max, phase", [(0.5, 0.9, math.pi), (0.0, 1.0, math.pi / 10)])
def test_the_ring_is_uniform_by_area(r_min, r_max, phase):
    """The authors' nu_log and theta_log: |λ|² and the phase are uniform and independent."""
    torch.manual_seed(0)
    n = 20000
    nu, theta = discretize.lru_ring(n, r_min, r_max, phase)
    square, angle = torch.exp(-2 * nu.exp()), theta.exp()
    for x, low, high in ((square, r_min**2, r_max**2), (angle, 0.0, phase)):
        u = (x - low) / (high - low)  # uniform in [0, 1]: mean 1/2, variance 1/12, and both ends
        assert u.min() > -1e-12 and u.max() < 1 + 1e-12
        assert u.min() < 1e-3 and u.max() > 1 - 1e-3
        assert u.mean().item() == pytest.approx(1 / 2, abs=4 / (12 * n) ** 0.5)
        assert u.var().item() == pytest.approx(1 / 12, rel=0.03)
    assert torch.corrcoef(torch.stack([square, angle]))[0, 1].abs() < 4 / n**0.5


def test_the_ring_is_the_whole_disc_by_default():
    """r_min = 0, r_max = 1, max_phase = 2π, and the radius is drawn before the phase."""
    torch.manual_seed(0)
    default = discretize.lru_ring(50)
    torch.manual_seed(0)
    u, v = torch.rand(2, 50, dtype=torch.float64)
    close(default[0], (-0.5 * u.log()).log())
    close(default[1], (2 * math.pi * v).log())


def test_step_lengths_are_uniform_in_their_logarithm():
    torch.manual_seed(0)
    dt = discretize.draw_dt(20000, 1e-3, 1e-1)
    assert dt.min() >= 1e-3 and dt.max() <= 1e-1
    assert (dt < 1e-2).double().mean() == pytest.approx(0.5, abs=0.02)
    u = (dt / 1e-3).log10() / 2
    assert u.min() < 1e-3 and u.max() > 1 - 1e-3
    assert u.var().item() == pytest.approx(1 / 12, rel=0.03)
    torch.manual_seed(0)
    close(discretize.draw_dt(20000), dt)  # Mamba's and S4's range is the default


def test_the_inverse_of_softplus():
    y = torch.tensor([1e-12, 1e-3, 0.1, 1.0, 20.0, 50.0], dtype=torch.float64)
    close(F.softplus(discretize.softplus_inverse(y), threshold=1e9), y)
    assert discretize.softplus_inverse(torch.tensor(math.log(2.0))).abs() < 1e-6


def test_pairs_hold_a_complex_tensor_through_double():
    z = torch.randn(3, 4, dtype=torch.complex128)
    pairs = discretize.as_pairs(z.mH.mT)
    assert pairs.dtype == torch.get_default_dtype() and pairs.shape == (3, 4, 2)
    close(pairs.double(), torch.stack([z.real, -z.imag], dim=-1), 1e-6)
    close(discretize.as_complex(pairs.double()), z.conj().resolve_conj(), 1e-6)
    assert discretize.as_complex(pairs.bfloat16()).dtype == torch.complex64


def test_euler_gives_a_gain_for_each_rate():
    gate, gain = discretize.euler(torch.tensor([-1.0, -2.0]).double(), DT)
    close(gate, torch.tensor([0.93, 0.86], dtype=torch.float64))
    assert gain.tolist() == [DT.item()] * 2


def test_an_odd_number_of_modes_gets_one_clear_sentence():
    with pytest.raises(ValueError, match="n is 7: conjugate pairs need an even number of modes"):
        legs_dplr(7)
