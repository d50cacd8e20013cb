import pytest
import torch
from torch.nn.functional import gelu

from seqlab.mixers.gss import GSS

D, N = 16, 7


def test_it_is_a_gate_over_a_convolution_with_a_sum_of_decaying_waves():
    """K_l = Re Σ_n C_n ∫₀¹ e^{λ_n (l + s)} ds, the response to an input held for one step, by
    quadrature.
    """
    mixer, x = GSS(D, d_state=N).double(), torch.randn(2, 13, D, dtype=torch.float64)
    s, weight = (
        torch.linspace(0, 1, 4001, dtype=torch.float64),
        torch.full((4001,), 1 / 12000, dtype=torch.float64),
    )
    weight[1:-1:2] *= 4  # Simpson's rule
    weight[2:-1:2] *= 2
    a, b = mixer.log_rate[0].exp(), mixer.log_frequency[0].exp()
    lag = (torch.arange(13)[:, None] + s)[..., None]  # (T, s, 1)
    waves = torch.einsum(
        "tsn, s -> tn", torch.exp(-a * lag) * torch.exp(1j * b * lag), weight.to(torch.complex128)
    )
    K = (waves[:, None] * torch.view_as_complex(mixer.C)).sum(-1).real  # (T, E)
    v = mixer.norm(gelu(mixer.v(x)))
    y = (
        torch.stack([(K[: t + 1].flip(0) * v[:, : t + 1]).sum(1) for t in range(13)], dim=1)
        + mixer.D * v
    )
    torch.testing.assert_close(
        mixer(x)[0], mixer.out(gelu(mixer.u(x)) * mixer.context(y)), rtol=0, atol=1e-9
    )


def test_every_mode_decays():
    _, lam = GSS(D, d_state=200).kernel()
    assert (lam.real < 0).all() and lam.exp().abs().max() < 1


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="form is 'fft': choose one of convolution, scan"):
        GSS(D, form="fft")(torch.randn(1, 3, D))
