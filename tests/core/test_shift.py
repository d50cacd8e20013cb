"""RWKV's shift of inputs, and its read before the write."""

import torch

from seqlab.core.convolution import causal_conv
from seqlab.core.recurrence import chunkwise, recurrent
from seqlab.core.shift import read_before_write, token_shift

B, T, H, K, V = 2, 11, 3, 4, 5


def test_the_token_shift_is_a_convolution_of_two_taps():
    x, last = torch.randn(B, T, 6), torch.randn(B, 6)
    taps = torch.tensor([1.0, 0.0]).expand(6, 2)
    torch.testing.assert_close(token_shift(x, last), causal_conv(x, taps, state=last[:, None])[0])
    torch.testing.assert_close(token_shift(x), causal_conv(x, taps)[0])


def test_a_read_before_the_write_sees_the_table_of_the_token_before():
    q, k = torch.randn(2, B, T, H, K, dtype=torch.float64)
    v, u = torch.randn(B, T, H, V, dtype=torch.float64), torch.randn(H, K, dtype=torch.float64)
    log_a = -torch.rand(B, T, H, K, dtype=torch.float64)
    start = torch.randn(B, H, V, K, dtype=torch.float64)
    S, ys = start, []
    for t in range(T):
        write = v[:, t, :, :, None] * k[:, t, :, None]
        ys.append(((S + write * u[:, None]) @ q[:, t, :, :, None])[..., 0])
        S = S * log_a[:, t, :, None].exp() + write
    for form in (recurrent, chunkwise):
        y, S_T = read_before_write(form, q, k, v, log_a, u, start)
        torch.testing.assert_close(y, torch.stack(ys, 1), rtol=0, atol=1e-9)
        torch.testing.assert_close(S_T, S, rtol=0, atol=1e-9)
