"""Attention by tiles is attention: forward in both orders, backward, and partial reads merged."""

from itertools import product

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from seqlab.core.attention import attend
from seqlab.core.attention_tiled import attend_backward, attend_tiled, merge
from seqlab.core.masks import causal_mask

B, T, H, K, V = 2, 11, 4, 6, 5
F64 = {"dtype": torch.float64}
LENGTHS = [(11, 11), (5, 11), (11, 5), (1, 7)]
SEEN = [{}, {"causal": True}, {"causal": True, "window": 3}, {"causal": True, "align": "start"}]
SEEN += [{"causal": True, "window": 4, "align": "start", "scale": 0.7}]


def draw(T_q=T, T_k=T, kv_heads=H):
    return (
        torch.randn(B, T_q, H, K, **F64),
        torch.randn(B, T_k, kv_heads, K, **F64),
        torch.randn(B, T_k, kv_heads, V, **F64),
    )


def outputs_and_gradients(f, inputs, weights):
    """y, lse, and the gradients of a loss of both. A row that saw nothing has no lse."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    y, lse = f(*inputs)
    loss = (y * weights[0]).sum() + (lse.masked_fill(lse == -torch.inf, 0) * weights[1]).sum()
    return [y, lse, *torch.autograd.grad(loss, inputs)]


def assert_all_equal(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", ["fa1", "fa2"])
@pytest.mark.parametrize("tile", [(4, 3), (1, 1), (3, 8), (64, 64)], ids=str)
@pytest.mark.parametrize("seen", SEEN, ids=str)
def test_tiles_in_either_order_are_the_whole_with_gradients(seen, tile, order):
    for (T_q, T_k), heads in product(LENGTHS, (4, 2, 1)):
        inputs = draw(T_q, T_k, heads)
        weights = torch.randn(B, T_q, H, V, **F64), torch.randn(B, T_q, H, **F64)
        whole = outputs_and_gradients(
            lambda *x: attend(*x, return_lse=True, **seen), inputs, weights
        )
        tiled = outputs_and_gradients(
            lambda *x: attend_tiled(*x, return_lse=True, tile=tile, order=order, **seen),
            inputs,
            weights,
        )
        assert_all_equal(tiled, whole)


def test_the_backward_by_recomputation_is_autograds():
    """attend_backward, called by hand with what the forward kept: q, k, v, y and lse."""
    q, k, v = (x.requires_grad_() for x in draw(9, 12, kv_heads=2))
    y, lse = attend(q, k, v, causal=True, window=5, return_lse=True)
    dy, dlse = torch.randn_like(y), torch.randn_like(lse)
    expected = torch.autograd.grad([y, lse], [q, k, v], [dy, dlse], retain_graph=True)
    kept = [x.detach() for x in (q, k, v, y, lse)]
    ours = attend_backward(dy, *kept, dlse=dlse, causal=True, window=5, tile=(4, 5))
    assert_all_equal(ours, expected)
    (y * dy).sum().backward()
    ours = attend_backward(dy, *kept, causal=True, window=5)  # the defaults: no dlse, tiles of 64
    assert_all_equal(ours, [x.grad for x in (q, k, v)])


def test_gradients_against_finite_differences():
    def tiled(*x):
        return attend_tiled(*x, causal=True, tile=(2, 3), return_lse=True)

    inputs = [torch.randn(1, 4, 2, 3, **F64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(tiled, inputs)


def test_a_second_derivative_through_tiles_is_refused():
    q, k, v = (x.requires_grad_() for x in draw())
    (dq,) = torch.autograd.grad(attend_tiled(q, k, v).sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative: use attend"):
        torch.autograd.grad(dq.square().sum(), q)


@pytest.mark.parametrize("order", ["fa1", "fa2"])
def test_queries_that_see_nothing_give_zero_and_no_nan(order):
    """In tiles masked in part, in tiles that are skipped, and in the gradients of y and lse."""
    q, k, v = (x.requires_grad_() for x in draw(T_q=9, T_k=3))
    y, lse = attend_tiled(q, k, v, causal=True, return_lse=True, tile=(4, 4), order=order)
    assert (y[:, :6] == 0).all() and (lse[:, :6] == -torch.inf).all()
    (y.sum() + lse.exp().sum()).backward()
    assert all(x.grad.isfinite().all() for x in (q, k, v)) and (q.grad[:, :6] == 0).all()


class Sizes(TorchDispatchMode):
    """Records the largest tensor that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        out = f(*args, **(kwargs or {}))
        for x in out if isinstance(out, list | tuple) else [out]:
            if isinstance(x, torch.Tensor):
                # its memory, not its shape: an expanded tensor costs nothing
                self.largest = max(self.largest, x.untyped_storage().nbytes() // x.element_size())
        return out


@pytest.mark.parametrize("order", ["fa1", "fa2"])
def test_no_tensor_grows_faster_than_the_sequence(order):
    """Forward and backward, the largest tensor is an input; of `attend` it is the T × T matrix."""

    def largest(f, T):
        q, k, v = (torch.randn(1, T, 1, 8, requires_grad=True) for _ in range(3))
        with Sizes() as sizes:
            f(q, k, v).sum().backward()
        return sizes.largest

    def tiled(*x):
        return attend_tiled(*x, causal=True, tile=(32, 32), order=order)

    for T in (256, 512):
        assert largest(tiled, T) <= T * 8
        assert largest(lambda *x: attend(*x, causal=True), T) >= T * T


def test_tiled_takes_bf16_and_sums_in_float32():
    q, k, v = (x.float() for x in draw(T_q=200, T_k=200))
    narrow = [x.bfloat16() for x in (q, k, v)]
    exact, exact_lse = attend(*(x.float() for x in narrow), return_lse=True)
    y, lse = attend_tiled(*narrow, return_lse=True, tile=(32, 32))
    assert y.dtype == torch.bfloat16 and lse.dtype == torch.float32
    # one rounding, at the end
    torch.testing.assert_close(y, exact.bfloat16(), rtol=2**-7, atol=1e-5)
    torch.testing.assert_close(lse, exact_lse)


def test_tiles_stay_finite_with_scores_far_beyond_exp():
    q, k, v = draw()
    y, lse = attend_tiled(q * 1e4, k * 1e4, v, causal=True, return_lse=True, tile=(4, 3))
    expected = attend(q * 1e4, k * 1e4, v, causal=True, return_lse=True)
    assert_all_equal([y, lse], expected)


@pytest.mark.parametrize("order", ["fa1", "fa2"])
def test_tiled_against_pytorchs_cpu_kernel(order):
    """Output, log-sum-exp and all gradients, at more than one tile."""
    q, k, v = (torch.randn(2, 150, 3, 16, **F64) for _ in range(3))
    y, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        *(x.transpose(1, 2) for x in (q, k, v)), 0.0, True
    )
    dy = torch.randn_like(y)
    theirs = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        dy, *(x.transpose(1, 2) for x in (q, k, v)), y, lse, 0.0, True
    )
    leaves = [x.requires_grad_() for x in (q, k, v)]
    ours, ours_lse = attend_tiled(*leaves, causal=True, return_lse=True, order=order)
    grads = torch.autograd.grad(ours, leaves, dy.transpose(1, 2))
    assert_all_equal([ours, ours_lse, *grads], [x.transpose(1, 2) for x in (y, lse, *theirs)])


@pytest.mark.parametrize("n", [1, 2, 3, 11])
def test_keys_split_over_n_parts_and_merged_are_the_whole(n):
    """Split-K decoding: each worker reads its part of the cache, and sends only y and lse."""

    def split(q, k, v):
        caches = zip(k.chunk(n, 1), v.chunk(n, 1), strict=True)
        parts = [attend(q, *cache, return_lse=True) for cache in caches]
        y, lse = parts[0]
        for part in parts[1:]:
            y, lse = merge(y, lse, *part)
        return y, lse

    inputs, weights = draw(T_q=2), (torch.randn(B, 2, H, V, **F64), torch.randn(B, 2, H, **F64))
    whole = outputs_and_gradients(lambda *x: attend(*x, return_lse=True), inputs, weights)
    assert_all_equal(outputs_and_gradients(split, inputs, weights), whole)


def test_the_order_of_a_ring_does_not_matter():
    """Ring attention: each rank holds a block of queries and reads blocks of keys in any order."""
    q, k, v = draw(T_q=12, T_k=12)
    whole = attend(q, k, v, causal=True, return_lse=True)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        for rank in range(4):
            mine, state = slice(3 * rank, 3 * rank + 3), None
            for block in order:
                theirs = slice(3 * block, 3 * block + 3)
                # blocks of later ranks: nothing to see, lse = -inf
                mask = causal_mask(12, 12)[mine, theirs]
                part = attend(q[:, mine], k[:, theirs], v[:, theirs], mask=mask, return_lse=True)
                state = part if state is None else merge(*state, *part)
            assert_all_equal(state, [x[:, mine] for x in whole])


def test_merging_is_associative_commutative_and_nothing_is_its_zero():
    a, b, c = ((torch.randn(2, 3, 4, 5, **F64), 9 * torch.randn(2, 3, 4, **F64)) for _ in range(3))
    nothing = torch.zeros_like(a[0]), torch.full_like(a[1], -torch.inf)
    assert_all_equal(merge(*a, *b), merge(*b, *a))
    assert_all_equal(merge(*merge(*a, *b), *c), merge(*a, *merge(*b, *c)))
    assert_all_equal(merge(*a, *nothing), a)
    assert_all_equal(merge(*nothing, *nothing), nothing)


def test_merging_with_nothing_has_finite_gradients():
    y = torch.randn(2, 3, **F64, requires_grad=True)
    lse = torch.tensor([-torch.inf, 1.0], **F64, requires_grad=True)
    empty = torch.full_like(lse, -torch.inf)
    merged, merged_lse = merge(y, lse, torch.zeros_like(y), empty)
    (merged.sum() + merged_lse.exp().sum()).backward()
    assert y.grad.isfinite().all() and lse.grad.isfinite().all()
