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
    """K_l = Re Σ_n W_n (e^{λ_n Δ} - 1) / λ_n e^{l λ_n Δ}, and y_t = Σ_s K_{t-s} x_s + D x_t."""
    mixer, x = make(form=form), torch.randn(2, T, D, dtype=torch.float64)
    rates, y = -mixer.A_log.exp() + 1j * mixer.A_imag, torch.zeros_like(x)
    for d in range(D):
        dt, W = mixer.log_dt[d].exp(), mixer.W[d, :, 0] + 1j * mixer.W[d, :, 1]
        K = [
            (W * ((rates * dt).exp() - 1) / rates * (l * rates * dt).exp()).sum().real
            for l in range(T)
        ]
        for t in range(T):
            y[:, t, d] = sum(K[t - s] * x[:, s, d] for s in range(t + 1))
    expected = mixer.out(F.gelu(y + mixer.skip * x))
    torch.testing.assert_close(mixer(x)[0], expected, rtol=0, atol=1e-9)


def test_the_softmax_variant_is_another_weight():
    """Its kernel W / λ · softmax_l(λ l Δ) over l < L is ours with W (-1) / (1 - e^{L λ Δ}): no more
    is gained.
    """
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
    """With the modes of DSS in every channel and C = W / 2; compared before the last maps, which
    differ.
    """
    dss, s4d, x = make(), S4D(D, d_state=2 * N).double(), torch.randn(2, T, D, dtype=torch.float64)
    s4d.A_log.data, s4d.A_imag.data = dss.A_log.data.repeat(D, 1), dss.A_imag.data.repeat(D, 1)
    s4d.C.data, s4d.log_dt.data = dss.W.data / 2, dss.log_dt.data
    for ours, theirs in zip(
        exponential_conv(x, *dss.modes()), exponential_conv(x, *s4d.modes()), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_it_begins_with_the_positive_frequencies_of_hippo_legs_of_twice_its_size():
    n = torch.arange(2 * N, dtype=torch.float64)
    root = (2 * n + 1).sqrt()
    normal = (
        -torch.outer(root, root).tril(-1)
        - torch.diag(n + 1)
        + torch.outer((n + 0.5).sqrt(), (n + 0.5).sqrt())
    )
    eigenvalues = torch.linalg.eigvals(normal)
    positive = eigenvalues.imag[eigenvalues.imag > 0].sort().values
    mixer = DSS(D, d_state=N)
    torch.testing.assert_close(mixer.A_imag.double(), positive, rtol=1e-6, atol=0)
    torch.testing.assert_close(-mixer.A_log.exp(), torch.full((N,), -0.5))


def test_an_unknown_form_gets_one_clear_sentence():
    with pytest.raises(ValueError, match="form is 'fft': choose one of convolution, scan"):
        DSS(D, form="fft")
