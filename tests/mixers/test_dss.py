import math

import pytest
import torch
import torch.nn.functional as F

from seqlab.core.convolution import exponential_conv
from seqlab.mixers.dss import DSS
from seqlab.mixers.s4d import S4D

D, N, T = 3, 5, 21


def make(**options):
    mixer = DSS(D, d_state=N, dt_max=0.5, **options).double()
    for p in mixer.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return mixer


@pytest.mark.parametrize("form", ["convolution", "scan"])
def test_it_is_the_papers_kernel(form):
    """K_l = Re Σ_n W_n (e^{Δ_n} - 1) / λ_n e^{l Δ_n}, and y_t = Σ_s K_{t-s} x_s + D x_t.

    The authors' code has two steps per channel: Δ_n = dt₁ Re λ_n + i dt₂ Im λ_n.
    """
    mixer, x = make(form=form), torch.randn(2, T, D, dtype=torch.float64)
    rates, y = -mixer.A_log.exp() + 1j * mixer.A_imag, torch.zeros_like(x)
    for d in range(D):
        dt_re, dt_im = mixer.log_dt[d].exp()
        delta = dt_re * rates.real + 1j * dt_im * rates.imag
        W = mixer.W[d, :, 0] + 1j * mixer.W[d, :, 1]
        K = [(W * (delta.exp() - 1) / rates * (l * delta).exp()).sum().real for l in range(T)]
        for t in range(T):
            y[:, t, d] = sum(K[t - s] * x[:, s, d] for s in range(t + 1))
    expected = mixer.out(F.gelu(y + mixer.skip * x))
    torch.testing.assert_close(mixer(x)[0], expected, rtol=0, atol=1e-9)


def test_the_softmax_variant_is_another_weight():
    """Its kernel W / λ · softmax_l(Δ l) over l < L is ours with W (-1) / (1 - e^{L Δ})."""
    mixer, L = make(), 30
    c, log_a = mixer.modes()
    l = torch.arange(L, dtype=torch.float64)
    powers = (log_a[..., None] * l).exp()
    rates = -mixer.A_log.exp() + 1j * mixer.A_imag
    W = mixer.W[..., 0] + 1j * mixer.W[..., 1]
    softmax = ((W / rates)[..., None] * powers / powers.sum(-1, keepdim=True)).sum(1).real
    ours = ((-c / (1 - (L * log_a).exp()))[..., None] * powers).sum(1).real
    torch.testing.assert_close(softmax, ours, rtol=0, atol=1e-9)


def test_s4d_with_one_a_for_all_channels_is_dss():
    """With the modes of DSS in every channel, C = W / 2 and one step per channel.

    Compared before the last maps, which differ.
    """
    dss, s4d = make(), S4D(D, d_state=2 * N).double()
    x = torch.randn(2, T, D, dtype=torch.float64)
    dss.log_dt.data[:, 1] = dss.log_dt.data[:, 0]
    s4d.A_log.data, s4d.A_imag.data = dss.A_log.data.repeat(D, 1), dss.A_imag.data.repeat(D, 1)
    s4d.C.data, s4d.log_dt.data = dss.W.data / 2, dss.log_dt.data[:, 0]
    ours, theirs = exponential_conv(x, *dss.modes()), exponential_conv(x, *s4d.modes())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_it_starts_with_the_positive_frequencies_of_hippo_legs_of_twice_its_size():
    n = torch.arange(2 * N, dtype=torch.float64)
    root, low_rank = (2 * n + 1).sqrt(), (n + 0.5).sqrt()
    normal = -torch.outer(root, root).tril(-1) - torch.diag(n + 1)
    normal += torch.outer(low_rank, low_rank)
    eigenvalues = torch.linalg.eigvals(normal)
    positive = eigenvalues.imag[eigenvalues.imag > 0].sort().values
    mixer = DSS(D, d_state=N)
    torch.testing.assert_close(mixer.A_imag.double(), positive, rtol=1e-6, atol=0)
    torch.testing.assert_close(-mixer.A_log.exp(), torch.full((N,), -0.5))


def test_the_other_starts_are_those_of_the_authors():
    """64 modes; both steps of a channel equal and log-uniform in [0.001, 0.1]; W and D normal.

    The bounds are four standard errors.
    """
    mixer = DSS(1000)
    assert mixer.W.shape == (1000, 64, 2)
    steps = mixer.log_dt.detach()
    torch.testing.assert_close(steps[:, 0], steps[:, 1], rtol=0, atol=0)
    assert math.log(1e-3) <= steps.min() < -6.8 and -2.4 < steps.max() <= math.log(0.1)
    assert steps[:, 0].mean().item() == pytest.approx(math.log(0.01), abs=4 * 1.33 / 1000**0.5)
    for start in (mixer.W, mixer.skip):
        error = start.numel() ** -0.5
        assert start.mean().item() == pytest.approx(0, abs=4 * error)
        assert start.std().item() == pytest.approx(1, abs=4 * error)


def test_an_unknown_form_gets_one_clear_sentence():
    with pytest.raises(ValueError, match="form is 'fft': choose one of convolution, scan"):
        DSS(D, form="fft")
