"""Llama, and Mistral, which is Llama with a sliding window."""

from functools import partial

from seqlab.ffn.swiglu import SwiGLU
from seqlab.hub import rope
from seqlab.hub.config import Config
from seqlab.hub.family import Family
from seqlab.mixers.attention import Attention
from seqlab.model import LanguageModel

FIELDS = rope.FIELDS | {
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
    "attention_bias": False,
    "mlp_bias": False,
}
NAMES = {
    "model.embed_tokens": "embedding",
    "model.layers.*.input_layernorm": "blocks.*.mixer_norm",
    "model.layers.*.self_attn.q_proj": "blocks.*.mixer.q",
    "model.layers.*.self_attn.k_proj": "blocks.*.mixer.k",
    "model.layers.*.self_attn.v_proj": "blocks.*.mixer.v",
    "model.layers.*.self_attn.o_proj": "blocks.*.mixer.out",
    "model.layers.*.self_attn.rotary_emb.inv_freq": None,  # in old checkpoints; rope_theta says it
    "model.layers.*.post_attention_layernorm": "blocks.*.ffn_norm",
    "model.layers.*.mlp.gate_proj": "blocks.*.ffn.gate",
    "model.layers.*.mlp.up_proj": "blocks.*.ffn.up",
    "model.layers.*.mlp.down_proj": "blocks.*.ffn.down",
    "model.norm": "norm",
    "lm_head": "head",
}


def attention(c: Config, **options):
    """A factory of Llama's attention."""
    return partial(
        Attention,
        n_heads=c.num_attention_heads,
        n_kv_heads=c.num_key_value_heads,
        d_head=c.head_dim,
        **options,
    )


def build(c: Config, **options) -> LanguageModel:
    return LanguageModel(
        c.vocab_size,
        c.hidden_size,
        [attention(c, **rope.rope(c), **options)] * c.num_hidden_layers,
        partial(SwiGLU, d_ff=c.intermediate_size),
        eps=c.rms_norm_eps,
        tie=c.tie_word_embeddings,
    )


LLAMA = Family("llama", FIELDS, build, lambda c: NAMES, frozenset({"max_position_embeddings"}))
