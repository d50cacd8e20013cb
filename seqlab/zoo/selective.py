"""State spaces that read their input: Mamba and its kin."""

from functools import partial

from seqlab.core.convolution import FORMS
from seqlab.mixers.gss import GSS
from seqlab.mixers.h3 import H3
from seqlab.mixers.mamba import Mamba
from seqlab.mixers.mamba2 import Mamba2
from seqlab.mixers.mamba3 import Mamba3
from seqlab.zoo.row import CORE_FORMS, H, Row, with_heads

# d_state of the rows.
N = 8

ROWS = [
    Row(
        "GSS",
        partial(GSS, d_state=N),
        gate="e^λ: N constants shared by all channels",
        state_floats=lambda T, D: 2 * (D // 4) * N,
        forms=tuple(FORMS),
        paper="arXiv:2206.13947",
        year=2022,
        chapter=6,
        oracle="its kernel as an integral, by quadrature, summed over all pairs",
    ),
    Row(
        "H3",
        partial(H3, d_head=2, d_state=N),
        gate="e^{Δ A}: constants per head and mode; a write is weighted by its age",
        state_floats=lambda T, D: 2 * D * 2 * N // 2 + (N - 1) * D,
        forms=tuple(FORMS),
        paper="arXiv:2212.14052",
        year=2022,
        chapter=12,
        oracle="both state spaces stepped token by token, one by its matrix exponential",
    ),
    Row(
        "Mamba",
        partial(Mamba, d_state=N),
        gate="exp(Δ_t A): one per channel and state, Δ chosen by the input",
        state_floats=lambda T, D: 2 * D * N + 3 * 2 * D,
        forms=("scan", *CORE_FORMS),
        paper="arXiv:2312.00752",
        year=2023,
        chapter=6,
        oracle="transformers MambaMixer, FalconMambaMixer, JambaMambaMixer",
    ),
    Row(
        "Mamba-2",
        with_heads(Mamba2, d_state=N, n_groups=2),
        gate="exp(Δ_t A_h): one per head, Δ chosen by the input",
        state_floats=lambda T, D: 2 * D * N + 3 * (2 * D + 2 * 2 * N),
        forms=CORE_FORMS,
        paper="arXiv:2405.21060",
        year=2024,
        chapter=7,
        oracle="transformers Mamba2Mixer, BambaMixer, Zamba2MambaMixer",
    ),
    Row(
        "Mamba-3",
        with_heads(Mamba3, d_state=N, n_groups=2),
        gate="exp(Δ_t A_t): one per head, and a turn of the keys; Δ, A, angle chosen by the input",
        state_floats=lambda T, D: 2 * D * N + H * (N // 4) + H * N + 2 * D,
        forms=CORE_FORMS,
        paper="arXiv:2603.15569",
        year=2026,
        chapter=7,
        oracle="the paper's recurrence, head by head in float64, with complex key channels",
    ),
    Row(
        "Mamba-3, MIMO",
        with_heads(Mamba3, d_state=N, rank=2),
        gate="as Mamba-3; two keys, queries and values per head and token",
        state_floats=lambda T, D: 2 * D * N + H * (N // 4) + 2 * H * N + 2 * 2 * D,
        forms=CORE_FORMS,
        paper="arXiv:2603.15569",
        year=2026,
        chapter=7,
        oracle="the paper's recurrence, head by head in float64, with complex key channels",
    ),
]
