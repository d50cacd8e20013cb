import cmath
import math

import pytest
import torch

from seqlab.mixers.hyena import Hyena, ImplicitFilter

D, T = 6, 15


def papers_filter(f, n, channel):
    """Tap n of one channel: FFN of sines on [t, Re e^{-2πi f n / L}, Im ..], times its window."""
    t, bands = n / (f.l_max - 1), f.bands
    frequencies = [1e-4 + (bands - 1 - 1e-4) * b / (bands - 1) for b in range(bands)]
    waves = [cmath.exp(-2j * math.pi * freq * n / f.l_max) for freq in frequencies]
    z = torch.tensor([t, *[w.real for w in waves], *[w.imag for w in waves]], dtype=torch.float64)
    for layer in f.layers:
        z = torch.sin(f.frequency * (layer.weight @ z + layer.bias))
    slow, fast = math.log(0.01) / 1.5, math.log(0.01) / 0.3
    delta = slow + (fast - slow) * channel / (f.out.out_features - 1)
    return f.out.weight[channel] @ z * math.exp(-abs(delta) * t)


@pytest.mark.parametrize("order", [2, 3])
def test_it_is_the_papers_recurrence_of_gates_and_convolutions(order):
    """z_{n+1} = x_n (h_n * z_n), convolutions as sums over pairs, taps from the paper's formula."""
    mixer = Hyena(D, order=order, l_max=20, d_emb=5, frequency=3.0).double()
    x = torch.randn(1, T, D).double()
    u = mixer.inputs(x)[0]
    padded = torch.cat([u.new_zeros(2, u.shape[1]), u])
    u = sum(padded[j : j + T] * mixer.conv.weight[:, j] for j in range(3)) + mixer.conv.bias
    streams = [u[:, i * D : (i + 1) * D] for i in range(order + 1)]
    v = streams[-1]
    for i in range(order - 1):
        v = v * streams[order - 1 - i]
        channels = range(i * D, (i + 1) * D)
        taps = [[papers_filter(mixer.filter, n, c) for c in channels] for n in range(T)]
        taps = torch.stack([torch.stack(row) for row in taps])
        past = [sum(taps[t - s] * v[s] for s in range(t + 1)) for t in range(T)]
        v = torch.stack(past) + mixer.bias[i] * v
    torch.testing.assert_close(mixer(x)[0][0], mixer.out(v * streams[0]), rtol=0, atol=1e-10)


def test_a_filter_does_not_depend_on_the_length():
    f = ImplicitFilter(D, 100).double()
    torch.testing.assert_close(f(70)[:31], f(31), rtol=0, atol=1e-14)


def test_the_slowest_channel_falls_to_a_hundredth_at_one_and_a_half_times_l_max():
    f = ImplicitFilter(D, 1000).double()
    window = torch.exp(-f.delta * 999 / 999)
    assert window[0] == pytest.approx(0.01 ** (1 / 1.5))
    assert window[-1] == pytest.approx(0.01 ** (1 / 0.3))


def test_it_starts_as_the_authors():
    """b ~ N(0, 1), sines of frequency 1; bounds of five standard errors.

    The network is 33 - 64 - 64 - 64 - D, its last map without a bias.
    """
    mixer = Hyena(1500)
    assert mixer.bias.shape == (1, 1500)
    assert mixer.bias.mean().item() == pytest.approx(0, abs=5 / 1500**0.5)
    assert mixer.bias.std().item() == pytest.approx(1, abs=5 / 3000**0.5)
    assert all(W.bias is not None for W in (mixer.inputs, mixer.out))
    f = mixer.filter
    assert f.frequency.eq(1).all() and f.l_max == 2048 and f.out.bias is None
    assert [tuple(W.weight.shape) for W in f.layers] == [(64, 33), (64, 64), (64, 64)]
    assert f.out.weight.shape == (1500, 64) and mixer.conv.weight.shape == (4500, 3)


def test_the_shortest_filters_follow_the_formula():
    """Two taps are t = 0 and t = 1; of one tap only t = 0 is left."""
    f = ImplicitFilter(D, 2, d_emb=5).double()
    taps = [[papers_filter(f, n, channel) for channel in range(D)] for n in range(2)]
    torch.testing.assert_close(f(2), torch.stack([torch.stack(row) for row in taps]))
    assert ImplicitFilter(D, 1)(1).isfinite().all()
    assert ImplicitFilter(D, 8, d_emb=3)(8).isfinite().all()


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="the sequence is 9 tokens long, l_max is 8"):
        Hyena(D, l_max=8)(torch.randn(1, 9, D))
    with pytest.raises(ValueError, match="order is 1: it must be at least 2"):
        Hyena(D, order=1)
    with pytest.raises(ValueError, match="form is 'scan': choose 'fft' or 'direct'"):
        Hyena(D, form="scan")
    with pytest.raises(ValueError, match="d_emb is 4"):
        Hyena(D, d_emb=4)
    mixer, x = Hyena(D, l_max=8), torch.randn(1, 5, D)
    with pytest.raises(ValueError, match="the sequence is 10 tokens long"):
        mixer(x, mixer(x)[1])
