import pytest
import torch
from torch import nn

from seqlab.layers.short_conv import ShortConv

D, W = 6, 4


def test_it_is_torchs_convolution_and_then_silu():
    ours = ShortConv(D, W, bias=True).double()
    theirs = nn.Conv1d(D, D, W, groups=D, padding=W - 1).double()
    ours.bias.data.normal_()
    theirs.load_state_dict({"weight": ours.weight.data[:, None], "bias": ours.bias.data})
    x = torch.randn(2, 9, D, dtype=torch.float64)
    expected = nn.functional.silu(theirs(x.mT)[..., :9].mT)
    torch.testing.assert_close(ours(x)[0], expected)


@pytest.mark.parametrize("W", [1, 2, 4, 9])
def test_it_starts_as_torchs_convolution_does(W):
    """Uniform in ±1/√W: a grouped Conv1d has W inputs per channel. A bias starts at 0."""
    weight = ShortConv(3000, W, bias=True).weight
    theirs = nn.Conv1d(3000, 3000, W, groups=3000).weight
    bound = W**-0.5
    assert weight.abs().max() <= bound and theirs.abs().max() <= bound
    assert weight.abs().max() > 0.99 * bound and weight.min() < -0.99 * bound
    assert weight.mean().abs() < 0.05 * bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert (ShortConv(5, W, bias=True).bias == 0).all() and ShortConv(5, W).bias is None
    assert ShortConv(5).weight.shape == (5, 4)


def test_the_activation_and_the_form_can_be_chosen():
    x = torch.randn(2, 9, D)
    plain = ShortConv(D, W, activation=None)
    bent = ShortConv(D, W, activation=torch.tanh)
    bent.load_state_dict(plain.state_dict())
    torch.testing.assert_close(bent(x)[0], plain(x)[0].tanh())
    plain.form = lambda x, weight, bias, state: (x + weight[:, -1], x[:, :3])
    y, state = plain(x)
    assert torch.equal(y, x + plain.weight[:, -1]) and torch.equal(state, x[:, :3])


def test_two_parts_with_the_state_carried_are_the_whole():
    conv, x = ShortConv(D, W, bias=True), torch.randn(2, 9, D)
    y, last = conv(x)
    first, state = conv(x[:, :2])
    second, state = conv(x[:, 2:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), y)
    assert torch.equal(state, last) and torch.equal(last, x[:, -3:])
