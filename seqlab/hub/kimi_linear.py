"""Kimi Linear: Kimi Delta Attention, and every few layers latent attention without positions.

Its experts are DeepSeek-V3's.
"""

from functools import partial

from torch import Tensor

from seqlab.ffn.moe import MoE
from seqlab.ffn.routers import DeepSeekV3Router
from seqlab.ffn.swiglu import SwiGLU
from seqlab.hub import deepseek_v3, llama
from seqlab.hub.activation import activation
from seqlab.hub.config import Config
from seqlab.hub.family import Family
from seqlab.hub.weights import Names, experts, into, without_channel
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
# There are no positions; head_dim and qk_head_dim follow from the widths of the parts.
NO_EFFECT = frozenset(
    "head_dim model_max_length qk_head_dim rope_parameters rope_scaling rope_theta".split()  # noqa: SIM905
)
ATTENTION = "model.layers.*.self_attn"
LINEAR, FULL = "linear_attention", "full_attention"
NAMES: Names = {
    **llama.NAMES,
    **deepseek_v3.NAMES,
    f"{ATTENTION}.b_proj": "blocks.*.mixer.beta",
    f"{ATTENTION}.g_a_proj": "blocks.*.mixer.gate.0",
    f"{ATTENTION}.g_b_proj": "blocks.*.mixer.gate.1",
    f"{ATTENTION}.o_norm.weight": "blocks.*.mixer.norm",
    f"{ATTENTION}.conv1d.weight": into("blocks.*.mixer.conv.weight", by=without_channel),
}


OLD_FIELDS = {"num_heads", "head_dim", "short_conv_kernel_size", "kda_layers", "full_attn_layers"}


def kda_sizes(c: Config) -> dict:
    """Heads, their width and the taps of the convolution: the old dict wins, if there is one."""
    old = c.linear_attn_config or {}
    for field in old.keys() - OLD_FIELDS:
        c.refuse(f"linear_attn_config.{field}", f"is {old[field]!r}: it is not supported")
    return {
        "n_heads": old.get("num_heads", c.linear_num_heads),
        "d_key": old.get("head_dim", c.linear_head_dim),
        "d_conv": old.get("short_conv_kernel_size", c.linear_conv_kernel_dim),
    }


def layer_types(c: Config) -> list[str]:
    """Of every layer. The old dict counts layers from 1."""
    old = c.linear_attn_config or {}
    layers = range(c.num_hidden_layers)
    if c.layer_types is None and {"kda_layers", "full_attn_layers"} <= old.keys():
        full, kda = set(old["full_attn_layers"]), set(old["kda_layers"])
        if full & kda or full | kda != {layer + 1 for layer in layers}:
            way_out = "must name every layer once, in full_attn_layers or kda_layers"
            c.refuse("linear_attn_config", way_out)
        return [FULL if layer + 1 in full else LINEAR for layer in layers]
    return c.layer_types or [FULL if layer > 0 and layer % 4 == 0 else LINEAR for layer in layers]


def latent_attention(c: Config) -> partial[MLA]:
    heads = deepseek_v3.equal_heads(c)
    ranks = {"kv_rank": c.kv_lora_rank, "q_rank": c.q_lora_rank}
    widths = {"d_nope": c.qk_nope_head_dim, "d_rope": c.qk_rope_head_dim, "d_v": c.v_head_dim}
    return partial(MLA, n_heads=heads, **ranks, **widths, rope_base=None, bias=c.attention_bias)


def moe(c: Config) -> partial[MoE]:
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
        way_out = "is True: only False is supported here, as in `transformers`"
        c.refuse("tie_word_embeddings", way_out)
    kda = partial(KDA, **kda_sizes(c), activation=activation(c), eps=c.rms_norm_eps)
    mixers = {LINEAR: kda, FULL: latent_attention(c)}
    n, first = c.num_hidden_layers, c.first_k_dense_replace
    kinds = c.mlp_layer_types or ["dense" if layer < first else "sparse" for layer in range(n)]
    ffns = c.per_layer("mlp_layer_types", kinds, {"dense": llama.swiglu(c), "sparse": moe(c)})
    return llama.model_of(c, c.per_layer("layer_types", layer_types(c), mixers), ffns)


def names(c: Config) -> Names:
    sizes = kda_sizes(c)
    width = sizes["n_heads"] * sizes["d_key"]
    table = dict(NAMES)
    for i, x in enumerate("qkv"):
        rows = f"[{i * width}:{(i + 1) * width}]"
        table[f"{ATTENTION}.{x}_proj.weight"] = f"blocks.*.mixer.qkv.weight{rows}"
        conv = f"blocks.*.mixer.conv.weight{rows}"
        table[f"{ATTENTION}.{x}_conv1d.weight"] = into(conv, by=without_channel)
    for layer, kind in enumerate(layer_types(c)):
        if kind == FULL:
            table[f"model.layers.{layer}.self_attn.q_proj"] = f"blocks.{layer}.mixer.q"
    # The first is the name in stored checkpoints, the second the name in a `transformers` model.
    for gate in (ATTENTION, f"{ATTENTION}.forget_gate"):
        table |= {
            f"{gate}.f_a_proj": "blocks.*.mixer.decay.0",
            f"{gate}.f_b_proj": "blocks.*.mixer.decay.1",
            f"{gate}.dt_bias": "blocks.*.mixer.dt_bias",
            f"{gate}.A_log": into("blocks.*.mixer.A_log", by=flat),
        }
    return table | moe_names(c)


def moe_names(c: Config) -> Names:
    """Experts are called block_sparse_moe in stored checkpoints, mlp in a `transformers` model."""
    table: Names = {name: ours for name, ours in NAMES.items() if ".mlp." in name}
    table |= {name.replace(".mlp.", ".block_sparse_moe."): ours for name, ours in table.items()}
    if c.num_shared_experts == 0:  # theirs exist, with width 0
        table |= {name: None for name in table if ".shared_experts." in name}
    for mlp in ("mlp", "block_sparse_moe"):
        theirs = f"model.layers.*.{mlp}.experts"
        table |= experts(theirs, "blocks.*.ffn.experts", c.num_experts, theirs, ("w1", "w3", "w2"))
    return table


def flat(weight: Tensor) -> Tensor:
    return weight.flatten()


KIMI_LINEAR = Family("kimi_linear", FIELDS, build, names, NO_EFFECT)
