import warnings

import pytest
import torch
import torch.nn.functional as F

from seqlab.core.recurrence import chunkwise, recurrent
from seqlab.core.shift import read_before_write
from seqlab.mixers.rwkv5 import RWKV5
from seqlab.mixers.rwkv6 import RWKV6

D, H, T = 32, 4, 23


def lively(**options):
    """A layer whose low-rank maps, which start at 0, do something."""
    mixer = RWKV6(D, H, mix_rank=5, decay_rank=6, **options)
    for p in (mixer.decay_down, mixer.decay_up, mixer.mix_down, mixer.mix_up):
        p.data.normal_(std=0.3)
    return mixer


def test_it_is_a_shifted_gated_sum():
    """S_t = S_{t-1} diag(a_t) + v_t k_tᵀ and a read of S_{t-1} + v (u k)ᵀ, mixed and decayed as the
    paper says.
    """
    mixer, x = lively(layer=1, n_layers=3).double(), torch.randn(1, T, D, dtype=torch.float64)
    S, last, outs = (
        torch.zeros(H, 8, 8, dtype=torch.float64),
        torch.zeros(D, dtype=torch.float64),
        [],
    )
    for x_t in x[0]:
        dx = last - x_t
        low = torch.tanh((x_t + dx * mixer.mu_x) @ mixer.mix_down).view(5, 1, 5) @ mixer.mix_up
        x_w, x_k, x_v, x_q, x_g = x_t + dx * (mixer.mu + low[:, 0])
        q, k, v = (W(u).view(H, 8) for W, u in ((mixer.q, x_q), (mixer.k, x_k), (mixer.v, x_v)))
        a = torch.exp(
            -torch.exp(mixer.decay + torch.tanh(x_w @ mixer.decay_down) @ mixer.decay_up)
        ).view(H, 8)
        y = torch.einsum("hvk, hk -> hv", S + v[:, :, None] * (mixer.bonus * k)[:, None], q)
        S, last = S * a[:, None] + v[:, :, None] * k[:, None], x_t
        y = (y - y.mean(-1, keepdim=True)) / (
            y.var(-1, keepdim=True, unbiased=False) + 64e-5
        ).sqrt()
        gate = mixer.gate(x_g)
        outs.append(
            mixer.out((y.flatten() * mixer.norm.weight + mixer.norm.bias) * gate * gate.sigmoid())
        )
    y, state = mixer(x)
    torch.testing.assert_close(y[0], torch.stack(outs), rtol=0, atol=1e-9)
    torch.testing.assert_close(state.S[0], S, rtol=0, atol=1e-9)


def test_with_its_low_rank_maps_at_zero_it_is_rwkv5():
    """At the start no decay and no mix depends on the input; μ is 1 - μ of RWKV-5."""
    ours, theirs = (
        RWKV6(D, H, layer=1, n_layers=3).double(),
        RWKV5(D, H, layer=1, n_layers=3).double(),
    )
    shared = {
        name: p
        for name, p in ours.state_dict().items()
        if "_" not in name and name not in ("mu", "decay")
    }
    theirs.load_state_dict(shared, strict=False)
    theirs.mu.data = 1 - ours.mu.data[[3, 1, 2, 4]]
    theirs.decay.data = ours.decay.data.unflatten(0, (H, -1))
    x = torch.randn(2, T, D, dtype=torch.float64)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0], rtol=0, atol=1e-9)


def test_a_bonus_of_one_over_no_decay_is_a_read_after_the_write():
    """a = 1 and u = 1: whether the token itself is read from the table or beside it is the same.
    GLA's order.
    """
    q, k, v = torch.randn(3, 2, T, H, 8, dtype=torch.float64)
    ones = torch.ones(H, 8, dtype=torch.float64)
    ours = read_before_write(recurrent, q, k, v, torch.zeros_like(q), ones)
    for a, b in zip(ours, recurrent(q, k, v), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_a_layer_beyond_the_last_gets_one_clear_sentence():
    with pytest.raises(
        ValueError,
        match="layer is 3, n_layers is 1: layers are numbered from 0, so pass n_layers too",
    ):
        RWKV6(32, layer=3)


@pytest.mark.oracle
def test_the_recurrence_and_its_gradients_against_fla():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that this machine has no GPU
        naive = pytest.importorskip(
            "fla.ops.rwkv6.recurrent_naive", reason="needs fla-core: pip install -e '.[test]'"
        )
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
    for a, b in zip(
        ours[:3], theirs[:3], strict=True
    ):  # their gradient of w is for a start from an empty table
        torch.testing.assert_close(a, b.transpose(1, 2), rtol=1e-4, atol=1e-3)


@pytest.mark.oracle
def test_against_the_rwkv_package(rwkv_package):
    mixer, x, S = lively(layer=1, n_layers=3), torch.randn(T, D), torch.randn(H, 8, 8)
    ones, last = torch.ones(D), torch.randn(D)
    q, k, v, gate, out = (W.weight.T for W in (mixer.q, mixer.k, mixer.v, mixer.gate, mixer.out))
    low_rank = mixer.mix_down, mixer.mix_up, mixer.decay_down, mixer.decay_up
    y, _, S_T = rwkv_package().RWKV.att_seq_v6_0(
        None, x, last, S, ones, 0 * ones, mixer.norm.weight, mixer.norm.bias, mixer.mu_x, *mixer.mu, *low_rank,
        mixer.decay.view(H, 8, 1), mixer.bonus[..., None], k, v, q, gate, out, *[None] * 20,
    )  # fmt: skip
    ours, state = mixer(F.layer_norm(x, (D,))[None], (last[None], S.mT[None]))
    torch.testing.assert_close(x + ours[0], y, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(state.S[0], S_T.mT, rtol=1e-5, atol=2e-5)
