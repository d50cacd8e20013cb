"""Mixtral: Llama's attention, a sliding window, and experts."""

from functools import partial

from seqlab.ffn.moe import MoE
from seqlab.ffn.routers import MixtralRouter
from seqlab.hub import llama, rope
from seqlab.hub.config import Config
from seqlab.hub.family import Family
from seqlab.hub.weights import experts
from seqlab.model import LanguageModel

FIELDS = rope.FIELDS | {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "sliding_window": None,
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
}
BASE = 1e6  # of the rotation, where a config does not say


def moe(c: Config):
    router = partial(MixtralRouter, top_k=c.num_experts_per_tok)
    return partial(MoE, n_experts=c.num_local_experts, router=router, d_ff=c.intermediate_size)


def moe_names(c: Config) -> dict:
    theirs, stored = "model.layers.*.mlp", "model.layers.*.block_sparse_moe"
    gate = {f"{prefix}.gate": "blocks.*.ffn.router.score" for prefix in (theirs, stored)}
    every = c.num_local_experts
    return gate | experts(f"{theirs}.experts", "blocks.*.ffn.experts", every, f"{stored}.experts", ("w1", "w3", "w2"))


def build(c: Config) -> LanguageModel:
    return LanguageModel(
        c.vocab_size,
        c.hidden_size,
        [llama.attention(c, window=c.sliding_window, **rope.rope(c, BASE))] * c.num_hidden_layers,
        moe(c),
        eps=c.rms_norm_eps,
        tie=c.tie_word_embeddings,
    )


MIXTRAL = Family("mixtral", FIELDS, build, lambda c: llama.NAMES | moe_names(c), frozenset({"max_position_embeddings"}))
