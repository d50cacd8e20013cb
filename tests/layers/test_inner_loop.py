"""Parts of the inner loop. The whole is tested with its mixers, tests/mixers/test_ttt_*.py."""

import pytest
import torch

from seqlab.layers.inner_loop import InnerLoop, one, read, times
from seqlab.mixers.ttt_linear import TTTLinear

D, H, K = 24, 3, 8
F64 = {"dtype": torch.float64}


def test_one_appends_the_input_of_the_bias():
    W, b, x = torch.randn(5, K, **F64), torch.randn(5, **F64), torch.randn(2, 7, K, **F64)
    joined = torch.cat([W, b[:, None]], dim=1)
    torch.testing.assert_close(times(joined, one(x)), x @ W.T + b)


def test_a_read_is_that_of_the_matrix_after_each_step():
    """W_t = W - e_t (A + Σ_{j≤t} η_j g_j x_jᵀ), formed and multiplied."""
    C, a, b = 5, 4, 3
    x, seen = torch.randn(2, 1, 1, C, a, **F64)
    g, W, A = torch.randn(1, 1, C, b, **F64), torch.randn(b, a, **F64), torch.randn(b, a, **F64)
    eta, e = torch.rand(C, 1, **F64), torch.rand(C, 1, **F64)
    steps = (e * eta.mT).tril()
    for before in (A, None):
        ours = read(x, W=W, A=before, seen=seen, g=g, steps=steps, e=e)
        total = torch.zeros_like(A) if before is None else A
        for t in range(C):
            total = total + eta[t] * torch.outer(g[0, 0, t], seen[0, 0, t])
            torch.testing.assert_close(ours[0, 0, t], (W - e[t] * total) @ x[0, 0, t])


@pytest.mark.parametrize("inner_norm", [True, False])
def test_the_gradient_of_the_loss_is_autograds(inner_norm):
    mixer = TTTLinear(D, H, inner_norm=inner_norm).double()
    for p in mixer.inner_norm:
        p.data += 0.3 * torch.randn_like(p)
    z = torch.randn(2, H, 5, K, **F64).requires_grad_()
    target = torch.randn(2, H, 5, K, **F64)
    loss = (mixer.layer_norm(z) - target).square().sum() / 2
    (expected,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(mixer.loss_gradient(z, target), expected)


def test_the_inner_norm_is_layer_norm_head_by_head():
    mixer, z = TTTLinear(D, H).double(), torch.randn(2, H, 5, K, **F64)
    weight, bias = mixer.inner_norm
    assert (weight == 1).all() and (bias == 0).all()
    weight.data.uniform_(), bias.data.normal_()
    for h in range(H):
        expected = torch.nn.functional.layer_norm(z[:, h], (K,), weight[h, 0], bias[h, 0], 1e-6)
        torch.testing.assert_close(mixer.layer_norm(z)[:, h], expected)


@pytest.mark.parametrize("form", ["dual", "primal"])
def test_parts_that_end_inside_a_mini_batch_are_the_whole(form):
    mixer, x = TTTLinear(D, H, mini_batch=4, form=form).double(), torch.randn(2, 11, D, **F64)
    y, last = mixer(x)
    parts, state = [], None
    for part in x.split([3, 2, 5, 1], dim=1):
        y_part, state = mixer(part, state)
        parts.append(y_part)
    torch.testing.assert_close(torch.cat(parts, dim=1), y, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(
        (*state.weights, *state.sums), (*last.weights, *last.sums), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert state.position == last.position == 11


def test_it_starts_as_the_authors_do():
    """W and the step sizes' weights have std 0.02; biases, and what is learned of e, start at 0."""
    mixer = TTTLinear(256, 4)
    assert mixer.mini_batch == 16 and mixer.base_lr == 1.0
    assert (mixer.learned_e == 0).all() and (mixer.eta.bias == 0).all()
    assert mixer.eta.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert mixer.eta.weight.mean().abs() < 0.003
    (W,) = mixer.first
    assert W.shape == (4, 64, 65) and (W[..., -1] == 0).all()
    assert W[..., :-1].std().item() == pytest.approx(0.02, rel=0.05)
    assert W.mean().abs() < 0.001
    assert mixer.norm.eps == 1e-6 and torch.allclose(
        mixer.theta, 10000 ** -(torch.arange(32) / 32).double()
    )


def test_its_parts_are_those_of_the_two_backbones():
    mamba, transformer = TTTLinear(D, H), TTTLinear(D, H, d_conv=None, gate=False)
    assert mamba.k is None and mamba.conv_q.weight.shape == (D, 4) and mamba.g is not None
    assert transformer.conv_q is None and transformer.k is not None and transformer.g is None
    _, state = transformer(torch.randn(2, 5, D))
    assert state.conv is None and state.position == 5


def test_an_inner_model_must_be_given():
    loop = InnerLoop(D, H, (K, K), base_lr=1.0)
    with pytest.raises(NotImplementedError):
        loop(torch.randn(1, 3, D))
