"""The cache that is played from a trace: what a small one must fetch can be worked out by hand."""

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton (Linux only)")

from seqlab.gpu.anywhere import tl, triton
from seqlab.gpu.l2 import LINE, from_memory, misses, sectors
from seqlab.gpu.trace import trace


@triton.jit
def read_twice(p_x, p_y, n, BLOCK: tl.constexpr):
    """Each program reads all of x, a block at a time, and stores the sum."""
    total = 0.0
    for first in range(0, n, BLOCK):
        total += tl.sum(tl.load(p_x + first + tl.arange(0, BLOCK)), 0)
    tl.store(p_y + tl.program_id(0), total)


@triton.jit
def gather(p_x, p_y, step, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(p_y + i, tl.load(p_x + i * step))


def test_the_least_recently_used_line_leaves():
    assert misses([1, 2, 1, 3, 1, 2], room=2) == 4  # 1, 2, 3, and 2 again
    assert misses([1, 2, 3] * 5, room=2) == 15  # one line too few: nothing is ever found
    assert misses([1, 2, 3] * 5, room=3) == 3


@pytest.mark.parametrize("concurrent", [1, 2, 4])
def test_programs_in_step_share_what_they_read(concurrent):
    n = 8 * LINE // 4  # eight lines
    seen = trace(read_twice, (4,), torch.randn(n), torch.empty(4), n, BLOCK=LINE // 4)
    assert seen.bytes_in == 4 * 8 * LINE
    assert from_memory(seen, 8 * LINE, concurrent) == 8 * LINE  # it holds all of x
    waves = 4 // concurrent
    assert from_memory(seen, 4 * LINE, concurrent) == waves * 8 * LINE


def test_a_lane_costs_a_sector_unless_its_neighbours_want_the_rest():
    x = torch.randn(32 * 8)
    for step, touched in ((1, 4), (2, 8), (8, 32)):
        seen = trace(gather, (1,), x, torch.empty(32), step, BLOCK=32)
        assert sectors(seen, "p_x") == (32 * 4, touched * 32)
        assert sectors(seen, "p_y") == (32 * 4, 4 * 32)


def test_two_tensors_share_no_line():
    x, y = torch.randn(32), torch.empty(32)
    seen = trace(gather, (1,), x, y, 1, BLOCK=32)
    assert from_memory(seen, 2**20, 1) == LINE  # y is only stored into
