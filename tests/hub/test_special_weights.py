"""Weights that a checkpoint may hold in more than one way, and configs of older libraries."""

import pytest
import torch

from seqlab.hub import FAMILIES, from_transformers

V, T = 31, 11
RWKV = {
    "vocab_size": V,
    "hidden_size": 12,
    "num_hidden_layers": 5,
    "rescale_every": 2,
    "layer_norm_epsilon": 0.01,
}
XLSTM = {
    "vocab_size": V,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_heads": 2,
    "use_bias": True,
    "use_cache": False,
    "ffn_round_up_to_multiple_of": 5,
    "weight_mode": "fused",
}

pytestmark = pytest.mark.oracle


def stirred(model):
    for p in model.parameters():
        p.data += torch.randn_like(p) * (0.2 if p.ndim < 2 else p.shape[-1] ** -0.5)
    return model


@pytest.fixture
def rwkv(transformers_family, float64_throughout):
    config_class, model_class = transformers_family("rwkv")
    with float64_throughout():
        return stirred(model_class(config_class(**RWKV)).double().eval())


def test_rwkv_weights_are_those_of_training_whether_or_not_theirs_are_divided(
    rwkv, float64_throughout
):
    x = torch.randint(V, (2, T))
    before = from_transformers(rwkv)
    with float64_throughout(), torch.no_grad():
        logits = rwkv(x).logits
    after = from_transformers(rwkv)
    last = rwkv.state_dict()["rwkv.blocks.4.attention.output.weight"]
    assert torch.equal(4 * last, after.blocks[4].mixer.out.weight)
    for ours in (before, after):
        torch.testing.assert_close(ours(x)[0], logits, rtol=0, atol=1e-9)


def test_rwkv_in_training_is_not_halved(rwkv, float64_throughout):
    x = torch.randint(V, (2, T))
    with float64_throughout():
        halved = rwkv(x).logits
        logits = rwkv.train()(x).logits
    ours = from_transformers(rwkv)
    assert ours.training and (halved - logits).abs().max() > 1e-4
    torch.testing.assert_close(ours(x)[0], logits, rtol=0, atol=1e-9)
    torch.testing.assert_close(ours.eval()(x)[0], halved, rtol=0, atol=1e-9)


@torch.no_grad()
def test_fused_xlstm_weights_are_cut(transformers_family, float64_throughout, monkeypatch):
    config_class, model_class = transformers_family("xlstm")
    # Their own start fails on fused weights.
    monkeypatch.setattr(model_class.__mro__[1], "_init_weights", lambda self, module: None)
    x = torch.randint(V, (2, T))
    with float64_throughout():
        model = stirred(model_class(config_class(**XLSTM)).double().eval())
        logits = model(x).logits
    assert "backbone.blocks.0.mlstm_layer.qkv_opreact.weight" in model.state_dict()
    torch.testing.assert_close(from_transformers(model)(x)[0], logits, rtol=0, atol=1e-9)


def test_qwen3_next_leaves_out_its_predictions_of_the_token_after_next(transformers_family):
    config_class, model_class = transformers_family("qwen3_next")
    sizes = {
        "num_hidden_layers": 1,
        "hidden_size": 8,
        "num_experts": 3,
        "num_experts_per_tok": 1,
        "vocab_size": V,
    }
    model = model_class(config_class(**sizes, moe_intermediate_size=4, head_dim=8))
    extra = {"mtp.layers.0.mlp.gate.weight": torch.ones(2), "mtp.norm.weight": torch.ones(2)}
    ours = FAMILIES["qwen3_next"].load(model.config.to_dict(), (model.state_dict() | extra).items())
    x = torch.randint(V, (1, 5))
    torch.testing.assert_close(ours(x)[0], from_transformers(model)(x)[0])


SMALL = {"vocab_size": V, "hidden_size": 12, "num_attention_heads": 2, "num_key_value_heads": 2}
EXPERTS = {"num_experts": 4, "moe_intermediate_size": 5, "intermediate_size": 7}
QWEN = (
    SMALL
    | EXPERTS
    | {"num_experts_per_tok": 2, "shared_expert_intermediate_size": 3, "head_dim": 8}
)
QWEN |= {
    f"linear_{name}": 4
    for name in ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim")
}
KIMI = (
    SMALL
    | EXPERTS
    | {"num_experts_per_token": 2, "kv_lora_rank": 3, "qk_nope_head_dim": 4, "v_head_dim": 4}
)
KIMI |= {"qk_rope_head_dim": 2, "head_dim": 72, "pad_token_id": 0}
LISTS = {
    "num_heads": 3,
    "head_dim": 4,
    "short_conv_kernel_size": 3,
    "kda_layers": [1, 3, 5],
    "full_attn_layers": [2, 4],
}


@pytest.mark.parametrize(
    ("family", "old"),
    [
        ("llama", SMALL | {"intermediate_size": 7, "rope_theta": 100.0, "num_hidden_layers": 1}),
        (
            "recurrent_gemma",
            SMALL | {"rope_theta": 100.0, "partial_rotary_factor": 0.9, "num_hidden_layers": 5},
        ),
        (
            "xlstm",
            XLSTM
            | {
                "num_blocks": 3,
                "num_hidden_layers": 32,
                "embedding_dim": 12,
                "weight_mode": "single",
            },
        ),
        (
            "qwen3_next",
            QWEN | {"full_attention_interval": 3, "num_hidden_layers": 7, "rope_theta": 100.0},
        ),
        (
            "qwen3_next",
            QWEN | {"num_hidden_layers": 4, "partial_rotary_factor": 0.75, "rope_scaling": None},
        ),
        (
            "kimi_linear",
            KIMI | {"linear_head_dim": 4, "linear_num_heads": 3, "num_hidden_layers": 9},
        ),
        (
            "kimi_linear",
            KIMI
            | {
                "linear_attn_config": LISTS,
                "num_hidden_layers": 5,
                "first_k_dense_replace": 2,
                "rope_theta": 9.0,
            },
        ),
    ],
)
@torch.no_grad()
def test_an_old_config_is_the_model_they_make_of_it(
    transformers_family, float64_throughout, family, old
):
    config_class, model_class = transformers_family(family)
    x = torch.randint(V, (2, T))
    with float64_throughout():
        model = stirred(model_class(config_class(**old)).double().eval())
        logits = model(x).logits
    ours = FAMILIES[family].load(old, model.state_dict().items())
    torch.testing.assert_close(ours(x)[0], logits, rtol=0, atol=1e-9)
