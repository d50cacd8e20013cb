"""Diagonal plus rank one: its O(N) step and its kernel against full matrices."""

import pytest
import torch

from seqlab.core.discretize import bilinear_matrix, draw_dt, legs_dplr
from seqlab.core.rank_one import System, by_convolution, by_steps, kernel, step

B, D, HALF = 2, 3, 4


def system(legs=False):
    """Random modes that decay, or HiPPO-LegS as S4 starts."""
    randn = lambda: torch.randn(D, HALF, dtype=torch.complex128)  # noqa: E731
    rates = torch.complex(-torch.rand(D, HALF).double(), 4 * torch.randn(D, HALF).double())
    rates, P, B = rates, randn(), randn()
    if legs:
        rates, P, B = (u[:HALF].expand(D, HALF) for u in legs_dplr(2 * HALF)[:3])
    return System(rates, P, B, randn(), draw_dt(D, 0.05, 0.5)[:, None])


def whole(u):
    """Both modes of each conjugate pair."""
    return torch.cat([u, u.conj()], dim=-1)


def dense(s, d):
    """(Ā, B̄) of channel d as full matrices, from A = Λ - P P*."""
    P = whole(s.P[d])
    A = torch.diag(whole(s.rates[d])) - torch.outer(P, P.conj())
    return bilinear_matrix(A, whole(s.B[d])[:, None], s.dt[d].item())


@pytest.mark.parametrize("legs", [False, True])
def test_the_step_is_the_bilinear_rule_on_full_matrices(legs):
    s = system(legs)
    h, x = torch.randn(B, D, HALF, dtype=torch.complex128), torch.randn(B, D).double()
    ours = step(s, h, x)
    for d in range(D):
        A, B_bar = dense(s, d)
        expected = whole(h[:, d]) @ A.T + x[:, d, None] * B_bar[:, 0]
        torch.testing.assert_close(whole(ours[:, d]), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("T", [1, 2, 7, 16])
def test_the_kernel_is_the_answer_to_a_single_one(T):
    """K_l = 2 Re(C Ā^l B̄), from a row of C (1 - Ā^T)."""
    s = system()
    expected, rows = torch.zeros(D, T).double(), []
    for d in range(D):
        A, B_bar = dense(s, d)
        C = whole(s.C[d])
        for l in range(T):
            expected[d, l] = (C @ torch.linalg.matrix_power(A, l) @ B_bar[:, 0]).real
        # C h over both modes of a pair is 2 Re(C h): as a row over real and imaginary parts
        cut = (C - C @ torch.linalg.matrix_power(A, T))[:HALF]
        rows.append(torch.view_as_real(2 * cut.conj().resolve_conj()).flatten())
    torch.testing.assert_close(kernel(s, torch.stack(rows), T), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("T", [1, 2, 3, 5, 8, 21, 64, 65])
@pytest.mark.parametrize("with_state", [False, True])
def test_the_convolution_is_the_loop_with_its_gradients(T, with_state):
    s, x = system(), torch.randn(B, T, D).double().requires_grad_()
    h = torch.randn(B, D, HALF, dtype=torch.complex128, requires_grad=True) if with_state else None
    results = []
    for form in (by_convolution, by_steps):
        y, last = form(s, x, h)
        loss = y.square().sum() + torch.view_as_real(last).sin().sum()
        inputs = [x, h] if with_state else [x]
        results.append([y, last, *torch.autograd.grad(loss, inputs)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", [by_convolution, by_steps])
def test_two_parts_with_the_state_carried_are_the_whole(form):
    s, x = system(), torch.randn(B, 21, D).double()
    y, last = form(s, x)
    first, h = form(s, x[:, :8])
    second, h = form(s, x[:, 8:], h)
    torch.testing.assert_close(torch.cat([first, second], 1), y, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(h, last, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", [by_convolution, by_steps])
def test_no_sequences_give_no_answers(form):
    y, h = form(system(), torch.zeros(0, 9, D).double())
    assert y.shape == (0, 9, D) and h.shape == (0, D, HALF)
    y, h = form(system(), torch.zeros(0, 9, D).double(), h)
    assert y.shape == (0, 9, D) and h.shape == (0, D, HALF)
