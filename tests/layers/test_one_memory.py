"""One head of memory under seven rules: each against its equation, token by token."""

import pytest
import torch

from seqlab.layers.base import tensors_in
from seqlab.layers.one_memory import RULES, one_memory


def made(rule, **options):
    torch.manual_seed(0)
    mixer = one_memory(6, rule, d_key=4, d_value=3, **options).double()
    mixer.rule = rule
    return mixer


def unit(x):
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def by_hand(mixer, x, window=None):
    """The equations of the docstring, one sequence, one token after the other."""
    q, k, v = mixer.q(x), mixer.k(x), mixer.v(x)
    ys, S = [], torch.zeros(3, 4, dtype=x.dtype)
    for t in range(len(x)):
        if mixer.rule in ("softmax", "window"):
            first = 0 if window is None else max(0, t + 1 - window)
            weights = (k[first : t + 1] @ q[t] / 2).softmax(0)
            ys.append(weights @ v[first : t + 1])
            continue
        key = unit(k[t])
        if mixer.rule == "decay":
            S = S * mixer.gamma.sigmoid()
        if mixer.rule in ("gate", "gated delta"):
            S = S * mixer.decay(x[t]).sigmoid()
        write = v[t]
        if "delta" in mixer.rule:
            write = mixer.strongest * mixer.beta(x[t]).sigmoid() * (v[t] - S @ key)
        S = S + write[:, None] * key
        y = S @ unit(q[t])
        ys.append(y / (y.square().mean() + 1e-6).sqrt())
    return torch.stack(ys) @ mixer.out.weight.T


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_its_equation(rule):
    mixer, x = made(rule, window=3), torch.randn(9, 6, dtype=torch.float64)
    expected = by_hand(mixer, x, window=3 if rule == "window" else None)
    torch.testing.assert_close(mixer(x[None])[0][0], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_two_halves_are_the_whole(rule):
    mixer, x = made(rule, window=3), torch.randn(2, 9, 6, dtype=torch.float64)
    first, state = mixer(x[:, :5])
    second, state = mixer(x[:, 5:], state)
    whole, end = mixer(x)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=0, atol=1e-12)
    for ours, theirs in zip(tensors_in(state), tensors_in(end), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("rule", "kept"), [("linear", 12), ("window", 21), ("softmax", 63)])
def test_what_a_rule_keeps_of_nine_tokens(rule, kept):
    state = made(rule, window=3)(torch.randn(1, 9, 6, dtype=torch.float64))[1]
    assert sum(x.numel() for x in tensors_in(state)) == kept


def test_a_signed_strength_reaches_beyond_one():
    mixer = made("delta", signed=True)
    assert mixer.project(5 * torch.randn(1, 99, 6, dtype=torch.float64))["beta"].max() > 1


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="choose softmax"):
        one_memory(6, "magic")
