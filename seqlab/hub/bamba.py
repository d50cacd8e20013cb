"""Bamba: Mamba-2, with an attention that turns half of each head in a few layers."""

import math
from functools import partial

from seqlab.hub import jamba, llama
from seqlab.hub.activation import activation
from seqlab.hub.config import Config
from seqlab.hub.family import Family
from seqlab.mixers.attention import Attention
from seqlab.mixers.mamba2 import Mamba2
from seqlab.model import LanguageModel

FIELDS = llama.FIELDS | {
    "vocab_size": 128000,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 262144,
    "attention_bias": False,
    "mlp_bias": False,
    "partial_rotary_factor": 0.5,
    "attn_rotary_emb": None,
    "attn_layer_indices": None,
    "mamba_n_heads": 128,
    "mamba_d_head": "auto",
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "time_step_limit": (0.0, math.inf),
}
NAMES = jamba.HYBRID_NAMES | {
    "model.layers.*.mamba.dt_bias": "blocks.*.mixer.dt_bias",
    "model.layers.*.mamba.norm.weight": "blocks.*.mixer.norm",
}


def attention(c: Config) -> partial[Attention]:
    make = llama.attention(c, bias=c.attention_bias, partial_rotary=True)
    turned = 2 * len(make.keywords["theta"])
    if c.attn_rotary_emb not in (None, turned):
        given = c.attn_rotary_emb
        c.refuse("attn_rotary_emb", f"is {given}: partial_rotary_factor makes it {turned}")
    return make


def mamba2(c: Config) -> partial[Mamba2]:
    inner = c.mamba_expand * c.hidden_size
    d_head = inner // c.mamba_n_heads if c.mamba_d_head == "auto" else c.mamba_d_head
    if c.mamba_n_heads * d_head != inner:
        c.refuse(
            "mamba_d_head",
            f"is {d_head}: with mamba_n_heads it must make up mamba_expand x hidden_size, {inner}",
        )
    return partial(
        Mamba2,
        n_heads=c.mamba_n_heads,
        d_head=d_head,
        d_state=c.mamba_d_state,
        n_groups=c.mamba_n_groups,
        d_conv=c.mamba_d_conv,
        bias=c.mamba_proj_bias,
        conv_bias=c.mamba_conv_bias,
        activation=activation(c),
        dt_limit=tuple(c.time_step_limit),
        eps=c.rms_norm_eps,
    )


def build(c: Config) -> LanguageModel:
    chosen = c.attn_layer_indices or []
    softmax = attention(c)
    ssm = mamba2(c)
    mixers = [softmax if i in chosen else ssm for i in range(c.num_hidden_layers)]
    return llama.model_of(c, mixers, llama.swiglu(c, bias=c.mlp_bias))


# mamba_dt_rank is Mamba-1's; nothing reads it.
NO_EFFECT = frozenset(
    """
    mamba_chunk_size mamba_dt_rank num_logits_to_keep use_mamba_kernels z_loss_coefficient
    """.split()  # noqa: SIM905
)
BAMBA = Family("bamba", FIELDS, build, lambda c: NAMES, NO_EFFECT)
