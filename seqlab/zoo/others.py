"""Long convolutions, moving averages, and states that are themselves learners."""

from functools import partial

from seqlab.mixers.attention import Attention
from seqlab.mixers.hyena import Hyena
from seqlab.mixers.slstm import sLSTM
from seqlab.mixers.titans import Titans
from seqlab.mixers.titans_mag import MemoryAsGate
from seqlab.mixers.ttt_linear import TTTLinear
from seqlab.mixers.ttt_mlp import TTTMLP
from seqlab.zoo.row import WINDOW, H, Row, with_heads

# Taps of the short convolutions.
D_CONV = 4


def titans_floats(T, D):
    """Three times a two-layer memory with 4 K hidden units, and the convolutions of q, k, v."""
    return 3 * 2 * 4 * D * (D // H) + (D_CONV - 1) * 3 * D


ROWS = [
    Row(
        "sLSTM",
        with_heads(sLSTM),
        gate="σ(f̃_t) per cell, against an input gate that is an exponential",
        state_floats=lambda T, D: 4 * D + (D_CONV - 1) * D,
        forms=(),
        paper="arXiv:2405.04517",
        year=2024,
        chapter=10,
        oracle="xlstm's vanilla cell; the paper's equations in float64",
    ),
    Row(
        "Hyena",
        Hyena,
        gate="none: a learned filter of time, and products of the inputs",
        state_floats=lambda T, D: 2 * 3 * D + T * D,
        forms=("fft", "direct"),
        paper="arXiv:2302.10866",
        year=2023,
        chapter=12,
        oracle="the paper's sums in float64, filter and convolution term by term",
    ),
    Row(
        "TTT-Linear",
        with_heads(TTTLinear),
        gate="1: each write is a gradient step, its size chosen by the input",
        state_floats=lambda T, D: 2 * D * (D // H + 1) + (D_CONV - 1) * D,
        forms=("dual", "primal"),
        paper="arXiv:2407.04620",
        year=2024,
        chapter=13,
        oracle="autograd of the inner loss; fla.ops.ttt.naive",
    ),
    Row(
        "TTT-MLP",
        with_heads(TTTMLP),
        gate="1: each write is a gradient step, its size chosen by the input",
        state_floats=lambda T, D: (
            2 * (4 * D * (D // H + 1) + D * (4 * D // H + 1)) + (D_CONV - 1) * D
        ),
        forms=("dual", "primal"),
        paper="arXiv:2407.04620",
        year=2024,
        chapter=13,
        oracle="autograd of the inner loss",
    ),
    Row(
        "Titans",
        with_heads(Titans),
        gate="1 - α_t: one per head, chosen by the input, and a momentum",
        state_floats=titans_floats,
        forms=("chunkwise", "recurrent"),
        paper="arXiv:2501.00663",
        year=2025,
        chapter=13,
        oracle="autograd of the inner loss",
    ),
    Row(
        "Titans, linear memory",
        with_heads(Titans, depth=1),
        gate="1 - α_t: one per head, chosen by the input, and a momentum",
        state_floats=lambda T, D: 3 * D * (D // H) + (D_CONV - 1) * 3 * D,
        forms=("chunkwise", "recurrent"),
        paper="arXiv:2501.00663",
        year=2025,
        chapter=13,
        oracle="autograd of the inner loss; DeltaNet's recurrence, without momentum and decay",
    ),
    Row(
        "Titans MAG",
        partial(
            MemoryAsGate,
            attention=with_heads(Attention, window=WINDOW, form="tiled"),
            memory=with_heads(Titans),
        ),
        gate="as in its memory, beside a window of attention",
        state_floats=lambda T, D: 2 * min(T, WINDOW) * D + titans_floats(T, D),
        forms=(),
        paper="arXiv:2501.00663",
        year=2025,
        chapter=13,
        oracle="its two branches, each tested by itself",
    ),
]
