"""Our kernels under the lab's own eyes: nothing that a GPU would punish, and no byte moved that need not be."""

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
    return [trace(run.kernel, run.grid, *run.args, **run.named) for run in launches_of(function, *shapes)]


def test_softmax_reads_and_writes_the_matrix_once(launches_of):
    forward, backward = traces(launches_of, "softmax")
    n = 5 * 37 * 4
    assert (forward.bytes_in, forward.bytes_out) == (n, n)
    assert (backward.bytes_in, backward.bytes_out) == (2 * n, n)


def test_rms_norm_reads_every_row_once(launches_of):
    """The weight, small, is asked for by each row; the least that comes from memory is counted once."""
    forward, backward = traces(launches_of, "rms_norm")
    assert forward.traffic["p_x"].bytes_read_again == 0 and backward.traffic["p_dy"].bytes_read_again == 0
    assert backward.traffic["p_x"].bytes_read_again == 0
    n = 5 * 37 * 4
    assert forward.bytes_in_once + forward.bytes_out == 2 * n + 37 * 4 + 5 * 4


def test_matmul_reads_each_matrix_once_for_every_tile_across_it(launches_of):
    seen = traces(launches_of, "matmul")[0]
    assert seen.traffic["p_a"].bytes_in == 130 * 40 * 4 * 1  # 30 columns: one tile
    assert seen.traffic["p_b"].bytes_in == 40 * 30 * 4 * 2  # 130 rows: two
    assert seen.bytes_out == 130 * 30 * 4


def test_attention_reads_each_query_once_and_only_tiles_with_keys_that_are_seen(launches_of):
    """A causal square of T = 4 tiles: query tile i reads i + 1 tiles of keys, as the algorithm says."""
    tile = {"BT": 64, "BS": 64}
    shapes = [(1, 256, 1, 16)] * 3
    run = launches_of(lambda q, k, v: kernels.flash_attention(q, k, v, causal=True), *shapes)[0]
    seen = trace(run.kernel, run.grid, *run.args, **{**run.named, **tile})
    once = 256 * 16 * 4
    assert seen.traffic["p_q"].bytes_in == once
    assert seen.traffic["p_k"].bytes_in == seen.traffic["p_v"].bytes_in == once // 4 * (1 + 2 + 3 + 4)
    assert seen.bytes_out == once + 256 * 4
