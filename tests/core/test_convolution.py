"""Convolutions are sums over the past; sums of exponentials are recurrences too."""

import pytest
import torch

from seqlab.core import convolution
from seqlab.core.convolution import (
    causal_conv,
    direct_conv,
    exponential_kernel,
    exponential_state,
    fft_conv,
)
from seqlab.core.inputs import choose

D, N = 3, 4
longs = pytest.mark.parametrize("conv", [fft_conv, direct_conv], ids=lambda f: f.__name__)
modes = pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=["real", "complex"])


def randn(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype)


def close(ours, theirs, tolerance=1e-11):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("W", [1, 2, 5])
def test_a_short_convolution_carries_its_last_inputs(W):
    x, weight, bias = randn(2, 9, D), randn(D, W), randn(D)
    whole, state = causal_conv(x, weight, bias)
    parts, carried = [], None
    for part in x.split([1, 2, 6], dim=1):
        y, carried = causal_conv(part, weight, bias, carried)
        parts.append(y)
    close(torch.cat(parts, dim=1), whole)
    close(carried, state)
    assert state.shape == (2, W - 1, D)


def test_a_short_convolution_is_its_sum():
    """y_t = Σ_{j<W} w_j x_{t-W+1+j} + bias, with zeros before the first token."""
    x, weight, bias = randn(2, 9, D), randn(D, 4), randn(D)
    expected = bias.repeat(2, 9, 1)
    for t in range(9):
        for j in range(4):
            if t - 3 + j >= 0:
                expected[:, t] += weight[:, j] * x[:, t - 3 + j]
    close(causal_conv(x, weight, bias)[0], expected)
    close(causal_conv(x, weight)[0], expected - bias)


@longs
@pytest.mark.parametrize("T, L", [(1, 1), (7, 7), (16, 5), (5, 16), (33, 33)])
def test_a_long_convolution_is_a_sum_over_the_past(conv, T, L):
    x, kernel = randn(2, T, D), randn(D, L)
    expected = torch.zeros_like(x)
    for t in range(T):
        for s in range(max(0, t - L + 1), t + 1):
            expected[:, t] += kernel[:, t - s] * x[:, s]
    close(conv(x, kernel), expected)


@longs
def test_past_inputs_are_read_and_not_answered(conv):
    x, kernel = randn(2, 12, D), randn(D, 9)
    close(conv(x[:, 7:], kernel, x[:, :7]), conv(x, kernel)[:, 7:])
    close(conv(x[:, 11:], kernel, x[:, 3:11]), conv(x, kernel)[:, 11:])  # L - 1 of them are enough


def test_both_long_convolutions_have_the_same_gradients():
    x, kernel, past = randn(2, 10, D), randn(D, 8), randn(2, 4, D)
    x, kernel, past = (t.requires_grad_() for t in (x, kernel, past))
    g = randn(2, 10, D)
    inputs = [x, kernel, past]
    ours, theirs = (torch.autograd.grad(f(*inputs), inputs, g) for f in (fft_conv, direct_conv))
    close(ours, theirs)
    assert torch.autograd.gradcheck(fft_conv, (x, kernel, past))


def test_the_end_does_not_reach_round_to_the_beginning():
    """Without the zeros appended, the last token would be felt by the first."""
    x, kernel = torch.zeros(1, 64, D, dtype=torch.float64), randn(D, 64)
    x[:, -1] = 1e6
    assert fft_conv(x, kernel)[:, :-1].abs().max() < 1e-8


def test_a_long_convolution_in_bf16_is_computed_in_float32():
    x, kernel = randn(1, 50, D).bfloat16(), randn(D, 50).bfloat16()
    assert torch.equal(fft_conv(x, kernel), fft_conv(x.float(), kernel.float()).bfloat16())


@modes
@pytest.mark.parametrize("T", [1, 2, 5, 16, 37])
def test_a_sum_of_exponentials_by_two_tables(dtype, T):
    """a^(C j) a^i is a^(C j + i): kernel and last state by definition, with gates of any phase."""
    c, x = randn(D, N, dtype=dtype), randn(2, T, D)
    a = randn(D, N, dtype=dtype)
    a = (a / a.abs()) ** (1 if dtype.is_complex else 2) * torch.rand(D, N, dtype=torch.float64)
    powers = torch.stack([a**t for t in range(T)], dim=-1)  # (D, N, T)
    close(exponential_kernel(c, a.log(), T), (c[..., None] * powers).sum(1).real)
    last = torch.einsum("btd, dnt -> bdn", x.to(dtype), powers.flip(-1))
    close(exponential_state(x, a.log()), last)


@modes
@pytest.mark.parametrize("with_state", [False, True])
def test_a_diagonal_state_space_is_a_convolution_is_a_loop(dtype, with_state):
    """Outputs, last state and all gradients, in both readings."""
    T = 23
    rate = torch.rand(D, N, dtype=torch.float64)
    log_a = torch.complex(-rate, 6 * randn(D, N)) if dtype.is_complex else -rate
    leaves = [randn(2, T, D), randn(D, N, dtype=dtype), log_a, randn(2, D, N, dtype=dtype)]
    x, c, log_a, h0 = (t.requires_grad_() for t in leaves)
    inputs = [x, c, log_a, h0] if with_state else [x, c, log_a]
    h, ys = h0 if with_state else 0, []
    for t in range(T):
        h = log_a.exp() * h + x[:, t, :, None]
        ys.append((c * h).sum(-1).real)
    results = [form(*inputs) for form in convolution.FORMS.values()] + [(torch.stack(ys, dim=1), h)]
    g, g_h = randn(2, T, D), randn(2, D, N, dtype=dtype)
    grads = [torch.autograd.grad([y, h], inputs, [g, g_h]) for y, h in results]
    for (y, h), grad in zip(results[:-1], grads[:-1], strict=True):
        close((y, h), results[-1])
        close(grad, grads[-1], 1e-9)


def test_an_unknown_form_gets_one_clear_sentence():
    sentence = "form is 'fft': choose one of convolution, scan, or pass a function"
    with pytest.raises(ValueError, match=sentence):
        choose("fft", convolution.FORMS)


@longs
def test_no_sequences_give_no_outputs(conv):
    assert conv(randn(0, 9, D), randn(D, 9)).shape == (0, 9, D)


@pytest.mark.parametrize("form", convolution.FORMS)
@modes
def test_no_sequences_give_no_states(form, dtype):
    c, log_a = randn(D, N, dtype=dtype), -torch.rand(D, N, dtype=torch.float64)
    y, h = convolution.FORMS[form](randn(0, 9, D), c, log_a.to(dtype))
    assert y.shape == (0, 9, D) and h.shape == (0, D, N)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 9, 12, 13, 97, 1000, 1025])
def test_an_fft_has_a_size_with_small_factors_and_little_waste(n, monkeypatch):
    """2^k or 3·2^k, at least n and less than 3/2 n + 1."""
    sizes, rfft = [], torch.fft.rfft
    monkeypatch.setattr(torch.fft, "rfft", lambda x, n: sizes.append(n) or rfft(x, n=n))
    fft_conv(randn(1, n, 1), randn(1, 1))
    (size,) = set(sizes)
    odd = size // (size & -size)
    assert odd in (1, 3) and n <= size < 1.5 * n + 1
