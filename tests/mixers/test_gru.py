import pytest
import torch

from seqlab.mixers.gru import GRU

D, T = 12, 17


@pytest.mark.parametrize("form", ["fused", "recurrent"])
def test_it_is_torch_nn_gru_with_its_gradients(form):
    ours, theirs = GRU(D, form=form).double(), torch.nn.GRU(D, D, batch_first=True).double()
    parameters = [ours.W.weight, ours.R.weight, ours.W.bias, ours.R.bias]
    for a, b in zip(parameters, theirs.parameters(), strict=True):
        a.data = b.data
    x = torch.randn(3, T, D, dtype=torch.float64, requires_grad=True)
    h = torch.randn(3, D, dtype=torch.float64)
    (y, last), (y_theirs, last_theirs) = ours(x, h), theirs(x, h[None])
    torch.testing.assert_close(y, y_theirs, rtol=0, atol=1e-12)
    torch.testing.assert_close(last, last_theirs[0], rtol=0, atol=1e-12)
    grads = torch.autograd.grad(y.square().sum(), [x, *parameters])
    wanted = torch.autograd.grad(y_theirs.square().sum(), [x, *theirs.parameters()])
    for a, b in zip(grads, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_reset_before_the_product_is_the_papers_equation():
    mixer, x = GRU(D, reset="before").double(), torch.randn(2, T, D, dtype=torch.float64)
    (W_r, W_z, W), (U_r, U_z, U) = mixer.W.weight.chunk(3), mixer.R.weight.chunk(3)
    b_r, b_z, b = (mixer.W.bias + mixer.R.bias).chunk(3)
    h, y = torch.zeros(2, D, dtype=torch.float64), torch.full_like(x, torch.nan)
    for t in range(T):
        r = 1 / (1 + torch.exp(-(x[:, t] @ W_r.T + h @ U_r.T + b_r)))
        z = 1 / (1 + torch.exp(-(x[:, t] @ W_z.T + h @ U_z.T + b_z)))
        y[:, t] = h = z * h + (1 - z) * torch.tanh(x[:, t] @ W.T + (r * h) @ U.T + b)
    torch.testing.assert_close(mixer(x)[0], y, rtol=0, atol=1e-12)
    after = GRU(D).double()
    after.load_state_dict(mixer.state_dict())
    assert (after(x)[0] - y).abs().max() > 1e-3  # the two are different models


def test_it_starts_as_pytorchs():
    """Every weight and bias uniform in ±D^-1/2, and h at 0: then h = (1 - z) n."""
    mixer = GRU(500)
    for parameter in mixer.parameters():
        assert -(500**-0.5) <= parameter.min() < -0.97 * 500**-0.5
        assert 0.97 * 500**-0.5 < parameter.max() <= 500**-0.5
        error = (3 * 500 * parameter.numel()) ** -0.5
        assert parameter.mean().item() == pytest.approx(0, abs=5 * error)
    x = torch.randn(1, 1, 500)
    b_r, b_z, b_n = mixer.R.bias.chunk(3)
    r, z, n = mixer.W(x).chunk(3, dim=-1)
    n = torch.tanh(n + (r + b_r).sigmoid() * b_n)
    torch.testing.assert_close(mixer(x)[0], (1 - (z + b_z).sigmoid()) * n, rtol=0, atol=1e-6)


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="reset is 'never': choose 'after' or 'before'"):
        GRU(D, reset="never")
    with pytest.raises(ValueError, match="form is 'scan': choose 'fused' or 'recurrent'"):
        GRU(D, form="scan")
    with pytest.raises(ValueError, match="PyTorch fuses only 'after'"):
        GRU(D, reset="before", form="fused")


@pytest.mark.parametrize("form", ["fused", "recurrent"])
def test_a_state_of_another_width_gets_one_clear_sentence(form):
    """PyTorch's fused loop would read past its end."""
    x = torch.randn(2, 3, D)
    _, state = GRU(D // 2 + 1)(torch.randn(2, 3, D // 2 + 1))
    with pytest.raises(
        ValueError, match=rf"the state.* has shape \(2, {D // 2 + 1}\): \(2, {D}\) is needed"
    ):
        GRU(D, form=form)(x, state)
