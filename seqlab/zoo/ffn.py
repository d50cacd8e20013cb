"""Channel mixers: what a block does to each token, and how many of its weights a token uses."""

from functools import partial

from seqlab.ffn import (
    MLP,
    PEER,
    ChannelMix,
    DeepSeekV3Router,
    ExpertChoiceRouter,
    MixtralRouter,
    MoE,
    NoisyTopKRouter,
    SoftRouter,
    SwiGLU,
    SwitchRouter,
)
from seqlab.zoo.row import ChannelMixer

# Experts of the rows.
E = 8


def experts(router, **options):
    return partial(MoE, n_experts=E, router=router, **options)


def used(D, n):
    """The weights of n SwiGLU experts, and of a router that scores each of E."""
    return n * 3 * D * (8 * D // 3) + E * D


ROWS: list[ChannelMixer] = [
    ChannelMixer(
        "MLP",
        MLP,
        route="nowhere: it uses every weight",
        touched=lambda D: 8 * D * D + 5 * D,
        paper="arXiv:1706.03762",
        year=2017,
        chapter=1,
        oracle="torch.nn.TransformerEncoderLayer",
    ),
    ChannelMixer(
        "SwiGLU",
        SwiGLU,
        route="nowhere: it uses every weight, one half gated by the other",
        touched=lambda D: 3 * D * (8 * D // 3),
        paper="arXiv:2002.05202",
        year=2020,
        chapter=1,
        oracle="transformers LlamaMLP",
    ),
    ChannelMixer(
        "RWKV channel mix",
        ChannelMix,
        route="nowhere: it uses every weight, and the token before it",
        touched=lambda D: 9 * D * D + 2 * D,
        paper="arXiv:2305.13048",
        year=2023,
        chapter=9,
        oracle="transformers RwkvFeedForward",
    ),
    ChannelMixer(
        "soft mixture of experts",
        experts(SoftRouter),
        route=f"to all {E} experts, each by its softmax weight",
        touched=lambda D: used(D, E),
        paper="doi:10.1162/neco.1991.3.1.79",
        year=1991,
        chapter=17,
        oracle="the sum over experts, token by token in float64",
    ),
    ChannelMixer(
        "noisy top-k experts",
        experts(NoisyTopKRouter),
        route=f"to the best 2 of {E}, by a softmax over those; noise in training",
        touched=lambda D: used(D, 2) + E * D,
        paper="arXiv:1701.06538",
        year=2017,
        chapter=17,
        oracle="the chance of each expert, counted over fresh noise",
    ),
    ChannelMixer(
        "Switch experts",
        experts(SwitchRouter),
        route=f"to the best of {E}, or nowhere if that one is full",
        touched=lambda D: used(D, 1),
        paper="arXiv:2101.03961",
        year=2021,
        chapter=17,
        oracle="transformers SwitchTransformersSparseMLP",
    ),
    ChannelMixer(
        "Mixtral experts",
        experts(MixtralRouter),
        route=f"to the best 2 of {E}, by a softmax over those",
        touched=lambda D: used(D, 2),
        paper="arXiv:2401.04088",
        year=2024,
        chapter=17,
        oracle="transformers MixtralSparseMoeBlock, MiniMax's, Jamba's",
    ),
    ChannelMixer(
        "DeepSeek-V3 experts",
        experts(
            partial(DeepSeekV3Router, top_k=2, n_groups=4, top_groups=2), n_shared=1, d_shared=64
        ),
        route=f"to the best 2 of {E} in the best groups, by sigmoid plus bias, and to a shared one",
        touched=lambda D: used(D, 2) + 3 * D * 64,
        paper="arXiv:2412.19437",
        year=2024,
        chapter=17,
        oracle="transformers DeepseekV3MoE, KimiLinear's",
    ),
    ChannelMixer(
        "expert choice",
        experts(ExpertChoiceRouter),
        route=f"to those of {E} experts that choose it, 2 on average: not causal",
        touched=lambda D: used(D, 2),
        paper="arXiv:2202.09368",
        year=2022,
        chapter=17,
        oracle="each expert's largest scores, expert by expert",
        causal=False,
    ),
    ChannelMixer(
        "PEER",
        partial(PEER, n_experts=32**2, n_heads=4, top_k=8, d_key=32),
        route="to the best 8 of 1,024 experts of one neuron, for each of 4 heads",
        touched=lambda D: D * 4 * 32 + 4 * 32 + 2 * 32 * 16 + 2 * D * 4 * 8,
        paper="arXiv:2407.04153",
        year=2024,
        chapter=17,
        oracle="the scores of all experts, and a loop over the chosen",
    ),
]
