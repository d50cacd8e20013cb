"""Zamba2: Mamba-2, and a few transformers that many layers share.

Each of these layers makes low-rank changes of its own to its transformer.
"""

import math
from functools import partial
from typing import Any

from seqlab.blocks import SharedBlock, SharedTransformer
from seqlab.ffn.swiglu import SwiGLU
from seqlab.hub import rope
from seqlab.hub.activation import activation
from seqlab.hub.config import Config
from seqlab.hub.family import Family
from seqlab.hub.weights import Names, into, without_channel
from seqlab.mixers.attention import Attention
from seqlab.mixers.mamba2 import Mamba2
from seqlab.model import Block, LanguageModel

# The layers that call a transformer, if a config does not say.
PUBLISHED = [6, 12, 18, 24, 30, 36, 42, 47, 51]
FIELDS = rope.FIELDS | {
    "max_position_embeddings": 4096,
    "vocab_size": 32000,
    "hidden_size": 2560,
    "num_hidden_layers": 54,
    "layers_block_type": None,
    "hybrid_layer_ids": None,
    "mamba_d_state": 64,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_ngroups": 1,
    "mamba_headdim": None,
    "n_mamba_heads": 8,
    "time_step_min": 0.001,
    "use_conv_bias": True,
    "add_bias_linear": False,
    "intermediate_size": None,
    "ffn_hidden_size": None,
    "hidden_act": "gelu",
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "attention_hidden_size": None,
    "attention_head_dim": None,
    "num_mem_blocks": 1,
    "use_shared_mlp_adapter": True,
    "use_shared_attention_adapter": False,
    "adapter_rank": 128,
    "use_mem_rope": False,
    "use_long_context": False,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
NO_EFFECT = frozenset(
    """
    chunk_size kv_channels num_logits_to_keep num_query_groups time_step_floor time_step_max
    use_mamba_kernels use_mem_eff_path
    """.split()  # noqa: SIM905
)


def kinds(c: Config) -> list[bool]:
    """For each layer, whether it calls a transformer."""
    default = [i in PUBLISHED for i in range(c.num_hidden_layers)]
    called = {"mamba": False, "linear_attention": False, "hybrid": True}
    given = c.layers_block_type
    chosen = default if given is None else c.per_layer("layers_block_type", given, called)
    expect(c, "hybrid_layer_ids", [i for i, yes in enumerate(chosen) if yes])
    return chosen


def expect(c: Config, field: str, value: Any) -> Any:
    """`value`, which other fields determine; refuses a config whose `field` says otherwise."""
    given = getattr(c, field)
    if given not in (None, value):
        c.refuse(field, f"is {given!r}: other fields make it {value!r}")
    return value


def mamba2(c: Config) -> partial[Mamba2]:
    inner = int(c.mamba_expand * c.hidden_size)
    if inner % c.n_mamba_heads:
        why = f"is {c.n_mamba_heads}: mamba_expand x hidden_size, {inner}, must be a multiple"
        c.refuse("n_mamba_heads", why)
    return partial(
        Mamba2,
        n_heads=c.n_mamba_heads,
        d_head=expect(c, "mamba_headdim", inner // c.n_mamba_heads),
        d_state=c.mamba_d_state,
        n_groups=c.mamba_ngroups,
        d_conv=c.mamba_d_conv,
        bias=c.add_bias_linear,
        conv_bias=True,
        dt_limit=(c.time_step_min, math.inf),
        eps=1e-5,
    )


def transformer(c: Config) -> SharedTransformer:
    width = expect(c, "attention_hidden_size", 2 * c.hidden_size)
    d_head = expect(c, "attention_head_dim", width // c.num_attention_heads)
    kv_heads = c.num_key_value_heads or c.num_attention_heads
    if c.use_shared_attention_adapter and kv_heads * d_head != width:
        why = f"is True: then all heads together must have width {width}"
        c.refuse("use_shared_attention_adapter", why)
    turned = rope.rope(c, d_head)
    attention = partial(
        Attention,
        n_heads=c.num_attention_heads,
        n_kv_heads=kv_heads,
        d_head=d_head,
        scale=(d_head / 2) ** -0.5,
        form="sdpa",
        **(turned if c.use_mem_rope else {"rope_base": None}),
    )
    d_ff = expect(c, "ffn_hidden_size", c.intermediate_size or 4 * c.hidden_size)
    ffn = partial(SwiGLU, d_ff=d_ff, activation=activation(c), bias=c.add_bias_linear)
    return SharedTransformer(c.hidden_size, attention, ffn, c.rms_norm_eps)


def build(c: Config) -> LanguageModel:
    """Call number i goes to transformer number i modulo num_mem_blocks."""
    if c.num_mem_blocks < 1:
        c.refuse("num_mem_blocks", f"is {c.num_mem_blocks}: at least one transformer is needed")
    if not c.tie_word_embeddings:
        why = "is False: `transformers` then shares no transformers either"
        c.refuse("tie_word_embeddings", why)
    mamba = mamba2(c)
    transformers = [transformer(c) for _ in range(c.num_mem_blocks)]

    def plain(d_model):
        return Block(d_model, mamba(d_model), None, c.rms_norm_eps)

    def calling(call, d_model):
        shared = transformers[call % c.num_mem_blocks]
        view = shared.adapted(c.adapter_rank, attention=c.use_shared_attention_adapter)
        return SharedBlock(d_model, mamba(d_model), view, c.rms_norm_eps)

    calls = iter(range(c.num_hidden_layers))
    mixers = [partial(calling, next(calls)) if called else plain for called in kinds(c)]
    return LanguageModel(c.vocab_size, c.hidden_size, mixers, eps=c.rms_norm_eps, tie=True)


def names(c: Config) -> Names:
    table: Names = {
        "model.embed_tokens": "embedding",
        "model.layers.*.linear": "blocks.*.out",
        "model.final_layernorm": "norm",
        "lm_head": "head",
    }
    for layer in ("model.layers.*", "model.layers.*.mamba_decoder"):
        for part in ("in_proj", "A_log", "D", "dt_bias"):
            table[f"{layer}.mamba.{part}"] = f"blocks.*.mixer.{part}"
        table |= {
            f"{layer}.input_layernorm": "blocks.*.mixer_norm",
            f"{layer}.mamba.conv1d.weight": into("blocks.*.mixer.conv.weight", by=without_channel),
            f"{layer}.mamba.conv1d.bias": "blocks.*.mixer.conv.bias",
            f"{layer}.mamba.norm.weight": "blocks.*.mixer.norm",
            f"{layer}.mamba.out_proj": "blocks.*.mixer.out",
        }
    return table | shared_names(c)


def shared_names(c: Config) -> Names:
    """In each calling layer, `transformers` lists the changes of all calls of its transformer."""
    theirs = "model.layers.*.shared_transformer"
    ours = "blocks.*.transformer"
    shared = ".shared" if c.use_shared_attention_adapter else ""
    table: Names = {
        f"{theirs}.input_layernorm": f"{ours}.norm",
        f"{theirs}.self_attn.o_proj": f"{ours}.attention.out",
        f"{theirs}.pre_ff_layernorm": f"{ours}.ffn_norm",
        f"{theirs}.feed_forward.gate_up_proj": into(
            f"{ours}.ffn.gate.shared", f"{ours}.ffn.up.shared"
        ),
        f"{theirs}.feed_forward.down_proj": f"{ours}.ffn.down",
    }
    table |= {f"{theirs}.self_attn.{x}_proj": f"{ours}.attention.{x}{shared}" for x in "qkv"}
    layers = [i for i, called in enumerate(kinds(c)) if called]
    for first in range(len(layers)):
        for call in range(first % c.num_mem_blocks, len(layers), c.num_mem_blocks):
            theirs = f"model.layers.{layers[first]}.shared_transformer"
            ours = f"blocks.{layers[call]}.transformer"
            adapter = f"{theirs}.feed_forward.gate_up_proj_adapter_list.{call}"
            table[f"{adapter}.0"] = f"{ours}.ffn.gate.down"
            table[f"{adapter}.1"] = into(f"{ours}.ffn.gate.up", f"{ours}.ffn.up.up")
            for x in "qkv":
                adapter = f"{theirs}.self_attn.linear_{x}_adapter_list.{call}"
                table[f"{adapter}.0"] = f"{ours}.attention.{x}.down"
                table[f"{adapter}.1"] = f"{ours}.attention.{x}.up"
    return table


ZAMBA2 = Family("zamba2", FIELDS, build, names, NO_EFFECT)
