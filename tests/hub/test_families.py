"""Every family: a tiny random model of `transformers`, loaded into ours, gives the same logits."""

from types import SimpleNamespace

import pytest
import torch

from seqlab.hub import FAMILIES, from_pretrained, from_transformers
from seqlab.hub.config import COMMON, NO_EFFECT

V, T = 31, 11
LLAMA = {
    "vocab_size": V,
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
DEEPSEEK = {
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "kv_lora_rank": 9,
    "q_lora_rank": 7,
    "qk_rope_head_dim": 6,
    "qk_nope_head_dim": 5,
    "v_head_dim": 3,
    "moe_intermediate_size": 11,
    "n_routed_experts": 8,
    "n_group": 4,
    "topk_group": 2,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
}
MAMBA = {"vocab_size": V, "hidden_size": 24, "state_size": 5, "num_hidden_layers": 2}
GEMMA = {
    "vocab_size": V,
    "hidden_size": 24,
    "intermediate_size": 50,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "attention_window_size": 4,
}
RWKV = {"vocab_size": V, "hidden_size": 24, "num_hidden_layers": 3}
XLSTM = {
    "vocab_size": V,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_heads": 3,
    "ffn_round_up_to_multiple_of": 10,
    "use_cache": False,
}
QWEN = {
    "vocab_size": V,
    "hidden_size": 24,
    "intermediate_size": 37,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "linear_key_head_dim": 5,
    "linear_value_head_dim": 7,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "moe_intermediate_size": 11,
    "shared_expert_intermediate_size": 9,
    "num_experts_per_tok": 2,
    "num_experts": 5,
}
KIMI = {
    "vocab_size": V,
    "hidden_size": 24,
    "intermediate_size": 37,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": 9,
    "qk_rope_head_dim": 3,
    "qk_nope_head_dim": 5,
    "v_head_dim": 4,
    "linear_head_dim": 5,
    "linear_num_heads": 3,
    "moe_intermediate_size": 11,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 4,
    "topk_group": 2,
    "pad_token_id": 0,
}
KIMI_STORED = {"head_dim": 4, "num_heads": 5, "short_conv_kernel_size": 3, "kda_layers": [1, 3, 4]}
KIMI_STORED |= {"full_attn_layers": [2]}
HYBRID = {
    "vocab_size": V,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "mamba_d_state": 5,
}
ZAMBA = {
    "vocab_size": V,
    "hidden_size": 24,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "n_mamba_heads": 6,
}
ZAMBA |= {"layers_block_type": ["linear_attention", "hybrid", "hybrid"] * 2}
ZAMBA |= {"mamba_d_state": 5, "adapter_rank": 3, "time_step_min": 1e-9, "chunk_size": 4}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 8.0,
}
YARN |= {"rope_theta": 100.0}
SCALED = ("full_attn", "linear_attn", "mlp")

# What the configs of a family share, and how they differ: odd sizes, and every field that changes
# the logits.
CASES = {
    "llama": (
        LLAMA,
        {
            "grouped heads": {},
            "one key head, odd widths": {
                "num_key_value_heads": 1,
                "head_dim": 10,
                "intermediate_size": 37,
            },
            "all heads": {"num_key_value_heads": None, "rms_norm_eps": 1e-3},
            "tied": {"tie_word_embeddings": True},
            "biases": {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu_pytorch_tanh"},
            "another base": {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
            "linear": {"rope_parameters": {"rope_type": "linear", "factor": 3.0}},
            "llama3": {"rope_parameters": LLAMA3, "head_dim": 16},
            "yarn": {"rope_parameters": YARN, "head_dim": 16},
            "yarn, cut sharply": {
                "rope_parameters": YARN | {"truncate": False, "attention_factor": 0.7},
                "head_dim": 16,
            },
            "yarn, two scales": {
                "rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 1.2, "beta_slow": 2.0}
            },
        },
    ),
    "mistral": (
        LLAMA,
        {
            "a window": {"sliding_window": 4},
            "no window": {"sliding_window": None, "head_dim": 10, "tie_word_embeddings": True},
        },
    ),
    "mixtral": (
        LLAMA,
        {
            "eight experts": {},
            "a window": {"sliding_window": 4, "num_local_experts": 3, "head_dim": 10},
            "one of five": {
                "num_local_experts": 5,
                "hidden_act": "relu",
                "num_experts_per_tok": 1,
                "tie_word_embeddings": True,
            },
        },
    ),
    "deepseek_v3": (
        LLAMA | DEEPSEEK,
        {
            "as published": {},
            "no bottleneck for queries": {
                "q_lora_rank": None,
                "first_k_dense_replace": 0,
                "num_experts_per_tok": 3,
            },
            "biases, halves": {
                "attention_bias": True,
                "rope_interleave": False,
                "norm_topk_prob": False,
            },
            "one group": {
                "n_group": 1,
                "topk_group": 1,
                "n_shared_experts": 2,
                "hidden_act": "gelu",
            },
            "dense, tied": {"first_k_dense_replace": 3, "tie_word_embeddings": True},
            "yarn": {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 1.2}},
        },
    ),
    "diffllama": (
        LLAMA | {"num_hidden_layers": 3},
        {
            "grouped heads": {"head_dim": 10},
            "biases": {
                "num_key_value_heads": None,
                "attention_bias": True,
                "rms_norm_eps": 1e-3,
                "hidden_act": "relu",
            },
            "yarn, tied": {
                "rope_parameters": YARN,
                "num_attention_heads": 6,
                "tie_word_embeddings": True,
            },
        },
    ),
    "mamba": (
        MAMBA,
        {
            "as published": {},
            "biases, odd widths": {
                "use_bias": True,
                "use_conv_bias": False,
                "expand": 3,
                "time_step_rank": 5,
            },
            "its own inner width": {
                "intermediate_size": 20,
                "conv_kernel": 3,
                "tie_word_embeddings": False,
            },
        },
    ),
    "falcon_mamba": (
        MAMBA,
        {"as published": {"intermediate_size": 36, "mixer_rms_eps": 1e-3}, "tied": {"expand": 3}},
    ),
    "mamba2": (
        MAMBA | {"num_heads": 6, "head_dim": 8, "n_groups": 2},
        {
            "groups": {"chunk_size": 4},
            "a head a group": {
                "n_groups": 6,
                "hidden_act": "gelu",
                "state_size": 3,
                "conv_kernel": 3,
                "tie_word_embeddings": True,
            },
            "biases": {
                "n_groups": 1,
                "use_bias": True,
                "use_conv_bias": False,
                "layer_norm_epsilon": 1e-3,
            },
            "clipped steps": {"time_step_limit": (0.3, 0.9)},
        },
    ),
    "minimax": (
        LLAMA | {"num_hidden_layers": 3, "num_local_experts": 3},
        {
            "as published": {"block_size": 4},
            "scaled": {
                "block_size": 4,
                "num_experts_per_tok": 1,
                "head_dim": 10,
                "rms_norm_eps": 1e-3,
            }
            | {
                f"{part}_{x}_factor": 1.5 + i
                for i, x in enumerate(("alpha", "beta"))
                for part in SCALED
            },
            "lightning first": {
                "layer_types": ["linear_attention", "linear_attention", "full_attention"]
            },
            "lightning alone": {
                "layer_types": ["linear_attention"],
                "num_hidden_layers": 1,
                "sliding_window": 3,
            },
            "a window": {"sliding_window": 3, "tie_word_embeddings": True},
        },
    ),
    "jamba": (
        HYBRID | {"attn_layer_period": 4, "attn_layer_offset": 2, "num_experts": 3},
        {
            "as published": {},
            "biases, odd widths": {
                "mamba_proj_bias": True,
                "mamba_conv_bias": False,
                "mamba_expand": 3,
                "mamba_d_conv": 3,
                "mamba_dt_rank": 5,
                "num_key_value_heads": 4,
                "head_dim": 7,
                "rms_norm_eps": 1e-3,
                "tie_word_embeddings": True,
            },
            "one expert of five, first": {
                "num_experts": 5,
                "num_experts_per_tok": 1,
                "expert_layer_period": 3,
                "expert_layer_offset": 0,
                "attn_layer_period": 2,
                "attn_layer_offset": 0,
            },
            "no experts": {"num_experts": 1},
        },
    ),
    "bamba": (
        HYBRID | {"mamba_n_heads": 6, "attn_layer_indices": [1, 3], "mamba_chunk_size": 4},
        {
            "as published": {},
            "groups, biases": {
                "mamba_n_groups": 3,
                "mamba_proj_bias": True,
                "mamba_conv_bias": False,
                "mamba_expand": 3,
                "attention_bias": True,
                "mlp_bias": True,
                "num_key_value_heads": None,
                "hidden_act": "gelu",
                "rms_norm_eps": 1e-3,
            },
            "an odd share turned, tied": {
                "head_dim": 10,
                "mamba_d_conv": 3,
                "mamba_n_heads": 4,
                "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 100.0},
                "tie_word_embeddings": True,
            },
            "no attention": {"attn_layer_indices": None, "use_cache": False},
            "clipped steps": {"time_step_limit": [0.3, 0.9]},
        },
    ),
    "zamba2": (
        ZAMBA,
        {
            "one transformer": {},
            "two, positions, queries of their own": {
                "num_mem_blocks": 2,
                "use_shared_attention_adapter": True,
                "use_mem_rope": True,
            },
            "three, grouped heads, biases": {
                "num_mem_blocks": 3,
                "num_key_value_heads": 2,
                "use_mem_rope": True,
                "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 100.0},
                "add_bias_linear": True,
                "mamba_ngroups": 3,
                "mamba_expand": 3,
                "mamba_d_conv": 3,
                "intermediate_size": 37,
                "hidden_act": "silu",
                "rms_norm_eps": 1e-3,
            },
            "three heads": {"num_attention_heads": 3, "n_mamba_heads": 4},
            "long steps": {"time_step_min": 0.5},
        },
    ),
    "recurrent_gemma": (
        GEMMA,
        {
            "as published": {"num_key_value_heads": 1},
            "attention first, odd widths": {
                "block_types": ["attention", "recurrent"],
                "lru_width": 30,
                "intermediate_size": 51,
                "attention_bias": True,
                "conv1d_width": 3,
                "hidden_activation": "relu",
                "logits_soft_cap": 5.0,
                "tie_word_embeddings": False,
            },
            "an odd share turned": {
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "rms_norm_eps": 1e-3,
            },
            "all of it turned": {
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 100.0,
                    "partial_rotary_factor": 1.0,
                }
            },
            "recurrent alone": {
                "block_types": ["recurrent"],
                "num_hidden_layers": 2,
                "use_cache": False,
            },
        },
    ),
    "rwkv": (
        RWKV,
        {
            "as published": {},
            "halved twice": {
                "num_hidden_layers": 4,
                "rescale_every": 2,
                "layer_norm_epsilon": 1e-2,
            },
            "odd widths": {
                "attention_hidden_size": 20,
                "intermediate_size": 37,
                "rescale_every": 1,
                "use_cache": False,
            },
            "never halved, tied": {"rescale_every": -1, "tie_word_embeddings": True},
        },
    ),
    "xlstm": (
        XLSTM,
        {
            "as published": {},
            "biases, odd widths": {
                "use_bias": True,
                "qk_dim_factor": 0.63,
                "v_dim_factor": 1.25,
                "ffn_round_up_to_multiple_of": 1,
                "chunk_size": 4,
            },
            "other caps": {
                "gate_soft_cap": 2.0,
                "output_logit_soft_cap": 3.0,
                "norm_eps": 1e-3,
                "eps": 0.1,
                "num_heads": 1,
            },
            "in pieces": {
                "hidden_size": 32,
                "num_heads": 4,
                "qk_dim_factor": 2.0,
                "v_dim_factor": 4.0,
                "max_inference_chunksize": 3,
                "use_cache": True,
            },
        },
    ),
    "qwen3_next": (
        QWEN,
        {
            "as published": {},
            "a head a group, biases": {
                "linear_num_key_heads": 3,
                "linear_num_value_heads": 3,
                "linear_conv_kernel_dim": 3,
                "attention_bias": True,
                "norm_topk_prob": False,
                "hidden_act": "gelu",
                "rms_norm_eps": 1e-3,
                "tie_word_embeddings": True,
            },
            "some dense layers": {
                "layer_types": [
                    "full_attention",
                    "linear_attention",
                    "full_attention",
                    "linear_attention",
                ],
                "decoder_sparse_step": 2,
                "mlp_only_layers": [1],
                "num_key_value_heads": 4,
                "rope_parameters": YARN | {"partial_rotary_factor": 0.6},
            },
            "no expert for all, no attention": {
                "shared_expert_intermediate_size": 0,
                "layer_types": ["linear_attention"] * 4,
                "use_cache": False,
            },
            "no experts": {
                "num_experts": 0,
                "num_hidden_layers": 2,
                "layer_types": ["full_attention"] * 2,
                "rope_parameters": {
                    "rope_type": "linear",
                    "factor": 3.0,
                    "partial_rotary_factor": 1.0,
                },
            },
        },
    ),
    "kimi_linear": (
        KIMI,
        {
            "latent first": {
                "num_hidden_layers": 3,
                "layer_types": ["full_attention", "linear_attention", "linear_attention"],
                "mlp_layer_types": ["sparse", "dense", "sparse"],
                "linear_conv_kernel_dim": 3,
            },
            "as published": {},
            "bottleneck for queries, biases": {
                "q_lora_rank": 7,
                "attention_bias": True,
                "norm_topk_prob": False,
                "n_shared_experts": 2,
                "hidden_act": "gelu",
                "rms_norm_eps": 1e-3,
                "routed_scaling_factor": 1.5,
                "n_group": 1,
                "topk_group": 1,
            },
            "as stored": {
                "num_hidden_layers": 4,
                "linear_attn_config": KIMI_STORED,
                "first_k_dense_replace": 2,
            },
            "no shared part in the keys": {"qk_rope_head_dim": 0, "n_shared_experts": 0},
        },
    ),
}
# Their decoding differs from their own prefill: it forgets to clip, or it counts positions by the
# cache of layer 0.
THEY_DECODE_OTHERWISE = {
    ("mamba2", "clipped steps"),
    ("bamba", "clipped steps"),
    ("zamba2", "long steps"),
    ("minimax", "lightning first"),
}
# Positions are counted by a cache of attention.
THEY_CANNOT_DECODE = {
    ("bamba", "no attention"),
    ("recurrent_gemma", "recurrent alone"),
    ("qwen3_next", "no expert for all, no attention"),
}
every_config = pytest.mark.parametrize(
    ("family", "case"), [(f, case) for f, (_, cases) in CASES.items() for case in cases], ids=str
)
every_family = pytest.mark.parametrize("family", CASES)


@pytest.fixture
def theirs(transformers_family, float64_throughout):
    """theirs("llama", "tied"): a random model in float64, no weight of it at a special value."""

    def make(family, case=None, **fields):
        config_class, model_class = transformers_family(family)
        base, cases = CASES[family]
        case = next(iter(cases)) if case is None else case
        with float64_throughout():
            model = model_class(config_class(**(base | cases[case] | fields))).double().eval()
        stirred = [b for name, b in model.named_buffers() if name.endswith("correction_bias")]
        for p in (*model.parameters(), *stirred):
            p.data += torch.randn_like(p) * (0.2 if p.ndim < 2 else max(p.shape[-1], 1) ** -0.5)
        return model

    return make


def tokens():
    return torch.randint(V, (2, T))


def decoded(model, x):
    """Their logits, token by token with their cache."""
    logits, cache = [], first_cache(model)
    lengths = [4] + [1] * (T - 4)
    positions = torch.arange(T)[None].split(lengths, dim=1)
    for part, where in zip(x.split(lengths, dim=1), positions, strict=True):
        if model.config.model_type == "bamba":  # it does not count by itself
            cache["position_ids"] = where
        out = model(part, use_cache=True, **cache)
        names = ("past_key_values", "cache_params", "state")
        cache |= {name: out[name] for name in names if name in out}
        logits.append(out.logits)
    return torch.cat(logits, dim=1)


def first_cache(model):
    """For one row of tokens, if theirs is not returned, or has other widths than the config's."""
    c = model.config
    if c.model_type == "recurrent_gemma":
        from transformers import DynamicCache

        return {"past_key_values": DynamicCache(config=c)}
    if c.model_type == "rwkv":
        widths = [c.hidden_size, c.hidden_size, *[c.attention_hidden_size] * 3]
        *state, peak = (torch.zeros(1, width, c.num_hidden_layers).double() for width in widths)
        return {"state": [*state, peak - 1e30]}
    if c.model_type == "xlstm":
        layer, H = model.backbone.blocks[0].mlstm_layer, c.num_heads
        K, V = layer.qk_dim // H, layer.v_dim // H
        zeros = {
            i: [torch.zeros(1, H, *size).double() for size in ((K, V), (K,), (1,))]
            for i in range(c.num_blocks)
        }
        return {"cache_params": SimpleNamespace(rnn_state=zeros, seqlen_offset=0)}
    return {}


def in_parts(model, x, cuts):
    logits, states = [], None
    for part in torch.tensor_split(x, cuts, dim=1):
        y, states = model(part, states)
        logits.append(y)
    return torch.cat(logits, dim=1)


def assert_same(ours, theirs):
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@every_config
@torch.inference_mode()
def test_the_logits_are_theirs(theirs, float64_throughout, family, case):
    model, x = theirs(family, case), tokens()
    ours = from_transformers(model)
    with float64_throughout():
        logits = model(x).logits
    assert next(ours.parameters()).dtype == torch.float64 and not ours.training
    assert_same(ours(x)[0], logits)
    for cuts in ([5], [1, 2, 9], list(range(1, T))):
        torch.testing.assert_close(in_parts(ours, x, cuts), ours(x)[0], rtol=0, atol=1e-9)
    if (family, case) in THEY_CANNOT_DECODE:
        return
    x = x[:1]  # RWKV's decoding mixes the rows of a batch
    with float64_throughout():
        theirs_decoded = decoded(model, x)
    equal = (family, case) not in THEY_DECODE_OTHERWISE
    assert ((theirs_decoded - logits[:1]).abs().max() < 1e-9) == equal
    if equal:
        assert_same(in_parts(ours, x, list(range(4, T))), theirs_decoded)


@pytest.mark.oracle
@every_family
def test_a_saved_folder_loads_without_transformers(theirs, family, tmp_path):
    model, x = theirs(family), tokens()
    model.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path / "parts", max_shard_size="5KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    with torch.inference_mode():
        expected, _ = from_transformers(model)(x)
        for folder in (tmp_path, tmp_path / "parts"):
            logits, _ = from_pretrained(folder)(x)
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)


@pytest.mark.oracle
@every_family
def test_every_field_of_their_config_is_known_with_its_default(transformers_family, family):
    config_class, _ = transformers_family(family)
    known = FAMILIES[family].fields
    ignored = COMMON.keys() | NO_EFFECT | FAMILIES[family].no_effect
    assert config_class().to_dict().keys() <= known.keys() | ignored
    names, defaults = config_class.attribute_map, config_class.default_config_fields()
    defaults = {n if n in known else names.get(n, n): value for n, value in defaults.items()}
    both = known.keys() & defaults.keys()
    assert {n: known[n] for n in both} == {n: defaults[n] for n in both}


def other_values(value):
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [2 * value, value + 1, type(value)(value / 2)]
    return ["gelu", "relu"] if value == "silu" else [3, True]


@pytest.mark.oracle
@every_family
@torch.inference_mode()
def test_no_field_is_passed_over_in_silence(theirs, float64_throughout, family):
    """Each single field, changed to what they accept: equal logits, or an error with its name."""
    x, compared = tokens(), 0
    for field, value in theirs(family).config.to_dict().items():
        for other in [] if field == "initializer_range" else other_values(value):
            try:
                model = theirs(family, **{field: other})
                with float64_throughout():
                    logits = model(x).logits
            except Exception:  # they do not accept it themselves
                continue
            if getattr(model.config, field) != other or not logits.isfinite().all():
                continue
            try:
                ours = from_transformers(model)
            except ValueError as error:
                assert field in str(error), f"{field} = {other}: {error}"
                continue
            assert (ours(x)[0] - logits).abs().max() < 1e-9, f"{field} = {other} is passed over"
            compared += 1
    assert compared > 10
