"""Matrices in bfloat16, norms and decays in float32: as large models are trained and stored."""

import copy

import pytest
import torch

from seqlab.ffn import DeepSeekV3Router
from seqlab.hub import FAMILIES
from seqlab.hub.weights import fill
from seqlab.zoo import ZOO

T = 11
# What sets a decay or a step size, or passes the input on to the output (D).
DECAYS = {
    *("A_log", "A_imag", "dt_bias", "log_dt", "D", "D_k", "skip", "decay", "bonus", "Lambda"),
    *("log_rate", "log_frequency", "frequency", "nu_log", "theta_log", "gamma_log"),
    *("alpha", "delta", "theta", "omega"),
}


def is_norm(name):
    return "norm" in name


def is_decay(name):
    return name.split(".")[-1] in DECAYS or f".{name}".endswith(".d.bias")  # RWKV-7's w0


KINDS = [is_norm, is_decay, lambda name: is_norm(name) or is_decay(name)]


def in_mixed_precision(model):
    """Copies of `model` in bfloat16, with norms, decays, or both in float32 as before."""
    for exact in KINDS:
        mixed = copy.deepcopy(model).bfloat16()
        for (name, p), wide in zip(mixed.named_parameters(), model.parameters(), strict=True):
            if exact(name):
                p.data = wide.detach().clone()
        if any(p.dtype == torch.float32 for p in mixed.parameters()):
            yield mixed


def assert_near(y, exact):
    """Within a dozen of bfloat16's roundings, 2^-8 each, of the same weights in float64."""
    assert y.dtype == torch.bfloat16 and y.isfinite().all()
    assert (y - exact).norm() < 12 * 2**-8 * exact.norm()


@pytest.mark.parametrize("r", ZOO, ids=lambda r: r.name)
def test_a_row_with_exact_norms_or_decays_returns_the_dtype_of_its_input(r):
    x = torch.randn(2, T, 32).bfloat16()
    for mixer in in_mixed_precision(r.make(32)):
        y, state = mixer(x)
        with torch.no_grad():
            assert_near(y, copy.deepcopy(mixer).double()(x.double())[0])
            assert mixer(x[:, :1], state)[0].dtype == torch.bfloat16
        y.sum().backward()
        assert all(p.grad.dtype == p.dtype and p.grad.isfinite().all() for p in mixer.parameters())


SIZES = {"vocab_size": 31, "hidden_size": 24, "num_hidden_layers": 2}
ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 20}
# Every expert serves every token: a rounding cannot change the choice.
EXPERTS = {"moe_intermediate_size": 11, "num_experts": 4}
MIXTURE = ATTENTION | {"num_local_experts": 4, "num_experts_per_tok": 4}
MAMBA2 = {"num_heads": 6, "head_dim": 8, "n_groups": 2, "state_size": 8}
LATENT = {"kv_lora_rank": 8, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 6}
LATENT |= {"num_key_value_heads": 4}
QWEN = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 6}
QWEN |= {"linear_value_head_dim": 6, "head_dim": 8, "full_attention_interval": 2}
QWEN |= {"shared_expert_intermediate_size": 8, "num_experts_per_tok": 4}
CONFIGS = {
    "llama": ATTENTION,
    "mistral": ATTENTION,
    "mixtral": MIXTURE,
    "deepseek_v3": ATTENTION
    | LATENT
    | {"q_lora_rank": 8, "n_routed_experts": 4, "n_group": 2, "topk_group": 2}
    | {"num_experts_per_tok": 4, "moe_intermediate_size": 11, "first_k_dense_replace": 1},
    "diffllama": ATTENTION,
    "minimax": MIXTURE,
    "mamba": {"state_size": 8},
    "falcon_mamba": {"state_size": 8},
    "mamba2": MAMBA2,
    "jamba": ATTENTION
    | {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8}
    | {"num_experts": 4, "num_experts_per_tok": 4},
    "bamba": ATTENTION | {"mamba_n_heads": 6, "attn_layer_indices": [1], "mamba_d_state": 8},
    "zamba2": {"num_attention_heads": 4, "n_mamba_heads": 6, "mamba_d_state": 8}
    | {"layers_block_type": ["mamba", "hybrid"], "adapter_rank": 3},
    "recurrent_gemma": ATTENTION | {"block_types": ["recurrent", "attention"]},
    "rwkv": {},
    "xlstm": {"num_heads": 3, "ffn_round_up_to_multiple_of": 10},
    "qwen3_next": ATTENTION | EXPERTS | QWEN,
    "kimi_linear": ATTENTION
    | LATENT
    | EXPERTS
    | {"linear_head_dim": 6, "linear_num_heads": 4, "num_experts_per_token": 4}
    | {"layer_types": ["linear_attention", "full_attention"]},
}


def test_every_family_is_here():
    assert CONFIGS.keys() == FAMILIES.keys()


@pytest.mark.parametrize("family", CONFIGS)
def test_a_checkpoint_with_exact_norms_or_decays_runs(family):
    model, _ = FAMILIES[family].prepare(SIZES | CONFIGS[family])
    tokens = torch.randint(31, (2, T))
    for mixed in in_mixed_precision(model.eval()):
        logits, states = mixed(tokens)
        with torch.no_grad():
            assert_near(logits, copy.deepcopy(mixed).double()(tokens)[0])
            assert mixed(tokens[:, :1], states)[0].dtype == torch.bfloat16
        logits.sum().backward()
        assert all(p.grad is None or p.grad.dtype == p.dtype for p in mixed.parameters())


@pytest.mark.parametrize("family", ["deepseek_v3", "kimi_linear"])
def test_a_routers_bias_stays_float32_through_a_bf16_checkpoint(family, tmp_path):
    """Filled from bfloat16 as the hub does it, then saved, loaded, and moved by small steps."""
    model, _ = FAMILIES[family].prepare(SIZES | CONFIGS[family])
    stored = {name: w.bfloat16() for name, w in model.state_dict().items()}
    fill(model, stored.items(), {name: name for name in stored})
    torch.save(model.state_dict(), tmp_path / "model.pt")
    model.load_state_dict(torch.load(tmp_path / "model.pt"), assign=True)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    routers = [module for module in model.modules() if isinstance(module, DeepSeekV3Router)]
    assert routers
    for router in routers:
        assert router.bias.dtype == torch.float32
        for _ in range(1000):
            router.seen = torch.arange(router.n_experts)
            router.update_bias()
        assert router.bias[0].item() == pytest.approx(1, abs=1e-4)
