"""RecurrentGemma: two RG-LRU blocks, then local attention, each with a GeGLU.

The weights of the norms are stored as w - 1.
"""

from functools import partial

import torch

from seqlab.ffn.swiglu import SwiGLU
from seqlab.hub import llama, rope
from seqlab.hub.activation import activation
from seqlab.hub.config import Config
from seqlab.hub.family import Family
from seqlab.hub.weights import Names, into, plus_one, without_channel
from seqlab.mixers.attention import Attention
from seqlab.mixers.rglru import RGLRU
from seqlab.model import LanguageModel

FIELDS = rope.FIELDS | {
    "partial_rotary_factor": 0.5,
    "num_hidden_layers": 26,
    "vocab_size": 256000,
    "hidden_size": 2560,
    "intermediate_size": 7680,
    "num_attention_heads": 10,
    "num_key_value_heads": None,
    "head_dim": None,
    "lru_width": None,
    "attention_window_size": 2048,
    "conv1d_width": 4,
    "logits_soft_cap": 30.0,
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
    "block_types": ("recurrent", "recurrent", "attention"),
    "attention_bias": False,
    "tie_word_embeddings": True,
    "embeddings_scale_by_sqrt_dim": True,
}
LRU = "model.layers.*.temporal_block"
GATES = f"{LRU}.rg_lru"
NAMES: Names = {
    "model.embed_tokens": "embedding",
    "model.layers.*.temporal_pre_norm": into("blocks.*.mixer_norm", by=plus_one),
    "model.layers.*.channel_pre_norm": into("blocks.*.ffn_norm", by=plus_one),
    "model.layers.*.mlp_block.gate_proj": "blocks.*.ffn.gate",
    "model.layers.*.mlp_block.up_proj": "blocks.*.ffn.up",
    "model.layers.*.mlp_block.down_proj": "blocks.*.ffn.down",
    f"{LRU}.q_proj": "blocks.*.mixer.q",
    f"{LRU}.k_proj": "blocks.*.mixer.k",
    f"{LRU}.v_proj": "blocks.*.mixer.v",
    f"{LRU}.o_proj": "blocks.*.mixer.out",
    f"{LRU}.linear_x": "blocks.*.mixer.x",
    f"{LRU}.linear_y": "blocks.*.mixer.y",
    f"{LRU}.linear_out": "blocks.*.mixer.out",
    f"{LRU}.conv_1d.weight": into("blocks.*.mixer.conv.weight", by=without_channel),
    f"{LRU}.conv_1d.bias": "blocks.*.mixer.conv.bias",
    f"{GATES}.recurrent_param": "blocks.*.mixer.Lambda",
    f"{GATES}.recurrent_gate_weight": "blocks.*.mixer.r_weight",
    f"{GATES}.recurrent_gate_bias": "blocks.*.mixer.r_bias",
    f"{GATES}.input_gate_weight": "blocks.*.mixer.i_weight",
    f"{GATES}.input_gate_bias": "blocks.*.mixer.i_bias",
    "model.final_norm": into("norm", by=plus_one),
    "lm_head": "head",
}


def attention(c: Config) -> partial[Attention]:
    options = {"window": c.attention_window_size, "bias": c.attention_bias, "out_bias": True}
    return llama.attention(c, partial_rotary=True, **options)


def recurrent(c: Config) -> partial[RGLRU]:
    return partial(
        RGLRU,
        n_heads=c.num_attention_heads,
        lru_width=c.lru_width,
        d_conv=c.conv1d_width,
        activation=activation(c, "hidden_activation"),
    )


def build(c: Config) -> LanguageModel:
    kinds = {"recurrent": recurrent(c), "attention": attention(c)}
    wanted = [c.block_types[layer % len(c.block_types)] for layer in range(c.num_hidden_layers)]
    gelu = activation(c, "hidden_activation")
    geglu = partial(SwiGLU, d_ff=c.intermediate_size // 2, bias=True, activation=gelu)
    # √D is rounded to bfloat16, as in training.
    scale = torch.tensor(c.hidden_size**0.5).bfloat16().item()
    return LanguageModel(
        c.vocab_size,
        c.hidden_size,
        c.per_layer("block_types", wanted, kinds),
        geglu,
        eps=c.rms_norm_eps,
        tie=c.tie_word_embeddings,
        embedding_scale=scale,
        logit_cap=c.logits_soft_cap,
    )


NO_EFFECT = frozenset({"w_init_variance_scale", "final_w_init_variance_scale"})
RECURRENT_GEMMA = Family("recurrent_gemma", FIELDS, build, lambda c: NAMES, NO_EFFECT)
