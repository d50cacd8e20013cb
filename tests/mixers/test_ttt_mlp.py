import pytest
import torch

from seqlab.mixers.ttt_mlp import TTTMLP

D, H, C, T = 16, 2, 4, 10
K = D // H


def trained(**options):
    """A layer whose parameters have all moved from their starts, in float64."""
    mixer = TTTMLP(D, H, mini_batch=C, base_lr=0.5, **options).double()
    for name, p in mixer.named_parameters():
        p.data += (0.3 if "first" in name else 0.1) * torch.randn_like(p)
    return mixer


def gelu(z):
    return 0.5 * z * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (z + 0.044715 * z**3)))


def inner_model(params, x, mixer, h):
    """LN(W_2 gelu(W_1 x + b_1) + b_2) of head h, written out."""
    W_1, b_1, W_2, b_2 = params
    z = W_2 @ gelu(W_1 @ x + b_1) + b_2
    z = (z - z.mean()) / (z.var(correction=0) + 1e-6).sqrt()
    return z * mixer.inner_norm[0][h, 0] + mixer.inner_norm[1][h, 0]


def by_autograd(mixer, x):
    """y of one sequence (T, D), with inner gradients from autograd, at one W_s per mini-batch."""

    def loss(params, k, v, h):
        return 0.5 * (inner_model(params, k, mixer, h) - (v - k)).square().sum()

    place = torch.arange(len(x)) % C
    q, k, v = (u[0] for u in mixer.inputs(x[None], place, None)[:3])
    eta = mixer.base_lr / K / (1 + torch.exp(-(x @ mixer.eta.weight.T + mixer.eta.bias)))
    e = (1 / (place + 1).double() + mixer.learned_e[place]).clamp(min=0)
    ys = torch.zeros_like(q)
    for h in range(H):
        W_s = [part for W in mixer.first for part in (W[h, :, :-1], W[h, :, -1])]
        sums = [torch.zeros_like(W) for W in W_s]
        for t in range(len(x)):
            grads = torch.func.grad(loss)(W_s, k[t, h], v[t, h], h)
            sums = [A + eta[t, h] * g for A, g in zip(sums, grads, strict=True)]
            W_t = [W - e[t] * A for W, A in zip(W_s, sums, strict=True)]
            ys[t, h] = q[t, h] + inner_model(W_t, q[t, h], mixer, h)
            if (t + 1) % C == 0:
                W_s, sums = W_t, [torch.zeros_like(W) for W in W_s]
    return mixer.out(mixer.norm(ys.flatten(-2)) * gelu(mixer.g(x)))


@pytest.mark.parametrize("form", ["dual", "primal"])
def test_it_is_gradient_descent_on_the_inner_loss_and_so_are_its_outer_gradients(form):
    """Outer gradients pass through every inner gradient: second derivatives, also by autograd."""
    mixer, x = trained(form=form), torch.randn(2, T, D, dtype=torch.float64)
    ours, theirs = mixer(x)[0], torch.stack([by_autograd(mixer, row) for row in x])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    grads = (torch.autograd.grad(y.cos().sum(), list(mixer.parameters())) for y in (ours, theirs))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_its_inner_model_is_four_times_as_wide_inside():
    mixer = TTTMLP(D, H)
    W_1, W_2 = mixer.first
    assert W_1.shape == (H, 4 * K, K + 1) and W_2.shape == (H, K, 4 * K + 1)
    assert mixer.base_lr == 0.1 and TTTMLP(D).n_heads == 4


def test_wrong_widths_get_one_clear_sentence():
    sentence = "d_model is 12, n_heads is 4: each head needs an even width"
    with pytest.raises(ValueError, match=sentence):
        TTTMLP(12, 4)


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="form is 'scan': choose 'dual' or 'primal'"):
        TTTMLP(D, H, form="scan")
