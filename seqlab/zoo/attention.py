"""Softmax attention: the cache is the state."""

from seqlab.mixers.attention import Attention
from seqlab.zoo.row import WINDOW, H, Row, with_heads

ROWS = [
    Row(
        "attention",
        with_heads(Attention),
        gate="none: keeps every token",
        state_floats=lambda T, D: 2 * T * D,
        forms=("parallel", "sdpa"),
        paper="arXiv:1706.03762",
        year=2017,
        chapter=1,
        oracle="transformers LlamaAttention",
    ),
    Row(
        "grouped-query attention",
        with_heads(Attention, n_kv_heads=2),
        gate="none: keeps every token",
        state_floats=lambda T, D: 2 * T * D * 2 // H,
        forms=("parallel", "sdpa"),
        paper="arXiv:2305.13245",
        year=2023,
        chapter=1,
        oracle="transformers LlamaAttention",
    ),
    Row(
        "multi-query attention",
        with_heads(Attention, n_kv_heads=1),
        gate="none: keeps every token",
        state_floats=lambda T, D: 2 * T * D // H,
        forms=("parallel", "sdpa"),
        paper="arXiv:1911.02150",
        year=2019,
        chapter=1,
        oracle="transformers LlamaAttention",
    ),
    Row(
        "sliding-window attention",
        with_heads(Attention, window=WINDOW),
        gate="1 inside the window, 0 outside",
        state_floats=lambda T, D: 2 * min(T, WINDOW) * D,
        forms=("parallel", "sdpa"),
        paper="arXiv:2004.05150",
        year=2020,
        chapter=15,
        oracle="attention on each window alone",
    ),
]
