"""Linear attention and its gated descendants: sums of v kᵀ."""

from seqlab.mixers.linear_attention import LinearAttention
from seqlab.mixers.retnet import RetNet
from seqlab.zoo.row import CORE_FORMS, FEATURES, H, Row, with_heads

ROWS = [
    Row(
        "linear attention",
        with_heads(LinearAttention, feature_map="elu"),
        gate="1: never forgets",
        state_floats=lambda T, D: H * (D // H + 1) * (D // H),
        forms=CORE_FORMS,
        paper="arXiv:2006.16236",
        year=2020,
        chapter=3,
        oracle="fla.ops.linear_attn.naive",
    ),
    Row(
        "linear attention, no feature map",
        with_heads(LinearAttention, feature_map="identity"),
        gate="1: never forgets",
        state_floats=lambda T, D: H * (D // H) ** 2,
        forms=CORE_FORMS,
        paper="arXiv:2102.11174",
        year=2021,
        chapter=3,
        oracle="a sum over all pairs in float64",
    ),
    Row(
        "Performer features",
        with_heads(LinearAttention, feature_map="random", n_features=FEATURES),
        gate="1: never forgets",
        state_floats=lambda T, D: H * (D // H + 1) * FEATURES,
        forms=CORE_FORMS,
        paper="arXiv:2009.14794",
        year=2020,
        chapter=3,
        oracle="the mean over many draws is exp(q·k/√K)",
    ),
    Row(
        "Based features",
        with_heads(LinearAttention, feature_map="taylor"),
        gate="1: never forgets",
        state_floats=lambda T, D: H * (D // H + 1) * (1 + D // H + (D // H) ** 2),
        forms=CORE_FORMS,
        paper="arXiv:2402.18668",
        year=2024,
        chapter=3,
        oracle="fla.ops.based.naive",
    ),
    Row(
        "RetNet",
        with_heads(RetNet),
        gate="γ_h: one constant per head",
        state_floats=lambda T, D: H * (2 * D // H) * (D // H),
        forms=CORE_FORMS,
        paper="arXiv:2307.08621",
        year=2023,
        chapter=4,
        oracle="fla.ops.retention.naive; the paper's complex form in float64",
    ),
]
