"""The grouped matmul against a loop over the experts, and against PyTorch's own."""

from importlib import import_module
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="needs Triton (Linux only)")

from seqlab.gpu.sanitize import sanitize
from seqlab.gpu.trace import trace
from seqlab.kernels.grouped_matmul import grouped_matmul
from seqlab.kernels.moe_permute import permute

SMALL = {"BM": 16, "BN": 16, "BK": 16, "GROUP": 2}


@pytest.fixture
def small_tiles(monkeypatch):
    """16 × 16 tiles, so that a few dozen rows fill some tiles and others not, and groups of tiles
    end early.
    """
    for name in ("CONFIGS", "CONFIGS_W"):
        monkeypatch.setattr(import_module("seqlab.kernels.grouped_matmul"), name, (SMALL,))


def offsets(*loads):
    return torch.tensor([0, *loads]).cumsum(0).int()


def loop(x, w, bounds):
    """The definition. Rows behind the last expert give 0."""
    bounds = bounds.tolist()
    y = [x[a:b] @ w[e] for e, (a, b) in enumerate(pairwise(bounds))]
    return torch.cat([*y, x[bounds[-1] :] @ torch.zeros_like(w[0])])


LOADS = {
    "experts of every size": (3, 0, 17, 1, 20),
    "all rows to one expert": (0, 0, 37, 0),
    "none to the first and the last": (0, 19, 5, 0),
    "whole tiles": (16, 32),
    "one row more than a tile": (17, 33),
    "one row": (0, 1),
    "one expert": (21,),
    "more experts than rows": (1, 0, 0, 1, 0, 0, 0, 1),
}


@pytest.mark.parametrize("case", LOADS)
def test_it_is_the_loop_over_experts_with_its_gradients(case, agree, poisoned, small_tiles):
    loads = LOADS[case]
    bounds = offsets(*loads)
    agree(
        lambda x, w: grouped_matmul(x, w, bounds),
        lambda x, w: loop(x, w, bounds),
        torch.randn(sum(loads), 21),
        torch.randn(len(loads), 21, 37),
    )


@pytest.mark.parametrize("widths", [(16, 16), (32, 48), (1, 1), (5, 40), (40, 5)])
def test_any_width(widths, agree, poisoned, small_tiles):
    K, N = widths
    functions = (lambda x, w, f=f: f(x, w, offsets(9, 18)) for f in (grouped_matmul, loop))
    agree(*functions, torch.randn(27, K), torch.randn(2, K, N))


def test_with_the_tiles_of_a_gpu(agree, poisoned):
    bounds = offsets(130, 0, 7)
    agree(
        *(lambda x, w, f=f: f(x, w, bounds) for f in (grouped_matmul, loop)),
        torch.randn(137, 40),
        torch.randn(3, 40, 24),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype, agree, small_tiles):
    bounds = offsets(9, 0, 18)
    x, w = torch.randn(27, 40, dtype=dtype), torch.randn(3, 40, 20, dtype=dtype)
    agree(*(lambda x, w, f=f: f(x, w, bounds) for f in (grouped_matmul, loop)), x, w)


@pytest.mark.parametrize("k", [1, 3])
def test_tokens_read_through_a_permutation_are_a_permuted_copy(k, agree, poisoned, small_tiles):
    order = permute(torch.randint(4, (11, k)), 5)  # the last expert gets none
    agree(
        lambda x, w: grouped_matmul(x, w, *order_of(order)),
        lambda x, w: loop(x[order.pairs // k], w, order.offsets),
        torch.randn(11, 21),
        torch.randn(5, 21, 18),
    )


def order_of(order):
    return order.offsets, order.pairs, order.places


def test_rows_behind_the_last_expert_are_not_read_and_give_zero(poisoned, small_tiles):
    """So nothing of a dropped pair reaches the output or a gradient, whatever is in its row."""
    x, w = torch.randn(40, 21), torch.randn(2, 21, 18, requires_grad=True)
    x[22:] = torch.nan
    x.requires_grad_()
    y = grouped_matmul(x, w, offsets(5, 17))
    assert (y[22:] == 0).all() and y[:22].isfinite().all()
    dy = torch.randn_like(y)
    dy[22:] = torch.nan
    dx, dw = torch.autograd.grad(y, (x, w), dy)
    assert (dx[22:] == 0).all() and dx.isfinite().all() and dw.isfinite().all()


def test_an_expert_without_rows_gets_a_gradient_of_zero(poisoned, small_tiles):
    x, w = torch.randn(9, 5), torch.randn(3, 5, 6, requires_grad=True)
    grouped_matmul(x, w, offsets(4, 0, 5)).sum().backward()
    assert (w.grad[1] == 0).all() and w.grad[0].any() and w.grad[2].any()


def test_matrices_as_linear_layers_hold_them_are_no_copy(small_tiles):
    """Their transposes are views, and so is the gradient."""
    x, w = torch.randn(27, 21), torch.randn(3, 18, 21)
    view, copy = w.mT.requires_grad_(), w.mT.contiguous().requires_grad_()
    ys = [grouped_matmul(x, m, offsets(9, 0, 18)) for m in (view, copy)]
    assert torch.equal(*ys)
    dview, dcopy = (
        torch.autograd.grad(y.square().sum(), m)[0] for y, m in zip(ys, (view, copy), strict=True)
    )
    assert torch.equal(dview, dcopy) and dview.stride() == view.stride()


def test_it_agrees_with_pytorchs_grouped_mm(small_tiles):
    x, w = torch.randn(48, 32, dtype=torch.bfloat16), torch.randn(3, 32, 16, dtype=torch.bfloat16)
    bounds = offsets(20, 0, 28)
    expected = F.grouped_mm(x, w, offs=bounds[1:])
    torch.testing.assert_close(grouped_matmul(x, w, bounds), expected, rtol=0.02, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_it_is_clean(dtype, launches_of, small_tiles):
    """Tokens through a permutation, with an expert that has none and a dropped pair."""
    order = permute(
        torch.tensor([[0, 1]] * 9 + [[0, 0]]), 3, kept=torch.arange(20).view(10, 2) != 7
    )
    for run in launches_of(
        lambda x, w: grouped_matmul(x, w, *order_of(order)), (10, 21), (3, 21, 18), dtype=dtype
    ):
        assert sanitize(run.kernel, run.grid, *run.args, **run.named) == []


def test_each_row_is_read_once_for_every_tile_across_it_and_each_matrix_for_every_tile_of_its_rows(
    launches_of, small_tiles
):
    """Programs that are left over, the bound on the grid being one, read nothing but offsets."""
    loads, K, N = (3, 0, 17, 20), 40, 24
    P, tiles = sum(loads), sum(-(-n // 16) for n in loads)
    across = {n: -(-n // 16) for n in (K, N)}
    shapes = (P, K), (len(loads), K, N)
    runs = launches_of(lambda x, w: grouped_matmul(x, w, offsets(*loads)), *shapes)
    forward, dx, dw = (trace(run.kernel, run.grid, *run.args, **run.named) for run in runs)
    for seen, (inner, outer) in ((forward, (K, N)), (dx, (N, K))):
        assert seen.traffic["p_x"].bytes_in == 4 * P * inner * across[outer]
        assert seen.traffic["p_w"].bytes_in == 4 * tiles * K * N
        assert seen.bytes_out == 4 * P * outer
    assert dw.traffic["p_x"].bytes_in == 4 * P * K * across[N]
    assert dw.traffic["p_dy"].bytes_in == 4 * P * N * across[K]
    assert dw.bytes_out == 4 * len(loads) * K * N


def test_a_permuted_copy_is_never_made(launches_of, small_tiles):
    order = permute(torch.rand(16, 3).argsort(-1), 3)  # a token goes to an expert once
    run = launches_of(lambda x, w: grouped_matmul(x, w, *order_of(order)), (16, 32), (3, 32, 16))[0]
    seen = trace(run.kernel, run.grid, *run.args, **run.named)
    assert (
        seen.traffic["p_x"].bytes_in == 4 * 48 * 32
        and seen.traffic["p_x"].bytes_in_once == 4 * 16 * 32
    )
    assert seen.traffic["p_pairs"].bytes_in == 4 * 48


def test_it_is_compiled_for_four_targets_without_spills(compiled):
    """64 experts of 1408, six a token, at the default configuration: tokens read through the
    permutation.
    """
    order = permute(torch.empty(4096, 6, dtype=torch.int64, device="meta"), 64)
    reports = compiled(
        lambda x, w: grouped_matmul(x, w.mT, *order_of(order)), (4096, 2048), (64, 1408, 2048)
    )
    assert set(reports) == {"grouped_tile", "grouped_weight_tile", "combine_forward"}
    for name, report in reports.items():
        for c in report.targets.values():
            assert c.spills == 0 and c.occupancy.blocks, report
            assert name == "combine_forward" or c.tensor_cores


def test_wrong_arguments_get_a_sentence():
    x, w = torch.randn(5, 8), torch.randn(2, 8, 4)
    with pytest.raises(ValueError, match=r"x has shape \(5, 8\), w \(2, 7, 4\), offsets \(3,\)"):
        grouped_matmul(x, torch.randn(2, 7, 4), offsets(2, 3))
    with pytest.raises(ValueError, match=r"\(E \+ 1,\) are needed"):
        grouped_matmul(x, w, torch.tensor([2, 3]))
    with pytest.raises(TypeError, match=r"x is torch\.float64"):
        grouped_matmul(x.double(), w.double(), offsets(2, 3))
    with pytest.raises(ValueError, match="pairs and places belong together"):
        grouped_matmul(x, w, offsets(2, 3), torch.arange(5))


def test_two_runs_give_the_same_bits(small_tiles):
    order = permute(torch.randint(3, (13, 2)), 3)
    x, w = torch.randn(13, 21, requires_grad=True), torch.randn(3, 21, 18, requires_grad=True)
    runs = [
        torch.autograd.grad(grouped_matmul(x, w, *order_of(order)).square().sum(), (x, w))
        for _ in range(2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
