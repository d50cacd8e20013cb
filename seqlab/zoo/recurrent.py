"""Recurrent networks, and the attention that was first built around them."""

from seqlab.mixers.amsrn import AMSRN
from seqlab.mixers.elman import Elman
from seqlab.mixers.gru import GRU
from seqlab.mixers.lstm import LSTM
from seqlab.mixers.memory_network import MemoryNetwork
from seqlab.mixers.ntm import NTM
from seqlab.zoo.row import WINDOW, Row

ROWS = [
    Row(
        "Elman RNN",
        Elman,
        gate="none: a matrix and tanh between two steps",
        state_floats=lambda T, D: D,
        forms=("fused", "recurrent"),
        paper="doi:10.1207/s15516709cog1402_1",
        year=1990,
        chapter=2,
        oracle="torch.nn.RNN",
    ),
    Row(
        "LSTM",
        LSTM,
        gate="f_t: one per cell, from input and last output (added by Gers et al. 2000)",
        state_floats=lambda T, D: 2 * D,
        forms=("fused", "recurrent"),
        paper="doi:10.1162/neco.1997.9.8.1735",
        year=1997,
        chapter=2,
        oracle="torch.nn.LSTM",
    ),
    Row(
        "GRU",
        GRU,
        gate="z_t: keeps z, writes 1 - z",
        state_floats=lambda T, D: D,
        forms=("fused", "recurrent"),
        paper="arXiv:1406.1078",
        year=2014,
        chapter=2,
        oracle="torch.nn.GRU; the paper's equations in float64",
    ),
    Row(
        "Neural Turing Machine",
        NTM,
        gate="1 - w_n e per row and channel: erased where the writing head is",
        state_floats=lambda T, D: 16 * 16 + 2 * 16 + 16,
        forms=(),
        paper="arXiv:1410.5401",
        year=2014,
        chapter=2,
        oracle="the paper's equations in float64, row by row",
    ),
    Row(
        "Memory network",
        MemoryNetwork,
        gate="none: the last tokens are kept as they were read",
        state_floats=lambda T, D: min(T, WINDOW) * D,
        forms=(),
        paper="arXiv:1503.08895",
        year=2015,
        chapter=2,
        oracle="the paper's equations in float64, one question at a time",
    ),
    Row(
        "Attention-based memory selection",
        AMSRN,
        gate="f_t of its LSTM; all past outputs are kept beside it",
        state_floats=lambda T, D: 2 * D + T * D,
        forms=(),
        paper="arXiv:1611.08656",
        year=2016,
        chapter=2,
        oracle="torch.nn.LSTM, then the selections in float64, one token at a time",
    ),
]
