import pytest
import torch
import torch.nn.functional as F

from seqlab.attention import attend, causal_mask

B, T, H, K, V = 2, 11, 4, 6, 5
F64 = {"dtype": torch.float64}


def draw(T_q=T, T_k=T, kv_heads=H):
    return (
        torch.randn(B, T_q, H, K, **F64),
        torch.randn(B, T_k, kv_heads, K, **F64),
        torch.randn(B, T_k, kv_heads, V, **F64),
    )


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("options", [{}, {"causal": True}, {"causal": True, "window": 3}, {"scale": 0.7}])
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
    theirs = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in ours), is_causal=causal).transpose(1, 2)
    torch.testing.assert_close(y, theirs)
    weight = torch.randn_like(y)
    for a, b in zip(*(torch.autograd.grad((out * weight).sum(), ours) for out in (y, theirs)), strict=True):
        torch.testing.assert_close(a, b)


def test_log_sum_exp_against_pytorchs_cpu_kernel():
    q, k, v = draw()
    v = torch.randn(B, T, H, K, **F64)  # that kernel wants K = V
    y, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*(x.transpose(1, 2) for x in (q, k, v)))
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
