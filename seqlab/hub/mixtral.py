"""Mixtral: Llama's attention, a sliding window, and experts."""

from functools import partial

from seqlab.ffn.moe import MoE
from seqlab.ffn.routers import MixtralRouter
from seqlab.ffn.swiglu import SwiGLU
from seqlab.hub import llama
from seqlab.hub.activation import activation
from seqlab.hub.config import Config
from seqlab.hub.family import Family
from seqlab.hub.weights import Names, experts
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
BASE = 1e6  # the rotation's, if a config has none


def moe(c: Config) -> partial[MoE]:
    router = partial(MixtralRouter, top_k=c.num_experts_per_tok)
    expert = partial(SwiGLU, activation=activation(c))
    sizes = {"n_experts": c.num_local_experts, "d_ff": c.intermediate_size}
    return partial(MoE, router=router, expert=expert, **sizes)


def moe_names(c: Config) -> Names:
    theirs = "model.layers.*.mlp"
    stored = "model.layers.*.block_sparse_moe"
    return {
        f"{theirs}.gate": "blocks.*.ffn.router.score",
        f"{stored}.gate": "blocks.*.ffn.router.score",
        **experts(
            f"{theirs}.experts",
            "blocks.*.ffn.experts",
            c.num_local_experts,
            f"{stored}.experts",
            ("w1", "w3", "w2"),
        ),
    }


def build(c: Config) -> LanguageModel:
    mixers = [llama.attention(c, BASE, window=c.sliding_window)] * c.num_hidden_layers
    return llama.model_of(c, mixers, moe(c))


MIXTRAL = Family("mixtral", FIELDS, build, lambda c: llama.NAMES | moe_names(c))
