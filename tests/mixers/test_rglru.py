import warnings
from functools import partial

import pytest
import torch
from torch.nn.functional import softplus

from seqlab.core.recurrence import recurrent
from seqlab.mixers.rglru import RGLRU, bounded_sqrt

D, H, W = 12, 3, 18


@pytest.fixture
def gemma():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[test]'")
        from transformers.models.recurrent_gemma import modeling_recurrent_gemma
    return modeling_recurrent_gemma


def copy_into(ours, theirs):
    """The weights of a RecurrentGemma block, name by name."""
    for name, part in {
        "x": theirs.linear_x,
        "y": theirs.linear_y,
        "out": theirs.linear_out,
    }.items():
        getattr(ours, name).load_state_dict(part.state_dict())
    ours.conv.weight.data, ours.conv.bias.data = (
        theirs.conv_1d.weight.data[:, 0],
        theirs.conv_1d.bias.data,
    )
    ours.Lambda.data = theirs.rg_lru.recurrent_param.data
    for letter, name in {"r": "recurrent_gate", "i": "input_gate"}.items():
        for part in ("weight", "bias"):
            getattr(ours, f"{letter}_{part}").data = getattr(theirs.rg_lru, f"{name}_{part}").data


@pytest.mark.oracle
@pytest.mark.parametrize("width", [12, 18])
def test_a_block_of_recurrent_gemma_loads(gemma, width):
    """Whole, and prefill then token by token; random weights, of a size at which their 1 - a² keeps
    its digits.
    """
    config = gemma.RecurrentGemmaConfig(
        hidden_size=D, lru_width=width, num_attention_heads=H, conv1d_width=3, num_hidden_layers=1
    )
    theirs = gemma.RecurrentGemmaRecurrentBlock(config, 0).double().eval()
    for p in theirs.parameters():
        p.data = 0.5 * torch.randn_like(p)
    ours = RGLRU(D, H, lru_width=width, d_conv=3).double()
    copy_into(ours, theirs)
    x, positions = torch.randn(2, 21, D, dtype=torch.float64), torch.arange(21).expand(2, -1)
    theirs.rg_lru._rnn_scan = partial(theirs.rg_lru._rnn_scan, acc_dtype=torch.float64)
    torch.testing.assert_close(
        ours(x)[0], theirs(x, positions, None, use_cache=False)[0], rtol=0, atol=1e-9
    )
    if width == D:  # their cache is made for lru_width = hidden_size
        state = None
        for part in torch.tensor_split(torch.arange(21), [13, *range(14, 21)]):
            y, state = ours(x[:, part], state)
            theirs_y, _ = theirs(x[:, part], positions[:, part], None, use_cache=True)
            theirs.rg_lru.recurrent_states = theirs.rg_lru.recurrent_states.double()
            torch.testing.assert_close(y, theirs_y, rtol=0, atol=1e-9)


def test_it_is_the_papers_recurrence():
    """Equations 1 to 4 written out channel by channel, with full matrices in place of the
    blocks.
    """
    mixer, x = (
        RGLRU(D, H, lru_width=W, d_conv=2).double(),
        torch.randn(1, 9, D, dtype=torch.float64),
    )
    u = mixer.x(x)[0]
    u = torch.cat([torch.zeros(1, W, dtype=torch.float64), u]).unfold(0, 2, 1)  # (T, W, 2)
    u = (u * mixer.conv.weight).sum(-1) + mixer.conv.bias
    r = torch.sigmoid(u @ torch.block_diag(*mixer.r_weight) + mixer.r_bias.flatten())
    i = torch.sigmoid(u @ torch.block_diag(*mixer.i_weight) + mixer.i_bias.flatten())
    a = torch.sigmoid(-mixer.Lambda) ** (8 * r)  # the paper's a = σ(Λ) with the sign of its code
    h, ys = i[0] * u[0], []
    for t in range(9):
        if t:
            h = a[t] * h + (1 - a[t] ** 2).sqrt() * i[t] * u[t]
        ys.append(h)
    gate = torch.nn.functional.gelu(mixer.y(x)[0], approximate="tanh")
    torch.testing.assert_close(mixer(x)[0][0], mixer.out(torch.stack(ys) * gate), rtol=0, atol=1e-9)


def test_the_state_keeps_the_size_of_its_input():
    """White noise of variance 1 through h = a h + √(1 - a²) x has variance 1 at every t and for
    every a.
    """
    mixer = RGLRU(D, 1)
    mixer.r_weight.data.zero_(), mixer.i_weight.data.zero_(), mixer.i_bias.data.fill_(30)
    mixer.Lambda.data = torch.linspace(-8, 3, D)
    log_a, v = mixer._recurrence(torch.randn(20000, 6, D), first=True)
    h = recurrent(**mixer._as_heads(log_a, v))[0]
    torch.testing.assert_close(h.var(0), torch.ones(6, D, 1), rtol=0.05, atol=0)


def test_a_gate_at_one_sends_a_bounded_gradient():
    x = torch.tensor([0.0, 1e-12, 1e-4, 0.25], dtype=torch.float64, requires_grad=True)
    y = bounded_sqrt(x)
    torch.testing.assert_close(y.detach(), x.detach().sqrt(), rtol=0, atol=0)
    y.sum().backward()
    torch.testing.assert_close(
        x.grad, torch.tensor([1000.0, 1000.0, 50.0, 1.0], dtype=torch.float64)
    )
    mixer = RGLRU(D, H)
    mixer.Lambda.data.fill_(-60)  # a = 1 in float32
    mixer(torch.randn(1, 9, D))[0].sum().backward()
    assert all(p.grad.isfinite().all() for p in mixer.parameters())


def test_it_starts_where_the_authors_start_it():
    kept = torch.exp(-softplus(RGLRU(400, 4).Lambda))
    assert 0.9 <= kept.min() < 0.91 and 0.99 < kept.max() <= 0.999


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="lru_width is 10, n_heads is 4"):
        RGLRU(D, 4, lru_width=10)
