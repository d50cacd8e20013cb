import math

import pytest
import torch
import torch.nn.functional as F

from seqlab.mixers.s4d import S4D

D, N, T = 3, 8, 21


@pytest.mark.parametrize("form", ["convolution", "scan"])
@pytest.mark.parametrize("init", ["lin", "inv", "legs", "real"])
def test_it_is_the_zero_order_hold_on_full_matrices(init, form):
    """h' = A h + x for one step: the exponential of [[A, 1], [0, 0]] dt, with real rotations."""
    mixer = S4D(D, d_state=N, init=init, dt_max=0.5, form=form).double()
    x = torch.randn(2, T, D, dtype=torch.float64)
    for p in mixer.parameters():
        p.data += 0.2 * torch.randn_like(p)
    y = torch.zeros_like(x)
    for d in range(D):
        re, dt = -mixer.A_log[d].exp(), mixer.log_dt[d].exp()
        if init == "real":
            A, b, c = torch.diag(re), torch.ones(N), mixer.C[d]
        else:
            pairs = zip(re.tolist(), mixer.A_imag[d].tolist(), strict=True)
            turns = [torch.tensor([[r, -w], [w, r]], dtype=torch.float64) for r, w in pairs]
            A = torch.block_diag(*turns)
            b = torch.tensor([1.0, 0.0]).repeat(N // 2)
            c = 2 * (mixer.C[d] * torch.tensor([1.0, -1.0])).flatten()  # 2 Re(C h)
        joined = torch.zeros(N + 1, N + 1, dtype=torch.float64)
        joined[:N, :N], joined[:N, N] = A, b
        step = torch.linalg.matrix_exp(joined * dt)
        h = torch.zeros(2, N, dtype=torch.float64)
        for t in range(T):
            h = h @ step[:N, :N].T + step[:N, N] * x[:, t, d, None]
            y[:, t, d] = h @ c
    expected = F.glu(mixer.out(F.gelu(y + mixer.skip * x)))
    torch.testing.assert_close(mixer(x)[0], expected, rtol=0, atol=1e-9)


def test_it_starts_with_equally_spaced_frequencies_that_all_fade_alike():
    mixer = S4D(D, d_state=N)
    torch.testing.assert_close(mixer.A_imag[0], math.pi * torch.arange(N // 2))
    torch.testing.assert_close(-mixer.A_log.exp(), torch.full((D, N // 2), -0.5))
    assert mixer.A_log.dtype == torch.float32
    assert S4D(2).A_imag.shape == (2, 32)  # 64 modes by default


@pytest.mark.parametrize("init", ["lin", "real"])
def test_c_dt_and_the_skip_start_as_the_authors(init):
    """C normal of variance 1, complex or real; log dt uniform; D normal, one per channel."""
    mixer = S4D(2000, d_state=4, init=init)
    parts = mixer.C.unbind(-1) if init == "lin" else [mixer.C]
    for part in parts:
        assert part.var().item() == pytest.approx(1 / len(parts), rel=0.1)
        assert part.mean().abs() < 0.05
    even = torch.linspace(math.log(1e-3), math.log(0.1), 2000)
    assert (mixer.log_dt.sort().values - even).abs().max() < 0.05 * math.log(100)
    assert mixer.skip.var().item() == pytest.approx(1, rel=0.15) and mixer.skip.mean().abs() < 0.1


@pytest.mark.parametrize("init", ["lin", "inv", "legs", "real"])
def test_every_start_is_that_of_the_paper(init):
    """-½ + iπn; -½ + i (N/π) (N/(2n+1) - 1); those of HiPPO-LegS's normal part; -(n+1)."""
    mixer = S4D(D, d_state=N, init=init)
    n = torch.arange(N if init == "real" else N // 2, dtype=torch.float64)
    re = -(n + 1) if init == "real" else torch.full_like(n, -0.5)
    torch.testing.assert_close(-mixer.A_log.exp().double(), re.expand(D, -1), rtol=1e-6, atol=0)
    if init == "real":
        assert mixer.A_imag is None
        return
    k = torch.arange(N, dtype=torch.float64)
    skew = torch.outer((2 * k + 1).sqrt(), (2 * k + 1).sqrt()).triu(1) / 2
    legs = torch.linalg.eigvals(skew - skew.T).imag.sort().values[N // 2 :]
    frequencies = {"lin": math.pi * n, "inv": N / math.pi * (N / (2 * n + 1) - 1), "legs": legs}
    ours = mixer.A_imag.double().sort().values
    expected = frequencies[init].sort().values.expand(D, -1)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_the_state_is_every_past_input_faded():
    """h = Σ a^(T-1-s) x_s: the input gain is applied at the read."""
    mixer, x = S4D(D, d_state=N).double(), torch.randn(1, T, D, dtype=torch.float64)
    _, log_a = mixer.modes()
    faded = sum((log_a * (T - 1 - s)).exp() * x[0, s, :, None] for s in range(T))
    torch.testing.assert_close(mixer(x)[1][0], faded, rtol=0, atol=1e-10)


def test_wrong_arguments_get_one_clear_sentence():
    with pytest.raises(ValueError, match="init is 'hippo': choose one of lin, inv, legs, real"):
        S4D(D, init="hippo")
    sentence = "d_state is 7: conjugate pairs need an even number of modes"
    with pytest.raises(ValueError, match=sentence):
        S4D(D, d_state=7)
    assert S4D(D, d_state=7, init="real").C.shape == (D, 7)
    with pytest.raises(ValueError, match="form is 'fft'"):
        S4D(D, form="fft")
