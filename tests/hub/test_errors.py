"""Unsupported fields and weights that do not fit: one sentence, with the name."""

import json
import re
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from seqlab.ffn.swiglu import SwiGLU
from seqlab.hub import FAMILIES, from_pretrained, from_transformers
from seqlab.hub.config import Config
from seqlab.hub.llama import NAMES
from seqlab.hub.weights import experts, fill, into, plus_one, same_as, without_channel
from seqlab.zoo.find import plain

CONFIG = {
    "model_type": "llama",
    "vocab_size": 7,
    "hidden_size": 8,
    "intermediate_size": 6,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def weights(**options):
    """Random weights under Llama's names."""
    c = Config("llama", CONFIG | options, FAMILIES["llama"].fields)
    model = FAMILIES["llama"].build(c)
    theirs = {}
    for name, weight in model.state_dict().items():
        starred = name.replace("blocks.0", "blocks.*").replace("blocks.1", "blocks.*")
        for their, our in NAMES.items():
            if our and starred.startswith(f"{our}."):
                layer = name.split(".")[1] if "blocks" in name else ""
                theirs[their.replace("*", layer) + ".weight"] = torch.randn_like(weight)
    return theirs


def load(weights, **options):
    return FAMILIES["llama"].load(CONFIG | options, weights.items())


def test_weights_are_copied_in_their_own_dtype():
    theirs = {name: w.bfloat16() for name, w in weights().items()}
    model = load(theirs)
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    head = model.head.weight.clone()
    theirs["lm_head.weight"] += 1
    assert torch.equal(model.head.weight, head)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_act", "crelu"),
        ("is_encoder_decoder", True),
        ("per_layer_config", {"0": {"hidden_size": 4}}),
        ("sliding_window_of_next_year", 4),
        ("quantization_config", {"bits": 4}),
    ],
)
def test_a_field_we_do_not_offer_is_named(field, value):
    with pytest.raises(ValueError, match=f"llama: the config field {field} is .*supported"):
        load(weights(), **{field: value})


@pytest.mark.parametrize("name", ["rope_parameters", "rope_scaling"])
def test_an_unknown_rope_is_named(name):
    with pytest.raises(ValueError, match=rf"field {name}.rope_type is 'dynamic'"):
        load(weights(), **{name: {"rope_type": "dynamic", "factor": 2.0}})
    says = rf"field {name}.factor is 2.0: .* with rope_type 'default'"
    with pytest.raises(ValueError, match=says):
        load(weights(), **{name: {"rope_type": "default", "factor": 2.0}})
    says = rf"field {name}.low_freq_factor is missing: rope_type 'llama3'"
    with pytest.raises(ValueError, match=says):
        load(weights(), **{name: {"type": "llama3", "factor": 2.0}})


def test_old_and_new_words_for_the_rope_base_agree():
    theirs, x = weights(), torch.randint(7, (1, 9))
    old, new = load(theirs, rope_theta=50.0), load(theirs, rope_parameters={"rope_theta": 50.0})
    torch.testing.assert_close(old(x)[0], new(x)[0])
    assert (load(theirs)(x)[0] - new(x)[0]).abs().max() > 1e-3
    old = load(theirs, rope_theta=50.0, rope_scaling={"type": "linear", "factor": 2.0})
    new = load(theirs, rope_parameters={"rope_theta": 50.0, "rope_type": "linear", "factor": 2.0})
    torch.testing.assert_close(old(x)[0], new(x)[0])


def test_weights_without_a_place_and_places_without_weights_are_named():
    homeless = {"score.weight": torch.ones(2), "model.layers.1.extra.q": torch.ones(2)}
    says = r"weights score.weight, model.layers.1.extra.q have no place in our model\. Is"
    with pytest.raises(ValueError, match=says):
        load(weights() | homeless)
    missing = weights()
    del missing["model.layers.1.mlp.up_proj.weight"]
    says = r"^llama: nothing fills our blocks.1.ffn.up.weight\. Is this the config"
    with pytest.raises(ValueError, match=says):
        load(missing)
    says = r"nothing fills our embedding.weight.* and 17 more\. .* num_hidden_layers=2, "
    with pytest.raises(ValueError, match=says):
        load({})


def test_weights_of_another_size_are_named():
    says = r"lm_head.weight has shape \(9, 8\), our head.weight has \(7, 8\)"
    with pytest.raises(ValueError, match=says):
        load(weights() | {"lm_head.weight": torch.ones(9, 8)})


def test_a_weight_the_config_leaves_out_is_named():
    extra = weights() | {"model.layers.1.self_attn.q_proj.bias": torch.ones(8)}
    says = r"q_proj.bias belongs to our blocks.1.mixer.q.bias, which the config leaves"
    with pytest.raises(ValueError, match=says):
        load(extra)


def test_a_tied_head_must_be_the_embedding():
    theirs = weights()
    says = r"lm_head.weight differs from the weight it should share with our head"
    with pytest.raises(ValueError, match=says):
        load(theirs, tie_word_embeddings=True)
    theirs["lm_head.weight"] = theirs["model.embed_tokens.weight"]
    once = {n: w for n, w in theirs.items() if n != "lm_head.weight"}
    for given in (theirs, once):
        model = load(given, tie_word_embeddings=True)
        assert model.head.weight is model.embedding.weight


def test_a_folder_needs_no_transformers(tmp_path, monkeypatch):
    theirs, x = weights(), torch.randint(7, (1, 9))
    monkeypatch.setitem(sys.modules, "transformers", None)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save_file(theirs, tmp_path / "model.safetensors")
    model = from_pretrained(tmp_path)
    assert not model.training and torch.equal(model(x)[0], load(theirs)(x)[0])


PUBLISHED = {
    "llama": {
        "max_position_embeddings": 131072,
        "rope_scaling": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "pretraining_tp": 1,
        "torch_dtype": "bfloat16",
    },
    "mixtral": {
        "num_key_value_heads": 2,
        "router_aux_loss_coef": 0.02,
        "output_router_logits": False,
        "sliding_window": None,
        "rope_theta": 1e6,
    },
    "deepseek_v3": {
        "auto_map": {"AutoModel": "modeling_deepseek.DeepseekV3Model"},
        "aux_loss_alpha": 0.001,
        "ep_size": 1,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "num_attention_heads": 128,
        "num_nextn_predict_layers": 1,
        "rope_scaling": {
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 40,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096,
            "type": "yarn",
        },
        "scoring_func": "sigmoid",
        "seq_aux": True,
        "topk_method": "noaux_tc",
        "n_routed_experts": 16,
        "moe_intermediate_size": 4,
    },
    "jamba": {
        "attn_layer_offset": 1,
        "calc_logits_for_entire_prompt": False,
        "mamba_inner_layernorms": True,
        "n_ctx": 262144,
        "num_experts": 3,
        "num_key_value_heads": 1,
        "sliding_window": None,
        "use_mamba_kernels": True,
    },
    "bamba": {
        "attn_layer_indices": [1],
        "attn_rotary_emb": 2,
        "mamba_d_head": 8,
        "mamba_dt_rank": 256,
        "mamba_n_heads": 2,
        "num_key_value_heads": 1,
        "rope_scaling": None,
        "rope_theta": 10000.0,
    },
    "zamba2": {
        "attention_head_dim": 8,
        "attention_hidden_size": 16,
        "ffn_hidden_size": 6,
        "hybrid_layer_ids": [1],
        "layers_block_type": ["mamba", "hybrid"],
        "mamba_headdim": 2,
        "num_mem_blocks": 2,
        "rope_theta": 10000,
        "use_shared_mlp_adapter": True,
    },
    "recurrent_gemma": {
        "attention_window_size": 2048,
        "block_types": ["recurrent", "recurrent", "attention"],
        "embeddings_scale_by_sqrt_dim": True,
        "final_w_init_variance_scale": 0.07692307692307693,
        "head_dim": 4,
        "logits_soft_cap": 30.0,
        "lru_width": 8,
        "num_key_value_heads": 1,
        "partial_rotary_factor": 0.5,
        "rope_theta": 10000.0,
        "w_init_variance_scale": 0.01,
    },
    "rwkv": {
        "attention_hidden_size": 8,
        "context_length": 1024,
        "layer_norm_epsilon": 1e-5,
        "rescale_every": 6,
    },
    "xlstm": {
        "add_embedding_dropout": False,
        "add_forward_backend_padding": False,
        "add_out_norm": True,
        "add_post_blocks_norm": True,
        "add_post_norm": False,
        "add_qk_norm": False,
        "cell_norm_eps": 1e-6,
        "chunkwise_kernel": "chunkwise--triton_xl_chunk",
        "embedding_dim": 8,
        "ffn_round_up_to_multiple_of": 64,
        "force_bos_token_insert": True,
        "head_dim": 512,
        "igate_bias_init_range": -10.0,
        "mlstm_round_up_to_multiple_of": 64,
        "num_blocks": 2,
        "num_heads": 2,
        "weight_mode": "single",
    },
    "qwen3_next": {
        "decoder_sparse_step": 1,
        "full_attention_interval": 2,
        "head_dim": 8,
        "linear_num_key_heads": 1,
        "linear_num_value_heads": 2,
        "mlp_only_layers": [],
        "num_experts": 12,
        "partial_rotary_factor": 0.25,
        "rope_scaling": None,
        "rope_theta": 10000000,
        "use_sliding_window": False,
    },
    "kimi_linear": {
        "first_k_dense_replace": 1,
        "head_dim": 72,
        "linear_attn_config": {
            "full_attn_layers": [2],
            "head_dim": 4,
            "kda_layers": [1],
            "num_heads": 2,
            "short_conv_kernel_size": 4,
        },
        "mla_use_nope": True,
        "model_max_length": 1048576,
        "moe_layer_freq": 1,
        "moe_router_activation_func": "sigmoid",
        "num_expert_group": 1,
        "num_experts": 12,
        "num_key_value_heads": 2,
        "num_nextn_predict_layers": 0,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "use_grouped_topk": True,
    },
    "mamba": {
        "d_inner": 1536,
        "fused_add_norm": True,
        "n_layer": 24,
        "rms_norm": True,
        "ssm_cfg": {},
    },
    "falcon_mamba": {
        "expand": 16,
        "intermediate_size": 16,
        "time_step_rank": 256,
        "use_mambapy": False,
    },
    "mamba2": {
        "head_dim": 8,
        "num_heads": 2,
        "n_groups": 2,
        "norm_before_gate": True,
        "time_step_limit": [0.0, 1e9],
    },
}


LISTS = PUBLISHED["kimi_linear"]["linear_attn_config"]


@pytest.mark.parametrize(
    ("family", "field", "value", "says"),
    [
        ("jamba", "hidden_act", "gelu", "is 'gelu': only 'silu' is supported with Mamba"),
        ("jamba", "mamba_inner_layernorms", False, "is False: only True"),
        ("jamba", "sliding_window", 4, "is 4: only None"),
        ("bamba", "attn_rotary_emb", 4, "is 4: partial_rotary_factor makes it 2"),
        ("bamba", "mamba_d_head", 7, "is 7: with mamba_n_heads it must make up"),
        ("zamba2", "layers_block_type", ["mamba", "attention"], "holds 'attention': only"),
        ("zamba2", "layers_block_type", ["mamba"], "has 1 entries, num_hidden_layers is 2"),
        ("zamba2", "hybrid_layer_ids", [0], "is [0]: other fields make it [1]"),
        ("zamba2", "attention_head_dim", 4, "is 4: other fields make it 8"),
        ("zamba2", "n_mamba_heads", 3, "is 3: mamba_expand x hidden_size, 16, must be a multiple"),
        ("zamba2", "num_mem_blocks", 0, "is 0: at least one"),
        (
            "zamba2",
            "tie_word_embeddings",
            False,
            "is False: `transformers` then shares no transformers",
        ),
        ("zamba2", "use_conv_bias", False, "is False: only True"),
        ("zamba2", "use_long_context", True, "is True: only False"),
        ("zamba2", "use_shared_mlp_adapter", False, "is False: only True"),
        (
            "recurrent_gemma",
            "block_types",
            ["recurrent", "mamba"],
            "holds 'mamba': only recurrent and attention",
        ),
        ("recurrent_gemma", "hidden_activation", "crelu", "is 'crelu': only"),
        ("recurrent_gemma", "embeddings_scale_by_sqrt_dim", False, "is False: only True"),
        ("recurrent_gemma", "rope_parameters", {"rope_type": "dynamic"}, ".rope_type is 'dynamic'"),
        ("rwkv", "head_size", 64, "is 64, and its effect is unknown"),
        ("xlstm", "embedding_dim", 16, "is 16, hidden_size is 8"),
        ("xlstm", "add_out_norm", False, "is False: only True"),
        ("xlstm", "add_qk_norm", True, "is True: only False"),
        ("xlstm", "cell_norm_eps", 1e-5, "is 1e-05: only 1e-06"),
        ("xlstm", "tie_word_embeddings", True, "is True: only False"),
        (
            "qwen3_next",
            "layer_types",
            ["full_attention", "sliding_attention"],
            "holds 'sliding_attention': only",
        ),
        ("qwen3_next", "layer_types", ["full_attention"], "has 1 entries, num_hidden_layers is 2"),
        ("qwen3_next", "use_sliding_window", True, "is True: only False"),
        ("qwen3_next", "hidden_act", "crelu", "is 'crelu': only"),
        ("kimi_linear", "layer_types", ["full_attention", "mamba"], "holds 'mamba': only"),
        (
            "kimi_linear",
            "mlp_layer_types",
            ["dense", "soft"],
            "holds 'soft': only dense and sparse",
        ),
        (
            "kimi_linear",
            "linear_attn_config",
            LISTS | {"head_v_dim": 3},
            ".head_v_dim is 3: it is not supported",
        ),
        (
            "kimi_linear",
            "linear_attn_config",
            LISTS | {"kda_layers": [2]},
            "must name every layer once",
        ),
        (
            "kimi_linear",
            "linear_attn_config",
            LISTS | {"kda_layers": [0]},
            "must name every layer once",
        ),
        ("kimi_linear", "num_key_value_heads", 1, "is 1, num_attention_heads is 2"),
        ("kimi_linear", "mla_use_nope", False, "is False: only True"),
        ("kimi_linear", "moe_layer_freq", 2, "is 2: only 1"),
        ("kimi_linear", "moe_router_activation_func", "softmax", "is 'softmax': only 'sigmoid'"),
        ("kimi_linear", "use_grouped_topk", False, "is False: only True"),
        ("kimi_linear", "num_nextn_predict_layers", 1, "is 1: only 0"),
        ("kimi_linear", "tie_word_embeddings", True, "is True: only False"),
    ],
)
def test_what_a_family_does_not_offer_is_named(family, field, value, says):
    sizes = {name: CONFIG[name] for name in CONFIG if name in FAMILIES[family].fields}
    sentence = f"^{family}: the config field {field}( ?){re.escape(says)}"
    with pytest.raises(ValueError, match=sentence):
        FAMILIES[family].prepare(sizes | PUBLISHED[family] | {field: value})


@pytest.mark.parametrize("family", PUBLISHED)
def test_the_fields_of_published_configs_are_understood(family):
    """As older versions of the libraries wrote them, with smaller sizes."""
    sizes = {name: CONFIG[name] for name in CONFIG if name in FAMILIES[family].fields}
    model, _ = FAMILIES[family].prepare(sizes | PUBLISHED[family])
    assert model(torch.randint(7, (1, 5)))[0].shape == (1, 5, 7)


def test_predictions_of_the_token_after_next_are_left_out():
    sizes = {
        "num_attention_heads": 128,
        "n_routed_experts": 16,
        "moe_intermediate_size": 4,
        "first_k_dense_replace": 1,
    }
    _, table = FAMILIES["deepseek_v3"].prepare(CONFIG | sizes)
    gates = [(f"model.layers.{i}.mlp.gate.weight", torch.ones(2)) for i in (2, 3)]
    with pytest.raises(ValueError, match=r"^model.layers.3.mlp.gate.weight belongs to our block"):
        fill(nn.Linear(2, 2), gates, table)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("num_attention_heads", 5, "is 5: it must be a multiple of num_key_value_heads, 2"),
        ("vocab_size", "7", "is '7': it must be of the kind of 32000"),
    ],
)
def test_an_impossible_size_is_named(field, value, says):
    with pytest.raises(ValueError, match=f"^llama: the config field {field} {says}"):
        load(weights(), num_key_value_heads=2, **{field: value})


def test_what_a_part_refuses_is_said_of_the_family():
    with pytest.raises(ValueError, match=r"^mixtral: top_k is 9, n_experts is 8"):
        FAMILIES["mixtral"].prepare(CONFIG | {"num_key_value_heads": 2, "num_experts_per_tok": 9})


def test_folders_without_a_model(tmp_path):
    says = r"there is no folder meta/Llama, and nothing is downloaded: from_tr"
    with pytest.raises(FileNotFoundError, match=says):
        from_pretrained("meta/Llama")
    with pytest.raises(FileNotFoundError, match=r"has no config.json"):
        from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(FileNotFoundError, match=r"has no model.safetensors: [^;]*$"):
        from_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    says = r"; for .bin files: from_transformers\(AutoModelForCausalLM"
    with pytest.raises(FileNotFoundError, match=says):
        from_pretrained(tmp_path)
    save_file(weights(), tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    for n in (len(whole) // 2, 4):
        (tmp_path / "model.safetensors").write_bytes(whole[:n])
        says = r"model.safetensors cannot be read; it may be incomplete"
        with pytest.raises(OSError, match=says):
            from_pretrained(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ValueError, match=r"index.json is not JSON"):
        from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"model_type": "bert"}))
    with pytest.raises(ValueError, match=r"model_type is 'bert': choose one of llama"):
        from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is not JSON: Expecting property name"):
        from_pretrained(tmp_path)


def test_the_docs_name_every_family():
    page = (Path(__file__).parents[2] / "docs/checkpoints.md").read_text()
    named = plain(page.partition("The families are")[2][:400])
    assert all(plain(name) in named for name in FAMILIES)


def test_what_is_no_language_model_of_transformers_is_named():
    for thing, kind in (("a/folder", "str"), (nn.Linear(2, 2), "Linear")):
        says = f"a {kind} is not a transformers model: .* a folder goes to from_pretrained"
        with pytest.raises(TypeError, match=says):
            from_transformers(thing)


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["LlamaModel", "LlamaForSequenceClassification"])
def test_a_model_without_a_head_is_named(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        needs = "needs transformers: pip install -e '.[test]'"
        transformers = pytest.importorskip("transformers", reason=needs)
        model = getattr(transformers, kind)(transformers.LlamaConfig(**CONFIG, pad_token_id=0))
    with pytest.raises(ValueError, match=f"{kind} has no head for the next token"):
        from_transformers(model)


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 2)
        self.b = nn.Linear(3, 4)
        self.experts = nn.ModuleList(SwiGLU(3, 5) for _ in range(2))
        self.rows = nn.Parameter(torch.zeros(5, 2))
        self.norm = nn.Parameter(torch.zeros(3))
        self.taps = nn.Parameter(torch.zeros(3, 4))


def parts():
    theirs = {"ab.weight": torch.randn(6, 3), "ab.bias": torch.randn(6), "n": torch.randn(3)}
    theirs |= {"top": torch.randn(2, 2), "bottom": torch.randn(3, 2), "conv": torch.randn(3, 1, 4)}
    theirs |= {"e.gate_up_proj": torch.randn(2, 10, 3), "e.down_proj": torch.randn(2, 3, 5)}
    table = {
        "ab": into("a", "b"),
        "n": into("norm", by=plus_one),
        "conv": into("taps", by=without_channel),
        "top": "rows[0:2]",
        "bottom": "rows[2:5]",
        "angles": None,
        "mtp.0": None,
        "decays": same_as(torch.tensor([0.5, 0.3])),
    }
    return theirs, table | experts("e", "experts", 2)


def test_fused_weights_are_cut_and_cut_ones_fused():
    model, (theirs, table) = Parts(), parts()
    dropped = [("angles", torch.ones(1)), ("mtp.0.norm.weight", torch.ones(1))]
    fill(model, [*theirs.items(), *dropped, ("decays", torch.tensor([[0.5], [0.3]]).half())], table)
    torch.testing.assert_close(torch.cat([model.a.weight, model.b.weight]), theirs["ab.weight"])
    torch.testing.assert_close(torch.cat([model.a.bias, model.b.bias]), theirs["ab.bias"])
    torch.testing.assert_close(model.rows, torch.cat([theirs["top"], theirs["bottom"]]))
    torch.testing.assert_close(model.norm, theirs["n"] + 1)
    torch.testing.assert_close(model.taps, theirs["conv"][:, 0])


def test_stacked_and_separate_experts_are_the_same():
    (theirs, table), stacked, separate = parts(), Parts(), Parts()
    fill(stacked, theirs.items(), table)
    gate_up, down = theirs.pop("e.gate_up_proj"), theirs.pop("e.down_proj")
    for e in range(2):
        names = (f"e.{e}.gate_proj.weight", f"e.{e}.up_proj.weight", f"e.{e}.down_proj.weight")
        theirs |= dict(zip(names, (*gate_up[e].chunk(2), down[e]), strict=True))
    fill(separate, theirs.items(), table)
    for ours, other in zip(stacked.parameters(), separate.parameters(), strict=True):
        assert torch.equal(ours, other)


def test_a_missing_slice_a_missing_expert_a_wrong_cut_and_another_constant_are_named():
    theirs, table = parts()
    both = "experts.0.down.weight, experts.1.down.weight"
    for name, ours in (("bottom", "rows"), ("e.down_proj", both)):
        with pytest.raises(ValueError, match=rf"^nothing fills our {ours}$"):
            fill(Parts(), [(n, w) for n, w in theirs.items() if n != name], table)
    says = r"ab.weight has size 7 along 0: \[2, 4\] in parts is needed"
    with pytest.raises(ValueError, match=says):
        fill(Parts(), (theirs | {"ab.weight": torch.ones(7, 3)}).items(), table)
    with pytest.raises(ValueError, match=r"decays is a constant, but not the one"):
        fill(Parts(), (theirs | {"decays": torch.tensor([0.5, 0.31])}).items(), table)
