import math
import warnings

import pytest
import torch

from seqlab.core.position import rope_frequencies
from seqlab.mixers.differential import Differential

D, H, T = 32, 4, 19


def draw():
    return torch.randn(2, T, D, dtype=torch.float64)


@pytest.fixture(scope="module")
def diffllama():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[test]'")
        from transformers.models.diffllama import modeling_diffllama
    return modeling_diffllama


@pytest.mark.oracle
@pytest.mark.parametrize("form", ["parallel", "tiled", "sdpa"])
@pytest.mark.parametrize("depth, kv_heads, bias", [(0, 8, False), (3, 4, True)])
def test_against_diffllama_attention(diffllama, form, depth, kv_heads, bias):
    """Their eight heads are our four pairs. Their value head h and h + n/2 are the two halves of
    our value h.
    """
    config = diffllama.DiffLlamaConfig(
        hidden_size=D,
        num_attention_heads=2 * H,
        num_key_value_heads=kv_heads,
        head_dim=6,
        attention_bias=bias,
    )
    config._attn_implementation = "sdpa"  # eager takes its softmax in float32
    layer = diffllama.DiffLlamaAttention(config, layer_idx=depth).double().eval()
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    ours = Differential(
        D, H, n_kv_heads=kv_heads // 2, d_head=6, depth=depth, bias=bias, form=form
    ).double()
    for name in ("q", "k"):
        getattr(ours, name).load_state_dict(getattr(layer, f"{name}_proj").state_dict())
    ours.out.load_state_dict(layer.o_proj.state_dict())
    for name, part in layer.v_proj.named_parameters():
        getattr(ours.v, name).data = (
            part.unflatten(0, (2, kv_heads // 2, 6)).transpose(0, 1).flatten(0, 2)
        )
    ours.lambda_q.data = torch.stack([layer.lambda_q1, layer.lambda_q2])
    ours.lambda_k.data = torch.stack([layer.lambda_k1, layer.lambda_k2])

    x, angle = draw(), (torch.arange(T)[:, None] * rope_frequencies(6)).repeat(1, 2)[None]
    mask = torch.full((T, T), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    y = layer(x, position_embeddings=(angle.cos(), angle.sin()), attention_mask=mask)[0]
    torch.testing.assert_close(ours(x)[0], y, rtol=0, atol=1e-6)  # their λ is float32
    state, steps = None, []
    for token in x.split(1, dim=1):
        y_t, state = ours(token, state)
        steps.append(y_t)
    torch.testing.assert_close(torch.cat(steps, dim=1), y, rtol=0, atol=1e-6)


def test_lambda_starts_deeper_for_deeper_layers():
    """λ_init of the paper's layers 1, 2, ...: 0.2 at first, towards 0.8; λ itself starts near
    it.
    """
    inits = [Differential(D, depth=depth).lambda_init for depth in range(30)]
    assert inits == pytest.approx(
        [0.8 - 0.6 * math.exp(-0.3 * (layer - 1)) for layer in range(1, 31)]
    )
    assert inits[0] == pytest.approx(0.2) and inits[-1] == pytest.approx(0.8, abs=1e-3)
    mixer = Differential(D, depth=4)
    assert mixer.strength().item() == pytest.approx(mixer.lambda_init, abs=0.2)
    mixer.lambda_q.data.zero_()
    assert mixer.strength().item() == pytest.approx(mixer.lambda_init)


def test_equal_maps_leave_their_value_scaled():
    """What both maps see alike cancels up to 1 - λ; the norm of each head then hides even that
    factor.
    """
    mixer, x = Differential(D, H).double(), draw()
    for W in (mixer.q, mixer.k):
        W.weight.data[D // 2 :] = W.weight.data[: D // 2]
    mixer.norm.eps = 0.0
    y = mixer(x)[0]
    mixer.lambda_q.data, mixer.lambda_k.data = torch.full((2, 2, 4), 0.1, dtype=torch.float64)
    mixer.lambda_q.data[1] = 1.0  # λ = e^0.04 - e^0.4 + 0.2, another factor
    assert 1 - mixer.strength().item() > 0
    torch.testing.assert_close(mixer(x)[0], y, rtol=0, atol=1e-9)


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="n_heads is 4, n_kv_heads is 3"):
        Differential(D, H, n_kv_heads=3)
    with pytest.raises(ValueError, match="form is 'flash'"):
        Differential(D, H, form="flash")
