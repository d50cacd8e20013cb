"""State spaces: a linear recurrence per channel, its gate a discretised rate."""

from functools import partial

from seqlab.mixers.dss import DSS
from seqlab.mixers.lru import LRU
from seqlab.mixers.s4 import S4
from seqlab.mixers.s4d import S4D
from seqlab.mixers.s5 import S5
from seqlab.zoo.row import Row

# Modes per channel in these rows.
N = 8
SCANS = ("scan", "sequential", "blelloch", "hillis_steele", "chunked")

ROWS = [
    Row(
        "S4",
        partial(S4, d_state=N),
        gate="the bilinear rule on HiPPO-LegS: a constant matrix per channel, diagonal + rank one",
        state_floats=lambda T, D: D * N,
        forms=("convolution", "recurrent"),
        paper="arXiv:2111.00396",
        year=2021,
        chapter=6,
        oracle="the full matrices of HiPPO-LegS in a float64 loop",
    ),
    Row(
        "S4D",
        partial(S4D, d_state=N),
        gate="exp(dt A): one constant per mode and channel",
        state_floats=lambda T, D: D * N,
        forms=("convolution", "scan"),
        paper="arXiv:2206.11893",
        year=2022,
        chapter=6,
        oracle="matrix_exp and a loop in float64",
    ),
    Row(
        "S4D-Real",
        partial(S4D, d_state=N, init="real"),
        gate="exp(dt A), A real: one constant per mode and channel",
        state_floats=lambda T, D: D * N,
        forms=("convolution", "scan"),
        paper="arXiv:2206.11893",
        year=2022,
        chapter=6,
        oracle="matrix_exp and a loop in float64",
    ),
    Row(
        "DSS",
        partial(DSS, d_state=N),
        gate="exp(dt₁ Re Λ + i dt₂ Im Λ): Λ shared by all channels, two steps dt per channel",
        state_floats=lambda T, D: 2 * D * N,
        forms=("convolution", "scan"),
        paper="arXiv:2203.14343",
        year=2022,
        chapter=6,
        oracle="the paper's kernel as a sum in float64",
    ),
    Row(
        "S5",
        partial(S5, d_state=2 * N, n_blocks=2),
        gate="exp(dt Λ): one constant per mode of a state shared by all channels",
        state_floats=lambda T, D: 2 * N,
        forms=SCANS,
        paper="arXiv:2208.04933",
        year=2022,
        chapter=6,
        oracle="the full real system through matrix_exp in float64",
    ),
    Row(
        "LRU",
        partial(LRU, d_state=2 * N),
        gate="λ on a ring: one constant per mode of a state shared by all channels",
        state_floats=lambda T, D: 2 * 2 * N,
        forms=SCANS,
        paper="arXiv:2303.06349",
        year=2023,
        chapter=6,
        oracle="the paper's recurrence in float64",
    ),
]
