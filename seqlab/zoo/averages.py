"""Gated moving averages: RG-LRU, MEGA, Megalodon."""

from seqlab.mixers.rglru import RGLRU
from seqlab.zoo.row import CORE_FORMS, Row, with_heads

ROWS = [
    Row(
        "RG-LRU",
        with_heads(RGLRU),
        gate="a_t = exp(-8 r_t softplus(Λ)): one per channel, r chosen by the input",
        state_floats=lambda T, D: D + 3 * D,
        forms=("scan", *CORE_FORMS),
        paper="arXiv:2402.19427",
        year=2024,
        chapter=11,
        oracle="transformers RecurrentGemmaRecurrentBlock",
    ),
]
