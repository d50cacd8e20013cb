import pytest
import torch
import torch.nn.functional as F

from seqlab.mixers.rwkv5 import RWKV5

D, H, T = 32, 4, 23
# layer, how many there are, 1 - layer / L, and layer / (L - 1)
LAYERS = [(0, 4, 1.0, 0.0), (1, 4, 0.75, 1 / 3), (3, 4, 0.25, 1.0), (1, 2, 0.5, 1.0)]


def test_it_reads_before_it_writes():
    """y_t = Σ_{s<t} (q_t · a^(t-1-s) k_s) v_s + (q_t · u k_t) v_t, pair by pair."""
    mixer = RWKV5(D, H, layer=1, n_layers=3).double()
    x = torch.randn(2, T, D, dtype=torch.float64)
    mixer.norm.bias.data.normal_()
    before = F.pad(x, (0, 0, 1, -1))
    mixed = [x * mu + before * (1 - mu) for mu in mixer.mu]
    maps = (mixer.q, mixer.k, mixer.v, mixer.gate)
    q, k, v, gate = (W(m).unflatten(-1, (H, -1)) for W, m in zip(maps, mixed, strict=True))
    a, y = torch.exp(-mixer.decay.exp()), torch.zeros_like(v)
    for t in range(T):
        y[:, t] = (q[:, t] * mixer.bonus * k[:, t]).sum(-1, keepdim=True) * v[:, t]
        for s in range(t):
            y[:, t] += (q[:, t] * a ** (t - 1 - s) * k[:, s]).sum(-1, keepdim=True) * v[:, s]
    y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, keepdim=True, unbiased=False) + 64e-5).sqrt()
    y = y.flatten(2) * mixer.norm.weight + mixer.norm.bias
    gate = gate.flatten(2)
    torch.testing.assert_close(mixer(x)[0], mixer.out(y * gate * gate.sigmoid()), rtol=0, atol=1e-9)


def test_deeper_layers_remember_longer():
    first, last = RWKV5(D, H, layer=0, n_layers=3), RWKV5(D, H, layer=2, n_layers=3)
    assert last.decay.mean() < first.decay.mean()
    assert last.norm.weight.eq(1).all() and RWKV5(D).norm.weight.eq(1).all()
    assert first.norm.weight[0].item() == pytest.approx(3**-0.7)
    assert last.bonus.flatten()[1].item() == pytest.approx(1 - 1 / 31 + 0.1)
    assert last.mu[2, 0].item() == pytest.approx(0.3)  # of v


@pytest.mark.parametrize("layer, L, left, depth", LAYERS)
def test_the_starting_values_are_the_authors(layer, L, left, depth):
    """Layer `layer` of L: what RWKV-LM's x052 sets at channel 8 of 32, and its matrices."""
    mixer = RWKV5(D, layer=layer, n_layers=L)
    q, k, v, gate = mixer.mu
    assert q[8].item() == gate[8].item() == pytest.approx(0.5**left)
    assert k[8].item() == pytest.approx(0.25**left)
    assert v[8].item() == pytest.approx(0.25**left + 0.3 * depth)
    decay, bonus = mixer.decay.flatten(), mixer.bonus.flatten()
    assert decay[[0, -1]].tolist() == [-6, -1]
    assert decay[8].item() == pytest.approx(-6 + 5 * (8 / 31) ** (0.7 + 1.3 * depth))
    turns = 0.1 * torch.tensor([0.0, 1.0, -1.0]).repeat(11)[:D]
    torch.testing.assert_close(bonus, depth * torch.linspace(1, 0, D) + turns)
    eye = torch.eye(D)
    for W, gain in ((mixer.q, 1), (mixer.k, 0.1), (mixer.v, 1), (mixer.gate, 0.1)):
        torch.testing.assert_close(W.weight @ W.weight.T, gain**2 * eye, rtol=0, atol=1e-5)
    assert mixer.norm.weight.eq(mixer.norm.weight[0]).all() and mixer.norm.bias.eq(0).all()
    assert mixer.norm.weight[0].item() == pytest.approx(((layer + 1) / L) ** 0.7)
    assert mixer.decay.shape == mixer.bonus.shape == (4, 8)  # four heads by default


def test_wrong_widths_get_one_clear_sentence():
    sentence = "d_model is 32, n_heads is 3: the first must be a multiple of the second"
    with pytest.raises(ValueError, match=sentence):
        RWKV5(D, 3)


def test_a_layer_beyond_the_last_gets_one_clear_sentence():
    sentence = "layer is 3, n_layers is 1: layers are numbered from 0, so pass n_layers too"
    with pytest.raises(ValueError, match=sentence):
        RWKV5(D, layer=3)


@pytest.mark.oracle
def test_against_the_rwkv_package(rwkv_package):
    mixer, x, S = RWKV5(D, H, layer=1, n_layers=3), torch.randn(T, D), torch.randn(H, 8, 8)
    ones, last = torch.ones(D), torch.randn(D)
    q, k, v, gate, out = (W.weight.T for W in (mixer.q, mixer.k, mixer.v, mixer.gate, mixer.out))
    mu_q, mu_k, mu_v, mu_gate = mixer.mu
    y, _, S_T = rwkv_package().RWKV.att_seq_v5_2(
        None, x, last, S, ones, 0 * ones, mixer.norm.weight, mixer.norm.bias,
        mu_k, mu_v, mu_q, mu_gate, torch.exp(-mixer.decay.exp())[..., None], mixer.bonus[..., None],
        k, v, q, gate, out, *[None] * 20,
    )  # fmt: skip
    ours, state = mixer(F.layer_norm(x, (D,))[None], (last[None], S.mT[None]))
    torch.testing.assert_close(x + ours[0], y, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(state.S[0], S_T.mT, rtol=1e-5, atol=1e-5)
