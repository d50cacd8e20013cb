"""Mamba, Falcon Mamba (norms on Δ, B and C) and Mamba-2: blocks of a mixer alone."""

import math
from functools import partial

from seqlab.hub.activation import activation
from seqlab.hub.config import Config
from seqlab.hub.family import Family
from seqlab.hub.weights import into, without_channel
from seqlab.mixers.mamba import Mamba
from seqlab.mixers.mamba2 import Mamba2
from seqlab.model import LanguageModel

SHARED = {
    "vocab_size": 50280,
    "hidden_size": 768,
    "state_size": 16,
    "num_hidden_layers": 32,
    "layer_norm_epsilon": 1e-5,
    "expand": 2,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "rms_norm": True,
    "ssm_cfg": {},
}
# How weights are drawn, how sums are computed, the width of the residual stream's numbers; in old
# configs, the names of the authors' code beside their own, and Codestral's norm_before_gate, which
# no code ever read.
NO_EFFECT = frozenset(
    """
    d_inner d_model fused_add_norm n_layer norm_before_gate pad_vocab_size_multiple
    rescale_prenorm_residual residual_in_fp32 time_step_floor time_step_init_scheme time_step_max time_step_min
    time_step_scale use_associative_scan use_falcon_mambapy use_mambapy
    """.split()  # noqa: SIM905
)
SHARED_NAMES = {
    "backbone.embeddings": "embedding",
    "backbone.embedding": "embedding",  # the authors' own checkpoints
    "backbone.layers.*.norm": "blocks.*.mixer_norm",
    "backbone.layers.*.mixer.in_proj": "blocks.*.mixer.in_proj",
    "backbone.layers.*.mixer.conv1d.weight": into("blocks.*.mixer.conv.weight", by=without_channel),
    "backbone.layers.*.mixer.conv1d.bias": "blocks.*.mixer.conv.bias",
    "backbone.layers.*.mixer.A_log": "blocks.*.mixer.A_log",
    "backbone.layers.*.mixer.D": "blocks.*.mixer.D",
    "backbone.layers.*.mixer.out_proj": "blocks.*.mixer.out",
    "backbone.norm_f": "norm",
    "lm_head": "head",
}
MAMBA_NAMES = SHARED_NAMES | {
    "backbone.layers.*.mixer.x_proj": "blocks.*.mixer.x_proj",
    "backbone.layers.*.mixer.dt_proj": "blocks.*.mixer.dt_proj",
}
MAMBA2_NAMES = SHARED_NAMES | {
    "backbone.layers.*.mixer.dt_bias": "blocks.*.mixer.dt_bias",
    "backbone.layers.*.mixer.norm.weight": "blocks.*.mixer.norm",
}


def model_of(c: Config, mixer) -> LanguageModel:
    options = {"eps": c.layer_norm_epsilon, "tie": c.tie_word_embeddings}
    return LanguageModel(
        c.vocab_size, c.hidden_size, [mixer] * c.num_hidden_layers, None, **options
    )


def build_mamba(c: Config, **options) -> LanguageModel:
    rank, expanded = c.time_step_rank, int(c.expand * c.hidden_size)
    mixer = partial(
        Mamba,
        d_inner=c.intermediate_size or expanded,
        d_state=c.state_size,
        d_conv=c.conv_kernel,
        dt_rank=math.ceil(c.hidden_size / 16) if rank == "auto" else rank,
        bias=c.use_bias,
        conv_bias=c.use_conv_bias,
        **options,
    )
    return model_of(c, mixer)


def build_mamba2(c: Config) -> LanguageModel:
    if c.num_heads * c.head_dim != int(c.expand * c.hidden_size):
        c.refuse(
            "head_dim", f"is {c.head_dim}: with num_heads it must make up expand x hidden_size"
        )
    mixer = partial(
        Mamba2,
        n_heads=c.num_heads,
        d_head=c.head_dim,
        d_state=c.state_size,
        n_groups=c.n_groups,
        d_conv=c.conv_kernel,
        bias=c.use_bias,
        conv_bias=c.use_conv_bias,
        activation=activation(c),
        dt_limit=tuple(c.time_step_limit),
        eps=c.layer_norm_epsilon,
    )
    return model_of(c, mixer)


MAMBA_FIELDS = SHARED | {"intermediate_size": None, "time_step_rank": "auto"}
MAMBA = Family("mamba", MAMBA_FIELDS, build_mamba, lambda c: MAMBA_NAMES, NO_EFFECT)
FALCON_MAMBA = Family(
    "falcon_mamba",
    MAMBA_FIELDS | {"mixer_rms_eps": 1e-6},
    lambda c: build_mamba(c, norm_eps=c.mixer_rms_eps),
    lambda c: MAMBA_NAMES,
    NO_EFFECT,
)
MAMBA2 = Family(
    "mamba2",
    SHARED
    | {
        "vocab_size": 32768,
        "hidden_size": 4096,
        "num_hidden_layers": 64,
        "state_size": 128,
        "num_heads": 128,
        "head_dim": 64,
        "n_groups": 8,
        "time_step_limit": (0.0, math.inf),
        "tie_word_embeddings": False,
    },
    build_mamba2,
    lambda c: MAMBA2_NAMES,
    NO_EFFECT | {"chunk_size", "time_step_rank"},
)
