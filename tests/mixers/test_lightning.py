import warnings

import pytest
import torch
from torch.nn.functional import silu

from seqlab.core.recurrence import chunkwise
from seqlab.mixers.lightning import LightningAttention

D, H, T = 32, 4, 19


def test_it_is_the_papers_sum_over_pairs():
    mixer = LightningAttention(D, H, layer=1, n_layers=3).double()
    x = torch.randn(2, T, D, dtype=torch.float64)
    q, k, v = (silu(W(x)).unflatten(-1, (H, D // H)) for W in (mixer.q, mixer.k, mixer.v))
    slope = torch.tensor([2.0 ** (-8 * h / H) for h in range(1, H + 1)]).double()
    slope = slope * (1 - 1 / (2 + 1e-5) + 1e-5)
    span = torch.arange(T)[:, None] - torch.arange(T)
    decay = (-slope[:, None, None] * span).exp().tril()  # (H, T, T)
    y = torch.einsum("bihk, bjhk, hij, bjhv -> bihv", q, k, decay, v).flatten(-2)
    y = y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * mixer.norm.weight
    y = mixer.out(torch.sigmoid(mixer.g(x)) * y)
    torch.testing.assert_close(mixer(x)[0], y, rtol=0, atol=1e-9)


def test_higher_layers_and_later_heads_forget_less():
    stack = [LightningAttention(D, H, layer=n, n_layers=8) for n in range(8)]
    decays = torch.stack([layer.log_decay for layer in stack])
    assert (decays < 0).all()
    assert (decays.diff(dim=0) > 0).all() and (decays.diff(dim=1) > 0).all()
    assert decays[-1].abs().max() < 1e-4  # the last layer keeps nearly all


def test_alone_it_is_the_first_layer_with_alibis_slopes():
    """2^-2, 2^-4, 2^-6, 2^-8 for four heads, and no division by L - 1 = 0."""
    slopes = torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8]).double()
    torch.testing.assert_close(-LightningAttention(D).log_decay, slopes, rtol=2e-5, atol=0)


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="layer is 8, n_layers is 8: layers are numbered from 0"):
        LightningAttention(D, H, layer=8, n_layers=8)
    with pytest.raises(ValueError, match="d_model is 32, n_heads is 5"):
        LightningAttention(D, 5)


@pytest.fixture(scope="module")
def minimax():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[test]'")
        from transformers.models.minimax import modeling_minimax
    return modeling_minimax


@pytest.mark.oracle
@pytest.mark.parametrize(("n_heads", "d_head", "layer"), [(4, None, 0), (4, 12, 2), (3, 6, 3)])
def test_against_minimax_prefill_and_token_by_token(minimax, n_heads, d_head, layer):
    width = 32 if n_heads == 4 else 30
    config = minimax.MiniMaxConfig(
        hidden_size=width,
        num_attention_heads=n_heads,
        num_hidden_layers=4,
        head_dim=d_head,
        block_size=7,
    )
    torch.set_default_dtype(torch.float64)  # their decays are made in the default dtype
    try:
        theirs = minimax.MiniMaxLightningAttention(config, layer).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    ours = LightningAttention(width, n_heads, d_head=d_head, layer=layer, n_layers=4).double()
    # The q, k and v of one head are neighbours in their matrix.
    qkv = theirs.qkv_proj.weight.data.unflatten(0, (n_heads, 3, -1))
    for i, name in enumerate("qkv"):
        getattr(ours, name).weight.data = qkv[:, i].flatten(0, 1)
    theirs.norm.weight.data.uniform_(0.5, 1.5)
    ours.norm.weight.data = theirs.norm.weight.data
    ours.g.weight.data = theirs.output_gate.weight.data
    ours.out.weight.data = theirs.out_proj.weight.data
    x = torch.randn(2, T + 5, width, dtype=torch.float64)
    cache = minimax.MiniMaxCache()
    y, state = ours(x[:, :T])
    expected, S = theirs(x[:, :T], None, None, past_key_values=cache)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)  # their norm is in float32
    torch.testing.assert_close(state, S.mT, rtol=0, atol=1e-9)
    for t in range(T, T + 5):
        y, state = ours(x[:, t : t + 1], state)
        expected, S = theirs(x[:, t : t + 1], None, None, past_key_values=cache)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(state, S.mT, rtol=0, atol=1e-9)


@pytest.mark.oracle
def test_lightning_against_fla(fla):
    """The same scalar decay, given to fla as a gate per token."""
    inputs = LightningAttention(D, H, layer=1, n_layers=4).project(torch.randn(2, 64, D))
    q, log_a = inputs["q"] * (D // H) ** 0.5, inputs["log_a"][..., 0]
    y, _ = fla("simple_gla").naive_chunk_simple_gla(q, inputs["k"], inputs["v"], log_a)
    torch.testing.assert_close(chunkwise(**inputs)[0], y, rtol=1e-4, atol=1e-5)
