"""Softmax attention: the cache is the state."""

from seqlab.mixers.attention import Attention
from seqlab.mixers.differential import Differential
from seqlab.mixers.forgetting import ForgettingAttention
from seqlab.mixers.linformer import Linformer
from seqlab.mixers.mla import MLA
from seqlab.mixers.path import PaTH
from seqlab.mixers.streaming import StreamingLLM
from seqlab.zoo.row import WINDOW, H, Row, with_heads

FORMS = ("parallel", "tiled", "sdpa")
SINKS = 2

ROWS = [
    Row(
        "attention",
        with_heads(Attention),
        gate="none: keeps every token",
        state_floats=lambda T, D: 2 * T * D,
        forms=FORMS,
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
        forms=FORMS,
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
        forms=FORMS,
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
        forms=FORMS,
        paper="arXiv:2004.05150",
        year=2020,
        chapter=15,
        oracle="attention on each window alone",
    ),
    Row(
        "StreamingLLM",
        with_heads(StreamingLLM, n_sinks=SINKS, window=WINDOW),
        gate="1 for the first tokens and inside the window, 0 between",
        state_floats=lambda T, D: 2 * min(T, SINKS + WINDOW) * D,
        forms=("tiled", "parallel"),
        paper="arXiv:2309.17453",
        year=2023,
        chapter=16,
        oracle="the cache kept token by token in float64",
    ),
    Row(
        "gated attention",
        with_heads(Attention, n_kv_heads=2, gate=True, qk_norm=True),
        gate="none: keeps every token",
        state_floats=lambda T, D: 2 * T * D * 2 // H,
        forms=FORMS,
        paper="arXiv:2505.06708",
        year=2025,
        chapter=18,
        oracle="transformers Qwen3NextAttention",
    ),
    Row(
        "MLA",
        with_heads(MLA),
        gate="none: keeps every token",
        state_floats=lambda T, D: T * (4 * D // H + D // H // 2),
        forms=("naive", "absorbed"),
        paper="arXiv:2405.04434",
        year=2024,
        chapter=16,
        oracle="transformers DeepseekV3Attention, KimiLinearAttention",
    ),
    Row(
        "Differential Transformer",
        with_heads(Differential),
        gate="none: keeps every token",
        state_floats=lambda T, D: 2 * T * D,
        forms=FORMS,
        paper="arXiv:2410.05258",
        year=2024,
        chapter=15,
        oracle="transformers DiffLlamaAttention",
    ),
    Row(
        "Linformer",
        with_heads(Linformer, rank=16, max_length=128),
        gate="none: sees the whole sequence",
        state_floats=lambda T, D: 0,
        forms=(),
        paper="arXiv:2006.04768",
        year=2020,
        chapter=3,
        oracle="PyTorch's attention over projected keys and values",
        causal=False,
    ),
    Row(
        "forgetting attention",
        with_heads(ForgettingAttention),
        gate="f_t in the scores: keeps every token, fading",
        state_floats=lambda T, D: 2 * T * D + T * H,
        forms=(),
        paper="arXiv:2503.02130",
        year=2025,
        chapter=8,
        oracle="fla.ops.forgetting_attn.naive",
    ),
    Row(
        "PaTH",
        with_heads(PaTH),
        gate="I - β w wᵀ on every key: keeps every token, reflected",
        state_floats=lambda T, D: 2 * T * D + 2 * D,
        forms=(),
        paper="arXiv:2505.16381",
        year=2025,
        chapter=8,
        oracle="fla.ops.path_attn.naive",
    ),
]
