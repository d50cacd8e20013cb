"""Expert parallelism on two processes of this machine is the layer on one."""

from functools import partial

import pytest
import torch

from seqlab.ffn import MoE, SwitchRouter
from seqlab.ffn.parallel import on_processes


def one_process(moe, x):
    x = x.clone().requires_grad_()
    y = moe(x)
    y.sin().sum().backward()
    return y.detach(), x.grad


def test_two_processes_give_what_one_gives():
    torch.manual_seed(0)
    moe = MoE(6, 4, d_ff=5, n_shared=1).double()
    x = torch.randn(4, 7, 6, dtype=torch.float64)
    y, gradient, sent = on_processes(moe, x, 2)
    expected = one_process(moe, x)
    torch.testing.assert_close((y, gradient), expected, rtol=0, atol=1e-12)
    for half, mine in zip(moe.routing.experts.chunk(2), (0, 1), strict=True):
        rows = (half // 2 != mine).sum().item()  # pairs whose expert lives in the other process
        # there, and for what came from the other process, back again
        back = (moe.routing.experts.chunk(2)[1 - mine] // 2 == mine).sum().item()
        assert sent[mine] == (rows + back) * 6 * 8


def test_dropped_tokens_and_idle_experts_travel_nowhere():
    torch.manual_seed(0)
    router = partial(SwitchRouter, capacity_factor=0.5, jitter=0.0)
    moe = MoE(6, 4, router=router, d_ff=5).double()
    with torch.no_grad():
        moe.router.score.weight[3] = 0
        moe.router.score.weight[0] = 9 * moe.router.score.weight[1]
    x = torch.randn(2, 8, 6, dtype=torch.float64)
    y, gradient, _ = on_processes(moe, x, 2)
    torch.testing.assert_close((y, gradient), one_process(moe, x), rtol=0, atol=1e-12)


def test_a_number_of_processes_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="3 processes cannot share 4 sequences and 6 experts"):
        on_processes(MoE(6, 6, d_ff=5), torch.randn(4, 2, 6), 3)
