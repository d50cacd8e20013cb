"""The attention kernels against `seqlab.core.attention.attend`, which holds the matrix."""

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton (Linux only)")

from seqlab.core.attention import attend
from seqlab.gpu.compile import compile_report
from seqlab.kernels import flash_attention, flash_decode
from seqlab.kernels.flash_attention import TILES
from seqlab.kernels.flash_attention_backward import TILES_KV, TILES_Q
from seqlab.kernels.launch import recorded
from seqlab.mixers import Attention

SMALL = {"BT": 16, "BS": 16, "num_warps": 4, "num_stages": 2}


@pytest.fixture
def small_tiles(monkeypatch):
    """16 × 16 tiles, so that a few dozen tokens have whole tiles, edges and a last one that is not
    full.
    """
    from importlib import import_module

    for name in ("flash_attention", "flash_attention_backward"):
        monkeypatch.setattr(
            import_module(f"seqlab.kernels.{name}"), "configs", lambda tiles, *widths: (SMALL,)
        )


def tensors(T_q, T_k, H, h, K, V, dtype=torch.float32, B=1):
    return [
        torch.randn(B, T, n, w, dtype=dtype) for T, n, w in ((T_q, H, K), (T_k, h, K), (T_k, h, V))
    ]


def both(**options):
    """The kernel and its reference, each with y and lse."""
    return (
        lambda q, k, v, f=f: f(q, k, v, return_lse=True, **options)
        for f in (flash_attention, attend)
    )


CASES = {
    "not causal": (17, 21, {}),
    "causal": (21, 21, {"causal": True}),
    "more keys than queries, aligned at the end": (5, 21, {"causal": True}),
    "more keys than queries, aligned at the start": (5, 21, {"causal": True, "align": "start"}),
    "queries that see nothing": (21, 5, {"causal": True}),
    "the last query of a tile sees one key of the next": (32, 33, {"causal": True}),
    "the first query of a tile sees one key two tiles back": (
        33,
        33,
        {"causal": True, "window": 18},
    ),
    "a window": (40, 40, {"causal": True, "window": 33}),
    "a window shorter than a tile": (19, 21, {"causal": True, "window": 3}),
    "a window longer than the sequence": (19, 19, {"causal": True, "window": 100}),
    "a window over queries that see nothing": (21, 9, {"causal": True, "window": 5}),
    "one token": (1, 1, {"causal": True}),
    "decoding": (1, 21, {"causal": True}),
    "decoding with a window": (1, 21, {"causal": True, "window": 10}),
    "whole tiles only": (16, 32, {}),
    "a scale of one's own": (19, 19, {"causal": True, "scale": 0.7}),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_attention_with_its_log_sum_exp_and_the_gradients_of_both(
    case, agree, poisoned, small_tiles
):
    T_q, T_k, options = CASES[case]
    agree(*both(**options), *tensors(T_q, T_k, 1, 1, 16, 16))


@pytest.mark.parametrize("heads", [(4, 2), (3, 1), (2, 2)])
def test_grouped_queries_share_keys_and_their_gradients_add_up(heads, agree, poisoned, small_tiles):
    agree(*both(causal=True), *tensors(5, 17, *heads, 16, 16, B=2))


@pytest.mark.parametrize("widths", [(16, 40), (40, 16), (8, 8), (1, 3), (80, 80)])
def test_keys_and_values_of_any_width(widths, agree, poisoned, small_tiles):
    agree(*both(causal=True, window=11), *tensors(18, 21, 1, 1, *widths))


@pytest.mark.parametrize("width", [16, 32, 96, 128, 256])
def test_every_width_of_a_head_with_the_tiles_of_a_gpu(width, agree, poisoned):
    agree(*both(causal=True), *tensors(40, 70, 1, 1, width, width))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype, agree, small_tiles):
    agree(
        *(lambda *x, f=f: f(*x)[0] for f in both(causal=True)),
        *tensors(19, 19, 1, 1, 32, 32, dtype),
    )


def test_large_scores_neither_overflow_nor_drown(agree, small_tiles):
    q, k, v = tensors(37, 37, 1, 1, 16, 16)
    y, lse = flash_attention(30 * q, 30 * k, v, causal=True, return_lse=True)
    Y, LSE = attend(30 * q.double(), 30 * k.double(), v.double(), causal=True, return_lse=True)
    torch.testing.assert_close(y.double(), Y, rtol=0, atol=1e-3)
    torch.testing.assert_close(lse.double(), LSE, rtol=1e-5, atol=0)


def test_a_window_of_one_returns_the_value_and_teaches_the_scores_nothing(small_tiles):
    """Its weight is 1 whatever the score. dP and D, equal here, come from two sums, so a few
    roundings of them stay.
    """
    q, k, v = (x.requires_grad_() for x in tensors(19, 19, 1, 1, 16, 16))
    y, dy = flash_attention(q, k, v, causal=True, window=1), torch.randn(1, 19, 1, 16)
    torch.testing.assert_close(y, v)
    dq, dk, dv = torch.autograd.grad(y, (q, k, v), dy)
    torch.testing.assert_close(dv, dy)
    largest = (dy * v).abs().sum(-1).max() * 16**-0.5 * torch.finfo(torch.float32).eps
    assert (
        dq.abs().max() <= 8 * largest * k.abs().max()
        and dk.abs().max() <= 8 * largest * q.abs().max()
    )


def test_views_give_what_copies_give(small_tiles):
    qkv = torch.randn(2, 21, 3, 2, 16)
    q, k, v = qkv.unbind(2)
    assert torch.equal(flash_attention(q, k, v), flash_attention(q.clone(), k.clone(), v.clone()))


def test_what_lies_in_the_future_is_not_even_read(small_tiles):
    """Not masked after the fact: keys beyond the last query's tile may be NaN."""
    q, k, v = tensors(16, 64, 1, 1, 16, 16)
    y = flash_attention(q, k, v, causal=True, align="start")
    k[:, 16:], v[:, 16:] = torch.nan, torch.nan
    assert torch.equal(flash_attention(q, k, v, causal=True, align="start"), y)


def test_it_is_a_form_of_the_attention_mixer(small_tiles):
    x = torch.randn(2, 21, 32)
    mixer = Attention(32, n_heads=2)
    expected, _ = mixer(x)
    mixer.form = flash_attention
    y, state = mixer(x[:, :13])
    rest, _ = mixer(x[:, 13:], state)
    torch.testing.assert_close(torch.cat([y, rest], 1), expected)


@pytest.mark.parametrize(
    "width",
    [pytest.param(64, marks=pytest.mark.slow), 128, pytest.param(256, marks=pytest.mark.slow)],
)
def test_it_is_compiled_for_four_targets_without_spills(width, compiled):
    """At the default configuration, causal, grouped queries."""
    reports = compiled(
        lambda q, k, v: flash_attention(q, k, v, causal=True),
        *[(1, 4096, n, width) for n in (4, 1, 1)],
    )
    assert set(reports) == {
        "attend_forward",
        "attend_delta",
        "attend_backward_q",
        "attend_backward_kv",
    }
    for name, report in reports.items():
        for c in report.targets.values():
            assert c.spills == 0 and c.occupancy.blocks, report
            assert name == "attend_delta" or c.tensor_cores


@pytest.mark.parametrize("form", [flash_attention, flash_decode])
def test_under_autocast_it_takes_mixed_types(form):
    """Norms of queries and keys are float32 there, values are not."""
    plain = Attention(32, 2, qk_norm=True)
    ours = Attention(32, 2, qk_norm=True, form=form)
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(1, 5, 32)
    with torch.autocast("cpu", torch.bfloat16):
        (y, _), (expected, _) = ours(x), plain(x)
    assert y.dtype == expected.dtype
    torch.testing.assert_close(y, expected, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("width", [128, pytest.param(256, marks=pytest.mark.slow)])
def test_float32_has_a_configuration_for_little_shared_memory(width):
    """A GPU passes over those that do not fit; one must."""
    q = torch.empty(1, 4096, 1, width, device="meta", requires_grad=True)
    with recorded() as launches:
        flash_attention(q, q, q).sum().backward()
    small = TILES[width][-1], TILES_Q[width][-1], TILES_KV[width][0]
    for run, tile in zip([run for run in launches if "BS" in run.named], small, strict=True):
        named = run.named | dict(zip(("BT", "BS", "num_warps", "num_stages"), tile, strict=True))
        report = compile_report(run.kernel, *run.args, targets=("sm_89",), **named)
        assert report["sm_89"].occupancy.blocks, report


def test_wrong_arguments_get_a_sentence():
    q, k, v = tensors(3, 3, 2, 1, 16, 16)
    with pytest.raises(
        ValueError, match="q and v are 16 and 300 wide: this kernel takes 256 at most"
    ):
        flash_attention(q, k, torch.randn(1, 3, 1, 300))
    with pytest.raises(TypeError, match=r"q is torch.float64: the kernels take float32"):
        flash_attention(q.double(), k.double(), v.double())
    with pytest.raises(ValueError, match="window"):
        flash_attention(q, k, v, window=3)
    with pytest.raises(ValueError, match="align is 'middle'"):
        flash_attention(q, k, v, causal=True, align="middle")


def test_two_runs_give_the_same_bits(small_tiles):
    q, k, v = (x.requires_grad_() for x in tensors(37, 37, 4, 2, 16, 16))
    runs = [
        torch.autograd.grad(flash_attention(q, k, v, causal=True).square().sum(), (q, k, v))
        for _ in range(2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_the_matrix_is_never_held():
    """What the forward keeps for the backward grows with T, not with T²."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        q, k, v = (torch.empty(1, 4096, 2, 64, device="meta", requires_grad=True) for _ in range(3))
        with recorded() as launches:
            flash_attention(q, k, v, causal=True)
    assert max(x.numel() for x in kept) <= q.numel()
    assert (
        max(x.numel() for run in launches for x in run.args if isinstance(x, torch.Tensor))
        <= q.numel()
    )


@pytest.mark.parametrize("scale", [-0.7, 0.0])
def test_a_scale_of_zero_or_below_turns_the_order_of_the_scores(scale):
    q, k, v = (torch.randn(1, 20, 2, 16, requires_grad=True) for _ in range(3))
    ours = flash_attention(q, k, v, causal=True, scale=scale)
    right = attend(q, k, v, causal=True, scale=scale)
    torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-5)
    dy = torch.randn_like(right)
    for a, b in zip(*(torch.autograd.grad(y, (q, k, v), dy) for y in (ours, right)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
