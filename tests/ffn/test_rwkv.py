import warnings

import pytest
import torch

from seqlab.ffn.rwkv import ChannelMix
from seqlab.mixers.rwkv4 import RWKV4
from seqlab.model import LanguageModel, generate

D, T = 16, 13


def rwkv_modeling():
    """`transformers`' module of RWKV-4."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[test]'")
        from transformers.models.rwkv import modeling_rwkv
    return modeling_rwkv


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("receptance", [True, False])
def test_a_token_sees_itself_and_the_one_before(receptance):
    """The formula, token by token; and nothing older is seen."""
    ffn, x = ChannelMix(D, receptance=receptance, layer=1, n_layers=3).double(), draw(2, T, D)
    y, last = ffn(x)
    for t in range(T):
        before = x[:, t - 1] if t else torch.zeros_like(x[:, 0])
        expected = ffn.v(ffn.k(ffn.mu_k * x[:, t] + (1 - ffn.mu_k) * before).clamp(min=0) ** 2)
        if receptance:
            expected = torch.sigmoid(ffn.r(ffn.mu_r * x[:, t] + (1 - ffn.mu_r) * before)) * expected
        torch.testing.assert_close(y[:, t], expected, rtol=0, atol=1e-9)
    assert torch.equal(last, x[:, -1])


@pytest.mark.parametrize("cuts", [[8], [1, 2, 12], list(range(1, T))])
def test_parts_with_the_state_carried_are_the_whole(cuts):
    ffn, x, state, parts = ChannelMix(D, 24).double(), draw(2, T, D), None, []
    for part in torch.tensor_split(x, cuts, dim=1):
        y, state = ffn(part, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), ffn(x)[0], rtol=0, atol=1e-9)


def test_the_state_owns_its_memory():
    _, last = ChannelMix(D).double()(draw(2, 100, D))
    assert last.untyped_storage().nbytes() == 2 * D * 8


def test_a_batch_of_no_sequences():
    y, last = ChannelMix(D).double()(draw(0, T, D))
    assert y.shape == (0, T, D) and last.shape == (0, D)


@pytest.mark.parametrize(("layer", "n_layers"), [(0, 1), (1, 3), (11, 12)])
def test_the_mixes_start_as_the_authors_write_them(layer, n_layers):
    """RWKV-4 to -6: pow(i / n_embd, 1 - layer / n_layer); RWKV-7: the same exponent, to the 4th."""
    old = ChannelMix(D, layer=layer, n_layers=n_layers)
    new = ChannelMix(D, layer=layer, n_layers=n_layers, receptance=False)
    ratio_1_to_almost0 = 1.0 - layer / n_layers
    for i in range(D):
        assert old.mu_k[i].item() == pytest.approx((i / D) ** ratio_1_to_almost0, abs=1e-6)
        assert old.mu_r[i].item() == pytest.approx((i / D) ** ratio_1_to_almost0, abs=1e-6)
        assert new.mu_k[i].item() == pytest.approx((i / D) ** ratio_1_to_almost0**4, abs=1e-6)
    assert new.mu_r is None and new.r is None


def test_the_widths_default_to_four_times_the_models_without_biases():
    ffn = ChannelMix(D)
    assert ffn.k.weight.shape == (4 * D, D) and ffn.v.weight.shape == (D, 4 * D)
    assert ffn.r.weight.shape == (D, D)
    assert [part.bias for part in (ffn.k, ffn.v, ffn.r)] == [None] * 3


def test_a_layer_beyond_the_last_gets_one_clear_sentence():
    with pytest.raises(ValueError, match="layer is 3, n_layers is 3: layers are numbered from 0"):
        ChannelMix(D, layer=3, n_layers=3)
    with pytest.raises(ValueError, match="layer is 1, n_layers is 1: layers are numbered from 0"):
        ChannelMix(D, layer=1)


@pytest.mark.oracle
def test_the_mixes_start_as_those_of_transformers():
    config = rwkv_modeling().RwkvConfig(vocab_size=7, hidden_size=D, num_hidden_layers=3)
    theirs = rwkv_modeling().RwkvModel(config)
    for layer in range(3):
        ours, block = ChannelMix(D, layer=layer, n_layers=3), theirs.blocks[layer].feed_forward
        torch.testing.assert_close(ours.mu_k, block.time_mix_key[0, 0])
        torch.testing.assert_close(ours.mu_r, block.time_mix_receptance[0, 0])


def test_a_model_carries_its_state():
    """Decoding with the states of mixer and ffn carried is the whole sequence read again."""
    model = LanguageModel(17, D, [RWKV4] * 2, ChannelMix).double().eval()
    prompt = torch.randint(17, (2, 5))
    tokens = generate(model, prompt, 9, temperature=0.0)
    assert torch.equal(tokens[:, 5:], model(tokens[:, :-1])[0][:, 4:].argmax(-1))


def test_outputs_and_gradients_are_finite():
    for scale in (0.0, 1e-6, 1.0, 1e3):
        ffn, x = ChannelMix(D), (scale * torch.randn(1, T, D)).requires_grad_()
        ffn(x)[0].square().mean().backward()
        assert all(g.isfinite().all() for g in (x.grad, *(p.grad for p in ffn.parameters())))


@pytest.mark.oracle
def test_it_is_transformers_feed_forward_in_prefill_and_token_by_token():
    modeling_rwkv = rwkv_modeling()
    config = modeling_rwkv.RwkvConfig(hidden_size=D, intermediate_size=24, num_hidden_layers=1)
    theirs, ours = modeling_rwkv.RwkvFeedForward(config, 0).double(), ChannelMix(D, 24).double()
    for p in theirs.parameters():
        p.data.uniform_(-1, 1)
    ours.mu_k.data = theirs.time_mix_key.data[0, 0]
    ours.mu_r.data = theirs.time_mix_receptance.data[0, 0]
    for name, part in {"k": theirs.key, "v": theirs.value, "r": theirs.receptance}.items():
        getattr(ours, name).weight.data = part.weight.data
    cache, state = [torch.zeros(1, D, 1, dtype=torch.float64)], None
    for part in draw(1, T, D).split([8, *[1] * 5], dim=1):
        y, state = ours(part, state)
        expected, cache = theirs(part, state=cache)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
