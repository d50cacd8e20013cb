"""Kimi Linear: Kimi Delta Attention, every few layers latent attention without positions, and
DeepSeek-V3's experts.
"""

from functools import partial

from seqlab.ffn.moe import MoE
from seqlab.ffn.routers import DeepSeekV3Router
from seqlab.ffn.swiglu import SwiGLU
from seqlab.hub import deepseek_v3, llama
from seqlab.hub.activation import activation
from seqlab.hub.config import Config
from seqlab.hub.family import Family
from seqlab.hub.weights import experts, into, without_channel
from seqlab.mixers.kda import KDA
from seqlab.mixers.mla import MLA
from seqlab.model import LanguageModel

FIELDS = {
    "vocab_size": 163840,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 27,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "layer_types": None,
    "mlp_layer_types": None,
    # latent attention
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "kv_lora_rank": 512,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "attention_bias": False,
    # Kimi Delta Attention
    "linear_head_dim": 128,
    "linear_num_heads": 32,
    "linear_conv_kernel_dim": 4,
    # experts
    "moe_intermediate_size": 1024,
    "num_experts": 256,
    "num_shared_experts": 1,
    "num_experts_per_token": 8,
    "num_expert_group": 1,
    "topk_group": 1,
    "moe_renormalize": True,
    "routed_scaling_factor": 2.446,
    # of the first checkpoints
    "linear_attn_config": None,
    "first_k_dense_replace": 1,
    "mla_use_nope": True,
    "moe_layer_freq": 1,
    "moe_router_activation_func": "sigmoid",
    "num_nextn_predict_layers": 0,
    "use_grouped_topk": True,
}
# There are no positions, and the other two follow from the widths of the parts.
NO_EFFECT = frozenset(
    "head_dim model_max_length qk_head_dim rope_parameters rope_scaling rope_theta".split()  # noqa: SIM905
)
ATTENTION, KINDS = "model.layers.*.self_attn", ("linear_attention", "full_attention")
NAMES = {
    **llama.NAMES,
    **deepseek_v3.NAMES,
    f"{ATTENTION}.b_proj": "blocks.*.mixer.beta",
    f"{ATTENTION}.g_a_proj": "blocks.*.mixer.gate.0",
    f"{ATTENTION}.g_b_proj": "blocks.*.mixer.gate.1",
    f"{ATTENTION}.o_norm.weight": "blocks.*.mixer.norm",
    f"{ATTENTION}.conv1d.weight": into("blocks.*.mixer.conv.weight", by=without_channel),
}


def kda_sizes(c: Config) -> dict:
    """Heads, their width and the taps of the convolution: the old dict speaks first."""
    old = c.linear_attn_config or {}
    for field in old.keys() - {
        "num_heads",
        "head_dim",
        "short_conv_kernel_size",
        "kda_layers",
        "full_attn_layers",
    }:
        c.refuse(f"linear_attn_config.{field}", f"is {old[field]!r}: it is not supported")
    return {
        "n_heads": old.get("num_heads", c.linear_num_heads),
        "d_key": old.get("head_dim", c.linear_head_dim),
        "d_conv": old.get("short_conv_kernel_size", c.linear_conv_kernel_dim),
    }


def layer_types(c: Config) -> list[str]:
    """Of every layer. The old dict counts layers from 1."""
    old, layers = c.linear_attn_config or {}, range(c.num_hidden_layers)
    types = c.layer_types
    if types is None and {"kda_layers", "full_attn_layers"} <= old.keys():
        full, kda = set(old["full_attn_layers"]), set(old["kda_layers"])
        if full & kda or full | kda != {layer + 1 for layer in layers}:
            c.refuse(
                "linear_attn_config",
                "must name every layer once, in full_attn_layers or kda_layers",
            )
        types = [KINDS[layer + 1 in full] for layer in layers]
    return types or [KINDS[layer > 0 and layer % 4 == 0] for layer in layers]


def latent_attention(c: Config):
    heads = c.num_attention_heads
    if c.num_key_value_heads not in (None, heads):
        c.refuse(
            "num_key_value_heads",
            f"is {c.num_key_value_heads}, num_attention_heads is {heads}: they must be equal",
        )
    ranks = {"kv_rank": c.kv_lora_rank, "q_rank": c.q_lora_rank}
    widths = {"d_nope": c.qk_nope_head_dim, "d_rope": c.qk_rope_head_dim, "d_v": c.v_head_dim}
    return partial(MLA, n_heads=heads, **ranks, **widths, rope_base=None, bias=c.attention_bias)


def moe(c: Config):
    router = partial(
        DeepSeekV3Router,
        top_k=c.num_experts_per_token,
        n_groups=c.num_expert_group,
        top_groups=c.topk_group,
        scale=c.routed_scaling_factor,
        normalise=c.moe_renormalize,
    )
    expert = partial(SwiGLU, activation=activation(c))
    sizes = {
        "n_experts": c.num_experts,
        "d_ff": c.moe_intermediate_size,
        "n_shared": c.num_shared_experts,
    }
    return partial(MoE, router=router, expert=expert, **sizes)


def build(c: Config) -> LanguageModel:
    if c.tie_word_embeddings:
        c.refuse(
            "tie_word_embeddings", "is True: only False is supported here, as in `transformers`"
        )
    kda = partial(KDA, **kda_sizes(c), activation=activation(c), eps=c.rms_norm_eps)
    mixers = dict(zip(KINDS, (kda, latent_attention(c)), strict=True))
    first = c.first_k_dense_replace
    dense = c.mlp_layer_types or [
        "dense" if layer < first else "sparse" for layer in range(c.num_hidden_layers)
    ]
    ffns = c.per_layer("mlp_layer_types", dense, {"dense": llama.swiglu(c), "sparse": moe(c)})
    return llama.model_of(c, c.per_layer("layer_types", layer_types(c), mixers), ffns)


def names(c: Config) -> dict:
    sizes = kda_sizes(c)
    width, table = sizes["n_heads"] * sizes["d_key"], dict(NAMES)
    for i, x in enumerate("qkv"):
        rows = f"[{i * width}:{(i + 1) * width}]"
        table[f"{ATTENTION}.{x}_proj.weight"] = f"blocks.*.mixer.qkv.weight{rows}"
        table[f"{ATTENTION}.{x}_conv1d.weight"] = into(
            f"blocks.*.mixer.conv.weight{rows}", by=without_channel
        )
    for layer, kind in enumerate(layer_types(c)):
        if kind == "full_attention":
            table[f"model.layers.{layer}.self_attn.q_proj"] = f"blocks.{layer}.mixer.q"
    for gate in (ATTENTION, f"{ATTENTION}.forget_gate"):  # as it is stored, and as it is held
        table |= {
            f"{gate}.f_a_proj": "blocks.*.mixer.decay.0",
            f"{gate}.f_b_proj": "blocks.*.mixer.decay.1",
        }
        table |= {
            f"{gate}.dt_bias": "blocks.*.mixer.dt_bias",
            f"{gate}.A_log": into("blocks.*.mixer.A_log", by=flat),
        }
    table |= {
        name.replace(".mlp.", ".block_sparse_moe."): ours
        for name, ours in NAMES.items()
        if ".mlp." in name
    }
    for mlp in ("mlp", "block_sparse_moe"):
        theirs = f"model.layers.*.{mlp}.experts"
        table |= experts(theirs, "blocks.*.ffn.experts", c.num_experts, theirs, ("w1", "w3", "w2"))
    if c.num_shared_experts == 0:  # they are there, of width 0
        table |= {name: None for name in table if ".shared_experts." in name}
    return table


def flat(weight):
    return weight.flatten()


KIMI_LINEAR = Family("kimi_linear", FIELDS, build, names, NO_EFFECT)
