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
    """Their eight heads are our four pairs: value heads h and h + n/2 are the halves of our h."""
    config = diffllama.DiffLlamaConfig(
        hidden_size=D,
        num_attention_heads=2 * H,
        num_key_value_heads=kv_heads,
        head_dim=6,
        attention_bias=bias,
    )
    config._attn_implementation = "sdpa"  # eager computes its softmax in float32
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
        halves = part.unflatten(0, (2, kv_heads // 2, 6))
        getattr(ours.v, name).data = halves.transpose(0, 1).flatten(0, 2)
    ours.lambda_q.data = torch.stack([layer.lambda_q1, layer.lambda_q2])
    ours.lambda_k.data = torch.stack([layer.lambda_k1, layer.lambda_k2])

    x, angle = draw(), (torch.arange(T)[:, None] * rope_frequencies(6)).repeat(1, 2)[None]
    mask = torch.full((T, T), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    y = layer(x, position_embeddings=(angle.cos(), angle.sin()), attention_mask=mask)[0]
    torch.testing.assert_close(ours(x)[0], y, rtol=0, atol=1e-6)  # their λ is in float32
    state, steps = None, []
    for token in x.split(1, dim=1):
        y_t, state = ours(token, state)
        steps.append(y_t)
    torch.testing.assert_close(torch.cat(steps, dim=1), y, rtol=0, atol=1e-6)


def test_lambda_starts_deeper_for_deeper_layers():
    """λ_init of the paper's layers 1, 2, ..: from 0.2 towards 0.8; λ itself starts near it."""
    inits = [Differential(D, depth=depth).lambda_init for depth in range(30)]
    papers = [0.8 - 0.6 * math.exp(-0.3 * (layer - 1)) for layer in range(1, 31)]
    assert inits == pytest.approx(papers)
    assert inits[0] == pytest.approx(0.2) and inits[-1] == pytest.approx(0.8, abs=1e-3)
    mixer = Differential(D, depth=4)
    assert mixer.strength().item() == pytest.approx(mixer.lambda_init, abs=0.2)
    mixer.lambda_q.data.zero_()
    assert mixer.strength().item() == pytest.approx(mixer.lambda_init)


def test_the_vectors_behind_lambda_start_with_a_spread_of_a_tenth():
    """N(0, 0.1²), as in the authors' code; bounds of five standard errors."""
    mixer = Differential(8000, 1)
    for start in (mixer.lambda_q.detach(), mixer.lambda_k.detach()):
        assert start.shape == (2, 4000)
        assert start.mean().item() == pytest.approx(0, abs=5 * 0.1 / 8000**0.5)
        assert start.std().item() == pytest.approx(0.1, abs=5 * 0.1 / 16000**0.5)


def test_the_defaults():
    """Four pairs of maps, the first layer's λ_init, RoPE with base 10000, no bias, eps 1e-5."""
    mixer = Differential(D)
    _, cache = mixer(torch.randn(1, 3, D))
    assert cache.k.shape == (1, 3, 8, 4) and cache.v.shape == (1, 3, 4, 8)
    assert mixer.lambda_init == pytest.approx(0.2) and mixer.norm.eps == 1e-5
    torch.testing.assert_close(mixer.theta.double(), torch.tensor([1, 0.01]).double())
    assert not any("bias" in name for name in mixer.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", ["parallel", "tiled", "sdpa"])
def test_reads_that_nearly_cancel_are_subtracted_in_float32(form, dtype):
    """Both maps alike and λ = 1 - 2^-6: 63 of 64 parts cancel, and the norm enlarges what is left.

    Then y is the value, normed, with the few roundings of one read. The product λ y² rounded to
    half precision would be off by up to 64 times as much.
    """
    mixer, x = Differential(D, H, form=form), torch.randn(1, 1, D)
    for W in (mixer.q, mixer.k):
        W.weight.data[D // 2 :] = W.weight.data[: D // 2]
    mixer.norm.eps, mixer.lambda_init = 0.0, 1 - 2**-6
    mixer.lambda_q.data.zero_()  # λ = λ_init
    mixer.out = torch.nn.Identity()
    v = mixer.to(dtype).v(x.to(dtype)).unflatten(-1, (H, 8)).double()
    expected = 2**-6 * v / v.square().mean(-1, keepdim=True).sqrt()
    y = mixer(x.to(dtype))[0].unflatten(-1, (H, 8)).double()
    roundings = 4 * torch.finfo(dtype).eps  # of a read, the norm, its weight and 1 - λ
    assert ((y - expected).abs() <= roundings * expected.abs()).all()


def test_equal_maps_leave_their_value_scaled():
    """What both maps see alike cancels up to 1 - λ; the norm of each head hides that factor too."""
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
    with pytest.raises(ValueError, match="2 n_heads is 8: each head needs an even width"):
        Differential(24, H)
    assert Differential(24, H, rope_base=None)(torch.randn(1, 2, 24))[0].isfinite().all()
    with pytest.raises(ValueError, match="form is 'flash'"):
        Differential(D, H, form="flash")
