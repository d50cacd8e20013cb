"""Gated moving averages: RG-LRU, MEGA, Megalodon."""

from functools import partial

from seqlab.core.convolution import FORMS
from seqlab.mixers.mega import MEGA
from seqlab.mixers.megalodon import CEMA
from seqlab.mixers.rglru import RGLRU
from seqlab.zoo.row import CORE_FORMS, WINDOW, Row, with_heads

# Of the rows: averages per channel, and the width of MEGA's queries.
N, Z = 4, 8

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
    Row(
        "MEGA",
        partial(MEGA, d_state=N, d_z=Z, chunk_size=WINDOW),
        gate="1 - α δ: N constants per channel; within a chunk none, keeps every token",
        state_floats=lambda T, D: D * N + T % WINDOW * (Z + 2 * D),
        forms=tuple(FORMS),
        paper="arXiv:2209.10655",
        year=2022,
        chapter=12,
        oracle="the paper's equations token by token",
    ),
    Row(
        "Megalodon CEMA",
        partial(CEMA, d_state=N),
        gate="(1 - α δ) e^{iθ}: N complex constants per channel",
        state_floats=lambda T, D: 2 * D * N,
        forms=tuple(FORMS),
        paper="arXiv:2404.08801",
        year=2024,
        chapter=12,
        oracle="the paper's equation token by token, in real arithmetic",
    ),
]
