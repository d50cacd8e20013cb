import warnings
from functools import partial

import pytest
import torch
from torch.nn.functional import gelu, softplus

from seqlab.core.recurrence import recurrent
from seqlab.core.scan import linear_scan
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
    for name in ("x", "y", "out"):
        getattr(ours, name).load_state_dict(getattr(theirs, f"linear_{name}").state_dict())
    ours.conv.weight.data = theirs.conv_1d.weight.data[:, 0]
    ours.conv.bias.data = theirs.conv_1d.bias.data
    ours.Lambda.data = theirs.rg_lru.recurrent_param.data
    for letter, name in {"r": "recurrent_gate", "i": "input_gate"}.items():
        for part in ("weight", "bias"):
            getattr(ours, f"{letter}_{part}").data = getattr(theirs.rg_lru, f"{name}_{part}").data


@pytest.mark.oracle
@pytest.mark.parametrize("width", [12, 18])
def test_a_block_of_recurrent_gemma_loads(gemma, width):
    """In one call, and as a prefill and then token by token.

    The random weights have a size at which their 1 - a² keeps its digits.
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
    expected, _ = theirs(x, positions, None, use_cache=False)
    torch.testing.assert_close(ours(x)[0], expected, rtol=0, atol=1e-9)
    if width == D:  # their cache is made for lru_width = hidden_size
        state = None
        for part in torch.tensor_split(torch.arange(21), [13, *range(14, 21)]):
            y, state = ours(x[:, part], state)
            theirs_y, _ = theirs(x[:, part], positions[:, part], None, use_cache=True)
            theirs.rg_lru.recurrent_states = theirs.rg_lru.recurrent_states.double()
            torch.testing.assert_close(y, theirs_y, rtol=0, atol=1e-9)


def test_it_is_the_papers_recurrence():
    """Equations 1 to 4, channel by channel, with full matrices instead of the blocks."""
    mixer = RGLRU(D, H, lru_width=W, d_conv=2).double()
    x = torch.randn(1, 9, D, dtype=torch.float64)
    for bias in (mixer.r_bias, mixer.i_bias, mixer.conv.bias):
        bias.data.normal_()
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
    gate = gelu(mixer.y(x)[0], approximate="tanh")
    torch.testing.assert_close(mixer(x)[0][0], mixer.out(torch.stack(ys) * gate), rtol=0, atol=1e-9)


def test_the_state_keeps_the_size_of_its_input():
    """White noise of variance 1 through h = a h + √(1 - a²) x keeps it, for every t and a."""
    mixer = RGLRU(D, 1)
    mixer.r_weight.data.zero_()
    mixer.i_weight.data.zero_()
    mixer.i_bias.data.fill_(30)  # i = 1
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
    """exp(-softplus(Λ))² is uniform in [0.9², 0.999²]; a gate's weights have deviation block^-½."""
    mixer = RGLRU(2000, 40)
    kept = torch.exp(-softplus(mixer.Lambda)).square().sort().values
    even = torch.linspace(0.9**2, 0.999**2, 2000)
    assert (kept - even).abs().max() < 0.01  # of 0.188: more than that once in 40,000 draws
    assert kept.min() >= 0.9**2 - 1e-6 and kept.max() <= 0.999**2 + 1e-6
    for weight in (mixer.r_weight, mixer.i_weight):
        assert weight.shape == (40, 50, 50)
        assert weight.std().item() == pytest.approx(50**-0.5, rel=0.02)
        assert weight.mean().abs() < 0.02 * 50**-0.5
    assert mixer.r_bias.eq(0).all() and mixer.i_bias.eq(0).all()


def test_by_default_it_is_recurrent_gemmas():
    """Four taps, biases everywhere, a GELU by tanh, and the gates in n_heads blocks."""
    mixer = RGLRU(D)
    assert len(mixer.r_weight) == 4 and mixer.conv.weight.shape == (D, 4)
    assert all(W.bias is not None for W in (mixer.x, mixer.y, mixer.out, mixer.conv))
    assert RGLRU(D, bias=False).out.bias is None and RGLRU(D, activation=abs).activation is abs
    y = torch.linspace(-3, 3, 7)
    torch.testing.assert_close(mixer.activation(y), gelu(y, approximate="tanh"))


def test_a_kernel_is_a_form():
    """Any function of (a, b, h0), as `linear_scan`."""
    calls = []

    def kernel(a, b, h0):
        calls.append(h0)
        return linear_scan(a, b, h0)

    ours, theirs, x = RGLRU(D, H), RGLRU(D, H, form=kernel), torch.randn(2, 9, D)
    theirs.load_state_dict(ours.state_dict())
    y, state = theirs(x)
    torch.testing.assert_close(y, ours(x)[0])
    theirs(x, state)
    assert calls[0] is None and calls[1].shape == (2, D)


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="lru_width is 10, n_heads is 4"):
        RGLRU(D, 4, lru_width=10)
