"""The parts of a mixture of experts by kernels: the gate, the permutation, the combination."""

from importlib import import_module

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton (Linux only)")

from seqlab.ffn.routers import top_k_gate as reference_gate
from seqlab.gpu.compile import compile_report
from seqlab.gpu.sanitize import sanitize
from seqlab.gpu.trace import trace
from seqlab.kernels.launch import recorded
from seqlab.kernels.moe_combine import combine
from seqlab.kernels.moe_gate import top_k_gate
from seqlab.kernels.moe_permute import permute


@pytest.fixture
def small_blocks(monkeypatch):
    """16 pairs a program, so that a few dozen have several programs and a last one that is not
    full.
    """
    monkeypatch.setattr(import_module("seqlab.kernels.moe_permute"), "BP", 16)


def gates(k, normalise):
    return (lambda x, f=f: f(x, k, normalise)[0] for f in (top_k_gate, reference_gate))


# The gate.


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(
    ("N", "n_experts", "k"), [(70, 37, 5), (1, 8, 2), (3, 64, 1), (5, 3, 3), (2, 1, 1), (3, 256, 8)]
)
def test_the_gate_is_the_softmax_of_the_largest(N, n_experts, k, normalise, agree, poisoned):
    logits = torch.randn(N, n_experts)
    agree(*gates(k, normalise), logits)
    assert torch.equal(top_k_gate(logits, k)[1], reference_gate(logits, k)[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_gate_in_half_precision(dtype, agree):
    logits = (torch.rand(9, 16).argsort(-1) / 4).to(dtype)  # no two equal after rounding
    for normalise in (True, False):
        agree(*gates(3, normalise), logits)


def test_of_equal_logits_the_first_experts_are_chosen():
    logits = torch.randint(3, (50, 13)).float()
    logits[0] = 0.0
    logits[1, ::2] = -0.0  # equal to 0.0, though their bits differ
    logits[1, 1::2] = 0.0
    expected = logits.argsort(dim=-1, descending=True, stable=True)[:, :5]
    assert torch.equal(top_k_gate(logits, 5)[1], expected)


def test_extreme_logits():
    """Masked experts come last and weigh nothing; NaN stays NaN, and its expert is one that
    exists.
    """
    inf, nan = torch.inf, torch.nan
    logits = torch.tensor(
        [
            [1e38, -1e38, 0, -inf],
            [-inf, -inf, 2, -inf],
            [-3e38, -2e38, -inf, -1e38],
            [0, 1, -nan, 2],
        ]
    )
    weights, experts = top_k_gate(logits, 3, normalise=False)
    assert experts.tolist() == [[0, 2, 1], [2, 0, 1], [3, 1, 0], [2, 3, 1]]
    assert torch.equal(weights[:3], torch.tensor([[1.0, 0, 0]] * 3)) and weights[3].isnan().all()


def test_a_gate_over_any_leading_axes():
    logits = torch.randn(2, 3, 5, 8)
    weights, experts = top_k_gate(logits, 2)
    assert weights.shape == experts.shape == (2, 3, 5, 2)
    assert torch.equal(weights[1, 2], top_k_gate(logits[1, 2], 2)[0])


# The permutation.


def sorted_pairs(experts, n_experts, kept):
    keys = (
        experts.flatten()
        if kept is None
        else experts.flatten().masked_fill(~kept.flatten(), n_experts)
    )
    return keys.argsort(stable=True), torch.bincount(keys, minlength=n_experts + 1)


@pytest.mark.parametrize("dropping", [False, True])
@pytest.mark.parametrize(
    ("N", "k", "n_experts"), [(1, 1, 1), (1, 2, 8), (7, 3, 5), (16, 1, 3), (33, 4, 40)]
)
def test_the_permutation_is_a_stable_sort(N, k, n_experts, dropping, small_blocks):
    experts = torch.randint(n_experts, (N, k))
    kept = torch.rand(N, k) < 0.7 if dropping else None
    order = permute(experts, n_experts, kept)
    pairs, load = sorted_pairs(experts, n_experts, kept)
    assert torch.equal(order.pairs.long(), pairs)
    assert torch.equal(order.places.flatten()[pairs], torch.arange(N * k).int())
    assert torch.equal(order.offsets.diff().long(), load[:n_experts])


def test_a_permutation_over_more_programs_than_one_step_of_the_scan(small_blocks):
    experts = torch.randint(3, (16 * 129, 1))
    assert torch.equal(permute(experts, 3).pairs.long(), sorted_pairs(experts, 3, None)[0])


@pytest.mark.parametrize("expert", [0, 2])
def test_all_tokens_to_one_expert(expert):
    order = permute(torch.full((20, 1), expert), 3)
    assert torch.equal(order.pairs, torch.arange(20).int())
    assert order.offsets.tolist() == [0] * (expert + 1) + [20] * (3 - expert)


# The combination.


def gathered(rows, weights, places):
    return torch.einsum("nkd,nk->nd", rows[places.long()], weights.to(rows.dtype))


@pytest.mark.parametrize(("N", "k", "width"), [(7, 3, 20), (1, 1, 1), (5, 2, 33)])
def test_the_combination_is_the_weighted_sum_of_each_tokens_rows(N, k, width, agree, poisoned):
    places = torch.randperm(N * k).view(N, k).int()
    functions = (lambda r, w: combine(r, places, w)), (lambda r, w: gathered(r, w, places))
    agree(*functions, torch.randn(N * k, width), torch.rand(N, k))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_combination_sums_half_precision_in_full(dtype, agree):
    places = torch.randperm(20).view(5, 4).int()
    functions = (lambda r, w: combine(r, places, w)), (lambda r, w: gathered(r, w, places))
    agree(*functions, torch.randn(20, 12, dtype=dtype), torch.rand(5, 4, dtype=dtype))


# As a GPU would see them.


def launches(N, k, n_experts, width, dtype, device="cpu"):
    """Of every part, both ways, with a dropped pair."""
    make = torch.randn if device == "cpu" else torch.empty
    logits = make(N, n_experts, device=device, requires_grad=True)
    rows = make(N * k, width, device=device).to(dtype).requires_grad_()
    kept = torch.ones(N, k, device=device).bool()
    kept[:1, :1] = False
    with recorded() as runs:
        for normalise in (True, False):
            weights, experts = top_k_gate(logits, k, normalise)
            weights.sum().backward(retain_graph=True)
        y = combine(
            rows, permute(experts, n_experts, kept).places, weights.detach().requires_grad_()
        )
        y.backward(torch.randn_like(y))
    return runs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_they_are_clean(dtype, small_blocks):
    runs = launches(11, 2, 3, 18, dtype)
    assert len(runs) == 4 + 3 + 2
    for run in runs:
        assert sanitize(run.kernel, run.grid, *run.args, **run.named) == []


def test_bytes_moved(small_blocks):
    """Each tensor once each way; the sort: its counts too, and each program the totals of all
    experts.
    """
    N, k, P, width, n = 40, 2, 80, 18, 3
    seen = [
        trace(run.kernel, run.grid, *run.args, **run.named)
        for run in launches(N, k, n, width, torch.float32)
    ]
    moved = [(x.kernel, x.bytes_in, x.bytes_out) for x in seen]
    logits, rows, counts = 4 * N * n, 4 * P * width, 4 * (P // 16) * (n + 1)
    experts = (8 + 1) * P  # 8 bytes a number, 1 a flag
    assert moved == [
        ("gate_forward", logits, 12 * P),
        ("gate_backward", 16 * P, logits),
        ("gate_forward", logits, 12 * P + 4 * N),  # not normalised: and log-sum-exp
        ("gate_backward", 16 * P + logits + 4 * N, logits),
        ("count", experts, counts),
        ("scan", counts, counts + 4 * (n + 1)),
        ("place", experts + 2 * counts, 8 * P + 4 * (n + 1)),
        ("combine_forward", rows + 8 * P, 4 * N * width),
        ("combine_backward", rows + 4 * N * width + 8 * P, rows + 4 * P),
    ]


def test_they_are_compiled_for_four_targets_without_spills():
    """Six of 64 experts a token, at the default configuration."""
    runs = launches(4096, 6, 64, 2048, torch.bfloat16, "meta")
    for run in {run.kernel: run for run in runs}.values():
        report = compile_report(run.kernel, *run.args, **run.named)
        assert all(c.spills == 0 and c.occupancy.blocks for c in report.targets.values()), report


def test_two_runs_give_the_same_bits():
    logits = torch.randint(3, (20, 8)).float()
    assert all(
        torch.equal(a, b) for a, b in zip(top_k_gate(logits, 3), top_k_gate(logits, 3), strict=True)
    )
    experts, rows, weights = torch.randint(8, (20, 3)), torch.randn(60, 7), torch.rand(20, 3)
    orders = [permute(experts, 8) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*orders, strict=True))
    assert torch.equal(*(combine(rows, order.places, weights) for order in orders))


def test_wrong_arguments_get_a_sentence():
    with pytest.raises(ValueError, match="k is 9, logits has 8 experts"):
        top_k_gate(torch.randn(3, 8), 9)
    with pytest.raises(TypeError, match=r"logits is torch\.float64"):
        top_k_gate(torch.randn(3, 8).double(), 2)
    with pytest.raises(ValueError, match=r"kept has shape \(5, 1\), experts \(5, 2\)"):
        permute(torch.zeros(5, 2, dtype=torch.int64), 4, torch.ones(5, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="rows has 9 rows"):
        combine(torch.randn(9, 4), torch.zeros(5, 2, dtype=torch.int32), torch.rand(5, 2))


def test_no_tokens_at_all():
    assert top_k_gate(torch.randn(0, 8), 2)[1].shape == (0, 2)
    assert permute(torch.empty(0, 2, dtype=torch.int64), 4).offsets.tolist() == [0] * 5
    assert combine(
        torch.randn(0, 4), torch.empty(0, 2, dtype=torch.int32), torch.empty(0, 2)
    ).shape == (0, 4)
