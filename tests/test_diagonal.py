import math

import pytest
import torch

from seqlab.diagonal import diagonal

E, N = 5, 3


def draw(T, *, shared=False, real=False):
    """x, log λ, c and a first state, of any kind."""
    dtype = torch.float64 if real else torch.complex128
    log_lam = -torch.rand(1 if shared else E, N, dtype=torch.float64)
    log_lam = log_lam if real else torch.complex(log_lam, 6 * torch.rand_like(log_lam))
    return (
        torch.randn(2, T, E, dtype=torch.float64),
        log_lam,
        *(torch.randn(*s, dtype=dtype) for s in [(E, N), (2, E, N)]),
    )


@pytest.mark.parametrize("kind", [{}, {"shared": True}, {"real": True}], ids=["complex", "shared", "real"])
@pytest.mark.parametrize("T", [1, 2, 3, 16, 17, 50])
@pytest.mark.parametrize("form", ["convolution", "scan"])
def test_it_is_the_recurrence(form, T, kind):
    """Step by step, with every gradient: the two readings share no arithmetic with the loop."""
    inputs = [u.requires_grad_() for u in draw(T, **kind)]
    x, log_lam, c, h = inputs
    ys = []
    for t in range(T):
        h = log_lam.exp() * h + x[:, t, :, None]
        ys.append((c * h).sum(-1).real)
    ours = diagonal(*inputs, form=form)
    theirs = torch.stack(ys, dim=1), h
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-11)
    grads = [torch.autograd.grad(y.cos().sum() + h.abs().square().sum(), inputs) for y, h in (ours, theirs)]
    for mine, other in zip(*grads, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("slow", [1e-7, 1e-8])
def test_a_slow_mode_is_kept_over_a_long_sequence(slow):
    """λ = 1 - 1e-8 over 5,000 ones: h_T = (1 - λ^T) / (1 - λ). float32 cannot hold that λ, so the scan is 5e-5 off; the
    convolution uses log λ alone."""
    x, log_lam = torch.ones(1, 5000, 1), torch.tensor([[math.log1p(-slow)]])
    exact = math.expm1(5000 * math.log1p(-slow)) / math.expm1(math.log1p(-slow))
    for form, tolerance in {"convolution": 1e-6, "scan": 1e-4}.items():
        y, h = diagonal(x, log_lam, torch.ones(1, 1), form=form)
        assert h.item() == pytest.approx(exact, rel=tolerance)
        assert y[0, -1, 0].item() == pytest.approx(exact, rel=tolerance)


def test_an_unknown_form_gets_one_clear_sentence():
    with pytest.raises(ValueError, match="form is 'fft': choose one of convolution, scan"):
        diagonal(*draw(3), form="fft")
