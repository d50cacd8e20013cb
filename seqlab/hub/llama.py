"""Llama, and Mistral, which is Llama with a sliding window."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from seqlab.ffn.swiglu import SwiGLU
from seqlab.hub import rope
from seqlab.hub.activation import activation
from seqlab.hub.config import Config
from seqlab.hub.family import Family
from seqlab.hub.weights import Names
from seqlab.mixers.attention import Attention
from seqlab.model import LanguageModel, Make

FIELDS = rope.FIELDS | {
    "max_position_embeddings": 2048,
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
NAMES: Names = {
    "model.embed_tokens": "embedding",
    "model.layers.*.input_layernorm": "blocks.*.mixer_norm",
    "model.layers.*.self_attn.q_proj": "blocks.*.mixer.q",
    "model.layers.*.self_attn.k_proj": "blocks.*.mixer.k",
    "model.layers.*.self_attn.v_proj": "blocks.*.mixer.v",
    "model.layers.*.self_attn.o_proj": "blocks.*.mixer.out",
    # In old checkpoints; rope_theta determines it.
    "model.layers.*.self_attn.rotary_emb.inv_freq": None,
    "model.layers.*.post_attention_layernorm": "blocks.*.ffn_norm",
    "model.layers.*.mlp.gate_proj": "blocks.*.ffn.gate",
    "model.layers.*.mlp.up_proj": "blocks.*.ffn.up",
    "model.layers.*.mlp.down_proj": "blocks.*.ffn.down",
    "model.norm": "norm",
    "lm_head": "head",
}


def attention(
    c: Config, base: float = 10000.0, *, partial_rotary: bool = False, **options: Any
) -> partial[Attention]:
    """A factory of Llama's attention. `base` is the rotation's, if the config has none."""
    n_heads, n_kv_heads = c.num_attention_heads, c.num_key_value_heads
    if n_kv_heads and n_heads % n_kv_heads:
        c.refuse(
            "num_attention_heads",
            f"is {n_heads}: it must be a multiple of num_key_value_heads, {n_kv_heads}",
        )
    d_head = c.head_dim or c.hidden_size // n_heads
    heads = {"n_heads": n_heads, "n_kv_heads": n_kv_heads, "d_head": d_head}
    positions = rope.rope(c, d_head, base, partial=partial_rotary)
    return partial(Attention, **heads, **positions, form="sdpa", **options)


def swiglu(c: Config, **options: Any) -> partial[SwiGLU]:
    return partial(SwiGLU, d_ff=c.intermediate_size, activation=activation(c), **options)


def model_of(c: Config, mixers: Sequence[Make], ffn: Make | Sequence[Make]) -> LanguageModel:
    options = {"eps": c.rms_norm_eps, "tie": c.tie_word_embeddings}
    return LanguageModel(c.vocab_size, c.hidden_size, mixers, ffn, **options)


def build_llama(c: Config) -> LanguageModel:
    mixers = [attention(c, bias=c.attention_bias)] * c.num_hidden_layers
    return model_of(c, mixers, swiglu(c, bias=c.mlp_bias))


def build_mistral(c: Config) -> LanguageModel:
    return model_of(c, [attention(c, window=c.sliding_window)] * c.num_hidden_layers, swiglu(c))


LLAMA_FIELDS = FIELDS | {"attention_bias": False, "mlp_bias": False}
MISTRAL_FIELDS = FIELDS | {
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096 * 32,
    "sliding_window": 4096,
}
LLAMA = Family("llama", LLAMA_FIELDS, build_llama, lambda c: NAMES)
MISTRAL = Family("mistral", MISTRAL_FIELDS, build_mistral, lambda c: NAMES)
