import importlib
import sys
import warnings

import pytest
import torch

from seqlab.core.attention import attend_tiled
from seqlab.core.position import yarn_frequencies, yarn_magnitude
from seqlab.mixers.mla import MLA

D, H, T = 32, 4, 19
SIZES = {"kv_rank": 12, "d_nope": 6, "d_rope": 4, "d_v": 5}


def draw(T=T):
    return torch.randn(2, T, D, dtype=torch.float64)


@pytest.fixture(scope="module")
def theirs():
    """theirs("deepseek_v3", "DeepseekV3", **config): module, config and one attention layer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[test]'")

    def load(name, prefix, **config):
        with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
            warnings.simplefilter("ignore")
            # fla's kernels are of no use here and slow to load.
            patch.setitem(sys.modules, "fla", None)
            models = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
            heads = {"num_attention_heads": H, "num_key_value_heads": H, "v_head_dim": 5}
            heads |= {"kv_lora_rank": 12, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4}
            sizes = {"hidden_size": D, "num_hidden_layers": 2}
            config = getattr(models, f"{prefix}Config")(**sizes | heads | config)
        config._attn_implementation = "sdpa"  # eager takes its softmax in float32
        layer = getattr(models, f"{prefix}Attention")(config, layer_idx=0).double().eval()
        for p in layer.parameters():
            torch.nn.init.normal_(p, std=0.3)
        return models, config, layer

    return load


def copy(ours, layer):
    names = {"kv_down": "kv_a_proj_with_mqa", "kv_norm": "kv_a_layernorm"}
    names |= {"kv_up": "kv_b_proj", "out": "o_proj"}
    if ours.q_down is None:
        names |= {"q": "q_proj"}
    else:
        names |= {"q_down": "q_a_proj", "q_norm": "q_a_layernorm", "q": "q_b_proj"}
    ours = ours.double()
    for name, part in names.items():
        getattr(ours, name).load_state_dict(getattr(layer, part).state_dict())
    return ours


def assert_equal(ours, layer, rotary=None):
    """Prefill and token by token, with our frequencies: theirs, in float32, must be the same."""
    x, turns = draw(), {}
    if rotary is not None:
        torch.testing.assert_close(ours.theta.float(), rotary.inv_freq, rtol=1e-5, atol=0)
        assert ours.turn.keywords["magnitude"] == pytest.approx(rotary.attention_scaling)
        angle = (torch.arange(T)[:, None] * ours.theta).repeat(1, 2)[None]
        scaling = rotary.attention_scaling
        turns["position_embeddings"] = scaling * angle.cos(), scaling * angle.sin()
    mask = torch.full((T, T), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    y = layer(x, attention_mask=mask, **turns)[0]
    torch.testing.assert_close(ours(x)[0], y, rtol=0, atol=1e-6)  # their norms are float32
    state, steps = None, []
    for token in x.split(1, dim=1):
        y_t, state = ours(token, state)
        steps.append(y_t)
    torch.testing.assert_close(torch.cat(steps, dim=1), y, rtol=0, atol=1e-6)


@pytest.mark.oracle
@pytest.mark.parametrize("form", ["naive", "absorbed"])
@pytest.mark.parametrize("q_rank", [None, 7])
@pytest.mark.parametrize("interleaved", [True, False])
def test_against_deepseek_v3_attention(theirs, form, q_rank, interleaved):
    options = {"q_lora_rank": q_rank, "rope_interleave": interleaved, "attention_bias": True}
    models, config, layer = theirs("deepseek_v3", "DeepseekV3", **options)
    ours = MLA(D, H, **SIZES, q_rank=q_rank, bias=True, interleaved=interleaved, form=form)
    assert_equal(copy(ours, layer), layer, models.DeepseekV3RotaryEmbedding(config))


@pytest.mark.oracle
@pytest.mark.parametrize("mscale, mscale_all_dim", [(1.0, 1.0), (1.0, 0.707)])
def test_against_deepseek_v3_attention_with_yarn(theirs, mscale, mscale_all_dim):
    """YaRN's magnitude scales the whole score here, not the rotated channels alone."""
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "beta_fast": 8.0}
    yarn |= {"original_max_position_embeddings": 64}
    yarn |= {"mscale": mscale, "mscale_all_dim": mscale_all_dim}
    models, config, layer = theirs("deepseek_v3", "DeepseekV3", q_lora_rank=7, rope_parameters=yarn)
    ours = MLA(
        D,
        H,
        **SIZES,
        q_rank=7,
        theta=yarn_frequencies(4, 40.0, 64, beta_fast=8.0),
        magnitude=yarn_magnitude(40.0, mscale) / yarn_magnitude(40.0, mscale_all_dim),
        scale=10**-0.5 * yarn_magnitude(40.0, mscale_all_dim) ** 2,
    )
    assert_equal(copy(ours, layer), layer, models.DeepseekV3RotaryEmbedding(config))


@pytest.mark.oracle
@pytest.mark.parametrize("form", ["naive", "absorbed"])
def test_against_kimi_linears_attention_without_positions(theirs, form):
    _, _, layer = theirs("kimi_linear", "KimiLinear", q_lora_rank=None)
    assert_equal(copy(MLA(D, H, **SIZES, rope_base=None, form=form), layer), layer)


def test_the_cache_is_the_latent_and_one_key_for_all_heads():
    mixer, x = MLA(D, H, **SIZES).double(), draw()
    _, state = mixer(x)
    assert state.c.shape == (2, T, 12) and state.k_rope.shape == (2, T, 4) and state.position == T
    latent = mixer.kv_down(x)[..., :12]
    latent = latent / (latent.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(state.c, latent, rtol=0, atol=1e-12)


def test_prefill_by_heads_then_decode_absorbed():
    """What a server does: the two forms share one cache."""
    mixer, x = MLA(D, H, **SIZES).double(), draw()
    y, _ = mixer(x)
    _, state = mixer(x[:, :12])
    mixer.form = "absorbed"
    for t in range(12, T):
        y_t, state = mixer(x[:, t : t + 1], state)
        torch.testing.assert_close(y_t[:, 0], y[:, t], rtol=0, atol=1e-9)


@pytest.mark.parametrize("form", ["naive", "absorbed"])
def test_it_is_the_papers_sum_over_keys(form):
    """Head by head and token by token, with one rotated key for all heads."""
    mixer, x = MLA(D, H, **SIZES, form=form).double(), draw()[0]
    assert mixer.q_down is None
    kv, W_up = mixer.kv_down(x), mixer.kv_up.weight.unflatten(0, (H, 6 + 5))
    c, k_rope = mixer.kv_norm(kv[:, :12]), turned(kv[:, 12:])
    q = mixer.q(x).unflatten(-1, (H, 6 + 4))
    y = torch.zeros(T, H, 5, dtype=torch.float64)
    for h in range(H):
        k, v = c @ W_up[h, :6].mT, c @ W_up[h, 6:].mT
        scores = q[:, h, :6] @ k.mT + turned(q[:, h, 6:]) @ k_rope.mT
        future = torch.ones(T, T).triu(1).bool()
        y[:, h] = (scores / 10**0.5).masked_fill(future, -torch.inf).softmax(-1) @ v
    torch.testing.assert_close(mixer(x[None])[0][0], mixer.out(y.flatten(1)), rtol=0, atol=1e-9)


def turned(x):
    """x (T, 4) as two complex numbers a token, turned by t and by t / 100 (base 10,000)."""
    angle = torch.arange(T)[:, None] * torch.tensor([1.0, 0.01], dtype=torch.float64)
    pairs = torch.view_as_complex(x.unflatten(-1, (2, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


@pytest.mark.parametrize(
    "attend", ["parallel", "tiled", attend_tiled], ids=["parallel", "tiled", "a function"]
)
@pytest.mark.parametrize("form", ["naive", "absorbed"])
def test_any_softmax_may_sit_inside(form, attend):
    mixer, x = MLA(D, H, **SIZES, form=form, attend=attend).double(), draw()
    fused = MLA(D, H, **SIZES).double()
    fused.load_state_dict(mixer.state_dict())
    torch.testing.assert_close(mixer(x)[0], fused(x)[0], rtol=0, atol=1e-9)


def test_the_default_sizes_are_deepseek_v2s():
    """128 heads of 128 + 64 channels, a latent of 512, values of 128 channels; no bias."""
    with torch.device("meta"):
        mixer = MLA(16384, 128)
    assert (mixer.d_nope, mixer.d_rope, mixer.kv_rank) == (128, 64, 512)
    assert mixer.out.in_features == 128 * 128 and mixer.scale == (128 + 64) ** -0.5
    assert not any(name.endswith("bias") for name, _ in mixer.named_parameters())
    assert MLA(D).n_heads == 4


def test_wrong_forms_get_one_clear_sentence():
    with pytest.raises(ValueError, match="form is 'parallel': choose 'naive' or 'absorbed'"):
        MLA(D, H, form="parallel")
    with pytest.raises(ValueError, match="attend is 'flash': choose one of parallel, tiled, sdpa"):
        MLA(D, H, attend="flash")
    with pytest.raises(ValueError, match="d_rope is 3: a rotation turns pairs of channels"):
        MLA(D, H, d_rope=3)
    assert MLA(D, H, d_rope=3, rope_base=None).d_rope == 3
