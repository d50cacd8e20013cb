import pytest
import torch

from seqlab.mixers.elman import Elman

D, T = 12, 17


def pair():
    """Our network and torch.nn's with the same weights; torch's two biases add up to ours."""
    ours, theirs = Elman(D).double(), torch.nn.RNN(D, D, batch_first=True).double()
    ours.W.weight.data, ours.R.weight.data = theirs.weight_ih_l0.data, theirs.weight_hh_l0.data
    ours.W.bias.data = theirs.bias_ih_l0.data + theirs.bias_hh_l0.data
    return ours, theirs


@pytest.mark.parametrize("form", ["fused", "recurrent"])
def test_it_is_torch_nn_rnn_with_its_gradients(form):
    ours, theirs = pair()
    ours.form = form
    x = torch.randn(3, T, D, dtype=torch.float64, requires_grad=True)
    h = torch.randn(3, D, dtype=torch.float64)
    (y, last), (y_theirs, last_theirs) = ours(x, h), theirs(x, h[None])
    torch.testing.assert_close(y, y_theirs, rtol=0, atol=1e-12)
    torch.testing.assert_close(last, last_theirs[0], rtol=0, atol=1e-12)
    grads = torch.autograd.grad(y.square().sum(), [x, ours.W.weight, ours.R.weight, ours.W.bias])
    wanted = [x, theirs.weight_ih_l0, theirs.weight_hh_l0, theirs.bias_ih_l0]
    for a, b in zip(grads, torch.autograd.grad(y_theirs.square().sum(), wanted), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_it_starts_as_pytorchs():
    """Every weight and bias uniform in ±D^-1/2, and h at 0."""
    mixer = Elman(1000)
    for parameter in mixer.parameters():
        assert -(1000**-0.5) <= parameter.min() < -0.97 * 1000**-0.5
        assert 0.97 * 1000**-0.5 < parameter.max() <= 1000**-0.5
        error = (3 * 1000 * parameter.numel()) ** -0.5
        assert parameter.mean().item() == pytest.approx(0, abs=5 * error)
    x = torch.randn(1, 1, 1000)
    torch.testing.assert_close(mixer(x)[0], mixer.W(x).tanh(), rtol=0, atol=1e-6)


def test_without_a_path_through_time_each_token_is_alone():
    mixer, x = Elman(D).double(), torch.randn(2, T, D, dtype=torch.float64)
    mixer.R.weight.data.zero_()
    torch.testing.assert_close(mixer(x)[0], mixer.W(x).tanh(), rtol=0, atol=1e-12)


def test_the_gradient_through_time_is_a_product_of_jacobians():
    """dh_T/dh_0 = Π diag(1 - h_t²) R: with a small R it vanishes, and no gate can prevent it."""
    mixer, x = Elman(D).double(), torch.randn(1, T, D, dtype=torch.float64)
    run = lambda h: mixer(x, h[None])[1][0]  # noqa: E731
    product = torch.eye(D, dtype=torch.float64)
    for h in mixer(x)[0][0]:
        product = (1 - h**2)[:, None] * mixer.R.weight @ product
    jacobian = torch.autograd.functional.jacobian(run, torch.zeros(D, dtype=torch.float64))
    torch.testing.assert_close(jacobian, product, rtol=1e-9, atol=1e-15)
    assert product.norm() < 1e-3


def test_an_unknown_form_gets_one_clear_sentence():
    with pytest.raises(ValueError, match="form is 'parallel': choose 'fused' or 'recurrent'"):
        Elman(D, form="parallel")


@pytest.mark.parametrize("form", ["fused", "recurrent"])
def test_a_state_of_another_width_gets_one_clear_sentence(form):
    """PyTorch's fused loop would read past its end."""
    x = torch.randn(2, 3, D)
    _, state = Elman(D // 2 + 1)(torch.randn(2, 3, D // 2 + 1))
    with pytest.raises(
        ValueError, match=rf"the state.* has shape \(2, {D // 2 + 1}\): \(2, {D}\) is needed"
    ):
        Elman(D, form=form)(x, state)
