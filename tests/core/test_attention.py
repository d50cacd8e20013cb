import math
import warnings
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from seqlab.core.attention import (
    FORMS,
    attend,
    attend_backward,
    attend_sdpa,
    attend_tiled,
    bigbird_mask,
    causal_mask,
    longformer_mask,
    merge,
    sink_mask,
    visible_tiles,
)
from seqlab.core.inputs import choose

B, T, H, K, V = 2, 11, 4, 6, 5
F64 = {"dtype": torch.float64}


def draw(T_q=T, T_k=T, kv_heads=H):
    return (
        torch.randn(B, T_q, H, K, **F64),
        torch.randn(B, T_k, kv_heads, K, **F64),
        torch.randn(B, T_k, kv_heads, V, **F64),
    )


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize(
    "options", [{}, {"causal": True}, {"causal": True, "window": 3}, {"scale": 0.7}]
)
def test_against_one_query_at_a_time(kv_heads, options):
    """Each query alone, in plain loops: softmax over what it may see."""
    q, k, v = draw(kv_heads=kv_heads)
    y, lse = attend(q, k, v, return_lse=True, **options)
    for b in range(B):
        for t in range(T):
            first = max(0, t - options.get("window", T) + 1)
            seen = slice(first, t + 1) if options.get("causal") else slice(None)
            for h in range(H):
                g = h * kv_heads // H
                scores = k[b, seen, g] @ q[b, t, h] * options.get("scale", K**-0.5)
                torch.testing.assert_close(y[b, t, h], scores.softmax(0) @ v[b, seen, g])
                torch.testing.assert_close(lse[b, t, h], scores.exp().sum().log())


@pytest.mark.parametrize("causal", [False, True])
def test_against_pytorch_with_gradients(causal):
    ours, theirs = [x.requires_grad_() for x in draw()], None
    y = attend(*ours, causal=causal)
    theirs = F.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in ours), is_causal=causal
    ).transpose(1, 2)
    torch.testing.assert_close(y, theirs)
    weight = torch.randn_like(y)
    for a, b in zip(
        *(torch.autograd.grad((out * weight).sum(), ours) for out in (y, theirs)), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_log_sum_exp_against_pytorchs_cpu_kernel():
    q, k, v = draw()
    v = torch.randn(B, T, H, K, **F64)  # that kernel wants K = V
    y, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        *(x.transpose(1, 2) for x in (q, k, v))
    )
    ours, ours_lse = attend(q, k, v, return_lse=True)
    torch.testing.assert_close(ours, y.transpose(1, 2))
    torch.testing.assert_close(ours_lse, lse.transpose(1, 2))


def test_a_query_that_sees_nothing_reads_zero():
    q, k, v = (x.requires_grad_() for x in draw(T_q=5, T_k=3))
    y, lse = attend(q, k, v, causal=True, return_lse=True)
    assert (y[:, :2] == 0).all() and (lse[:, :2] == -torch.inf).all()
    y.sum().backward()
    assert all(x.grad.isfinite().all() for x in (q, k, v))


def test_the_two_alignments_of_a_causal_mask():
    assert causal_mask(2, 4).int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert causal_mask(2, 4, align="start").int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0]]
    assert causal_mask(3, 3, window=2).int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]


def test_large_scores_stay_finite():
    q, k, v = draw()
    assert attend(q * 1e4, k * 1e4, v, causal=True).isfinite().all()


def test_wrong_input_gets_one_clear_sentence():
    q, k, v = draw()
    with pytest.raises(ValueError, match="k has width 3, q has 6"):
        attend(q, k[..., :3], v)
    with pytest.raises(ValueError, match="k and v have 3 heads, q has 4"):
        attend(q, k[:, :, :3], v[:, :, :3])
    with pytest.raises(ValueError, match="they must match"):
        attend(q, k, v[:, :5])
    with pytest.raises(ValueError, match="window counts backwards"):
        attend(q, k, v, window=3)
    with pytest.raises(ValueError, match="window is 0"):
        causal_mask(3, 3, window=0)
    with pytest.raises(ValueError, match="align is 'left'"):
        causal_mask(3, 3, align="left")
    with pytest.raises(ValueError, match="order is 'fa3': choose one of fa2, fa1"):
        attend_tiled(q, k, v, order="fa3")
    with pytest.raises(ValueError, match="both sides must be at least 1"):
        attend_tiled(q, k, v, tile=(0, 4))
    with pytest.raises(ValueError, match="align is 'left'"):
        attend_tiled(q, k, v, causal=True, align="left")
    with pytest.raises(ValueError, match="does not return its log-sum-exp"):
        attend_sdpa(q, k, v, return_lse=True)
    with pytest.raises(ValueError, match="form is 'flash': choose one of parallel, tiled, sdpa"):
        choose("flash", FORMS)


LENGTHS = [(11, 11), (5, 11), (11, 5), (1, 7)]
SEEN = [{}, {"causal": True}, {"causal": True, "window": 3}, {"causal": True, "align": "start"}]
SEEN += [{"causal": True, "window": 4, "align": "start", "scale": 0.7}]


def outputs_and_gradients(f, inputs, weights):
    """y, lse, and the gradients of a loss of both. A row that saw nothing has no lse to weigh."""
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
    """attend_backward, called by hand with what the forward kept: q, k, v, y and one number per
    query.
    """
    q, k, v = (x.requires_grad_() for x in draw(9, 12, kv_heads=2))
    y, lse = attend(q, k, v, causal=True, window=5, return_lse=True)
    dy, dlse = torch.randn_like(y), torch.randn_like(lse)
    expected = torch.autograd.grad([y, lse], [q, k, v], [dy, dlse])
    ours = attend_backward(
        dy, *(x.detach() for x in (q, k, v, y, lse)), dlse=dlse, causal=True, window=5, tile=(4, 5)
    )
    assert_all_equal(ours, expected)


def test_gradients_against_finite_differences():
    inputs = [x.requires_grad_() for x in (torch.randn(1, 4, 2, 3, **F64) for _ in range(3))]
    assert torch.autograd.gradcheck(
        lambda *x: attend_tiled(*x, causal=True, tile=(2, 3), return_lse=True), inputs
    )


def test_a_second_derivative_through_tiles_is_refused():
    q, k, v = (x.requires_grad_() for x in draw())
    (dq,) = torch.autograd.grad(attend_tiled(q, k, v).sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative: use attend"):
        torch.autograd.grad(dq.square().sum(), q)


@pytest.mark.parametrize("order", ["fa1", "fa2"])
def test_queries_that_see_nothing_give_zero_and_no_nan(order):
    """In tiles that are masked in part, in tiles that are skipped, and in the gradients of y and of
    lse.
    """
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
                # what it stands on, not what it shows: an expanded tensor costs nothing
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

    for T in (256, 512):
        assert (
            largest(lambda *x: attend_tiled(*x, causal=True, tile=(32, 32), order=order), T)
            <= T * 8
        )
        assert largest(lambda *x: attend(*x, causal=True), T) >= T * T


def test_a_tile_is_visited_where_some_pair_is_visible_and_masked_where_some_is_not():
    for (T_q, T_k), tile, seen in product(
        [(11, 11), (5, 13), (13, 5)], [(4, 3), (5, 5), (1, 16)], SEEN
    ):
        options = {name: x for name, x in seen.items() if name != "scale"}
        allowed = torch.ones(T_q, T_k, dtype=torch.bool)
        if options.get("causal"):
            allowed = causal_mask(
                T_q, T_k, **{name: x for name, x in options.items() if name != "causal"}
            )
        drawn = torch.zeros_like(allowed)
        for rows, cols, hidden in visible_tiles(T_q, T_k, **options, tile=tile):
            assert allowed[rows, cols].any() and (hidden is None) == bool(allowed[rows, cols].all())
            assert not drawn[rows, cols].any()
            drawn[rows, cols] = True if hidden is None else ~hidden
        assert torch.equal(drawn, allowed)


def test_how_many_tiles_are_visited_and_masked():
    """Causal: a triangle, masks on its diagonal. A window of W: about W / tile of them a row,
    whatever T.
    """
    count = lambda **seen: len(visible_tiles(1024, 1024, tile=(64, 64), **seen))  # noqa: E731
    masked = [
        t for t in visible_tiles(1024, 1024, causal=True, tile=(64, 64)) if t.hidden is not None
    ]
    assert (count(), count(causal=True), len(masked)) == (256, 136, 16)
    assert all(t.rows == t.cols for t in masked)
    assert len({id(t.hidden) for t in masked}) == 1  # one mask serves the whole diagonal
    assert count(causal=True, window=128) == 1 + 2 + 14 * 3


def test_tiled_takes_bf16_and_sums_in_float32():
    q, k, v = (x.float() for x in draw(T_q=200, T_k=200))
    exact, exact_lse = attend(
        q.bfloat16().float(), k.bfloat16().float(), v.bfloat16().float(), return_lse=True
    )
    y, lse = attend_tiled(q.bfloat16(), k.bfloat16(), v.bfloat16(), return_lse=True, tile=(32, 32))
    assert y.dtype == torch.bfloat16 and lse.dtype == torch.float32
    torch.testing.assert_close(
        y, exact.bfloat16(), rtol=2**-7, atol=1e-5
    )  # one rounding, at the end
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
    """Split-K decoding: each worker reads its part of the cache; y and lse are all it needs to
    send.
    """

    def split(q, k, v):
        parts = [
            attend(q, *kv, return_lse=True) for kv in zip(k.chunk(n, 1), v.chunk(n, 1), strict=True)
        ]
        y, lse = parts[0]
        for part in parts[1:]:
            y, lse = merge(y, lse, *part)
        return y, lse

    inputs, weights = draw(T_q=2), (torch.randn(B, 2, H, V, **F64), torch.randn(B, 2, H, **F64))
    whole = outputs_and_gradients(lambda *x: attend(*x, return_lse=True), inputs, weights)
    assert_all_equal(outputs_and_gradients(split, inputs, weights), whole)


def test_the_order_of_a_ring_does_not_matter():
    """Ring attention: each rank holds a block of queries, and the blocks of keys come past in any
    order.
    """
    q, k, v = draw(T_q=12, T_k=12)
    whole = attend(q, k, v, causal=True, return_lse=True)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        for rank in range(4):
            mine, state = slice(3 * rank, 3 * rank + 3), None
            for block in order:
                theirs = slice(3 * block, 3 * block + 3)
                mask = causal_mask(12, 12)[
                    mine, theirs
                ]  # later ranks' blocks: nothing to see, lse = -inf
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
    y, lse = (
        torch.randn(2, 3, **F64, requires_grad=True),
        torch.tensor([-torch.inf, 1.0], **F64, requires_grad=True),
    )
    empty = torch.full_like(lse, -torch.inf)
    merged, merged_lse = merge(y, lse, torch.zeros_like(y), empty)
    (merged.sum() + merged_lse.exp().sum()).backward()
    assert y.grad.isfinite().all() and lse.grad.isfinite().all()


@pytest.mark.parametrize("seen", SEEN, ids=str)
@pytest.mark.parametrize("width", [3, V, K, 9])
def test_pytorchs_attention_is_attend_at_any_shape(seen, width):
    for (T_q, T_k), heads in product([(11, 11), (5, 11), (1, 7)], (4, 2)):
        q, k, _ = draw(T_q, T_k, heads)
        v = torch.randn(B, T_k, heads, width, **F64)
        torch.testing.assert_close(
            attend_sdpa(q, k, v, **seen), attend(q, k, v, **seen), rtol=1e-9, atol=1e-9
        )


def test_a_form_is_a_name_or_a_function():
    assert choose("tiled", FORMS) is attend_tiled
    assert choose(math.cos, FORMS) is math.cos


def test_a_mask_by_hand_is_the_causal_one_and_joins_it():
    q, k, v = draw()
    mask = causal_mask(T, T, window=4)
    torch.testing.assert_close(attend(q, k, v, mask=mask), attend(q, k, v, causal=True, window=4))
    torch.testing.assert_close(
        attend(q, k, v, causal=True, mask=mask.mT), attend(q, k, v, mask=torch.eye(T) > 0)
    )
    heads = torch.stack([mask, ~mask, mask, mask | True])
    torch.testing.assert_close(attend(q, k, v, mask=heads)[:, :, 3], attend(q, k, v)[:, :, 3])


def test_a_bias_is_added_to_the_scores():
    """With a bias of -inf it is a mask; with a channel more on q and k it is a dot product."""
    q, k, v = draw()
    bias = torch.zeros(T, T, **F64).masked_fill(~causal_mask(T, T), -torch.inf)
    torch.testing.assert_close(attend(q, k, v, bias=bias), attend(q, k, v, causal=True))
    per_key = torch.randn(T, **F64)
    q1, k1 = (
        F.pad(q, (0, 1), value=1.0),
        torch.cat([k, per_key[None, :, None, None].expand(B, T, H, 1)], -1),
    )
    ours = attend(q, k, v, bias=per_key.expand(T, T), scale=1.0)
    torch.testing.assert_close(ours, attend(q1, k1, v, scale=1.0))


def test_sinks_are_a_window_and_the_first_tokens():
    mask = sink_mask(6, 6, window=2, n_sinks=1)
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 0, 1, 1, 0, 0],
        [1, 0, 0, 1, 1, 0],
        [1, 0, 0, 0, 1, 1],
    ]
    assert torch.equal(sink_mask(6, 6, window=2, n_sinks=0), causal_mask(6, 6, window=2))
    assert torch.equal(sink_mask(2, 6, window=2, n_sinks=1), mask[-2:])
    assert torch.equal(sink_mask(6, 6, window=2, n_sinks=3)[:3], causal_mask(3, 6, align="start"))


def test_longformers_window_reaches_further_when_dilated():
    plain, dilated = longformer_mask(9, window=2), longformer_mask(9, window=2, dilation=3)
    assert plain[4].nonzero().flatten().tolist() == [3, 4, 5]
    assert dilated[4].nonzero().flatten().tolist() == [1, 4, 7]
    mask = longformer_mask(9, window=2, n_global=[6])
    assert (
        mask[6].all()
        and mask[:, 6].all()
        and mask.sum() == plain.sum() + 2 * 9 - 1 - plain[6].sum() * 2 + 1
    )
    assert torch.equal(longformer_mask(9, window=4, causal=True), causal_mask(9, 9, window=3))


@pytest.fixture(scope="module")
def transformers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            "transformers", reason="needs transformers: pip install -e '.[test]'"
        )


@pytest.mark.oracle
def test_longformer_mask_against_transformers(transformers):
    """Their sliding chunks with global tokens, whose own projections are set to the local ones."""
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    config = transformers.LongformerConfig(
        hidden_size=24, num_attention_heads=H, attention_window=[4]
    )
    theirs, T = LongformerSelfAttention(config, 0).double().eval(), 20
    for name in ("query", "key", "value"):
        getattr(theirs, f"{name}_global").load_state_dict(getattr(theirs, name).state_dict())
    x, is_global = torch.randn(1, T, 24, **F64), torch.zeros(1, T, dtype=torch.bool)
    is_global[:, [0, 9]] = True
    with torch.no_grad():
        y = theirs(
            x,
            attention_mask=torch.where(is_global, 10000.0, 0.0).double(),
            is_index_masked=torch.zeros_like(is_global),
            is_index_global_attn=is_global,
            is_global_attn=True,
        )[0]
        q, k, v = (
            getattr(theirs, name)(x).unflatten(-1, (H, -1)) for name in ("query", "key", "value")
        )
    ours = attend(q, k, v, mask=longformer_mask(T, window=4, n_global=[0, 9]))
    torch.testing.assert_close(ours.flatten(2), y, rtol=0, atol=1e-6)  # their softmax is float32


@pytest.mark.oracle
def test_bigbird_mask_against_transformers(transformers):
    """Their window and global blocks are ours, and they add as many others; which ones is their
    dice.
    """
    from transformers.models.big_bird.modeling_big_bird import (
        BigBirdBlockSparseAttention,
        BigBirdModel,
    )

    n, block, n_random = 12, 4, 2
    config = transformers.BigBirdConfig(
        hidden_size=24,
        num_attention_heads=H,
        block_size=block,
        num_random_blocks=n_random,
        max_position_embeddings=n * block,
    )
    theirs, x = (
        BigBirdBlockSparseAttention(config, seed=0).double().train(),
        torch.randn(1, n * block, 24, **F64),
    )
    blocked, band, rows, cols = BigBirdModel.create_masks_for_block_sparse_attn(
        torch.ones(1, n * block, **F64), block
    )
    with torch.no_grad():
        y, weights = theirs(x, band, rows, cols, blocked, blocked)
        q, k, v = (
            getattr(theirs, name)(x).unflatten(-1, (H, -1)) for name in ("query", "key", "value")
        )
    seen = weights[0] > 0  # (H, T, T)
    ours, fixed = (bigbird_mask(n * block, block=block, n_random=r) for r in (n_random, 0))
    assert (seen & fixed).sum() == H * fixed.sum() and (seen.sum(-1) == ours.sum(-1)).all()
    torch.testing.assert_close(attend(q, k, v, mask=seen).flatten(2), y, rtol=0, atol=1e-9)


def test_bigbird_sees_window_global_and_random_blocks():
    n, block = 12, 4
    mask = bigbird_mask(n * block, block=block, n_random=2, seed=1)
    blocks = mask[::block, ::block]
    assert torch.equal(mask, blocks.repeat_interleave(block, 0).repeat_interleave(block, 1))
    assert blocks[0].all() and blocks[-1].all() and blocks[:, 0].all() and blocks[:, -1].all()
    fixed = bigbird_mask(n * block, block=block, n_random=0)[::block, ::block]
    assert (blocks & fixed).sum() == fixed.sum() and (
        blocks.sum(1)[1:-1] == fixed.sum(1)[1:-1] + 2
    ).all()
    assert fixed[5].nonzero().flatten().tolist() == [0, 4, 5, 6, 11]
    assert torch.equal(mask, bigbird_mask(n * block, block=block, n_random=2, seed=1))
    assert not torch.equal(mask, bigbird_mask(n * block, block=block, n_random=2, seed=2))
    assert bigbird_mask(45, block=block).shape == (45, 45)
    assert bigbird_mask(20, block=4, n_random=99).all()  # more than there are: all of them
