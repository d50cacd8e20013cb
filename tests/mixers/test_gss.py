import pytest
import torch
from torch.nn.functional import gelu

from seqlab.mixers.gss import GSS

D, N = 16, 7


def test_it_is_a_gate_over_a_convolution_with_a_sum_of_decaying_waves():
    """K_l = Re Σ_n C_n ∫₀¹ e^{λ_n (l + s)} ds: an input held for one step, by quadrature."""
    mixer, x = GSS(D, d_state=N).double(), torch.randn(2, 13, D, dtype=torch.float64)
    s = torch.linspace(0, 1, 4001, dtype=torch.float64)
    weight = torch.full((4001,), 1 / 12000, dtype=torch.float64)
    weight[1:-1:2] *= 4  # Simpson's rule
    weight[2:-1:2] *= 2
    a, b = mixer.log_rate[0].exp(), mixer.log_frequency[0].exp()
    lag = (torch.arange(13)[:, None] + s)[..., None]  # (T, s, 1)
    waves = torch.exp(-a * lag) * torch.exp(1j * b * lag)
    waves = torch.einsum("tsn, s -> tn", waves, weight.to(torch.complex128))
    K = (waves[:, None] * torch.view_as_complex(mixer.C)).sum(-1).real  # (T, E)
    v = mixer.norm(gelu(mixer.v(x)))
    y = torch.stack([(K[: t + 1].flip(0) * v[:, : t + 1]).sum(1) for t in range(13)], dim=1)
    expected = mixer.out(gelu(mixer.u(x)) * mixer.context(y + mixer.D * v))
    torch.testing.assert_close(mixer(x)[0], expected, rtol=0, atol=1e-9)


def test_every_mode_decays():
    _, lam = GSS(D, d_state=200).kernel()
    assert (lam.real < 0).all() and lam.exp().abs().max() < 1


def test_all_of_it_starts_normal():
    """a, b, D and both parts of C are N(0, 1); bounds of five standard errors."""
    mixer = GSS(800, d_state=1500)
    assert mixer.C.shape == (200, 1500, 2)
    for start in (mixer.log_rate, mixer.log_frequency, mixer.C, mixer.D):
        assert start.mean().item() == pytest.approx(0, abs=5 / start.numel() ** 0.5)
        assert start.std().item() == pytest.approx(1, abs=5 / (2 * start.numel()) ** 0.5)


def test_the_widths_and_biases_are_those_of_the_listing():
    """v a quarter as wide as the model, u four times, 512 modes; a bias on the last map alone."""
    mixer = GSS(D)
    assert mixer(torch.randn(1, 3, D))[1].shape == (1, D // 4, 512)
    assert mixer.u.out_features == mixer.context.out_features == 4 * D
    biases = [name for name, p in mixer.named_parameters() if "bias" in name]
    assert biases == ["norm.bias", "out.bias"]
    assert GSS(3, d_state=N)(torch.randn(1, 2, 3))[1].shape == (1, 1, N)


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="form is 'fft': choose one of convolution, scan"):
        GSS(D, form="fft")(torch.randn(1, 3, D))
