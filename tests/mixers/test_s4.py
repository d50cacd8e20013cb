import math

import pytest
import torch
import torch.nn.functional as F

from seqlab.core.convolution import exponential_conv
from seqlab.core.discretize import bilinear
from seqlab.core.rank_one import by_convolution, by_steps
from seqlab.mixers.s4 import S4

D, N, T = 3, 8, 21


def make(trained=False, **options):
    """A mixer as it starts, or with every parameter moved, as training does."""
    mixer = S4(D, d_state=N, dt_min=0.02, dt_max=0.3, **options).double()
    for p in mixer.parameters() if trained else []:
        p.data += 0.3 * torch.randn_like(p)
    return mixer


def dense(mixer):
    """A = Λ - P P*, B and C of each channel with both conjugates, and dt, from the parameters."""
    rates = -mixer.A_log.exp() + 1j * mixer.A_imag
    P, B, C = (u[..., 0] + 1j * u[..., 1] for u in (mixer.P, mixer.B, mixer.C))
    rates, P, B, C = (torch.cat([u, u.conj()], dim=-1) for u in (rates, P, B, C))
    return torch.diag_embed(rates) - P[:, :, None] * P[:, None].conj(), B, C, mixer.log_dt.exp()


@pytest.mark.parametrize("form", ["convolution", "recurrent"])
@pytest.mark.parametrize("trained", [False, True], ids=["at the start", "trained"])
def test_it_is_the_bilinear_rule_on_full_matrices(form, trained):
    """(1 - dt A / 2) h_t = (1 + dt A / 2) h_{t-1} + dt B x_t, solved directly."""
    mixer, x = make(trained, form=form), torch.randn(2, T, D, dtype=torch.float64)
    A, B, C, dt = dense(mixer)
    one, step = torch.eye(N), dt[:, None, None] / 2 * A
    h, ys = torch.zeros(2, D, N, dtype=torch.complex128), []
    for t in range(T):
        right = torch.einsum("dij, bdj -> bdi", one + step, h) + dt[:, None] * B * x[:, t, :, None]
        h = torch.linalg.solve(one - step, right[..., None])[..., 0]
        ys.append((C * h).sum(-1).real)
    expected = F.glu(mixer.out(F.gelu(torch.stack(ys, dim=1) + mixer.skip * x)))
    y, state = mixer(x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(state, h[..., : N // 2], rtol=0, atol=1e-9)


def test_it_starts_as_hippo_legs():
    """A system's answer does not depend on its basis: b* (z - A)⁻¹ b is HiPPO's, at any z."""
    A, B, _, _ = dense(make())
    n = torch.arange(N, dtype=torch.float64)
    b = (2 * n + 1).sqrt()
    hippo = -torch.outer(b, b).tril(-1) - torch.diag(n + 1)
    for z in (0.5, 2.0, 30.0):
        ours = B[0].conj() @ torch.linalg.solve(z * torch.eye(N) - A[0], B[0])
        theirs = b @ torch.linalg.solve(z * torch.eye(N) - hippo, b)
        torch.testing.assert_close(ours.real, theirs, rtol=1e-4, atol=0)  # starts are float32
        assert ours.imag.abs() < 1e-4


def test_c_dt_and_the_skip_start_as_the_authors():
    """C complex normal with variance ½ for each part; log dt uniform; D normal, per channel."""
    mixer = S4(2000, d_state=4)
    assert mixer.C.mean().abs() < 0.03 and (mixer.C[..., 0] * mixer.C[..., 1]).mean().abs() < 0.03
    for part in mixer.C.unbind(-1):
        assert part.var().item() == pytest.approx(0.5, rel=0.1)
    even = torch.linspace(math.log(1e-3), math.log(0.1), 2000)
    assert (mixer.log_dt.sort().values - even).abs().max() < 0.05 * math.log(100)
    assert mixer.skip.var().item() == pytest.approx(1, rel=0.15) and mixer.skip.mean().abs() < 0.1
    assert S4(2).C.shape == (2, 32, 2)  # 64 modes by default


@pytest.mark.parametrize("T", [1, 2, 3, 5, 64, 65, 100])
@pytest.mark.parametrize("with_state", [False, True])
def test_a_kernel_of_any_length_is_the_loop(T, with_state):
    """No length is built into the weights; a state that is carried in adds C Ā^(t+1) h."""
    s, x = make(trained=True).system(), torch.randn(2, T, D, dtype=torch.float64)
    h = torch.randn(2, D, N // 2, dtype=torch.complex128) if with_state else None
    for ours, theirs in zip(by_convolution(s, x, h), by_steps(s, x, h), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_without_its_low_rank_it_is_s4d_by_the_bilinear_rule():
    mixer, x = make(trained=True), torch.randn(2, T, D, dtype=torch.float64)
    mixer.P.data.zero_()
    s = mixer.system()
    gate, gain = bilinear(s.rates, s.dt)
    y, h = exponential_conv(x, 2 * s.C * s.B * gain, gate.log())
    ours, state = by_convolution(s, x)
    torch.testing.assert_close(ours, y, rtol=0, atol=1e-10)
    torch.testing.assert_close(state, gain * s.B * h, rtol=0, atol=1e-10)


def test_a_long_kernel_in_float32_stays_close():
    """64 modes, T = 2048: outputs and last state within 1e-3 of the float64 loop."""
    mixer, x = S4(2), torch.randn(1, 2048, 2)
    with torch.inference_mode():
        y, state = mixer(x)
        exact, last = by_steps(mixer.double().system(), x.double())
        exact = F.glu(mixer.out(F.gelu(exact + mixer.skip * x)))
    assert (y - exact).abs().max() < 1e-3 * exact.abs().max()
    assert (state - last).abs().max() < 1e-3 * last.abs().max()


def test_wrong_arguments_get_one_clear_sentence():
    with pytest.raises(ValueError, match="form is 'scan': choose 'convolution' or 'recurrent'"):
        S4(D, form="scan")
    with pytest.raises(ValueError, match="n is 7: conjugate pairs need an even number of modes"):
        S4(D, d_state=7)
