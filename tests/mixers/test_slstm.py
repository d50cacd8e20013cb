import math

import pytest
import torch

from seqlab.mixers.slstm import sLSTM

D, H, T = 24, 3, 19
K = D // H


def mixer_and_x(scale=1.0):
    """A layer whose R is not 0, as after training."""
    mixer, x = sLSTM(D, H).double(), scale * torch.randn(2, T, D, dtype=torch.float64)
    mixer.R.data.normal_(std=0.3)
    mixer.W.data.normal_(std=0.5)
    mixer.b.data += 0.3 * torch.randn_like(mixer.b)
    mixer.conv.bias.data.normal_(std=0.3)
    mixer.norm.data.normal_()
    return mixer, x


def gate_inputs(mixer, x):
    """W x + b of each gate (4, B, T, H, K), one head and one gate at a time."""
    padded = torch.cat([x.new_zeros(len(x), 3, D), x], dim=1)
    conv = sum(padded[:, j : j + T] * mixer.conv.weight[:, j] for j in range(4)) + mixer.conv.bias
    conv = conv * torch.sigmoid(conv)
    gates = []
    for u, W, b in zip((conv, conv, x, x), mixer.W, mixer.b, strict=True):
        gates.append(torch.einsum("bthj, hij -> bthi", u.unflatten(-1, (H, K)), W) + b)
    return torch.stack(gates)


def papers_h(mixer, x):
    """h of equations (8) to (15) of the paper, without a stabiliser: exp(ĩ) itself."""
    raw = gate_inputs(mixer, x)
    h = c = n = torch.zeros(len(x), H, K, dtype=x.dtype)
    hs = []
    for t in range(x.shape[1]):
        i, f, z, o = raw[:, :, t] + torch.einsum("bhj, ghij -> gbhi", h, mixer.R)
        i, f = torch.exp(i), 1 / (1 + torch.exp(-f))
        c, n = f * c + i * torch.tanh(z), f * n + i
        h = c / n / (1 + torch.exp(-o))
        hs.append(h)
    return torch.stack(hs, dim=1)


def normed(h, weight, eps=1e-5):
    h = (h - h.mean(-1, keepdim=True)) / (h.var(-1, unbiased=False, keepdim=True) + eps).sqrt()
    return h.flatten(-2) * weight


def test_it_is_the_papers_equation_without_the_stabiliser_and_so_are_its_gradients():
    mixer, x = mixer_and_x()
    ours, theirs = mixer(x)[0], normed(papers_h(mixer, x), mixer.norm)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    weight, parameters = torch.randn_like(ours), list(mixer.parameters())
    grads = (torch.autograd.grad((y * weight).sum(), parameters) for y in (ours, theirs))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_the_stabiliser_only_changes_the_scale_of_the_state():
    """From the same state at another scale, the outputs are the same."""
    mixer, x = mixer_and_x()
    _, state = mixer(x[:, :9])
    shifted = state._replace(c=state.c * 8, n=state.n * 8, m=state.m - math.log(8))
    ours, theirs = (mixer(x[:, 9:], s)[0] for s in (state, shifted))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_an_input_gate_that_would_overflow_does_not():
    """exp(1000) = inf in float64; with m, c / n is still a weighted mean, at most 1."""
    mixer, x = mixer_and_x()
    mixer.b.data[0] = torch.linspace(-1000, 1000, K)
    assert papers_h(mixer, x).isnan().any()
    _, state = mixer(x)
    assert (state.c.abs() <= state.n + 1e-12).all() and (state.n >= 1 - 1e-12).all()


def test_forget_biases_fall_from_5_to_minus_7_faster_in_the_first_layer():
    """By the power 0.3 + 1.3 depth of the place in the head; all other biases are 0."""
    first, last = sLSTM(D, H).b[1, 0], sLSTM(D, H, depth=1.0).b[1, 0]
    assert first[0] == last[0] == 5 and first[-1] == last[-1] == -7
    assert (first[1:-1] < last[1:-1]).all()
    for depth, power in ((0.0, 0.3), (0.5, 0.95), (1.0, 1.6)):
        b = sLSTM(D, H, depth=depth).b
        expected = torch.tensor([5 - 12 * (j / (K - 1)) ** power for j in range(K)])
        torch.testing.assert_close(b[1].detach(), expected.expand(H, K))
        assert b[[0, 2, 3]].eq(0).all()


def test_the_matrices_start_as_the_authors():
    """W normal with variance 2 / (5 D), R = 0, four heads and four taps, a norm of weight 1."""
    mixer = sLSTM(160)
    assert mixer.W.shape == mixer.R.shape == (4, 4, 40, 40)
    assert mixer.W.std().item() == pytest.approx((2 / (5 * 160)) ** 0.5, rel=0.02)
    assert mixer.W.mean().abs() < 0.04 * mixer.W.std()
    assert mixer.W.abs().max() > 3 * mixer.W.std()  # normal, not uniform
    assert mixer.R.eq(0).all() and mixer.norm.eq(1).all() and mixer.eps == 1e-5
    assert mixer.conv.weight.shape == (160, 4) and mixer.conv.bias.eq(0).all()


def test_the_eps_of_the_norm_may_be_chosen():
    mixer, x = mixer_and_x()
    mixer.eps = 0.5
    expected = normed(papers_h(mixer, x), mixer.norm, eps=0.5)
    torch.testing.assert_close(mixer(x)[0], expected, rtol=0, atol=1e-10)
    assert sLSTM(D, H, eps=0.5).eps == 0.5


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="d_model is 24, n_heads is 5"):
        sLSTM(D, 5)


@pytest.mark.oracle
def test_the_cell_against_xlstm():
    reason = "needs xlstm: pip install --no-deps xlstm"
    vanilla = pytest.importorskip("xlstm.blocks.slstm.src.vanilla", reason=reason)
    pointwise = vanilla.slstm_pointwise_function_registry["slstm"]
    mixer, x = mixer_and_x()
    R = mixer.R.permute(1, 0, 2, 3).flatten(1, 2)  # (H, 4 K, K), its gates stacked
    raw = gate_inputs(mixer, x).permute(2, 1, 0, 3, 4).flatten(-3)  # (T, B, 4 D)
    states = torch.zeros(4, 2, D, dtype=x.dtype)
    b = torch.zeros(4 * D, dtype=x.dtype)
    all_states, _, _ = vanilla.slstm_forward(raw, states, R, b, pointwise)
    _, state = mixer(x)
    for ours, theirs in zip(state[:4], all_states[:, -1], strict=True):
        torch.testing.assert_close(ours.flatten(1), theirs, rtol=0, atol=1e-12)
    h = all_states[0, 1:].transpose(0, 1).unflatten(-1, (H, K))
    torch.testing.assert_close(mixer(x)[0], normed(h, mixer.norm), rtol=0, atol=1e-10)
