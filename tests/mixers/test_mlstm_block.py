import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal

from seqlab.core.recurrence import recurrent
from seqlab.mixers.mlstm_block import MLSTMBlock

D, H, T = 32, 4, 19


def awake(mixer):
    """With gates that depend on the token, as after training."""
    for gate in (mixer.i, mixer.f):
        torch.nn.init.normal_(gate.weight, std=0.5)
        torch.nn.init.normal_(gate.bias)
    torch.nn.init.normal_(mixer.norm)
    torch.nn.init.normal_(mixer.skip)
    torch.nn.init.normal_(mixer.conv.bias)
    return mixer.double()


def draw():
    return 2 * torch.randn(2, T, D, dtype=torch.float64)


def read(q, k, v, i, f):
    """The paper's mLSTM without stabiliser: C q / max(|n·q|, 1), and the last C and n."""
    C, n, ys = 0, 0, []
    for t in range(T):
        f_t, i_t = torch.sigmoid(f[:, t, :, None]), i[:, t, :, None].exp()
        C = f_t[..., None] * C + i_t[..., None] * v[:, t, :, :, None] * k[:, t, :, None, :]
        n = f_t * n + i_t * k[:, t]
        qn = (n * q[:, t]).sum(-1, keepdim=True).abs()
        ys.append((C * q[:, t, :, None, :]).sum(-1) / qn.clamp(min=1))
    return torch.stack(ys, dim=1), C, n


def test_it_is_the_papers_block_without_stabiliser():
    mixer, x = awake(MLSTMBlock(D, H, eps=0.0)), draw()
    u = mixer.u(x)
    conv = torch.nn.Conv1d(2 * D, 2 * D, 4, groups=2 * D, padding=3).double()
    conv.weight.data, conv.bias.data = mixer.conv.weight.data[:, None], mixer.conv.bias.data
    c = F.silu(conv(u.mT)[..., :T].mT)
    flat = [u @ torch.block_diag(*W).mT for u, W in zip((c, c, u), mixer.qkv, strict=True)]
    i, f = (W(torch.cat(flat, dim=-1)) for W in (mixer.i, mixer.f))
    q, k, v = (u.unflatten(-1, (H, -1)) for u in flat)
    y, C, n = read(q, k / 4.0, v, i, f)  # K = 16
    y = (F.layer_norm(y, (2 * D // H,), eps=1e-5) * mixer.norm).flatten(-2) + mixer.skip * c
    ours, state = mixer(x)
    torch.testing.assert_close(ours, mixer.out(y * F.silu(mixer.z(x))), rtol=0, atol=1e-8)
    true = state.S * state.m.exp()[..., None, None]
    torch.testing.assert_close(true, torch.cat([C, n[:, :, None]], dim=2), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state.conv, u[:, -3:], rtol=0, atol=0)


def test_project_gives_what_the_recurrence_reads_with_and_without_a_state():
    mixer, x = awake(MLSTMBlock(D, H)), draw()
    _, S = recurrent(**mixer.project(x))
    _, state = mixer(x[:, :5])
    _, continued = recurrent(**mixer.project(x[:, 5:], state), state=state.S)
    for ours in (S, continued):
        torch.testing.assert_close(ours, mixer(x)[1].S, rtol=0, atol=1e-9)


def test_eps_is_added_to_the_denominator():
    """Without m the denominator is |n·q|, so a table of 0 is 0 / eps, and not 0 / 0."""
    mixer = MLSTMBlock(D, H).double()
    y = torch.tensor([3e-6, 0.0] + [0.0] * 14 + [1e-6], dtype=torch.float64).expand(1, 1, H, 17)
    expected = F.layer_norm(y[..., :-1] / (1e-6 + 1e-6), (16,), eps=1e-5)
    torch.testing.assert_close(mixer.read(y), expected, rtol=0, atol=1e-12)
    assert (mixer.read(torch.zeros_like(y)) == 0).all()


def test_every_weight_starts_where_the_authors_start_it(drawn_from):
    """Their small start, variance 2 / (5 D), and Wang's, std 2 / (blocks √D), on the way out."""
    mixer = MLSTMBlock(100, n_layers=12)
    small = (2 / (5 * 100)) ** 0.5
    for p in (mixer.u.weight, mixer.z.weight, *mixer.qkv):
        drawn_from(p, Normal(0, small))
    drawn_from(mixer.out.weight, Normal(0, 2 / 12 / 10))
    drawn_from(MLSTMBlock(100).out.weight, Normal(0, 2 / 10))
    assert (mixer.i.weight == 0).all() and (mixer.f.weight == 0).all()
    torch.testing.assert_close(mixer.f.bias, torch.tensor([3.0, 4.0, 5.0, 6.0]))
    drawn_from(MLSTMBlock(500, 1000).i.bias, Normal(0, 0.1))
    for p in (mixer.norm, mixer.skip):
        assert (p == 1).all()
    assert (mixer.conv.bias == 0).all()


def test_the_default_sizes_are_the_authors():
    """Twice as wide, blocks of 4 channels, a convolution of four taps."""
    mixer = MLSTMBlock(D)
    assert mixer.n_heads == H and mixer.norm.shape == (H, 16)
    assert mixer.u.weight.shape == mixer.z.weight.shape == (64, D)
    assert mixer.qkv.shape == (3, 16, 4, 4) and mixer.conv.weight.shape == (64, 4)


def test_wrong_options_get_one_clear_sentence():
    sentence = "d_model is 64, n_heads is 5: the first must be a multiple of the second"
    with pytest.raises(ValueError, match=sentence):
        MLSTMBlock(D, 5)
    with pytest.raises(ValueError, match="d_model is 64: qkv_block = 5 must divide it"):
        MLSTMBlock(D, qkv_block=5)
    with pytest.raises(ValueError, match="n_layers is 0: it must be at least 1"):
        MLSTMBlock(D, n_layers=0)
