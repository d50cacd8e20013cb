"""Recurrent networks: from one step to the next the state passes through a matrix."""

from seqlab.mixers.elman import Elman
from seqlab.mixers.gru import GRU
from seqlab.mixers.lstm import LSTM
from seqlab.zoo.row import Row

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
]
