import math

import torch
from torch.distributions import Normal

from seqlab.core.convolution import exponential_conv
from seqlab.mixers.mega import MEGA
from seqlab.mixers.megalodon import CEMA

D, N, T = 6, 5, 19


@torch.no_grad()
def test_it_is_the_papers_average():
    """Equation 2 of the paper, β and phase on the input, token by token, in real arithmetic."""
    mixer, x = CEMA(D, d_state=N).double(), torch.randn(T, D, dtype=torch.float64)
    mixer.eta.data = torch.randn_like(mixer.eta)
    alpha, delta, share = (torch.sigmoid(p) for p in (mixer.alpha, mixer.delta, mixer.theta))
    beta = torch.randn(D, N, dtype=torch.float64)
    y = mixer.omega * x
    for d in range(D):
        for n in range(N):
            angle = 2 * math.pi * (n + 1) / N * share[d]
            cos, sin = angle.cos(), angle.sin()
            turn = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
            eta = mixer.eta[d, n] / N**0.5
            # conj(η) e^{iθ} / β: undoes phase and weight.
            eta = turn @ torch.stack([eta[0], -eta[1]]) / beta[d, n]
            h = torch.zeros(2, dtype=torch.float64)
            for t in range(T):
                u = torch.tensor([1.0, 0.0], dtype=torch.float64) * beta[d, n] * x[t, d]
                h = turn @ (alpha[d, n] * u + (1 - alpha[d, n] * delta[d, n]) * h)
                y[t, d] = y[t, d] + eta @ h  # Re(conj(η') h) is the dot product
    torch.testing.assert_close(mixer(x[None])[0][0], y, rtol=0, atol=1e-9)


def test_without_rotation_it_is_megas_average():
    """Angles of 0 and real η leave the damped average of MEGA, its β taken into η."""
    ours, mega = CEMA(D, d_state=N).double(), MEGA(D, d_state=N).double()
    x = torch.randn(2, T, D, dtype=torch.float64)
    ours.theta.data.fill_(-60)
    ours.alpha.data, ours.delta.data = mega.alpha.data, mega.delta.data
    ours.eta.data[..., 0] = mega.eta.data * mega.beta.data
    y, _ = exponential_conv(x, *mega.average())
    torch.testing.assert_close(ours(x)[0], y + ours.omega * x, rtol=0, atol=1e-9)


def test_every_wave_fades_and_the_angles_start_spread_over_the_channels():
    eta, log_a = CEMA(64).average()
    assert (log_a.real < 0).all() and eta.shape == (64, 16)
    first = log_a.imag[:, 0].sort().values * 16 / (2 * math.pi)
    expected = 64.0 ** -(torch.arange(64, 0, -1) / 64)
    torch.testing.assert_close(first, expected, rtol=1e-5, atol=0)
    assert (log_a.imag[:, 0].diff() > 0).any()  # not in the channels' order
    turns = torch.arange(1.0, 17) * log_a.imag[:, :1]
    torch.testing.assert_close(log_a.imag, turns)


def test_every_weight_starts_where_the_authors_start_it(drawn_from):
    mixer = CEMA(512)
    for p in (mixer.alpha, mixer.delta):
        drawn_from(p, Normal(0, 0.2))
    drawn_from(mixer.eta[..., 0], Normal(0, 1))
    assert (mixer.eta[..., 1] == 0).all()
    drawn_from(mixer.omega, Normal(0, 0.25))


def test_omega_is_cut_at_1():
    """Four deviations: of half a million uncut draws about 33 would be beyond."""
    omega = CEMA(2**19, d_state=1).omega
    assert 0.95 < omega.max() <= 1 and -1 <= omega.min() < -0.95
