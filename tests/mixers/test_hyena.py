import cmath
import math

import pytest
import torch

from seqlab.mixers.hyena import Hyena, ImplicitFilter

D, T = 6, 15


def papers_filter(f, n, channel):
    """Tap n of one channel: FFN of sines on [t, Re e^{-2πi f n / L}, Im ..], times its window;
    plain Python floats.
    """
    t, bands = n / (f.l_max - 1), f.bands
    waves = [
        cmath.exp(-2j * math.pi * (1e-4 + (bands - 1 - 1e-4) * b / (bands - 1)) * n / f.l_max)
        for b in range(bands)
    ]
    z = torch.tensor([t, *[w.real for w in waves], *[w.imag for w in waves]], dtype=torch.float64)
    for layer in f.layers:
        z = torch.sin(f.frequency * (layer.weight @ z + layer.bias))
    slow, fast = math.log(0.01) / 1.5, math.log(0.01) / 0.3
    delta = slow + (fast - slow) * channel / (f.out.out_features - 1)
    return f.out.weight[channel] @ z * math.exp(-abs(delta) * t)


@pytest.mark.parametrize("order", [2, 3])
def test_it_is_the_papers_recurrence_of_gates_and_convolutions(order):
    """z_{n+1} = x_n (h_n * z_n), each convolution a sum over pairs, each tap from the paper's
    formula.
    """
    mixer, x = (
        Hyena(D, order=order, l_max=20, d_emb=5, frequency=3.0).double(),
        torch.randn(1, T, D).double(),
    )
    u = mixer.inputs(x)[0]
    padded = torch.cat([u.new_zeros(2, u.shape[1]), u])
    u = sum(padded[j : j + T] * mixer.conv.weight[:, j] for j in range(3)) + mixer.conv.bias
    streams = [u[:, i * D : (i + 1) * D] for i in range(order + 1)]
    v = streams[-1]
    for i in range(order - 1):
        v = v * streams[order - 1 - i]
        taps = torch.stack(
            [
                torch.stack([papers_filter(mixer.filter, n, i * D + c) for c in range(D)])
                for n in range(T)
            ]
        )
        v = torch.stack(
            [sum(taps[t - s] * v[s] for s in range(t + 1)) + mixer.bias[i] * v[t] for t in range(T)]
        )
    torch.testing.assert_close(mixer(x)[0][0], mixer.out(v * streams[0]), rtol=0, atol=1e-10)


def test_a_filter_does_not_depend_on_the_length():
    f = ImplicitFilter(D, 100).double()
    torch.testing.assert_close(f(70)[:31], f(31), rtol=0, atol=1e-14)


def test_the_slowest_channel_falls_to_a_hundredth_at_one_and_a_half_times_l_max():
    f = ImplicitFilter(D, 1000).double()
    window = torch.exp(-f.delta * 999 / 999)
    assert window[0] == pytest.approx(0.01 ** (1 / 1.5)) and window[-1] == pytest.approx(
        0.01 ** (1 / 0.3)
    )


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
