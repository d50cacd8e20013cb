"""The kernels of the short convolution against `seqlab.core.convolution.causal_conv`."""

from importlib import import_module

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton (Linux only)")

from seqlab.core.convolution import causal_conv as reference
from seqlab.gpu.sanitize import sanitize
from seqlab.gpu.trace import trace
from seqlab.kernels.causal_conv1d import causal_conv1d
from seqlab.kernels.launch import recorded
from seqlab.layers.short_conv import ShortConv
from seqlab.mixers import GatedDeltaNet, Mamba

BOTH = causal_conv1d, reference


@pytest.fixture
def small_tiles(monkeypatch):
    """4 tokens a segment, 2 rows at once, 4 channels: a few tokens have whole segments and a last
    one that is not.
    """
    module = import_module("seqlab.kernels.causal_conv1d")
    monkeypatch.setattr(module, "TOKENS", 4)
    for name in ("FORWARD", "BACKWARD"):
        monkeypatch.setattr(module, name, ({"BT": 2, "BD": 4, "num_warps": 4},))


def tensors(B, T, D, W, dtype=torch.float32):
    return [torch.randn(shape).to(dtype) for shape in ((B, T, D), (D, W), (D,), (B, W - 1, D))]


SIZES = {  # B, T, D, W
    "several segments": (2, 6, 5, 3),
    "whole segments": (1, 8, 4, 4),
    "one token": (2, 1, 5, 4),
    "fewer tokens than taps": (1, 2, 3, 8),
    "as many tokens as a state": (1, 3, 3, 4),
    "two taps": (2, 5, 3, 2),
    "more taps than a segment": (1, 6, 3, 7),
}


@pytest.mark.parametrize("case", SIZES)
def test_it_is_the_convolution_with_its_state_and_the_gradients_of_both(
    case, agree, poisoned, small_tiles
):
    agree(*BOTH, *tensors(*SIZES[case]))


@pytest.mark.parametrize("bias, start", [(True, False), (False, True), (False, False)])
def test_bias_and_state_may_be_absent(bias, start, agree, poisoned, small_tiles):
    x, weight, *rest = tensors(2, 6, 3, 3)

    def with_none(conv):
        def function(x, weight, *rest):
            return conv(x, weight, rest[0] if bias else None, rest[-1] if start else None)

        return function

    agree(*map(with_none, BOTH), x, weight, *rest[:1] * bias, *rest[1:] * start)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype, agree, small_tiles):
    agree(*BOTH, *tensors(1, 5, 3, 4, dtype))


def test_the_segments_of_a_gpu(agree, poisoned):
    """At the default sizes, over more than one segment."""
    agree(*BOTH, *tensors(1, 70, 3, 4))


def test_weights_may_be_wider_than_x(small_tiles):
    """As under autocast. Nothing but y is rounded."""
    x, weight, bias, state = tensors(1, 5, 3, 4)
    x, state = x.bfloat16(), state.bfloat16()
    y, _ = causal_conv1d(x, weight, bias, state)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, causal_conv1d(x.float(), weight, bias, state.float())[0].bfloat16())


@pytest.mark.parametrize("only", [0, 1], ids=["only y", "only the state"])
def test_a_loss_of_one_output_alone(only, small_tiles):
    grads = []
    inputs = [x.requires_grad_() for x in tensors(1, 5, 3, 4)]
    for conv in BOTH:
        loss = conv(*inputs)[only].square().sum()
        grads.append(torch.autograd.grad(loss, inputs, allow_unused=True))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if theirs is None else theirs)


def test_two_parts_with_the_state_carried_are_the_whole(small_tiles):
    x, weight, bias, state = tensors(1, 6, 3, 3)
    whole, final = causal_conv1d(x, weight, bias, state)
    parts = []
    for part in x.split([1, 2, 3], dim=1):
        y, state = causal_conv1d(part, weight, bias, state)
        parts.append(y)
    assert torch.equal(torch.cat(parts, 1), whole) and torch.equal(state, final)


def test_views_give_what_copies_give(small_tiles):
    x = torch.randn(2, 9, 2, 5)[:, :, 1]
    weight = torch.randn(4, 5).mT
    assert torch.equal(
        causal_conv1d(x, weight)[0], causal_conv1d(x.contiguous(), weight.contiguous())[0]
    )


def test_it_is_a_form_of_the_short_convolution(small_tiles):
    x = torch.randn(2, 9, 5)
    plain = ShortConv(5, bias=True)
    ours = ShortConv(5, bias=True, form=causal_conv1d)
    ours.load_state_dict(plain.state_dict())
    with recorded() as launches:
        y, state = ours(x)
    assert len(launches) == 1
    torch.testing.assert_close((y, state), plain(x))


@pytest.mark.parametrize("make", [lambda: Mamba(6, d_state=2), lambda: GatedDeltaNet(8, n_heads=1)])
def test_it_is_a_form_inside_the_mixers(make, small_tiles):
    mixer, x = make(), torch.randn(1, 7, 6)
    x = torch.randn(1, 7, mixer.d_model)
    expected, _ = mixer(x)
    expected_grads = torch.autograd.grad(expected.square().sum(), list(mixer.parameters()))
    mixer.conv.form = causal_conv1d
    y, _ = mixer(x)
    torch.testing.assert_close(y, expected)
    grads = torch.autograd.grad(y.square().sum(), list(mixer.parameters()))
    torch.testing.assert_close(grads, expected_grads, rtol=1e-4, atol=1e-5)
    parts, state = [], None
    for part in x.split([4, 1, 2], dim=1):
        y, state = mixer(part, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), expected)


def whole(*inputs):
    """Both outputs as one tensor."""
    return torch.cat(causal_conv1d(*inputs), dim=1)


SHAPES = [(1, 5, 5), (5, 3), (5,), (1, 2, 5)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_it_is_clean(dtype, launches_of, small_tiles):
    for run in launches_of(whole, *SHAPES, dtype=dtype):
        assert sanitize(run.kernel, run.grid, *run.args, **run.named) == []


def test_each_row_moves_once(launches_of, monkeypatch):
    """Forward x and y; backward x, dy and dx, and the parts of dw and dbias that each segment
    leaves.

    32 tokens a segment here, 64 by default. The weights, small, are asked for by every segment and
    counted once.
    """
    monkeypatch.setattr(import_module("seqlab.kernels.causal_conv1d"), "TOKENS", 32)
    B, T, D, W = 1, 61, 3, 4
    forward, backward = (
        trace(run.kernel, run.grid, *run.args, **run.named)
        for run in launches_of(
            lambda *x: causal_conv1d(*x)[0], (B, T, D), (D, W), (D,), (B, W - 1, D)
        )
    )
    x, state, weight, segments = 4 * B * T * D, 4 * B * (W - 1) * D, 4 * D * (W + 1), 2

    def again(t):
        return sum(t.traffic[n].bytes_read_again for n in ("p_w", "p_bias") if n in t.traffic)

    small = [again(t) for t in (forward, backward)]
    assert forward.bytes - small[0] <= 1.2 * (2 * x + state + weight)
    assert backward.traffic["p_x"].bytes_in == x
    assert backward.bytes - small[1] <= 1.2 * (3 * x + 2 * state + weight + segments * weight)


@pytest.mark.parametrize("W, dtype", [(4, torch.bfloat16), (8, torch.float32)])
def test_it_is_compiled_for_four_targets_without_spills(W, dtype, compiled):
    """At the default configuration: the inner width of a model of 2048."""
    shapes = [(8, 4096, 4096), (4096, W), (4096,), (8, W - 1, 4096)]
    reports = compiled(whole, *shapes, dtype=dtype)
    assert set(reports) == {"conv_forward", "conv_backward"}
    for report in reports.values():
        assert all(c.spills == 0 and c.occupancy.blocks for c in report.targets.values()), report


def test_two_runs_give_the_same_bits(small_tiles):
    inputs = [x.requires_grad_() for x in tensors(1, 6, 3, 3)]
    runs = [torch.autograd.grad(whole(*inputs).square().sum(), inputs) for _ in range(2)]
    assert all(map(torch.equal, *runs))


def test_wrong_arguments_get_a_sentence():
    x, weight, bias, state = tensors(2, 5, 3, 4)
    with pytest.raises(ValueError, match="weight has 9 taps: this kernel takes 2 to 8, use seqlab"):
        causal_conv1d(x, torch.randn(3, 9))
    with pytest.raises(
        ValueError, match=r"weight has shape \(4, 4\): \(3, 4\) is needed for x \(2, 5, 3\)"
    ):
        causal_conv1d(x, torch.randn(4, 4))
    with pytest.raises(ValueError, match=r"state has shape \(2, 4, 3\): \(2, 3, 3\) is needed"):
        causal_conv1d(x, weight, bias, torch.randn(2, 4, 3))
    with pytest.raises(ValueError, match=r"x has shape \(2, 0, 3\): T must be at least 1"):
        causal_conv1d(x[:, :0], weight)
    with pytest.raises(TypeError, match=r"x is torch.float64: the kernels take float32"):
        causal_conv1d(x.double(), weight)
    with pytest.raises(
        TypeError, match=r"x is torch.float16, state is torch.float32: use one dtype"
    ):
        causal_conv1d(x.half(), weight, bias, state)
