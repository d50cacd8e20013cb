from itertools import pairwise

import pytest
import torch

from seqlab.core.recurrence import recurrent
from seqlab.mixers.titans import Titans

D, H, C, T = 12, 2, 4, 11
K = D // H


def trained(**options):
    """A layer whose parameters are all away from their first values, in float64."""
    mixer = Titans(D, H, **{"chunk_size": C, "max_lr": 0.2} | options).double()
    for p in mixer.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return mixer


def silu(z):
    return z / (1 + torch.exp(-z))


def inner_inputs(mixer, x):
    """q, k, v (T, H, K) and α, η, θ (T, H) of one sequence, from the formulas of the paper."""
    padded = torch.cat([torch.zeros(3, 3 * D, dtype=torch.float64), x @ mixer.qkv.weight.T])
    qkv = silu(sum(padded[j : j + len(x)] * mixer.conv.weight[:, j] for j in range(4))).reshape(
        -1, 3, H, K
    )
    qkv = qkv / (qkv.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    alpha, eta, theta = (1 / (1 + torch.exp(-mixer.gates(x)))).reshape(-1, 3, H).unbind(1)
    return *qkv.unbind(1), alpha, eta, mixer.max_lr * theta


def memory(M, x):
    for i, W in enumerate(M):
        x = W @ (silu(x) if i else x)
    return x


def by_autograd(mixer, x):
    """y of one sequence (T, D): equations (13), (14) of the paper, each gradient from autograd at
    the chunk's start.
    """
    q, k, v, alpha, eta, theta = inner_inputs(mixer, x)
    ys = torch.zeros_like(q)
    for h in range(H):
        M = start = [W[h] for W in mixer.first]
        S = [torch.zeros_like(W) for W in M]
        for t in range(len(x)):
            surprise = torch.func.grad(lambda M, k, v: (memory(M, k) - v).square().sum())(
                start, k[t, h], v[t, h]
            )
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
    mixer, x = (
        trained(depth=depth, chunk_size=chunk_size, form=form),
        torch.randn(2, T, D, dtype=torch.float64),
    )
    ours, theirs = mixer(x)[0], torch.stack([by_autograd(mixer, row) for row in x])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    grads = (torch.autograd.grad(y.cos().sum(), list(mixer.parameters())) for y in (ours, theirs))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_without_momentum_and_decay_a_linear_memory_at_chunk_1_is_the_delta_rule():
    """M is DeltaNet's state, and beta = 2 θ: the 2 of the derivative of a square."""
    mixer, x = trained(depth=1, chunk_size=1), torch.randn(1, T, D, dtype=torch.float64)
    with torch.no_grad():
        mixer.gates.weight[: 2 * H], mixer.gates.bias[: 2 * H] = 0, -1000.0  # α = η = 0
    q, k, v, alpha, eta, theta = (u[None] for u in inner_inputs(mixer, x[0]))
    assert (alpha == 0).all() and (eta == 0).all()
    y, S = recurrent(q, k, v, beta=2 * theta, state=mixer.first[0][None])
    ours, state = mixer(x)
    torch.testing.assert_close(state.memory[0], S, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        ours, mixer.out(mixer.norm(y).flatten(-2) * silu(mixer.g(x))), rtol=0, atol=1e-10
    )


def test_a_surprise_acts_on_the_tokens_after_it():
    """With η near 1 and θ shut after the first token, M goes on moving in the direction of that
    token's gradient.
    """
    mixer, x = trained(depth=1), torch.randn(1, T, D, dtype=torch.float64)
    states = [None]
    with torch.no_grad():
        for t in range(4):
            mixer.gates.weight.zero_()
            mixer.gates.bias[:H], mixer.gates.bias[H : 2 * H] = -1000.0, 1000.0  # α = 0, η = 1
            mixer.gates.bias[2 * H :] = 0.0 if t == 0 else -1000.0  # θ, then none
            states.append(mixer(x[:, t : t + 1], states[-1])[1])
    moves = [b.memory[0] - a.memory[0] for a, b in pairwise(states[1:])]
    for move in moves:
        torch.testing.assert_close(move, states[1].momentum[0], rtol=0, atol=1e-12)
    assert moves[0].abs().max() > 1e-3


def test_over_a_long_sequence_a_deep_memory_neither_diverges_nor_dies():
    mixer, x = Titans(32, 4), torch.randn(1, 2048, 32)
    y, state = mixer(x)
    assert y.isfinite().all() and all(
        W.norm(dim=(-1, -2)).min() > 0.01 and W.abs().max() < 10 for W in state.memory
    )


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="d_model is 12, n_heads is 5"):
        Titans(D, 5)
    with pytest.raises(ValueError, match="form is 'scan': choose 'chunkwise' or 'recurrent'"):
        Titans(D, H, form="scan")
    with pytest.raises(ValueError, match="depth is 0: it must be at least 1"):
        Titans(D, H, depth=0)
