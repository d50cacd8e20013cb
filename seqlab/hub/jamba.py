"""Jamba: Mamba with norms on Δ, B and C, and every few layers attention without positions.

Every few layers the ffn is a mixture of experts.
"""

import math
from functools import partial
from typing import Any

from seqlab.ffn.moe import MoE
from seqlab.ffn.routers import MixtralRouter
from seqlab.ffn.swiglu import SwiGLU
from seqlab.hub import llama
from seqlab.hub.activation import activation
from seqlab.hub.config import Config
from seqlab.hub.family import Family
from seqlab.hub.weights import Names, experts, into, without_channel
from seqlab.mixers.attention import Attention
from seqlab.mixers.mamba import Mamba
from seqlab.model import LanguageModel

FIELDS = {
    "vocab_size": 65536,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "sliding_window": None,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "attn_layer_period": 8,
    "attn_layer_offset": 4,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_dt_rank": "auto",
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "mamba_inner_layernorms": True,
}
# There are no positions; the others say how sums are computed, and which logits.
NO_EFFECT = frozenset(
    """
    calc_logits_for_entire_prompt max_position_embeddings n_ctx num_logits_to_keep
    use_associative_scan use_mamba_kernels use_mambapy
    """.split()  # noqa: SIM905
)
# Blocks of a Mamba or an attention and an ffn, as Jamba's and Bamba's code calls them.
HYBRID_NAMES = llama.NAMES | {
    "model.layers.*.mamba.in_proj": "blocks.*.mixer.in_proj",
    "model.layers.*.mamba.conv1d.weight": into("blocks.*.mixer.conv.weight", by=without_channel),
    "model.layers.*.mamba.conv1d.bias": "blocks.*.mixer.conv.bias",
    "model.layers.*.mamba.A_log": "blocks.*.mixer.A_log",
    "model.layers.*.mamba.D": "blocks.*.mixer.D",
    "model.layers.*.mamba.out_proj": "blocks.*.mixer.out",
    "model.layers.*.pre_ff_layernorm": "blocks.*.ffn_norm",
    "model.layers.*.feed_forward.gate_proj": "blocks.*.ffn.gate",
    "model.layers.*.feed_forward.up_proj": "blocks.*.ffn.up",
    "model.layers.*.feed_forward.down_proj": "blocks.*.ffn.down",
    "model.final_layernorm": "norm",
}
NAMES = HYBRID_NAMES | {
    "model.layers.*.mamba.x_proj": "blocks.*.mixer.x_proj",
    "model.layers.*.mamba.dt_proj": "blocks.*.mixer.dt_proj",
    "model.layers.*.mamba.dt_layernorm": "blocks.*.mixer.norms.0",
    "model.layers.*.mamba.b_layernorm": "blocks.*.mixer.norms.1",
    "model.layers.*.mamba.c_layernorm": "blocks.*.mixer.norms.2",
    "model.layers.*.feed_forward.router": "blocks.*.ffn.router.score",
}


def attention(c: Config) -> partial[Attention]:
    return partial(
        Attention,
        n_heads=c.num_attention_heads,
        n_kv_heads=c.num_key_value_heads,
        d_head=c.head_dim or c.hidden_size // c.num_attention_heads,
        rope_base=None,
        form="sdpa",
    )


def mamba(c: Config) -> partial[Mamba]:
    return partial(
        Mamba,
        expand=c.mamba_expand,
        d_state=c.mamba_d_state,
        d_conv=c.mamba_d_conv,
        dt_rank=math.ceil(c.hidden_size / 16) if c.mamba_dt_rank == "auto" else c.mamba_dt_rank,
        bias=c.mamba_proj_bias,
        conv_bias=c.mamba_conv_bias,
        norm_eps=c.rms_norm_eps,
        norm_weight=True,
    )


def moe(c: Config) -> partial[MoE]:
    router = partial(MixtralRouter, top_k=c.num_experts_per_tok, normalise=False)
    expert = partial(SwiGLU, activation=activation(c))
    sizes = {"n_experts": c.num_experts, "d_ff": c.intermediate_size}
    return partial(MoE, router=router, expert=expert, **sizes)


def every(c: Config, period: int, offset: int, usual: Any, other: Any) -> list:
    """`other` in layers offset, offset + period, ..; `usual` in the rest."""
    return [other if i % period == offset else usual for i in range(c.num_hidden_layers)]


def build(c: Config) -> LanguageModel:
    if c.hidden_act not in ("silu", "swish"):
        c.refuse("hidden_act", f"is {c.hidden_act!r}: only 'silu' is supported with Mamba")
    mixers = every(c, c.attn_layer_period, c.attn_layer_offset, mamba(c), attention(c))
    dense = llama.swiglu(c)
    sparse = moe(c) if c.num_experts > 1 else dense
    ffns = every(c, c.expert_layer_period, c.expert_layer_offset, dense, sparse)
    return llama.model_of(c, mixers, ffns)


def names(c: Config) -> Names:
    theirs = "model.layers.*.feed_forward.experts"
    return NAMES | experts(theirs, "blocks.*.ffn.experts", c.num_experts)


JAMBA = Family("jamba", FIELDS, build, names, NO_EFFECT)
