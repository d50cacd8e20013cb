"""Mixtral: Llama's attention, a sliding window, and experts."""

from functools import partial

from seqlab.ffn.moe import MoE
from seqlab.ffn.routers import MixtralRouter
from seqlab.ffn.swiglu import SwiGLU
from seqlab.hub import llama
from seqlab.hub.activation import activation
from seqlab.hub.config import Config
from seqlab.hub.family import Family
from seqlab.hub.weights import experts
from seqlab.model import LanguageModel

FIELDS = llama.FIELDS | {
    "intermediate_size": 14336,
    "max_position_embeddings": 4096 * 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
}
BASE = 1e6  # of the rotation, where a config does not say


def moe(c: Config):
    router = partial(MixtralRouter, top_k=c.num_experts_per_tok)
    expert = partial(SwiGLU, activation=activation(c))
    return partial(
        MoE, n_experts=c.num_local_experts, router=router, expert=expert, d_ff=c.intermediate_size
    )


def moe_names(c: Config) -> dict:
    theirs, stored = "model.layers.*.mlp", "model.layers.*.block_sparse_moe"
    gate = {f"{prefix}.gate": "blocks.*.ffn.router.score" for prefix in (theirs, stored)}
    every = c.num_local_experts
    return gate | experts(
        f"{theirs}.experts", "blocks.*.ffn.experts", every, f"{stored}.experts", ("w1", "w3", "w2")
    )


def build(c: Config) -> LanguageModel:
    mixers = [llama.attention(c, BASE, window=c.sliding_window)] * c.num_hidden_layers
    return llama.model_of(c, mixers, moe(c))


MIXTRAL = Family("mixtral", FIELDS, build, lambda c: llama.NAMES | moe_names(c))
