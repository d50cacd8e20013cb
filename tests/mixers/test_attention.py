import importlib
import sys
import warnings
from functools import partial

import pytest
import torch

from seqlab.core.attention import attend, attend_tiled
from seqlab.core.position import (
    llama3_frequencies,
    rope_frequencies,
    yarn_frequencies,
    yarn_magnitude,
)
from seqlab.mixers import Attention

D, H = 32, 4
FORMS = ["parallel", "tiled", "sdpa"]


def draw():
    return torch.randn(2, 23, D, dtype=torch.float64)


@pytest.fixture(scope="module")
def theirs():
    """theirs("llama", "Llama", **config): the module, its config, and one attention layer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[test]'")

    sizes = {"hidden_size": D, "num_attention_heads": H, "num_hidden_layers": 2}

    def load(name, prefix, **config):
        with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
            warnings.simplefilter("ignore")
            patch.setitem(sys.modules, "fla", None)  # its kernels are unused here, and slow to load
            models = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
            config = getattr(models, f"{prefix}Config")(**sizes | config)
        config._attn_implementation = "sdpa"  # eager computes its softmax in float32
        layer = getattr(models, f"{prefix}Attention")(config, layer_idx=0).double().eval()
        # Biases and norms too: their starting values could hide a mistake.
        for p in layer.parameters():
            torch.nn.init.normal_(p, std=0.3)
        return models, config, layer

    return load


def copy(ours, layer):
    """Their projections into ours."""
    ours = ours.double()
    for name, part in {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "o_proj"}.items():
        getattr(ours, name).load_state_dict(getattr(layer, part).state_dict())
    return ours


def causal(T, window=None):
    """0 where a token may look and -inf elsewhere: the mask that their layers expect."""
    distance = torch.arange(T)[:, None] - torch.arange(T)
    hidden = (distance < 0) | (distance >= (window or T))
    return torch.zeros(T, T, dtype=torch.float64).masked_fill(hidden, -torch.inf)[None, None]


def angles(ours, T, rotary=None):
    """cos and sin as their layers expect, from our frequencies, which must equal theirs."""
    if rotary is not None:
        torch.testing.assert_close(ours.theta.float(), rotary.inv_freq, rtol=1e-5, atol=0)
        assert ours.magnitude == pytest.approx(rotary.attention_scaling)
    angle = (torch.arange(T)[:, None] * ours.theta).repeat(1, 2)[None]
    return angle.cos() * ours.magnitude, angle.sin() * ours.magnitude


def assert_equal_in_prefill_and_decoding(ours, x, y, atol=1e-9):
    torch.testing.assert_close(ours(x)[0], y, rtol=0, atol=atol)
    state, steps = None, []
    for token in x.split(1, dim=1):
        y_t, state = ours(token, state)
        steps.append(y_t)
    torch.testing.assert_close(torch.cat(steps, dim=1), y, rtol=0, atol=atol)


def assert_equal(ours, layer, rotary, window=None, atol=1e-9, **more):
    x = torch.randn(2, 23, ours.q.in_features, dtype=torch.float64)
    turns = {} if ours.theta is None else {"position_embeddings": angles(ours, 23, rotary)}
    y = layer(x, attention_mask=causal(23, window), **turns, **more)[0]
    assert_equal_in_prefill_and_decoding(ours, x, y, atol)


@pytest.mark.oracle
@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("form", FORMS)
def test_against_llama_attention(theirs, n_kv_heads, form):
    """Any number of key heads, any width of a head, biases."""
    models, config, layer = theirs(
        "llama", "Llama", num_key_value_heads=n_kv_heads, head_dim=10, attention_bias=True
    )
    ours = copy(Attention(D, H, n_kv_heads=n_kv_heads, d_head=10, bias=True, form=form), layer)
    assert_equal(ours, layer, models.LlamaRotaryEmbedding(config))


SCALED = {
    "llama3": (
        {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
        lambda: {"theta": llama3_frequencies(rope_frequencies(8), original_length=16)},
    ),
    "yarn": (
        {"factor": 4.0, "original_max_position_embeddings": 16},
        lambda: {"theta": yarn_frequencies(8, 4.0, 16), "magnitude": yarn_magnitude(4.0)},
    ),
}


@pytest.mark.oracle
@pytest.mark.parametrize("kind", SCALED)
def test_any_rope_can_be_passed_in(theirs, kind):
    parameters, options = SCALED[kind]
    models, config, layer = theirs(
        "llama", "Llama", rope_parameters={"rope_type": kind, "rope_theta": 10000.0, **parameters}
    )
    ours = copy(Attention(D, H, **options()), layer)
    assert_equal(ours, layer, models.LlamaRotaryEmbedding(config))


@pytest.mark.oracle
def test_against_mixtral_attention_with_a_window(theirs):
    models, config, layer = theirs("mixtral", "Mixtral", num_key_value_heads=2, sliding_window=6)
    base = config.rope_parameters["rope_theta"]  # a million
    ours = copy(Attention(D, H, n_kv_heads=2, window=6, rope_base=base), layer)
    assert_equal(ours, layer, models.MixtralRotaryEmbedding(config), window=6)


@pytest.mark.oracle
@pytest.mark.parametrize("bias", [False, True])
def test_against_recurrent_gemma_attention(theirs, bias):
    """A window, half of each head's channels turned, a bias on the way out only."""
    _, config, layer = theirs(
        "recurrent_gemma",
        "RecurrentGemma",
        num_key_value_heads=1,
        attention_window_size=5,
        attention_bias=bias,
    )
    assert config.rope_parameters["partial_rotary_factor"] == 0.5
    options = {"n_kv_heads": 1, "window": 5, "d_rotary": 4, "bias": bias, "out_bias": True}
    ours, x = copy(Attention(D, H, **options), layer), draw()
    y = layer(x, position_ids=torch.arange(23)[None], attention_mask=causal(23, window=5))[0]
    # It computes its own angles, in float32.
    assert_equal_in_prefill_and_decoding(ours, x, y, atol=1e-5)


@pytest.mark.oracle
@pytest.mark.parametrize(
    "name, prefix, rope",
    [("jamba", "Jamba", False), ("bamba", "Bamba", True), ("minimax", "MiniMax", True)],
)
def test_against_the_attention_of_hybrids(theirs, name, prefix, rope):
    """Jamba has no positions; Bamba rotates part of a head; MiniMax-01's softmax is Llama's."""
    config = {"num_key_value_heads": 2}
    if name == "bamba":
        config |= {"partial_rotary_factor": 0.5, "attention_bias": True, "mamba_n_heads": 8}
    models, config, layer = theirs(name, prefix, **config)
    options = {"rope_base": config.rope_parameters["rope_theta"]} if rope else {"rope_base": None}
    options |= {"bias": True, "d_rotary": 4} if name == "bamba" else {}
    ours = copy(Attention(D, H, n_kv_heads=2, **options), layer)
    assert_equal(ours, layer, getattr(models, f"{prefix}RotaryEmbedding")(config) if rope else None)


@pytest.mark.oracle
def test_against_zamba2_attention(theirs):
    """Its inside is twice as wide as its outside, and scores are scaled as for half a head."""
    models, config, layer = theirs(
        "zamba2", "Zamba2", use_mem_rope=True, layers_block_type=["mamba", "hybrid"]
    )
    d_head = config.attention_head_dim
    ours = copy(Attention(2 * D, H, d_head=d_head, d_out=D, scale=(d_head / 2) ** -0.5), layer)
    assert_equal(ours, layer, models.Zamba2RotaryEmbedding(config), layer_idx=1)


@pytest.mark.oracle
@pytest.mark.parametrize("form", FORMS)
def test_against_qwen3_next_gated_attention(theirs, form):
    """Normed q and k, a quarter of a head rotated, a sigmoid gate.

    Their q_proj holds q and gate, head by head, and the weights of their norms are stored minus 1.
    """
    models, config, layer = theirs(
        "qwen3_next",
        "Qwen3Next",
        num_key_value_heads=2,
        head_dim=16,
        attention_bias=True,
        partial_rotary_factor=0.25,
    )
    options = {
        "n_kv_heads": 2,
        "d_head": 16,
        "d_rotary": 4,
        "bias": True,
        "qk_norm": True,
        "gate": True,
    }
    ours = Attention(D, H, **options, eps=config.rms_norm_eps, form=form).double()
    for part in ("weight", "bias"):
        q, gate = getattr(layer.q_proj, part).unflatten(0, (H, 2, 16)).unbind(1)
        getattr(ours.q, part).data = q.flatten(0, 1)
        getattr(ours.gate, part).data = gate.flatten(0, 1)
    for name in ("k", "v"):
        getattr(ours, name).load_state_dict(getattr(layer, f"{name}_proj").state_dict())
    ours.out.load_state_dict(layer.o_proj.state_dict())
    ours.q_norm.weight.data = 1 + layer.q_norm.weight
    ours.k_norm.weight.data = 1 + layer.k_norm.weight
    # Their norms are computed in float32.
    assert_equal(ours, layer, models.Qwen3NextRotaryEmbedding(config), atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_a_window_sees_only_its_tokens(form):
    """y_t of a sliding window is attention over the last W tokens alone, at the same positions."""
    W, x = 5, torch.randn(1, 17, D, dtype=torch.float64)
    windowed = Attention(D, H, window=W, form=form).double()
    full = Attention(D, H).double()
    full.load_state_dict(windowed.state_dict())
    y = windowed(x)[0]
    for t in range(17):
        # From position 0 on: only differences of positions matter.
        alone = full(x[:, max(0, t - W + 1) : t + 1])[0][:, -1]
        torch.testing.assert_close(y[:, t], alone, rtol=0, atol=1e-9)


def test_the_cache_of_a_window_stays_small():
    mixer, state = Attention(D, H, window=5), None
    for _ in range(12):
        _, state = mixer(torch.randn(1, 1, D), state)
    assert state.k.shape[1] == 5 and state.position == 12
    _, state = mixer(torch.randn(1, 40, D), state)
    for cache in (state.k, state.v):  # not a view of a longer one
        assert cache.untyped_storage().nbytes() == 5 * D * 4


def test_the_defaults_are_those_of_llama():
    """RoPE over the whole head with base 10000, no bias, as many key heads as query heads."""
    ours = Attention(D)
    assert ours(torch.randn(1, 3, D))[1].k.shape == (1, 3, 4, D // 4)
    theta = torch.tensor([10000 ** (-2 * i / 8) for i in range(4)], dtype=torch.float64)
    torch.testing.assert_close(ours.theta.double(), theta, rtol=1e-6, atol=0)
    assert ours.magnitude == 1 and not any("bias" in name for name in ours.state_dict())
    assert Attention(D, qk_norm=True).k_norm.eps == 1e-6  # Qwen 3's


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="n_heads is 4, n_kv_heads is 3"):
        Attention(D, H, n_kv_heads=3)
    with pytest.raises(ValueError, match="choose one of parallel, tiled, sdpa"):
        Attention(D, H, form="flash")


def test_only_a_rotation_of_the_whole_head_needs_an_even_width():
    with pytest.raises(ValueError, match="d_model is 12, n_heads is 4: each head needs an even"):
        Attention(12, 4)
    for options in ({"rope_base": None}, {"d_rotary": 2}, {"theta": torch.ones(1)}):
        assert Attention(12, 4, **options)(torch.randn(1, 2, 12))[1].k.shape == (1, 2, 4, 3)


def test_a_form_may_be_any_function_like_attend():
    """A kernel, or tiles of another size."""
    tiled, x = partial(attend_tiled, tile=(5, 3), order="fa1"), draw()
    ours = Attention(D, H, n_kv_heads=2, form=tiled).double()
    plain = Attention(D, H, n_kv_heads=2, form=attend).double()
    plain.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x)[0], plain(x)[0], rtol=0, atol=1e-9)


def test_without_positions_the_order_of_the_past_does_not_matter():
    ours, x = Attention(D, H, rope_base=None).double(), draw()
    shuffled = torch.cat([x[:, torch.randperm(22)], x[:, 22:]], dim=1)
    torch.testing.assert_close(ours(shuffled)[0][:, -1], ours(x)[0][:, -1], rtol=0, atol=1e-9)


def test_equal_keys_in_a_group_are_multi_head_attention():
    """Grouped queries are attention whose neighbouring heads share their k and v."""
    grouped = Attention(D, H, n_kv_heads=2).double()
    full, x = Attention(D, H).double(), draw()
    full.q.weight.data, full.out.weight.data = grouped.q.weight, grouped.out.weight
    for name in ("k", "v"):
        heads = getattr(grouped, name).weight.unflatten(0, (2, -1))
        getattr(full, name).weight.data = heads.repeat_interleave(2, dim=0).flatten(0, 1)
    torch.testing.assert_close(full(x)[0], grouped(x)[0], rtol=0, atol=1e-9)
