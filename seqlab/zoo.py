"""Every architecture of the course, as data. The contract of tests/test_mixers.py runs over every row.

A new mixer is one file in mixers/, one row here and one oracle test.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from seqlab.mixers import Attention, LinearAttention, RetNet

CORE_FORMS = ("recurrent", "parallel", "chunkwise")


@dataclass(frozen=True)
class Row:
    """One architecture: how to make it, what it forgets, what its state costs, where it comes from."""

    name: str
    make: Callable[..., nn.Module]  # make(d_model, form=...) -> mixer
    gate: str  # A_t in S_t = S_{t-1} A_t + v_t k_tᵀ
    state_floats: Callable[[int, int], int]  # (T, d_model) -> numbers kept per sequence after T tokens
    forms: tuple[str, ...]
    paper: str
    year: int
    chapter: int
    oracle: str  # the code or mathematics its own test compares with; none of it shared with the mixer


def _row(name, mixer, options, *rest, **more) -> Row:
    return Row(name, partial(mixer, n_heads=H, **options), *rest, **more)


H, WINDOW, FEATURES = 4, 16, 24  # sizes of the rows below; any others can be asked for

ZOO = [
    _row(
        "linear attention",
        LinearAttention,
        {"feature_map": "elu"},
        gate="1: never forgets",
        state_floats=lambda T, D: H * (D // H + 1) * (D // H),
        forms=CORE_FORMS,
        paper="arXiv:2006.16236",
        year=2020,
        chapter=3,
        oracle="fla.ops.linear_attn.naive",
    ),
    _row(
        "linear attention, no feature map",
        LinearAttention,
        {"feature_map": "identity"},
        gate="1: never forgets",
        state_floats=lambda T, D: H * (D // H) ** 2,
        forms=CORE_FORMS,
        paper="arXiv:2102.11174",
        year=2021,
        chapter=3,
        oracle="a sum over all pairs in float64",
    ),
    _row(
        "Performer features",
        LinearAttention,
        {"feature_map": "random", "n_features": FEATURES},
        gate="1: never forgets",
        state_floats=lambda T, D: H * (D // H + 1) * FEATURES,
        forms=CORE_FORMS,
        paper="arXiv:2009.14794",
        year=2020,
        chapter=3,
        oracle="the mean over many draws is exp(q·k/√K)",
    ),
    _row(
        "Based features",
        LinearAttention,
        {"feature_map": "taylor"},
        gate="1: never forgets",
        state_floats=lambda T, D: H * (D // H + 1) * (1 + D // H + (D // H) ** 2),
        forms=CORE_FORMS,
        paper="arXiv:2402.18668",
        year=2024,
        chapter=3,
        oracle="fla.ops.based.naive",
    ),
    _row(
        "RetNet",
        RetNet,
        {},
        gate="γ_h: one constant per head",
        state_floats=lambda T, D: H * (2 * D // H) * (D // H),
        forms=CORE_FORMS,
        paper="arXiv:2307.08621",
        year=2023,
        chapter=4,
        oracle="fla.ops.retention.naive; the paper's complex form in float64",
    ),
    _row(
        "attention",
        Attention,
        {},
        gate="none: keeps every token",
        state_floats=lambda T, D: 2 * T * D,
        forms=("parallel", "sdpa"),
        paper="arXiv:1706.03762",
        year=2017,
        chapter=1,
        oracle="transformers LlamaAttention",
    ),
    _row(
        "grouped-query attention",
        Attention,
        {"n_kv_heads": 2},
        gate="none: keeps every token",
        state_floats=lambda T, D: 2 * T * D * 2 // H,
        forms=("parallel", "sdpa"),
        paper="arXiv:2305.13245",
        year=2023,
        chapter=1,
        oracle="transformers LlamaAttention",
    ),
    _row(
        "multi-query attention",
        Attention,
        {"n_kv_heads": 1},
        gate="none: keeps every token",
        state_floats=lambda T, D: 2 * T * D // H,
        forms=("parallel", "sdpa"),
        paper="arXiv:1911.02150",
        year=2019,
        chapter=1,
        oracle="transformers LlamaAttention",
    ),
    _row(
        "sliding-window attention",
        Attention,
        {"window": WINDOW},
        gate="1 inside the window, 0 outside",
        state_floats=lambda T, D: 2 * min(T, WINDOW) * D,
        forms=("parallel", "sdpa"),
        paper="arXiv:2004.05150",
        year=2020,
        chapter=15,
        oracle="attention on each window alone",
    ),
]


def row(name: str) -> Row:
    """The row called `name`; KeyError with the names there are."""
    for r in ZOO:
        if r.name == name:
            return r
    raise KeyError(f"no architecture is called {name!r}: there are {', '.join(r.name for r in ZOO)}")
