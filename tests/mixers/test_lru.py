import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal, Uniform

from seqlab.mixers.lru import LRU

D, N, T = 3, 5, 21


@pytest.mark.parametrize("form", ["scan", "hillis_steele"])
def test_it_is_the_papers_recurrence(form):
    """In real arithmetic: λ h turns (re, im) by e^θ and shrinks it by exp(-e^ν)."""
    mixer, x = LRU(D, d_state=N, form=form).double(), torch.randn(2, T, D, dtype=torch.float64)
    for p in mixer.parameters():
        p.data += 0.1 * torch.randn_like(p)
    radius, angle = torch.exp(-torch.exp(mixer.nu_log)), torch.exp(mixer.theta_log)
    u = torch.einsum("btd, ndc -> btnc", x, mixer.B) * torch.exp(mixer.gamma_log)[:, None]
    re, im, ys = torch.zeros(2, N), torch.zeros(2, N), []
    for t in range(T):
        re, im = (
            radius * (angle.cos() * re - angle.sin() * im) + u[:, t, :, 0],
            radius * (angle.sin() * re + angle.cos() * im) + u[:, t, :, 1],
        )
        ys.append(re @ mixer.C[..., 0].T - im @ mixer.C[..., 1].T)
    expected = F.glu(mixer.out(F.gelu(torch.stack(ys, dim=1) + mixer.skip * x)))
    y, state = mixer(x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)
    h = torch.stack([re, im], -1)
    torch.testing.assert_close(torch.view_as_real(state), h, rtol=0, atol=1e-10)


def test_it_starts_on_its_ring_with_gamma_against_lambda(drawn_from):
    """Uniform by area: |λ|² is uniform; the angle is uniform up to max_phase."""
    lam, gamma = LRU(1, d_state=4096, r_min=0.4, r_max=0.99, max_phase=math.pi / 10).gates()
    drawn_from(lam.abs().square(), Uniform(0.4**2, 0.99**2, validate_args=False))
    drawn_from(lam.angle(), Uniform(0, math.pi / 10, validate_args=False))
    assert lam.abs().min() > 0.3999 and lam.abs().max() < 0.9901
    one = torch.ones(4096)
    torch.testing.assert_close(gamma.square() + lam.abs().square(), one, rtol=0, atol=1e-5)


def test_by_default_it_starts_on_the_whole_disc(drawn_from):
    mixer = LRU(4096)
    lam, _ = mixer.gates()
    assert lam.shape == (4096,)
    drawn_from(lam.abs().square(), Uniform(0, 1, validate_args=False))
    drawn_from(lam.angle() % (2 * math.pi), Uniform(0, 2 * math.pi, validate_args=False))


def test_its_maps_start_as_the_papers(drawn_from):
    """Appendix A of the paper: B with std (2 D)^-1/2, C with N^-1/2, in both parts; D with 1."""
    mixer = LRU(1000, d_state=10)
    for part in (0, 1):
        drawn_from(mixer.B[..., part], Normal(0, 2000**-0.5))
        drawn_from(mixer.C[..., part], Normal(0, 10**-0.5))
    drawn_from(mixer.skip, Normal(0, 1))


def test_gamma_keeps_slow_and_fast_states_equally_large():
    """For white noise, E|h|² = γ² |B|² / (1 - |λ|²) = |B|², whatever |λ|."""
    mixer = LRU(8, d_state=64, r_min=0.1, r_max=0.97)
    with torch.inference_mode():
        _, h = mixer(torch.randn(500, 150, 8))
        ratio = h.abs().square().mean(0) / mixer.B.square().sum((1, 2))
    assert ratio.min() > 0.8 and ratio.max() < 1.25


def test_an_unknown_form_gets_one_clear_sentence():
    with pytest.raises(ValueError, match="form is 'fast': choose one of scan, sequential"):
        LRU(D, form="fast")
