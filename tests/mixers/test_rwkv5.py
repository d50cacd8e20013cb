import pytest
import torch
import torch.nn.functional as F

from seqlab.mixers.rwkv5 import RWKV5

D, H, T = 32, 4, 23


def test_it_reads_before_it_writes():
    """y_t = Σ_{s<t} (q_t · a^(t-1-s) k_s) v_s + (q_t · u k_t) v_t, the sum over pairs written
    out.
    """
    mixer, x = RWKV5(D, H, layer=1, n_layers=3).double(), torch.randn(2, T, D, dtype=torch.float64)
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


def test_the_starting_values_follow_the_depth():
    first, last = RWKV5(D, H, layer=0, n_layers=3), RWKV5(D, H, layer=2, n_layers=3)
    assert first.decay.flatten()[0] == -6 and first.decay.flatten()[-1] == -1
    assert last.decay.mean() < first.decay.mean()  # deeper layers remember longer
    assert last.norm.weight.eq(1).all() and first.norm.weight[0].item() == pytest.approx(3**-0.7)
    assert last.bonus.flatten()[1].item() == pytest.approx(1 - 1 / 31 + 0.1)
    assert last.mu[2, 0].item() == pytest.approx(0.3)  # of v


def test_wrong_widths_get_one_clear_sentence():
    with pytest.raises(
        ValueError, match="d_model is 32, n_heads is 3: the first must be a multiple of the second"
    ):
        RWKV5(D, 3)


def test_a_layer_beyond_the_last_gets_one_clear_sentence():
    with pytest.raises(
        ValueError,
        match="layer is 3, n_layers is 1: layers are numbered from 0, so pass n_layers too",
    ):
        RWKV5(32, layer=3)


@pytest.mark.oracle
def test_against_the_rwkv_package(rwkv_package):
    mixer, x, S = RWKV5(D, H, layer=1, n_layers=3), torch.randn(T, D), torch.randn(H, 8, 8)
    ones, last = torch.ones(D), torch.randn(D)
    q, k, v, gate, out = (W.weight.T for W in (mixer.q, mixer.k, mixer.v, mixer.gate, mixer.out))
    mu_q, mu_k, mu_v, mu_gate = mixer.mu
    y, _, S_T = rwkv_package().RWKV.att_seq_v5_2(
        None, x, last, S, ones, 0 * ones, mixer.norm.weight, mixer.norm.bias, mu_k, mu_v, mu_q, mu_gate,
        torch.exp(-mixer.decay.exp())[..., None], mixer.bonus[..., None], k, v, q, gate, out, *[None] * 20,
    )  # fmt: skip
    ours, state = mixer(F.layer_norm(x, (D,))[None], (last[None], S.mT[None]))
    torch.testing.assert_close(x + ours[0], y, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(state.S[0], S_T.mT, rtol=1e-5, atol=1e-5)
