import math

import pytest
import torch
import torch.nn.functional as F

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
    torch.testing.assert_close(
        torch.view_as_real(state), torch.stack([re, im], -1), rtol=0, atol=1e-10
    )


def test_it_begins_on_its_ring_with_gamma_against_lambda():
    lam, gamma = LRU(D, d_state=500, r_min=0.4, r_max=0.99, max_phase=math.pi / 10).gates()
    assert lam.abs().min() >= 0.4 and lam.abs().max() <= 0.99
    assert lam.angle().min() > 0 and lam.angle().max() <= math.pi / 10
    torch.testing.assert_close(
        gamma.square() + lam.abs().square(), torch.ones(500), rtol=0, atol=1e-5
    )


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
