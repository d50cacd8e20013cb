import torch

from seqlab.gpu.anywhere import tl, triton
from seqlab.gpu.rows import load_rows, store_rows
from seqlab.gpu.sanitize import sanitize


@triton.jit
def double_kernel(p_x, p_y, T, H, N: tl.constexpr, W: tl.constexpr):
    first, i_h = tl.program_id(0) * N, tl.program_id(1)
    store_rows(p_y, 2 * load_rows(p_x, first, T, i_h, H, N, W), first, T, i_h, H, N, W)


def test_rows_of_a_head_are_loaded_and_stored_up_to_the_end():
    x = torch.randn(21, 3, 16)
    y = torch.empty_like(x)
    double_kernel[(2, 3)](x, y, 21, 3, N=16, W=16)
    assert torch.equal(y, 2 * x)
    assert not sanitize(double_kernel, (2, 3), x, y, 21, 3, N=16, W=16)
