"""Whole models: their layouts, their published sizes, and that each tiny one learns."""

import inspect
import re

import pytest
import torch
from torch.nn.functional import cross_entropy

from seqlab.blocks import SharedBlock
from seqlab.ffn import MoE
from seqlab.hub import FAMILIES
from seqlab.zoo import RECIPES, recipe
from seqlab.zoo.row import COUNTED

every_recipe = pytest.mark.parametrize("r", RECIPES, ids=lambda r: r.name)


def layers(model):
    """The class of each block's mixer, or of a block without one."""
    return [type(getattr(block, "mixer", block)).__name__ for block in model.blocks]


def logits_in_parts(model, tokens, cuts):
    logits, states = [], None
    for part in torch.tensor_split(tokens, cuts, dim=1):
        y, states = model(part, states)
        logits.append(y)
    return torch.cat(logits, dim=1)


@every_recipe
def test_a_recipe_names_its_sources(r):
    assert re.match(r"arXiv:\d{4}\.\d{4,5}$|doi:10\.|card:", r.paper) or (r.method and not r.paper)
    assert r.oracle and r.source and r.layout
    assert 2017 <= r.year <= 2026 and 1 <= r.chapter <= 29 and r.published
    sizes = inspect.signature(r.build).parameters
    taken = set(sizes)
    if "sizes" in sizes:
        taken |= inspect.signature(recipe("Griffin").build).parameters.keys()
    for published in r.published.values():
        assert published.keys() <= taken | set(COUNTED)


@every_recipe
@torch.no_grad()
def test_the_tiny_model_is_causal_and_decodes(r):
    torch.manual_seed(0)
    model, tokens = r.tiny().double().eval(), torch.randint(256, (2, 41))
    logits, later = model(tokens)[0], tokens.clone()
    assert logits.shape == (2, 41, 256)
    later[:, 25:] = torch.randint(256, (2, 16))
    torch.testing.assert_close(model(later)[0][:, :25], logits[:, :25], rtol=0, atol=1e-9)
    for cuts in ([17], [1, 2, 30], range(1, 41)):
        parts = logits_in_parts(model, tokens, list(cuts))
        torch.testing.assert_close(parts, logits, rtol=0, atol=1e-9)


@every_recipe
def test_ten_steps_lower_the_loss_and_reach_every_parameter(r):
    torch.manual_seed(0)
    model, tokens = r.tiny(), torch.randint(256, (4, 25))
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    losses, moved = [], dict.fromkeys(model.parameters(), 0.0)
    for _ in range(10):
        logits, _ = model(tokens[:, :-1])
        loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        for p in moved:  # an expert without a token in this step has a gradient of 0
            moved[p] += p.grad.abs().sum().item()
    assert losses[-1] < 0.75 * losses[0]
    assert all(moved.values())


# How far our count may be from the published one, which is rounded, and leaves some parts out.
OFF_BY = {
    ("Transformer 2026", "Llama 3.1 8B"): 0,
    ("Transformer 2026", "Llama 3.1 70B"): 0,
    ("Transformer 2026", "Qwen3 8B"): 0,
    ("Codestral Mamba", "7B"): 0,
    ("Falcon Mamba", "7B"): 0.001,
    # The paper's abstract rounds both to two digits.
    ("RWKV World3", "0.1B"): 0.02,
    ("RWKV World3", "2.9B"): 0.02,
    ("Mixtral", "8x7B"): 0.01,
    ("Mixtral", "8x22B"): 0.01,
    ("DBRX", "132B"): 0.01,
    ("Qwen3 MoE", "30B-A3B"): 0.002,
    ("Qwen3 MoE", "235B-A22B"): 0.002,
    ("DeepSeek-V3", "V3"): 0.001,
    ("Jamba", "v0.1"): 0.01,
    ("Jamba", "1.5 Large"): 0.01,
    ("Zamba", "7B"): 0.04,
    ("Zamba2", "2.7B"): 0.02,
    ("Samba", "421M"): 0.002,
    ("Samba", "1.3B"): 0.03,
    # Ours has one more output matrix; in theirs, pairs of layers share keys and values.
    ("Hymba", "1.5B"): 0.07,
    ("Bamba", "9B"): 0.001,
    ("Griffin", "7B"): 0.04,
    ("Hawk", "7B"): 0.02,
    ("RecurrentGemma", "2B"): 0.01,
    ("RecurrentGemma", "9B"): 0.01,
    ("MiniMax-01", "Text-01"): 0.001,
    ("Qwen3-Next", "80B-A3B"): 0.01,
    ("StripedHyena", "7B"): 0.001,
}
ACTIVE_OFF_BY = {
    "Mixtral": 0.01,
    "DBRX": 0.02,
    "Qwen3 MoE": 0.02,
    "DeepSeek-V3": 0.02,
    "Jamba": 0.01,
    "MiniMax-01": 0.002,
    "Qwen3-Next": 0.1,
}
# The published total leaves out the embedding.
NO_EMBEDDING = {"Griffin", "Hawk"}
# The published active parameters leave out embedding and head.
NOT_ACTIVE = {"MiniMax-01", "Qwen3-Next"}


def idle(moe):
    """The parameters of the experts that do not serve a token."""
    share = 1 - moe.router.top_k / len(moe.experts)
    return share * sum(p.numel() for p in moe.experts.parameters())


def embedding_and_head(model):
    return sum(p.numel() for p in {model.embedding.weight, model.head.weight})


@pytest.mark.parametrize(("name", "model"), OFF_BY, ids=str)
def test_the_full_model_has_the_published_number_of_parameters(name, model):
    r = recipe(name)
    sizes, full = r.published[model], r.full(model)
    total = sum(p.numel() for p in full.parameters())
    assert {p.device.type for p in full.parameters()} == {"meta"}
    counted = total - embedding_and_head(full) if name in NO_EMBEDDING else total
    assert counted == pytest.approx(sizes["total"], rel=OFF_BY[name, model])
    if "active" in sizes:
        active = total - sum(idle(m) for m in full.modules() if isinstance(m, MoE))
        active -= embedding_and_head(full) if name in NOT_ACTIVE else 0
        assert active == pytest.approx(sizes["active"], rel=ACTIVE_OFF_BY[name])


def test_every_published_total_is_checked():
    totals = {
        (r.name, model) for r in RECIPES for model, sizes in r.published.items() if "total" in sizes
    }
    with_an_encoder = {("Transformer 2017", "base"), ("Transformer 2017", "big")}
    assert totals - OFF_BY.keys() == with_an_encoder | {("Switch Transformer", "C")}


def test_two_halves_make_up_switch_c():
    """Each half has its own experts; a decoder's layer also attends to the encoder."""
    r = recipe("Switch Transformer")
    sizes, full = r.published["C"], r.full("C")
    half = sum(p.numel() for p in full.blocks.parameters())
    attention = sum(p.numel() for p in full.blocks[0].mixer.parameters())
    counted = 2 * half + sizes["n_layers"] * attention + full.embedding.weight.numel()
    assert counted == pytest.approx(sizes["total"], rel=0.003)


@pytest.mark.parametrize("model", ["base", "big"])
def test_an_encoder_and_cross_attention_make_up_the_transformer_of_2017(model):
    """An encoder's layer is ours, unmasked; a decoder's has 4 matrices and a norm more."""
    r = recipe("Transformer 2017")
    sizes = r.published[model]
    D, n, V = sizes["d_model"], sizes["n_layers"], sizes["vocab"]
    layers = sum(p.numel() for p in r.full(model).parameters()) - V * D - V
    counted = V * D + 2 * layers + n * (4 * D * D + 2 * D)
    assert counted == pytest.approx(sizes["total"], rel=0.04)


def test_jamba_has_one_attention_in_eight_and_experts_in_every_second():
    for model in (recipe("Jamba").tiny(), recipe("Jamba").full("v0.1")):
        kinds = layers(model)
        attention = [i for i, kind in enumerate(kinds) if kind == "Attention"]
        assert attention == list(range(4, len(kinds), 8))
        assert set(kinds) == {"Attention", "Mamba"}
        assert kinds.count("Mamba") == 7 * len(attention)
        sparse = [isinstance(block.ffn, MoE) for block in model.blocks]
        assert sparse == [False, True] * (len(kinds) // 2)
        assert all(model.blocks[i].mixer.theta is None for i in attention)


# Of a recipe's tiny model, or of a published one: (kind, place, period) of one kind of layer.
ONE_IN = {
    ("Griffin", None): ("Attention", 2, 3),
    ("Griffin", "7B"): ("Attention", 2, 3),
    ("RecurrentGemma", "2B"): ("Attention", 2, 3),
    ("MiniMax-01", None): ("Attention", 7, 8),
    ("MiniMax-01", "Text-01"): ("Attention", 7, 8),
    ("Qwen3-Next", None): ("Attention", 3, 4),
    ("Samba", None): ("Attention", 1, 2),
    ("StripedHyena", "7B"): ("Attention", 1, 2),
    ("2027 stack", None): ("Attention", 3, 4),
}


@pytest.mark.parametrize(("name", "model"), ONE_IN, ids=str)
def test_attention_has_its_place_in_each_period(name, model):
    kind, offset, period = ONE_IN[name, model]
    kinds = layers(recipe(name).full(model) if model else recipe(name).tiny())
    assert [i for i, k in enumerate(kinds) if k == kind] == list(range(offset, len(kinds), period))
    assert len(set(kinds)) == 2


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Transformer 2026", "Attention"),
        ("Falcon Mamba", "Mamba"),
        ("Codestral Mamba", "Mamba2"),
        ("Hawk", "RGLRU"),
    ],
)
def test_some_models_have_one_kind_of_layer(name, kind):
    assert set(layers(recipe(name).tiny())) == {kind}


def test_bambas_attention_is_where_its_config_says():
    kinds = layers(recipe("Bamba").full("9B"))
    assert [i for i, kind in enumerate(kinds) if kind == "Attention"] == [9, 18, 27]
    assert kinds.count("Mamba2") == 29


def test_deepseek_begins_dense():
    experts = [isinstance(block.ffn, MoE) for block in recipe("DeepSeek-V3").tiny().blocks]
    assert experts == [False, True, True] and set(layers(recipe("DeepSeek-V3").tiny())) == {"MLA"}


@pytest.mark.parametrize("size", ["tiny", "full"])
def test_hymba_sees_everything_in_its_first_middle_and_last_layer_only(size):
    model = recipe("Hymba").tiny() if size == "tiny" else recipe("Hymba").full("1.5B")
    windows = [block.mixer.mixers[0].window for block in model.blocks]
    whole = [i for i, window in enumerate(windows) if window is None]
    assert whole == ([0, 2, 4] if size == "tiny" else [0, 15, 31])
    assert [type(m).__name__ for m in model.blocks[1].mixer.mixers] == ["Attention", "Mamba"]


@pytest.mark.parametrize(("name", "model", "n_shared"), [("Zamba", "7B", 1), ("Zamba2", "2.7B", 2)])
def test_zambas_transformers_are_shared(name, model, n_shared):
    """In Zamba2 two of them take turns, and each call makes low-rank changes of its own."""
    full = recipe(name).full(model)
    calls = [i for i, block in enumerate(full.blocks) if isinstance(block, SharedBlock)]
    places = [2, *range(7, 76, 6)] if name == "Zamba" else [6, 12, 18, 24, 30, 36, 42, 47, 51]
    assert calls == places
    assert set(layers(full)) == {"Mamba" if name == "Zamba" else "Mamba2"}
    called = [full.blocks[i].transformer for i in calls]
    weights = [t.attention.q.weight for t in called]
    assert len({id(w) for w in weights}) == n_shared
    assert all(w is weights[i % n_shared] for i, w in enumerate(weights))
    if name == "Zamba2":
        assert len({id(t.ffn.gate.up.weight) for t in called}) == len(called)


def floats(states):
    parts = [u for state in states if state is not None for u in state]
    return sum(u.numel() for u in parts if isinstance(u, torch.Tensor))


def test_yoco_caches_once():
    """Twice the tokens: one layer's keys and values more, however many layers read them."""
    model = recipe("YOCO").tiny()
    assert layers(model) == ["GatedRetention"] * 2 + ["SharedCache"] + ["CrossAttention"] * 2
    short, long = (floats(model(torch.randint(256, (1, T)))[1]) for T in (20, 40))
    assert long - short == 20 * 2 * 2 * 8  # k and v, two heads of width 8
    assert model(torch.randint(256, (1, 20)))[1][3:] == [None, None]


BASE = {"vocab_size": 256, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
BASE |= {"num_key_value_heads": 2}
HYBRID = BASE | {"mamba_d_state": 8}
STATE = {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8}
SAME = {  # a family of checkpoints, its config, and what differs from the tiny recipe
    "Transformer 2026": (
        "llama",
        BASE | {"num_hidden_layers": 2, "rope_parameters": {"rope_theta": 1e6}},
        {"qk_norm": False},
    ),
    "Falcon Mamba": (
        "falcon_mamba",
        STATE | {"tie_word_embeddings": False},
        {},
    ),
    "Codestral Mamba": (
        "mamba2",
        STATE | {"num_heads": 8, "head_dim": 8, "n_groups": 2},
        {},
    ),
    "xLSTM": (
        "xlstm",
        {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 3, "num_heads": 4}
        | {"ffn_proj_factor": 2.0},
        {},
    ),
    "Mixtral": ("mixtral", BASE | {"num_hidden_layers": 2, "num_local_experts": 4}, {}),
    "DeepSeek-V3": (
        "deepseek_v3",
        BASE
        | {"num_hidden_layers": 3, "first_k_dense_replace": 1, "num_key_value_heads": 4}
        | {"q_lora_rank": 16, "kv_lora_rank": 8, "n_group": 4, "topk_group": 2}
        | {"qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
        | {"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
        {},
    ),
    "Jamba": ("jamba", HYBRID | {"num_hidden_layers": 8, "num_experts": 4}, {}),
    "Bamba": (
        "bamba",
        HYBRID | {"num_hidden_layers": 5, "attn_layer_indices": [1, 3], "mamba_n_heads": 8},
        {},
    ),
    "Zamba2": (
        "zamba2",
        {"vocab_size": 256, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
        | {"layers_block_type": ["mamba", "hybrid"] * 3 + ["mamba"], "num_hidden_layers": 7}
        | {"n_mamba_heads": 8, "mamba_d_state": 8}
        | {"num_mem_blocks": 2, "adapter_rank": 4, "time_step_min": 0.0},
        {},
    ),
    "RecurrentGemma": (
        "recurrent_gemma",
        {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 5}
        | {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16, "lru_width": 64}
        | {"attention_window_size": 16},
        {"d_model": 64, "lru_width": 64},
    ),
    "MiniMax-01": (
        "minimax",
        BASE
        | {"num_hidden_layers": 8, "intermediate_size": 32, "num_local_experts": 4}
        | {"layer_types": ["linear_attention"] * 7 + ["full_attention"], "rms_norm_eps": 1e-5}
        | {"rope_parameters": {"rope_theta": 1e7}}
        | {f"{part}_alpha_factor": 2.0 for part in ("full_attn", "linear_attn", "mlp")},
        {"d_rotary": 8},
    ),
    "Qwen3-Next": (
        "qwen3_next",
        BASE
        | {"num_hidden_layers": 4, "head_dim": 8, "rope_parameters": {"rope_theta": 1e7}}
        | {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
        | {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
        | {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
        | {"shared_expert_intermediate_size": 16},
        {},
    ),
}


@pytest.mark.parametrize("name", SAME)
@torch.no_grad()
def test_a_recipe_is_the_model_that_its_checkpoints_load_into(name):
    """Those are compared with `transformers` in tests/hub."""
    family, config, options = SAME[name]
    theirs = FAMILIES[family].prepare(config)[0].double().eval()
    for p in theirs.parameters():
        p += torch.randn_like(p) * (0.2 if p.ndim < 2 else p.shape[-1] ** -0.5)
    ours, tokens = recipe(name).build(**options).double().eval(), torch.randint(256, (2, 30))
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(tokens)[0], theirs(tokens)[0], rtol=0, atol=1e-12)


def test_every_recipe_that_names_a_family_is_compared_with_it():
    assert {r.name for r in RECIPES if "through seqlab.hub" in r.oracle} == SAME.keys()
