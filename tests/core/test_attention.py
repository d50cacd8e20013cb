"""Softmax attention against plain loops, PyTorch, and its own definition in higher precision."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from seqlab.core.attention import FORMS, attend, attend_sdpa, attend_tiled, causal_mask
from seqlab.core.inputs import choose

B, T, H, K, V = 2, 11, 4, 6, 5
F64 = {"dtype": torch.float64}
SEEN = [{}, {"causal": True}, {"causal": True, "window": 3}, {"causal": True, "align": "start"}]
SEEN += [{"causal": True, "window": 4, "align": "start", "scale": 0.7}]


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
    inputs = [x.requires_grad_() for x in draw()]
    ours = attend(*inputs, causal=causal)
    heads_first = (x.transpose(1, 2) for x in inputs)
    theirs = F.scaled_dot_product_attention(*heads_first, is_causal=causal).transpose(1, 2)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(ours)
    grads = [torch.autograd.grad((y * weight).sum(), inputs) for y in (ours, theirs)]
    for a, b in zip(*grads, strict=True):
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


def test_large_scores_stay_finite():
    q, k, v = draw()
    assert attend(q * 1e4, k * 1e4, v, causal=True).isfinite().all()


def test_wrong_input_gets_one_clear_sentence():
    q, k, v = draw()
    with pytest.raises(ValueError, match="k has width 3, q has 6"):
        attend(q, k[..., :3], v)
    with pytest.raises(ValueError, match="k and v have 3 heads, q has 4"):
        attend(q, k[:, :, :3], v[:, :, :3])
    with pytest.raises(
        ValueError, match=r"k has \(B, T, H\) = \(2, 11, 4\), v has \(2, 5, 4\): they"
    ):
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


@pytest.mark.parametrize("seen", SEEN, ids=str)
@pytest.mark.parametrize("width", [3, V, K, 9])
def test_pytorchs_attention_is_attend_at_any_shape(seen, width):
    for (T_q, T_k), heads in product([(11, 11), (5, 11), (1, 7)], (4, 2)):
        q, k, _ = draw(T_q, T_k, heads)
        v = torch.randn(B, T_k, heads, width, **F64)
        ours, theirs = attend(q, k, v, **seen), attend_sdpa(q, k, v, **seen)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_form_is_a_name_or_a_function():
    assert choose("tiled", FORMS) is attend_tiled
    assert choose(math.cos, FORMS) is math.cos


def test_a_mask_by_hand_is_the_causal_one_and_joins_it():
    q, k, v = draw()
    mask = causal_mask(T, T, window=4)
    torch.testing.assert_close(attend(q, k, v, mask=mask), attend(q, k, v, causal=True, window=4))
    both = attend(q, k, v, causal=True, mask=mask.mT)
    torch.testing.assert_close(both, attend(q, k, v, mask=torch.eye(T) > 0))
    heads = torch.stack([mask, ~mask, mask, mask | True])
    torch.testing.assert_close(attend(q, k, v, mask=heads)[:, :, 3], attend(q, k, v)[:, :, 3])


def test_a_bias_is_added_to_the_scores():
    """With a bias of -inf it is a mask; with a channel more on q and k it is a dot product."""
    q, k, v = draw()
    bias = torch.zeros(T, T, **F64).masked_fill(~causal_mask(T, T), -torch.inf)
    torch.testing.assert_close(attend(q, k, v, bias=bias), attend(q, k, v, causal=True))
    per_key = torch.randn(T, **F64)
    q1 = F.pad(q, (0, 1), value=1.0)
    k1 = torch.cat([k, per_key[None, :, None, None].expand(B, T, H, 1)], -1)
    ours = attend(q, k, v, bias=per_key.expand(T, T), scale=1.0)
    torch.testing.assert_close(ours, attend(q1, k1, v, scale=1.0))


HALF = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
forms = pytest.mark.parametrize("form", FORMS)


@forms
@HALF
@pytest.mark.parametrize("kv_heads", [4, 1])
@pytest.mark.parametrize("seen", SEEN, ids=str)
def test_scores_beyond_the_range_of_float16_are_finite(form, dtype, kv_heads, seen):
    """q = k = 256 in all 64 channels: scores of 524,288, where float16 ends at 65,504."""
    q = torch.full((1, 8, 4, 64), 256.0, dtype=dtype)
    v = torch.randn(1, 8, kv_heads, 64, dtype=dtype)
    leaves = [x.requires_grad_() for x in (q, q[:, :, :kv_heads].clone().detach(), v)]
    y = FORMS[form](*leaves, **{**seen, "scale": None})
    assert y.dtype == dtype and y.isfinite().all()
    for gradient in torch.autograd.grad(y.float().sum(), leaves):
        assert gradient.dtype == dtype and gradient.isfinite().all()


@forms
@HALF
@pytest.mark.parametrize("shared", [30.0, 100.0])
def test_keys_with_a_large_part_in_common_keep_their_differences(form, dtype, shared):
    """What the keys share adds the same to all scores of a query, and a softmax ignores it.

    Scores in float32 are exact to about 1e-5 here. Weights and y are then rounded once each to
    `dtype`, to eps / 2 of their size, so y is within eps · max|v| (a little more: two roundings of
    the softmax's parts). Scores in bfloat16 would be off by 2 or more, and y by the size of v.
    """
    q, k, v = (torch.randn(1, 64, 2, 64) for _ in range(3))
    q, k, v = (x.to(dtype) for x in (q, k + shared, v))
    exact = attend(q.double(), k.double(), v.double(), causal=True)
    y = FORMS[form](q, k, v, causal=True)
    assert y.dtype == dtype
    assert (y - exact).abs().max() < 1.1 * torch.finfo(dtype).eps * v.abs().max()


@pytest.mark.parametrize("form", ["parallel", "tiled"])
def test_autocast_leaves_scores_in_float32(form):
    q, k, v = (torch.randn(1, 64, 2, 64) for _ in range(3))
    exact, lse = FORMS[form](q, k + 100, v, return_lse=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, ours = FORMS[form](q, k + 100, v, return_lse=True)
    assert torch.equal(ours, lse)
    assert (y - exact).abs().max() < 1.1 * torch.finfo(torch.bfloat16).eps * v.abs().max()


@HALF
def test_scores_and_their_log_sum_exp_are_float32(dtype):
    q, k, v = (x.to(dtype) for x in draw())
    y, lse = attend(q, k, v, return_lse=True)
    assert y.dtype == dtype and lse.dtype == torch.float32
    expected = attend(q.float(), k.float(), v.float(), return_lse=True)[1]
    torch.testing.assert_close(lse, expected, rtol=0, atol=0)


@forms
@pytest.mark.parametrize("seen", SEEN, ids=str)
def test_no_sequences_give_no_answers(form, seen):
    q, k, v = (x[:0].requires_grad_() for x in draw())
    y = FORMS[form](q, k, v, **seen)
    assert y.shape == (0, T, H, V)
    y.sum().backward()


# PyTorch's kernel has no batching rule: vmap calls it once per sample, and says so.
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@forms
@pytest.mark.parametrize("seen", SEEN, ids=str)
def test_gradients_per_sample_are_those_of_each_sample_alone(form, seen):
    def loss(q, k, v):
        return FORMS[form](q, k, v, **seen).square().sum()

    inputs = [torch.stack([x, 2 * x, x.flip(1)]) for x in draw(kv_heads=2)]
    ours = torch.func.vmap(torch.func.grad(loss, (0, 1, 2)))(*inputs)
    for i in range(3):
        leaves = [x[i].clone().requires_grad_() for x in inputs]
        for a, b in zip(ours, torch.autograd.grad(loss(*leaves), leaves), strict=True):
            torch.testing.assert_close(a[i], b, rtol=1e-9, atol=1e-9)
