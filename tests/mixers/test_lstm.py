import pytest
import torch
from torch.distributions import Uniform

from seqlab.mixers.lstm import LSTM, LSTMState

D, T = 12, 17


@pytest.mark.parametrize("form", ["fused", "recurrent"])
def test_it_is_torch_nn_lstm_with_its_gradients(form):
    """Torch's two biases add up to ours."""
    ours, theirs = LSTM(D, form=form).double(), torch.nn.LSTM(D, D, batch_first=True).double()
    ours.W.weight.data, ours.R.weight.data = theirs.weight_ih_l0.data, theirs.weight_hh_l0.data
    ours.W.bias.data = theirs.bias_ih_l0.data + theirs.bias_hh_l0.data
    x = torch.randn(3, T, D, dtype=torch.float64, requires_grad=True)
    h, c = torch.randn(2, 3, D, dtype=torch.float64)
    y, state = ours(x, LSTMState(h, c))
    y_theirs, state_theirs = theirs(x, (h[None], c[None]))
    torch.testing.assert_close(y, y_theirs, rtol=0, atol=1e-12)
    for a, b in zip(state, state_theirs, strict=True):
        torch.testing.assert_close(a, b[0], rtol=0, atol=1e-12)
    grads = torch.autograd.grad(y.square().sum(), [x, ours.W.weight, ours.R.weight, ours.W.bias])
    wanted = [x, theirs.weight_ih_l0, theirs.weight_hh_l0, theirs.bias_ih_l0]
    for a, b in zip(grads, torch.autograd.grad(y_theirs.square().sum(), wanted), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_only_the_fused_form_is_pytorchs_loop(monkeypatch):
    monkeypatch.setattr(torch, "lstm", None)
    LSTM(D, form="recurrent")(torch.randn(1, 2, D))
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        LSTM(D)(torch.randn(1, 2, D))


@pytest.mark.parametrize("form", ["fused", "recurrent"])
def test_without_a_state_h_and_c_start_at_zero(form):
    mixer, x, zero = LSTM(D, form=form), torch.randn(3, T, D), torch.zeros(3, D)
    for a, b in zip(mixer(x)[1], mixer(x, LSTMState(zero, zero))[1], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_every_weight_starts_where_torch_nn_lstm_starts_it(drawn_from):
    """Uniform within ±D^-1/2, the bias too."""
    mixer = LSTM(100)
    for p in mixer.parameters():
        drawn_from(p, Uniform(-0.1, 0.1, validate_args=False))
        assert p.abs().max() <= 0.1


def test_an_open_forget_gate_and_a_shut_input_gate_keep_the_cell():
    """The constant error carousel: c is untouched by the tokens, and so is its gradient."""
    mixer, x = LSTM(D).double(), torch.randn(1, 200, D, dtype=torch.float64)
    with torch.no_grad():
        mixer.W.weight.zero_()
        mixer.R.weight.zero_()
        mixer.W.bias[:D] = -1000.0  # i = 0
        mixer.W.bias[D : 2 * D] = 1000.0  # f = 1
    c = torch.randn(1, D, dtype=torch.float64, requires_grad=True)
    _, state = mixer(x, LSTMState(torch.zeros_like(c), c))
    torch.testing.assert_close(state.c, c)
    torch.testing.assert_close(torch.autograd.grad(state.c.sum(), c)[0], torch.ones_like(c))


def test_an_unknown_form_gets_one_clear_sentence():
    with pytest.raises(ValueError, match="form is 'scan': choose 'fused' or 'recurrent'"):
        LSTM(D, form="scan")


@pytest.mark.parametrize("form", ["fused", "recurrent"])
def test_a_state_of_another_width_gets_one_clear_sentence(form):
    """PyTorch's fused loop would read past its end."""
    x = torch.randn(2, 3, D)
    _, state = LSTM(D // 2 + 1)(torch.randn(2, 3, D // 2 + 1))
    sentence = rf"the state.* has shape \(2, {D // 2 + 1}\): \(2, {D}\) is needed"
    with pytest.raises(ValueError, match=sentence):
        LSTM(D, form=form)(x, state)
