import pytest
import torch
import torch.nn.functional as F

from seqlab.core.recurrence import recurrent
from seqlab.layers.inner_loop import one
from seqlab.mixers.ttt_linear import TTTLinear

D, H, C, T = 24, 3, 4, 14
K = D // H


def trained(**options):
    """A layer whose parameters have all moved from their starts, in float64."""
    mixer = TTTLinear(D, H, mini_batch=C, **options).double()
    for name, p in mixer.named_parameters():
        p.data += (0.3 if "first" in name else 0.1) * torch.randn_like(p)
    return mixer


def inner_inputs(mixer, x):
    """q, k, v (T, H, K) of one sequence, and the paper's step sizes e (T), η (T, H)."""
    place = torch.arange(len(x)) % mixer.mini_batch
    q, k, v, _ = mixer.inputs(x[None], place, None)
    eta = mixer.base_lr / K / (1 + torch.exp(-(x @ mixer.eta.weight.T + mixer.eta.bias)))
    e = (1 / (place + 1).double() + mixer.learned_e[place]).clamp(min=0)
    return q[0], k[0], v[0], e, eta


def inner_model(params, x, mixer, h):
    """LN(W x + b) of head h, written out."""
    z = params["W"] @ x + params["b"]
    z = (z - z.mean()) / (z.var(correction=0) + 1e-6).sqrt()
    return z * mixer.inner_norm[0][h, 0] + mixer.inner_norm[1][h, 0]


def by_autograd(mixer, x):
    """y of one sequence (T, D), with inner gradients from autograd, at one W_s per mini-batch."""

    def loss(params, k, v, h):
        return 0.5 * (inner_model(params, k, mixer, h) - (v - k)).square().sum()

    q, k, v, e, eta = inner_inputs(mixer, x)
    ys = torch.zeros_like(q)
    for h in range(H):
        W_s = {"W": mixer.first[0][h, :, :-1], "b": mixer.first[0][h, :, -1]}
        sums = {name: 0 for name in W_s}
        for t in range(len(x)):
            grads = torch.func.grad(loss)(W_s, k[t, h], v[t, h], h)
            sums = {name: sums[name] + eta[t, h] * grads[name] for name in W_s}
            W_t = {name: W_s[name] - e[t] * sums[name] for name in W_s}
            ys[t, h] = q[t, h] + inner_model(W_t, q[t, h], mixer, h)
            if (t + 1) % mixer.mini_batch == 0:
                W_s, sums = W_t, {name: 0 for name in W_s}
    return mixer.out(mixer.norm(ys.flatten(-2)) * F.gelu(mixer.g(x), approximate="tanh"))


@pytest.mark.parametrize("form", ["dual", "primal"])
def test_it_is_gradient_descent_on_the_inner_loss_and_so_are_its_outer_gradients(form):
    """Outer gradients pass through every inner gradient: second derivatives, also by autograd."""
    mixer, x = trained(form=form), torch.randn(2, T, D, dtype=torch.float64)
    ours, theirs = mixer(x)[0], torch.stack([by_autograd(mixer, row) for row in x])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    grads = (torch.autograd.grad(y.cos().sum(), list(mixer.parameters())) for y in (ours, theirs))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_q_and_k_are_two_convolutions_of_one_projection_turned_by_their_place_in_the_mini_batch():
    """Channels 2i, 2i + 1 of a head as one complex number, times e^{i place θ}."""
    mixer, x = trained(), torch.randn(1, T, D, dtype=torch.float64)
    q, k, v = inner_inputs(mixer, x[0])[:3]
    padded = torch.cat([torch.zeros(3, D, dtype=torch.float64), x[0] @ mixer.q.weight.T])
    theta = torch.tensor([10000 ** (-2 * i / K) for i in range(K // 2)], dtype=torch.float64)
    for conv, ours in ((mixer.conv_q, q), (mixer.conv_k, k)):
        u = sum(padded[j : j + T] * conv.weight[:, j] for j in range(4)) + conv.bias
        pairs = torch.view_as_complex(u.reshape(T, H, K // 2, 2))
        turn = torch.polar(torch.ones_like(theta), theta)[None] ** (torch.arange(T) % C)[:, None]
        turned = torch.view_as_real(pairs * turn[:, None]).flatten(-2)
        torch.testing.assert_close(ours, turned, rtol=0, atol=1e-12)
    torch.testing.assert_close(v.flatten(-2), x[0] @ mixer.v.weight.T, rtol=0, atol=1e-12)


def test_one_gradient_step_without_layer_norm_at_batch_1_is_the_delta_rule():
    """z = S q of DeltaNet: beta = e η, a key channel of ones for the bias, and the value v - k."""
    mixer = TTTLinear(D, H, mini_batch=1, inner_norm=False, d_conv=None, gate=False).double()
    x = torch.randn(1, T, D, dtype=torch.float64)
    q, k, v, e, eta = inner_inputs(mixer, x[0])
    ones = torch.ones(1, T, H, 1, dtype=torch.float64)
    q1, k1 = (torch.cat([u[None], ones], dim=-1) for u in (q, k))
    z, S = recurrent(q1, k1, (v - k)[None], beta=e[0] * eta[None], state=mixer.first[0][None])
    y, state = mixer(x)
    expected = mixer.out(mixer.norm((q[None] + z).flatten(-2)))
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(state.weights[0], S, rtol=0, atol=1e-10)


def test_the_inner_loss_falls_while_a_repeated_sequence_is_read():
    """Each mini-batch is the same 16 tokens with one step size: gradient descent on their mean
    loss. A small step of it can only lower a smooth loss.
    """
    mixer = TTTLinear(D, H, d_conv=None, base_lr=0.25).double()
    mixer.eta.weight.data.zero_()
    x = torch.randn(1, 16, D, dtype=torch.float64).repeat(1, 8, 1)
    _, k, v, _, _ = inner_inputs(mixer, x[0])
    losses, state = [], None
    for part in range(8):
        _, state = mixer(x[:, 16 * part : 16 * (part + 1)], state)
        W, keys = state.weights[0][0], k[:16].transpose(0, 1)
        z = mixer.layer_norm(keys @ W[..., :-1].mT + W[:, None, :, -1])
        losses.append((z - (v - k)[:16].transpose(0, 1)).square().mean().item())
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]


def test_a_mini_batch_in_progress_waits_in_the_state():
    mixer, x = trained(), torch.randn(1, 6, D, dtype=torch.float64)
    _, state = mixer(x)
    assert state.position == 6 and state.sums[0].abs().sum() > 0
    _, state = mixer(torch.randn(1, 2, D, dtype=torch.float64), state)
    assert (state.sums[0] == 0).all()


def test_by_default_it_is_the_authors():
    """Four heads here; base_lr 1, mini-batches of 16, W_0 normal of deviation 0.02 with bias 0."""
    mixer = TTTLinear(256)
    (W,) = mixer.first
    assert W.shape == (4, 64, 65) and mixer.base_lr == 1.0 and mixer.mini_batch == 16
    assert W[..., :-1].std().item() == pytest.approx(0.02, rel=0.03) and W[..., -1].eq(0).all()


def test_wrong_options_get_one_clear_sentence():
    sentence = "d_model is 12, n_heads is 4: each head needs an even width"
    with pytest.raises(ValueError, match=sentence):
        TTTLinear(12, 4)
    with pytest.raises(ValueError, match="form is 'scan': choose 'dual' or 'primal'"):
        TTTLinear(D, H, form="scan")
    with pytest.raises(ValueError, match="mini_batch is 0: it must be at least 1"):
        TTTLinear(D, H, mini_batch=0)


@pytest.mark.oracle
def test_against_fla(fla):
    """fla's steps depend only on the row i, as ours do if every η is the same.

    The authors and we read q + LN(z), fla z + LN(z). It changes q in place, so q is cloned.
    """
    mixer, x = TTTLinear(D, H, mini_batch=16).double(), torch.randn(2, 48, D, dtype=torch.float64)
    mixer.first[0].data += 0.3 * torch.randn_like(mixer.first[0])
    place = torch.arange(48) % 16
    q, k, v, _ = mixer.inputs(x, place, None)
    q, k, v = (u.transpose(1, 2) for u in (q, k, v))  # (B, H, T, K)
    e = 1 / (place[:, None] + 1).double()
    eta = torch.full((2, H, 48, 1), 0.5 / K, dtype=torch.float64)
    first = mixer.first[0]
    W_0, sums = first.expand(2, -1, -1, -1), torch.zeros(2, *first.shape, dtype=torch.float64)
    z, weights, _ = mixer.dual(one(q), one(k), v - k, eta, e, [W_0], [sums], 0)
    heads = (u.transpose(1, 2) for u in (q.clone(), k, v))
    norm = (u[:, 0] for u in mixer.inner_norm)
    steps = (e * eta).transpose(1, 2)
    W = first[None, :, :, :-1].mT.expand(2, -1, -1, -1).float()
    b = first[None, :, None, :, -1].float()
    y, W, b = fla("ttt").chunk_ttt_linear_ref(
        *heads, *norm, steps, 1.0, 1e-6, 16, W, b, output_final_state=True
    )
    ours, theirs = z + mixer.layer_norm(z), y.transpose(1, 2).double()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    theirs = torch.cat([W.mT, b.mT], dim=-1).double()
    torch.testing.assert_close(weights[0], theirs, rtol=0, atol=1e-5)
