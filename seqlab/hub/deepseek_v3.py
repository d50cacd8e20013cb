"""DeepSeek-V3: latent attention, a few dense layers, then many small experts and a shared one."""

from functools import partial

from seqlab.core.position import yarn_magnitude
from seqlab.ffn.moe import MoE
from seqlab.ffn.routers import DeepSeekV3Router
from seqlab.ffn.swiglu import SwiGLU
from seqlab.hub import llama, rope
from seqlab.hub.activation import activation
from seqlab.hub.config import Config
from seqlab.hub.family import Family
from seqlab.hub.weights import Names, experts
from seqlab.mixers.mla import MLA
from seqlab.model import LanguageModel

FIELDS = llama.FIELDS | {
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "max_position_embeddings": 4096,
    "attention_bias": False,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "rope_interleave": True,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 3,
    "num_mtp_layers": 1,
    "num_nextn_predict_layers": None,
    "moe_layer_freq": 1,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
}
NAMES = {
    "model.layers.*.self_attn.q_proj": "blocks.*.mixer.q",
    "model.layers.*.self_attn.q_a_proj": "blocks.*.mixer.q_down",
    "model.layers.*.self_attn.q_a_layernorm": "blocks.*.mixer.q_norm",
    "model.layers.*.self_attn.q_b_proj": "blocks.*.mixer.q",
    "model.layers.*.self_attn.kv_a_proj_with_mqa": "blocks.*.mixer.kv_down",
    "model.layers.*.self_attn.kv_a_layernorm": "blocks.*.mixer.kv_norm",
    "model.layers.*.self_attn.kv_b_proj": "blocks.*.mixer.kv_up",
    "model.layers.*.mlp.gate": "blocks.*.ffn.router.score",
    "model.layers.*.mlp.gate.e_score_correction_bias": "blocks.*.ffn.router.bias",
    "model.layers.*.mlp.shared_experts.gate_proj": "blocks.*.ffn.shared.gate",
    "model.layers.*.mlp.shared_experts.up_proj": "blocks.*.ffn.shared.up",
    "model.layers.*.mlp.shared_experts.down_proj": "blocks.*.ffn.shared.down",
}


def equal_heads(c: Config) -> int:
    """The number of heads: latent attention has as many for keys and values as for queries."""
    heads, kv_heads = c.num_attention_heads, c.num_key_value_heads
    if kv_heads not in (None, heads):
        c.refuse(
            "num_key_value_heads",
            f"is {kv_heads}, num_attention_heads is {heads}: they must be equal",
        )
    return heads


def latent_attention(c: Config) -> partial[MLA]:
    heads, nope, width = equal_heads(c), c.qk_nope_head_dim, c.qk_rope_head_dim
    if c.head_dim not in (None, width):
        c.refuse("head_dim", f"is {c.head_dim}: it must be qk_rope_head_dim, {width}")
    ranks = {
        "kv_rank": c.kv_lora_rank,
        "q_rank": c.q_lora_rank,
        "d_nope": nope,
        "d_rope": width,
        "d_v": c.v_head_dim,
    }
    options = {"interleaved": c.rope_interleave, "bias": c.attention_bias, **rope.rope(c, width)}
    _, asked = rope.parameters(c, 10000.0)
    every = asked.get("mscale_all_dim")
    sharper = yarn_magnitude(asked["factor"], every) ** 2 if every else 1.0
    return partial(MLA, n_heads=heads, scale=sharper * (nope + width) ** -0.5, **ranks, **options)


def moe(c: Config) -> partial[MoE]:
    router = partial(
        DeepSeekV3Router,
        top_k=c.num_experts_per_tok,
        n_groups=c.n_group,
        top_groups=c.topk_group,
        scale=c.routed_scaling_factor,
        normalise=c.norm_topk_prob,
    )
    expert = partial(SwiGLU, activation=activation(c))
    sizes = {
        "n_experts": c.n_routed_experts,
        "d_ff": c.moe_intermediate_size,
        "n_shared": c.n_shared_experts,
    }
    return partial(MoE, router=router, expert=expert, **sizes)


def build(c: Config) -> LanguageModel:
    n = c.num_hidden_layers
    dense = llama.swiglu(c)
    sparse = moe(c)
    ffns = [dense if layer < c.first_k_dense_replace else sparse for layer in range(n)]
    return llama.model_of(c, [latent_attention(c)] * n, ffns)


def names(c: Config) -> Names:
    extra = c.num_mtp_layers if c.num_nextn_predict_layers is None else c.num_nextn_predict_layers
    # The layers behind the last one predict the token after next.
    later = {f"model.layers.{c.num_hidden_layers + i}": None for i in range(extra)}
    every = experts("model.layers.*.mlp.experts", "blocks.*.ffn.experts", c.n_routed_experts)
    return llama.NAMES | NAMES | every | later


NO_EFFECT = frozenset({"qk_head_dim", "aux_loss_alpha", "seq_aux", "ep_size"})
DEEPSEEK_V3 = Family("deepseek_v3", FIELDS, build, names, NO_EFFECT)
