"""Channel mixers: what a block does to each token on its own."""

from seqlab.ffn.mlp import MLP
from seqlab.ffn.moe import MoE, auxiliary_loss
from seqlab.ffn.peer import PEER
from seqlab.ffn.routers import (
    DeepSeekV3Router,
    ExpertChoiceRouter,
    MixtralRouter,
    NoisyTopKRouter,
    Routing,
    SoftRouter,
    SwitchRouter,
)
from seqlab.ffn.rwkv import ChannelMix
from seqlab.ffn.swiglu import SwiGLU

__all__ = [
    "MLP",
    "PEER",
    "ChannelMix",
    "DeepSeekV3Router",
    "ExpertChoiceRouter",
    "MixtralRouter",
    "MoE",
    "NoisyTopKRouter",
    "Routing",
    "SoftRouter",
    "SwiGLU",
    "SwitchRouter",
    "auxiliary_loss",
]
