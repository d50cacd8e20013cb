from itertools import pairwise

import pytest
import torch

from seqlab.core.recurrence import recurrent
from seqlab.mixers.titans import Titans

D, H, C, T = 12, 2, 4, 11
K = D // H


def trained(**options):
    """A layer whose parameters are all away from their first values, in float64."""
    mixer = Titans(D, H, **({"chunk_size": C, "max_lr": 0.2} | options)).double()
    for p in mixer.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return mixer


def silu(z):
    return z / (1 + torch.exp(-z))


def inner_inputs(mixer, x):
    """q, k, v (T, H, K) and α, η, θ (T, H) of one sequence, from the formulas of the paper."""
    padded = torch.cat([torch.zeros(3, 3 * D, dtype=torch.float64), x @ mixer.qkv.weight.T])
    conv = sum(padded[j : j + len(x)] * mixer.conv.weight[:, j] for j in range(4))
    qkv = silu(conv).reshape(-1, 3, H, K)
    qkv = qkv / (qkv.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    alpha, eta, theta = (1 / (1 + torch.exp(-mixer.gates(x)))).reshape(-1, 3, H).unbind(1)
    return *qkv.unbind(1), alpha, eta, mixer.max_lr * theta


def memory(M, x):
    for i, W in enumerate(M):
        x = W @ (silu(x) if i else x)
    return x


def by_autograd(mixer, x):
    """y of one sequence (T, D): equations (13), (14) of the paper, with gradients from autograd.

    Every gradient is taken at the start of its chunk.
    """

    def loss(M, k, v):
        return (memory(M, k) - v).square().sum()

    q, k, v, alpha, eta, theta = inner_inputs(mixer, x)
    ys = torch.zeros_like(q)
    for h in range(H):
        M = start = [W[h] for W in mixer.first]
        S = [torch.zeros_like(W) for W in M]
        for t in range(len(x)):
            surprise = torch.func.grad(loss)(start, k[t, h], v[t, h])
            S = [eta[t, h] * A - theta[t, h] * u for A, u in zip(S, surprise, strict=True)]
            M = [(1 - alpha[t, h]) * W + A for W, A in zip(M, S, strict=True)]
            ys[t, h] = memory(M, q[t, h])
            start = M if (t + 1) % mixer.chunk_size == 0 else start
    y = ys / (ys.square().mean(-1, keepdim=True) + 1e-6).sqrt() * mixer.norm.weight
    return mixer.out(y.flatten(-2) * silu(mixer.g(x)))


@pytest.mark.parametrize("form", ["chunkwise", "recurrent"])
@pytest.mark.parametrize(("depth", "chunk_size"), [(1, 1), (1, 4), (2, 4), (3, 3)])
def test_it_is_descent_with_momentum_and_forgetting_and_so_are_its_outer_gradients(
    depth, chunk_size, form
):
    mixer = trained(depth=depth, chunk_size=chunk_size, form=form)
    x = torch.randn(2, T, D, dtype=torch.float64)
    ours, theirs = mixer(x)[0], torch.stack([by_autograd(mixer, row) for row in x])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    grads = (torch.autograd.grad(y.cos().sum(), list(mixer.parameters())) for y in (ours, theirs))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_without_momentum_and_decay_a_linear_memory_at_chunk_1_is_the_delta_rule():
    """M is DeltaNet's state, and beta = 2 θ: the 2 is that of the derivative of a square."""
    mixer, x = trained(depth=1, chunk_size=1), torch.randn(1, T, D, dtype=torch.float64)
    with torch.no_grad():
        mixer.gates.weight[: 2 * H] = 0
        mixer.gates.bias[: 2 * H] = -1000.0  # α = η = 0
    q, k, v, alpha, eta, theta = (u[None] for u in inner_inputs(mixer, x[0]))
    assert (alpha == 0).all() and (eta == 0).all()
    y, S = recurrent(q, k, v, beta=2 * theta, state=mixer.first[0][None])
    ours, state = mixer(x)
    torch.testing.assert_close(state.memory[0], S, rtol=0, atol=1e-12)
    expected = mixer.out(mixer.norm(y).flatten(-2) * silu(mixer.g(x)))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)


def test_a_surprise_acts_on_the_tokens_after_it():
    """With η = 1 and θ = 0 after the first token, M still moves along that token's gradient."""
    mixer, x = trained(depth=1), torch.randn(1, T, D, dtype=torch.float64)
    states = [None]
    with torch.no_grad():
        for t in range(4):
            mixer.gates.weight.zero_()
            mixer.gates.bias[:H] = -1000.0  # α = 0
            mixer.gates.bias[H : 2 * H] = 1000.0  # η = 1
            mixer.gates.bias[2 * H :] = 0.0 if t == 0 else -1000.0  # θ = max_lr / 2, then 0
            states.append(mixer(x[:, t : t + 1], states[-1])[1])
    moves = [b.memory[0] - a.memory[0] for a, b in pairwise(states[1:])]
    for move in moves:
        torch.testing.assert_close(move, states[1].momentum[0], rtol=0, atol=1e-12)
    assert moves[0].abs().max() > 1e-3


def test_over_a_long_sequence_a_deep_memory_neither_diverges_nor_dies():
    mixer, x = Titans(32, 4), torch.randn(1, 2048, 32)
    y, state = mixer(x)
    assert y.isfinite().all()
    for W in state.memory:
        assert W.norm(dim=(-1, -2)).min() > 0.01 and W.abs().max() < 10


def test_it_starts_as_its_docstring_says():
    """α is 0.25 %, η ½, θ max_lr / 2; M_0 is Xavier uniform, two layers with 4 K between them."""
    mixer = Titans(128)
    alpha, eta, theta = mixer.gates.bias.sigmoid().view(3, 4)
    torch.testing.assert_close(alpha, torch.full((4,), 0.0025), rtol=0.02, atol=0)
    assert eta.eq(0.5).all() and theta.eq(0.5).all() and mixer.max_lr == 0.1
    assert [W.shape for W in mixer.first] == [(4, 128, 32), (4, 32, 128)]
    for W in mixer.first:
        bound = (6 / (32 + 128)) ** 0.5
        assert -bound <= W.min() < -0.99 * bound and 0.99 * bound < W.max() <= bound
        assert W.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)
    (W,) = Titans(128, depth=1).first
    assert W.max().item() == pytest.approx((6 / 64) ** 0.5, rel=0.01)
    assert [W.shape[-2:] for W in Titans(128, depth=3, expand=2).first] == [
        (64, 32), (64, 64), (32, 64)
    ]  # fmt: skip
    assert mixer.chunk_size == 16 and mixer.conv.weight.shape == (384, 4)


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="d_model is 12, n_heads is 5"):
        Titans(D, 5)
    with pytest.raises(ValueError, match="form is 'scan': choose 'chunkwise' or 'recurrent'"):
        Titans(D, H, form="scan")
    with pytest.raises(ValueError, match="depth is 0: it must be at least 1"):
        Titans(D, H, depth=0)
