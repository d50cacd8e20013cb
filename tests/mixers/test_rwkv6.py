import warnings

import pytest
import torch
import torch.nn.functional as F

from seqlab.core.recurrence import chunkwise, recurrent
from seqlab.core.shift import read_before_write
from seqlab.mixers.rwkv5 import RWKV5
from seqlab.mixers.rwkv6 import RWKV6

D, H, T = 32, 4, 23
# layer, how many there are, 1 - layer / L, and layer / (L - 1)
LAYERS = [(0, 4, 1.0, 0.0), (1, 4, 0.75, 1 / 3), (3, 4, 0.25, 1.0), (1, 2, 0.5, 1.0)]


def lively(**options):
    """A layer whose low-rank maps, which start at 0, are not 0."""
    mixer = RWKV6(D, H, mix_rank=5, decay_rank=6, **options)
    for p in (mixer.decay_down, mixer.decay_up, mixer.mix_down, mixer.mix_up):
        p.data.normal_(std=0.3)
    return mixer


def test_it_is_a_shifted_gated_sum():
    """S_t = S_{t-1} diag(a_t) + v_t k_tᵀ, read as S_{t-1} + v (u k)ᵀ; mixes as in the paper."""
    mixer = lively(layer=1, n_layers=3).double()
    mixer.norm.bias.data.normal_()
    x = torch.randn(1, T, D, dtype=torch.float64)
    S = torch.zeros(H, 8, 8, dtype=torch.float64)
    last = torch.zeros(D, dtype=torch.float64)
    outs = []
    for x_t in x[0]:
        dx = last - x_t
        low = torch.tanh((x_t + dx * mixer.mu_x) @ mixer.mix_down).view(5, 1, 5) @ mixer.mix_up
        x_w, x_k, x_v, x_q, x_g = x_t + dx * (mixer.mu + low[:, 0])
        q, k, v = (W(u).view(H, 8) for W, u in ((mixer.q, x_q), (mixer.k, x_k), (mixer.v, x_v)))
        d = mixer.decay + torch.tanh(x_w @ mixer.decay_down) @ mixer.decay_up
        a = torch.exp(-torch.exp(d)).view(H, 8)
        y = torch.einsum("hvk, hk -> hv", S + v[:, :, None] * (mixer.bonus * k)[:, None], q)
        S, last = S * a[:, None] + v[:, :, None] * k[:, None], x_t
        y = y - y.mean(-1, keepdim=True)
        y = y / (y.square().mean(-1, keepdim=True) + 64e-5).sqrt()
        y = y.flatten() * mixer.norm.weight + mixer.norm.bias
        gate = mixer.gate(x_g)
        outs.append(mixer.out(y * gate * gate.sigmoid()))
    y, state = mixer(x)
    torch.testing.assert_close(y[0], torch.stack(outs), rtol=0, atol=1e-9)
    torch.testing.assert_close(state.S[0], S, rtol=0, atol=1e-9)


def test_with_its_low_rank_maps_at_zero_it_is_rwkv5():
    """At the start no decay and no mix depends on the input; μ is 1 - μ of RWKV-5."""
    ours, theirs = (M(D, H, layer=1, n_layers=3).double() for M in (RWKV6, RWKV5))
    same = {name: p for name, p in ours.state_dict().items() if name in theirs.state_dict()}
    mu_k, mu_v, mu_q, mu_gate = 1 - ours.mu[1:]
    same["mu"] = torch.stack([mu_q, mu_k, mu_v, mu_gate])
    same["decay"] = ours.decay.unflatten(0, (H, -1))
    theirs.load_state_dict(same)
    x = torch.randn(2, T, D, dtype=torch.float64)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0], rtol=0, atol=1e-9)


def test_a_bonus_of_one_over_no_decay_is_a_read_after_the_write():
    """With a = 1 and u = 1, a token is read from the table or beside it alike: GLA's order."""
    q, k, v = torch.randn(3, 2, T, H, 8, dtype=torch.float64)
    ones = torch.ones(H, 8, dtype=torch.float64)
    ours = read_before_write(recurrent, q, k, v, torch.zeros_like(q), ones)
    for a, b in zip(ours, recurrent(q, k, v), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("layer, L, left, depth", LAYERS)
def test_the_starting_values_are_the_authors(layer, L, left, depth):
    """Layer `layer` of L: what RWKV-LM's x060 sets at channel 8 of 32, shares of x_{t-1}."""
    mixer = RWKV6(D, layer=layer, n_layers=L)
    d, k, v, q, gate = mixer.mu
    for mu in (mixer.mu_x, d, k):
        assert mu[8].item() == pytest.approx(1 - 0.25**left)
        assert mu[0] == 1 and mu[-1].item() == pytest.approx(1 - (31 / 32) ** left, abs=1e-6)
    assert v[8].item() == pytest.approx(1 - 0.25**left - 0.3 * depth)
    assert q[8].item() == gate[8].item() == pytest.approx(1 - 0.5**left)
    assert mixer.decay[[0, -1]].tolist() == [-6, -1]
    assert mixer.decay[8].item() == pytest.approx(-6 + 5 * (8 / 31) ** (0.7 + 1.3 * depth))
    turns = 0.1 * torch.tensor([0.0, 1.0, -1.0]).repeat(11)[:D]
    torch.testing.assert_close(mixer.bonus.flatten(), depth * torch.linspace(1, 0, D) + turns)
    assert mixer.norm.weight[0].item() == pytest.approx(((layer + 1) / L) ** 0.7)
    assert mixer.bonus.shape == (4, 8)  # four heads by default


def test_the_matrices_start_as_the_authors():
    """The low-rank maps as 0 times ±0.01, ranks 32 and 64; orthogonal matrices, k and gate tenfold
    smaller.
    """
    mixer = RWKV6(D)
    assert mixer.mix_down.shape == (D, 5 * 32) and mixer.decay_down.shape == (D, 64)
    assert mixer.mix_down.eq(0).all() and mixer.decay_down.eq(0).all()
    for up in (mixer.mix_up, mixer.decay_up):
        assert -0.01 <= up.min() < -0.0099 and 0.0099 < up.max() <= 0.01
        assert up.std().item() == pytest.approx(0.01 / 3**0.5, rel=0.05)
    for W, gain in ((mixer.q, 1), (mixer.k, 0.1), (mixer.v, 1), (mixer.gate, 0.1)):
        square = W.weight @ W.weight.T
        torch.testing.assert_close(square, gain**2 * torch.eye(D), rtol=0, atol=1e-5)
    assert mixer.norm.weight.eq(1).all() and mixer.norm.bias.eq(0).all()


def test_a_layer_beyond_the_last_gets_one_clear_sentence():
    sentence = "layer is 3, n_layers is 1: layers are numbered from 0, so pass n_layers too"
    with pytest.raises(ValueError, match=sentence):
        RWKV6(D, layer=3)


@pytest.mark.oracle
def test_the_recurrence_and_its_gradients_against_fla():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that this machine has no GPU
        reason = "needs fla-core: pip install -e '.[test]'"
        naive = pytest.importorskip("fla.ops.rwkv6.recurrent_naive", reason=reason)
    q, k, v, w = torch.randn(4, 2, 31, H, 8)
    log_a, u, S = -w.exp(), torch.randn(H, 8), torch.randn(2, H, 8, 8)
    leaves = [x.requires_grad_() for x in (q, k, v, log_a.detach())]
    y, S_T = read_before_write(chunkwise, *leaves, u, S)
    first = [x.detach().transpose(1, 2) for x in leaves]
    expected, expected_S = naive.naive_recurrent_rwkv6(*first, u, 1.0, S.mT, True)
    torch.testing.assert_close(y, expected.transpose(1, 2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(S_T, expected_S.mT, rtol=1e-4, atol=1e-4)
    dy = torch.randn_like(y)
    ours = torch.autograd.grad(y, leaves, dy)
    theirs = naive.naive_recurrent_rwkv6_bwd(*first, u, expected, dy.transpose(1, 2), S.mT)
    # Of q, k and v alone: their gradient of w assumes an empty first table.
    for a, b in zip(ours[:3], theirs[:3], strict=True):
        torch.testing.assert_close(a, b.transpose(1, 2), rtol=1e-4, atol=1e-3)


@pytest.mark.oracle
def test_against_the_rwkv_package(rwkv_package):
    mixer, x, S = lively(layer=1, n_layers=3), torch.randn(T, D), torch.randn(H, 8, 8)
    ones, last = torch.ones(D), torch.randn(D)
    q, k, v, gate, out = (W.weight.T for W in (mixer.q, mixer.k, mixer.v, mixer.gate, mixer.out))
    low_rank = mixer.mix_down, mixer.mix_up, mixer.decay_down, mixer.decay_up
    y, _, S_T = rwkv_package().RWKV.att_seq_v6_0(
        None, x, last, S, ones, 0 * ones, mixer.norm.weight, mixer.norm.bias,
        mixer.mu_x, *mixer.mu, *low_rank, mixer.decay.view(H, 8, 1), mixer.bonus[..., None],
        k, v, q, gate, out, *[None] * 20,
    )  # fmt: skip
    ours, state = mixer(F.layer_norm(x, (D,))[None], (last[None], S.mT[None]))
    torch.testing.assert_close(x + ours[0], y, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(state.S[0], S_T.mT, rtol=1e-5, atol=2e-5)
