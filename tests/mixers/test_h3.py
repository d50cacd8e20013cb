import math

import pytest
import torch

from seqlab.core.recurrence import recurrent
from seqlab.mixers.h3 import H3

D, N, T = 12, 6, 15


@pytest.mark.parametrize("d_head", [1, 3])
def test_it_is_two_state_spaces_around_two_products(d_head):
    """The shift matrix and the diagonal one, token by token, the second by a matrix exponential."""
    mixer, x = H3(D, d_head=d_head, d_state=N).double(), torch.randn(1, T, D, dtype=torch.float64)
    q, k, v = (W(x)[0] for W in (mixer.q, mixer.k, mixer.v))
    shift_matrix = torch.diag(torch.ones(N - 1, dtype=torch.float64), -1)
    held = torch.zeros(D, N, dtype=torch.float64)
    H = D // d_head
    h = torch.zeros(H, d_head, d_head, N // 2, dtype=torch.complex128)
    y = torch.zeros(T, H, d_head, dtype=torch.float64)
    A = torch.complex(-mixer.log_rate.exp(), mixer.frequency)  # (H, N / 2)
    for t in range(T):
        held = held @ shift_matrix.mT
        held[:, 0] += k[t]
        k_t = ((held * mixer.shift.flip(1)).sum(1) + mixer.D_k * k[t]).unflatten(0, (H, d_head))
        write = v[t].unflatten(0, (H, d_head))[:, :, None] * k_t[:, None]  # (H, V, K)
        for i in range(H):
            for n in range(N // 2):
                joined = torch.zeros(2, 2, dtype=torch.complex128)
                joined[0] = torch.stack([A[i, n], torch.ones((), dtype=A.dtype)])
                held_step = torch.linalg.matrix_exp(joined * mixer.log_dt[i].exp())
                h[i, :, :, n] = held_step[0, 0] * h[i, :, :, n] + held_step[0, 1] * write[i]
        C = torch.view_as_complex(mixer.C)
        S = 2 * torch.einsum("hvkn, hn -> hvk", h, C).real + mixer.D[:, None, None] * write
        y[t] = torch.einsum("hvk, hk -> hv", S, q[t].unflatten(0, (H, d_head)))
    torch.testing.assert_close(mixer(x)[0][0], mixer.out(y.flatten(1)), rtol=0, atol=1e-9)


def a_running_sum(d_model):
    """An H3 whose one mode has rate 0 and C = 1/2: it forgets nothing and weights nothing."""
    mixer = H3(d_model, d_head=4, d_state=2).double()
    mixer.log_rate.data.fill_(-60)
    mixer.C.data.fill_(0.5)
    for p in (mixer.frequency, mixer.log_dt, mixer.D):
        p.data.zero_()
    return mixer


def test_h3_with_a_mode_that_never_fades_is_linear_attention():
    """S_t = Σ v kᵀ, if the shift leaves k unchanged."""
    mixer, x = a_running_sum(D), torch.randn(2, T, D, dtype=torch.float64)
    mixer.D_k.data.fill_(1), mixer.shift.data.zero_()
    q, k, v = (W(x).unflatten(-1, (3, 4)) for W in (mixer.q, mixer.k, mixer.v))
    expected = mixer.out(recurrent(q, k, v)[0].flatten(-2))
    torch.testing.assert_close(mixer(x)[0], expected, rtol=0, atol=1e-9)


def test_the_shift_recalls_what_came_before_the_same_token():
    """One-hot tokens, "a1 .. a?": k̃ is the previous token, so S maps a token to its successor."""
    mixer = a_running_sum(4)
    mixer.D_k.data.zero_(), mixer.shift.data.copy_(torch.tensor([1.0, 0.0]))
    eye = torch.eye(4, dtype=torch.float64)
    for W in (mixer.q, mixer.k, mixer.v, mixer.out):
        W.weight.data = eye
        W.bias.data.zero_()
    tokens = torch.tensor([2, 1, 3, 0, 2])
    y = mixer(eye[tokens][None])[0][0, -1]
    torch.testing.assert_close(y, eye[1], rtol=0, atol=1e-9)


def test_it_starts_as_the_authors():
    """S4D-Lin, -1/2 + iπn, in every head; dt log-uniform in [0.001, 0.1]; C with E|C|² = 1.

    D and D_k are N(0, 1), the shift is nn.Conv1d's: uniform in ±d_state^-1/2. Bounds of five
    standard errors.
    """
    mixer = H3(2000)
    assert mixer.shift.shape == (2000, 64) and mixer.frequency.shape == (2000, 32)
    torch.testing.assert_close(mixer.log_rate.exp(), torch.full((2000, 32), 0.5))
    frequency = torch.pi * torch.arange(32.0).expand(2000, 32)
    torch.testing.assert_close(mixer.frequency.detach(), frequency, rtol=1e-6, atol=0)
    log_dt = mixer.log_dt.detach()
    assert math.log(1e-3) <= log_dt.min() < -6.8 and -2.4 < log_dt.max() <= math.log(0.1)
    assert log_dt.mean().item() == pytest.approx(math.log(0.01), abs=5 * 1.33 / 2000**0.5)
    for start, spread in {mixer.C: 0.5**0.5, mixer.D: 1, mixer.D_k: 1}.items():
        error = spread / start.numel() ** 0.5
        assert start.mean().item() == pytest.approx(0, abs=5 * error)
        assert start.std().item() == pytest.approx(spread, abs=5 * error / 2**0.5)
    assert -1 / 8 <= mixer.shift.min() < -0.124 and 0.124 < mixer.shift.max() <= 1 / 8
    assert all(W.bias is not None for W in (mixer.q, mixer.k, mixer.v, mixer.out))
    assert H3(D, d_state=N)(torch.randn(1, T, D))[1].h.shape == (1, D, 1, 1, N // 2)


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="d_model is 12, d_head is 5"):
        H3(D, d_head=5)
