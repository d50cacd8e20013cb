"""Mamba, Falcon Mamba (norms on Δ, B and C) and Mamba-2: blocks of a mixer alone."""

import math
from functools import partial
from typing import Any

from seqlab.hub.activation import activation
from seqlab.hub.config import Config
from seqlab.hub.family import Family
from seqlab.hub.weights import Names, into, without_channel
from seqlab.mixers.mamba import Mamba
from seqlab.mixers.mamba2 import Mamba2
from seqlab.model import LanguageModel, Make

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
# How weights are drawn, how sums are computed, the dtype of the residual stream; in old configs,
# the names of the authors' code beside those of `transformers`, and Codestral's norm_before_gate,
# which no code ever read.
NO_EFFECT = frozenset(
    """
    d_inner d_model fused_add_norm n_layer norm_before_gate pad_vocab_size_multiple
    rescale_prenorm_residual residual_in_fp32 time_step_floor time_step_init_scheme time_step_max
    time_step_min time_step_scale use_associative_scan use_falcon_mambapy use_mambapy
    """.split()  # noqa: SIM905
)
SHARED_NAMES: Names = {
    "backbone.embeddings": "embedding",
    "backbone.embedding": "embedding",  # in the authors' own checkpoints
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


def model_of(c: Config, mixer: Make) -> LanguageModel:
    mixers = [mixer] * c.num_hidden_layers
    options = {"eps": c.layer_norm_epsilon, "tie": c.tie_word_embeddings}
    return LanguageModel(c.vocab_size, c.hidden_size, mixers, None, **options)


def build_mamba(c: Config, **options: Any) -> LanguageModel:
    rank = c.time_step_rank
    expanded = int(c.expand * c.hidden_size)
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


def build_falcon_mamba(c: Config) -> LanguageModel:
    return build_mamba(c, norm_eps=c.mixer_rms_eps)


def build_mamba2(c: Config) -> LanguageModel:
    if c.num_heads * c.head_dim != int(c.expand * c.hidden_size):
        why = f"is {c.head_dim}: with num_heads it must make up expand x hidden_size"
        c.refuse("head_dim", why)
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
FALCON_FIELDS = MAMBA_FIELDS | {"mixer_rms_eps": 1e-6}
MAMBA2_FIELDS = SHARED | {
    "vocab_size": 32768,
    "hidden_size": 4096,
    "num_hidden_layers": 64,
    "state_size": 128,
    "num_heads": 128,
    "head_dim": 64,
    "n_groups": 8,
    "time_step_limit": (0.0, math.inf),
    "tie_word_embeddings": False,
}
MAMBA2_NO_EFFECT = NO_EFFECT | {"chunk_size", "time_step_rank"}


def mamba_names(c: Config) -> Names:
    return MAMBA_NAMES


def mamba2_names(c: Config) -> Names:
    return MAMBA2_NAMES


MAMBA = Family("mamba", MAMBA_FIELDS, build_mamba, mamba_names, NO_EFFECT)
FALCON_MAMBA = Family("falcon_mamba", FALCON_FIELDS, build_falcon_mamba, mamba_names, NO_EFFECT)
MAMBA2 = Family("mamba2", MAMBA2_FIELDS, build_mamba2, mamba2_names, MAMBA2_NO_EFFECT)
