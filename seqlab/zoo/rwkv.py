"""Four generations of RWKV."""

from seqlab.mixers.rwkv4 import RWKV4
from seqlab.mixers.rwkv5 import RWKV5
from seqlab.mixers.rwkv6 import RWKV6
from seqlab.mixers.rwkv7 import RWKV7
from seqlab.zoo.row import CORE_FORMS, H, Row, with_heads


def table_floats(T, D):
    """A table per head, and the last input."""
    return H * (D // H) ** 2 + D


ROWS: list[Row] = [
    Row(
        "RWKV-4",
        RWKV4,
        gate="e^w: one constant per channel",
        state_floats=lambda T, D: 4 * D,
        forms=("scan", "recurrent"),
        paper="arXiv:2305.13048",
        year=2023,
        chapter=9,
        oracle="transformers RwkvSelfAttention",
    ),
    Row(
        "RWKV-5 Eagle",
        with_heads(RWKV5),
        gate="exp(-exp(d)): one constant per key channel",
        state_floats=table_floats,
        forms=CORE_FORMS,
        paper="arXiv:2404.05892",
        year=2024,
        chapter=9,
        oracle="the rwkv package's time mix",
    ),
    Row(
        "RWKV-6 Finch",
        with_heads(RWKV6, mix_rank=8, decay_rank=8),
        gate="exp(-exp(d_t)): one number per key channel, from the input",
        state_floats=table_floats,
        forms=CORE_FORMS,
        paper="arXiv:2404.05892",
        year=2024,
        chapter=9,
        oracle="the rwkv package's time mix; fla.ops.rwkv6.recurrent_naive",
    ),
    Row(
        "RWKV-7 Goose",
        with_heads(RWKV7, ranks=(8, 8, 8, 8)),
        gate="diag(w_t) - κ (a κ)ᵀ: fades each key channel, and erases under its own key",
        state_floats=table_floats,
        forms=("chunkwise", "recurrent"),
        paper="arXiv:2503.14456",
        year=2025,
        chapter=9,
        oracle="the rwkv package's time mix; fla.ops.generalized_delta_rule.dplr.naive",
    ),
]
