"""Our kernels under the lab's own eyes: nothing that a GPU would punish, and no byte moved that
need not be.
"""

from importlib import import_module

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton (Linux only)")

from seqlab import kernels
from seqlab.gpu.sanitize import sanitize
from seqlab.gpu.trace import trace

RUNS = {
    "softmax": (lambda x: kernels.softmax(x), [(5, 37)]),
    "rms_norm": (lambda x, w: kernels.rms_norm(x, w), [(5, 37), (37,)]),
    "matmul": (lambda a, b: kernels.matmul(a, b), [(130, 40), (40, 30)]),
    "flash_attention": (
        lambda q, k, v: kernels.flash_attention(q, k, v, causal=True, window=50),
        [(1, 70, 2, 16), (1, 75, 1, 16), (1, 75, 1, 24)],
    ),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_kernel_is_clean(name, dtype, launches_of):
    function, shapes = RUNS[name]
    for run in launches_of(function, *shapes, dtype=dtype):
        assert sanitize(run.kernel, run.grid, *run.args, **run.named) == []


def traces(launches_of, name):
    function, shapes = RUNS[name]
    return [
        trace(run.kernel, run.grid, *run.args, **run.named)
        for run in launches_of(function, *shapes)
    ]


def test_softmax_reads_and_writes_the_matrix_once(launches_of):
    forward, backward = traces(launches_of, "softmax")
    n = 5 * 37 * 4
    assert (forward.bytes_in, forward.bytes_out) == (n, n)
    assert (backward.bytes_in, backward.bytes_out) == (2 * n, n)


def test_rms_norm_reads_rows_once_and_the_weight_once_a_program(launches_of, monkeypatch):
    for name in ("FORWARD", "BACKWARD"):
        monkeypatch.setattr(import_module("seqlab.kernels.rmsnorm"), name, 2)
    M, D = 20, 37
    runs = launches_of(kernels.rms_norm, (M, D), (D,))
    forward, backward = (trace(run.kernel, run.grid, *run.args, **run.named) for run in runs)
    assert forward.bytes == 4 * (2 * M * D + M + 2 * D)
    assert backward.bytes == 4 * (
        3 * M * D + M + 2 * D + 2 * D
    )  # the last: each program's part of dweight
    assert forward.bytes <= 1.2 * 4 * (2 * M * D + D) and backward.bytes <= 1.2 * 4 * (
        3 * M * D + 2 * D
    )


def test_matmul_reads_each_matrix_once_for_every_tile_across_it(launches_of):
    seen = traces(launches_of, "matmul")[0]
    assert seen.traffic["p_a"].bytes_in == 130 * 40 * 4 * 1  # 30 columns: one tile
    assert seen.traffic["p_b"].bytes_in == 40 * 30 * 4 * 2  # 130 rows: two
    assert seen.bytes_out == 130 * 30 * 4


def test_attention_reads_each_query_once_and_only_tiles_with_keys_that_are_seen(launches_of):
    """A causal square of T = 4 tiles: query tile i reads i + 1 tiles of keys, as the algorithm
    says.
    """
    tile = {"BT": 64, "BS": 64}
    shapes = [(1, 256, 1, 16)] * 3
    run = launches_of(lambda q, k, v: kernels.flash_attention(q, k, v, causal=True), *shapes)[0]
    seen = trace(run.kernel, run.grid, *run.args, **{**run.named, **tile})
    once = 256 * 16 * 4
    assert seen.traffic["p_q"].bytes_in == once
    assert (
        seen.traffic["p_k"].bytes_in == seen.traffic["p_v"].bytes_in == once // 4 * (1 + 2 + 3 + 4)
    )
    assert seen.bytes_out == once + 256 * 4


def test_the_backward_of_attention_reads_each_tile_as_often_as_the_algorithm_says(launches_of):
    """dQ: tiles i ≥ j of the keys for each of the queries. dK and dV: tiles i ≥ j of the queries
    for each of the keys.

    Beside them one number a query: lse, D and what they are made of.
    """
    tile = {"BT": 64, "BS": 64}
    runs = launches_of(
        lambda q, k, v: kernels.flash_attention(q, k, v, causal=True), *[(1, 256, 1, 16)] * 3
    )
    delta, q, kv = (
        trace(r.kernel, r.grid, *r.args, **(r.named | tile if "BS" in r.named else r.named))
        for r in runs[1:]
    )
    n, tiles, numbers = 256 * 16 * 4, (1 + 2 + 3 + 4) / 4, 256 * 4
    assert delta.bytes == 2 * n + 2 * numbers
    assert q.bytes == (2 + 2 * tiles) * n + n + 2 * numbers
    assert kv.bytes == (2 + 2 * tiles) * n + 2 * n + 2 * tiles * numbers
