import pytest
import torch

from seqlab.mixers.amsrn import AMSRN, AMSRNState

B, T, D = 2, 9, 6


def the_definition(net, x):
    """torch.nn.LSTM reads x; then each token chooses among the outputs before it, one at a time."""
    lstm = torch.nn.LSTM(D, D, batch_first=True).double()
    lstm.weight_ih_l0.data, lstm.weight_hh_l0.data = net.W.weight.data, net.R.weight.data
    lstm.bias_ih_l0.data, lstm.bias_hh_l0.data = net.W.bias.data, 0 * net.W.bias.data
    h, _ = lstm(x)
    ys, weights = [], torch.zeros(B, T, T, dtype=torch.float64)
    for t in range(T):
        selections = 1 / (1 + torch.exp(-net.select(h[:, t])))
        a, b, key = selections[:, :D], selections[:, D:], net.key(h[:, t])
        found = torch.zeros(B, D, dtype=torch.float64)
        if t:
            scores = [(a * h[:, i] * key).sum(-1).exp() for i in range(t)]
            for i in range(t):
                p = scores[i] / sum(scores)
                weights[:, t, i] = p.detach()
                found = found + p[:, None] * b * h[:, i]
        ys.append(net.out(torch.cat([h[:, t], found], dim=-1)))
    return torch.stack(ys, dim=1), h, weights


def test_it_is_its_definition_one_token_at_a_time():
    net, x = AMSRN(D).double(), torch.randn(B, T, D, dtype=torch.float64)
    with torch.no_grad():
        net.key.weight.mul_(20)  # so that the choice is sharp
        y, state, weights = net.run(x)
        expected, h, p = the_definition(net, x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(weights, p, rtol=0, atol=1e-12)
    torch.testing.assert_close(state.past, h, rtol=0, atol=1e-12)
    assert weights.max() > 0.5


def test_its_gradients_are_those_of_its_definition():
    net, x = AMSRN(D).double(), torch.randn(B, T, D, dtype=torch.float64)
    mine = x.clone().requires_grad_()
    theirs = x.clone().requires_grad_()
    wanted = [net.select.weight, net.key.weight, net.out.weight]
    ours = torch.autograd.grad(net(mine)[0].sin().sum(), [mine, *wanted])
    others = torch.autograd.grad(the_definition(net, theirs)[0].sin().sum(), [theirs, *wanted])
    for a, b in zip(ours, others, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_state_of_another_width_gets_one_clear_sentence():
    x = torch.randn(1, 2, D)
    _, state = AMSRN(D)(x)
    with pytest.raises(ValueError, match=r"the state's h has shape \(1, 3\): \(1, 6\) is needed"):
        AMSRN(D)(x, AMSRNState(state.h[:, :3], state.c, state.past))
    with pytest.raises(ValueError, match=r"the state's past has shape \(1, 2, 5\)"):
        AMSRN(D)(x, AMSRNState(state.h, state.c, state.past[..., :5]))
