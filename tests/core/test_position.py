"""Rotations and biases: theorems, the papers' numbers, and transformers' own frequencies."""

import math
import warnings

import pytest
import torch

from seqlab.core.attention import attend
from seqlab.core.position import (
    alibi_bias,
    alibi_slopes,
    dynamic_ntk_frequencies,
    linear_frequencies,
    llama3_frequencies,
    longrope_frequencies,
    longrope_magnitude,
    ntk_frequencies,
    rope_frequencies,
    rotate,
    xpos,
    xpos_scale,
    yarn_frequencies,
    yarn_magnitude,
)

F64 = {"dtype": torch.float64}


@pytest.mark.parametrize("interleaved", [False, True])
def test_a_rotated_score_depends_on_the_distance_alone(interleaved):
    q, k = torch.randn(2, 1, 1, 1, 8, **F64)
    theta = rope_frequencies(8)

    def score(n, m):
        turn = lambda x, p: rotate(x, torch.tensor([p]), theta, interleaved=interleaved)  # noqa: E731
        return (turn(q, n) * turn(k, m)).sum()

    torch.testing.assert_close(score(9, 4), score(105, 100))
    assert not torch.isclose(score(9, 4), score(9, 5))


def test_rotation_is_a_complex_multiplication():
    x, theta = torch.randn(2, 5, 3, 8, **F64), rope_frequencies(8)
    turn = torch.polar(torch.ones(5, 4, **F64), torch.arange(5, **F64)[:, None] * theta)[:, None]
    expected = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (4, 2))) * turn).flatten(-2)
    torch.testing.assert_close(rotate(x, torch.arange(5), theta, interleaved=True), expected)


def test_the_two_layouts_are_one_rotation_up_to_the_order_of_channels():
    x, positions, theta = torch.randn(2, 5, 3, 8, **F64), torch.arange(5), rope_frequencies(8)
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    pairs = rotate(x, positions, theta, interleaved=True)
    torch.testing.assert_close(rotate(x[..., order], positions, theta), pairs[..., order])


def test_frequencies_end_where_the_papers_end():
    assert rope_frequencies(8).tolist() == pytest.approx([1, 0.1, 0.01, 0.001])
    assert rope_frequencies(8, inclusive=True)[-1] == pytest.approx(1e-4)
    assert rope_frequencies(2, inclusive=True).tolist() == [1.0]
    with pytest.raises(ValueError, match="width is 7"):
        rope_frequencies(7)


def test_xpos_weighs_a_distance_by_zeta_to_that_power():
    q, k = torch.randn(2, 1, 1, 1, 8, **F64)
    theta = rope_frequencies(8)

    def score(n, m):
        a, _ = xpos(q, q, torch.tensor([n]), theta, scale_base=16.0)
        _, b = xpos(k, k, torch.tensor([m]), theta, scale_base=16.0)
        return (a * b).sum()

    torch.testing.assert_close(score(9, 4), score(35, 30))
    at_rest = torch.zeros_like(theta)  # without rotation, only the magnitudes are left
    a, _ = xpos(q, q, torch.tensor([7]), at_rest, scale_base=16.0)
    _, b = xpos(k, k, torch.tensor([2]), at_rest, scale_base=16.0)
    zeta = torch.tensor([(2 * i / 8 + 0.4) / 1.4 for i in range(4)], **F64).repeat(2)
    torch.testing.assert_close((a * b).sum(), (q * k * zeta ** (5 / 16)).sum())
    assert (xpos_scale(torch.arange(3), 8)[0] == 1).all()


@pytest.mark.parametrize("interleaved", [False, True])
def test_partial_rotary_turns_the_first_channels_and_passes_the_rest(interleaved):
    x, positions, theta = torch.randn(2, 5, 3, 12, **F64), torch.arange(5), rope_frequencies(8)
    y = rotate(x, positions, theta, interleaved=interleaved, magnitude=1.5)
    turned = rotate(x[..., :8], positions, theta, interleaved=interleaved)
    torch.testing.assert_close(y, torch.cat([1.5 * turned, x[..., 8:]], -1))
    with pytest.raises(ValueError, match="theta turns 14 channels, x has 12"):
        rotate(x, positions, rope_frequencies(14))


def test_ntk_interpolates_the_slowest_pair_and_leaves_the_fastest():
    plain, ntk = rope_frequencies(16), ntk_frequencies(16, 4.0)
    assert ntk[0] == plain[0] == 1
    torch.testing.assert_close(ntk[-1], plain[-1] / 4)
    assert (ntk[1:-1] < plain[1:-1]).all() and (ntk[1:-1] > plain[1:-1] / 4).all()


def test_dynamic_ntk_is_plain_up_to_the_trained_length():
    for length in (1, 7, 100):
        theta = dynamic_ntk_frequencies(16, 4.0, length, 100)
        torch.testing.assert_close(theta, rope_frequencies(16))
    assert (dynamic_ntk_frequencies(16, 4.0, 101, 100)[1:] < rope_frequencies(16)[1:]).all()


def test_interpolated_positions_are_the_trained_ones():
    x, theta = torch.randn(1, 5, 1, 8, **F64), rope_frequencies(8)
    stretched = rotate(x, 4 * torch.arange(5), linear_frequencies(theta, 4.0))
    torch.testing.assert_close(stretched, rotate(x, torch.arange(5), theta))


@pytest.mark.parametrize("scaled", [llama3_frequencies, None], ids=["Llama 3", "YaRN"])
def test_fast_pairs_stay_and_slow_pairs_are_interpolated(scaled):
    theta = rope_frequencies(128, 500000.0)
    ratio = (scaled(theta) if scaled else yarn_frequencies(128, 8.0, 8192, 500000.0)) / theta
    assert ratio[0] == 1 and ratio[-1] == pytest.approx(1 / 8)
    assert (ratio.diff() <= 1e-12).all()
    turns = 8192 * theta / (2 * math.pi)
    assert torch.equal(ratio == 1, turns >= 4) if scaled else (ratio[turns > 40] == 1).all()
    torch.testing.assert_close(ratio[turns < 0.9], torch.full_like(ratio[turns < 0.9], 1 / 8))


def test_longrope_switches_its_divisors_at_the_trained_length():
    short, long = [1.0, 1.1, 1.2, 1.3], [1.0, 2.0, 4.0, 8.0]
    for length, divisors in ((64, short), (65, long)):
        ratio = rope_frequencies(8) / longrope_frequencies(short, long, length, 64)
        torch.testing.assert_close(ratio, torch.tensor(divisors).double())
    assert longrope_magnitude(1.0, 64) == yarn_magnitude(1.0) == yarn_magnitude(0.5) == 1
    assert longrope_magnitude(64.0, 64) == pytest.approx(math.sqrt(2))
    assert yarn_magnitude(math.e) == pytest.approx(1.1)


def test_the_defaults_are_the_papers_and_the_released_codes():
    """Base 10000 in RoPE; Llama 3.1: 8, 1, 4, 8192; YaRN: 32 and 1 turns; xPos: a base of 512."""
    theta = rope_frequencies(64)
    same = torch.equal
    assert same(theta, rope_frequencies(64, 10000.0))
    assert same(ntk_frequencies(64, 4.0), ntk_frequencies(64, 4.0, 10000.0))
    dynamic = dynamic_ntk_frequencies(64, 4.0, 999, 64, 10000.0)
    assert same(dynamic_ntk_frequencies(64, 4.0, 999, 64), dynamic)
    assert same(llama3_frequencies(theta), llama3_frequencies(theta, 8.0, 1.0, 4.0, 8192))
    ends = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}
    assert same(yarn_frequencies(64, 4.0, 512), yarn_frequencies(64, 4.0, 512, 10000.0, **ends))
    ones = [1.0] * 32
    assert same(longrope_frequencies(ones, ones, 1, 64), theta)
    assert same(xpos_scale(torch.arange(9), 64), xpos_scale(torch.arange(9), 64, 512.0))
    q = torch.randn(1, 9, 1, 64, **F64)
    ours, theirs = (xpos(q, q, torch.arange(9), theta, **x) for x in ({}, {"scale_base": 512.0}))
    assert same(ours[0], theirs[0]) and same(ours[1], theirs[1])


@pytest.mark.parametrize("interleaved", [False, True])
def test_xpos_gives_both_channels_of_a_pair_one_magnitude(interleaved):
    q, positions = torch.randn(1, 9, 1, 8, **F64), torch.arange(9)
    scale = xpos_scale(positions, 8, 16.0)  # (T, 4)
    options = {"interleaved": interleaved}
    turned = rotate(q, positions, rope_frequencies(8), **options)
    ours, inverse = xpos(q, q, positions, rope_frequencies(8), scale_base=16.0, **options)
    for pair in range(4):
        first, second = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + 4)
        for channel in (first, second):
            expected = turned[0, :, 0, channel] * scale[:, pair]
            torch.testing.assert_close(ours[0, :, 0, channel], expected)
            expected = turned[0, :, 0, channel] / scale[:, pair]
            torch.testing.assert_close(inverse[0, :, 0, channel], expected)


WIDTH = 24
SHORT = [1.0 + 0.1 * i for i in range(12)]
LONG = [1.0 + i for i in range(12)]
L0 = {"original_max_position_embeddings": 128}


def linear(base, length):
    return linear_frequencies(rope_frequencies(WIDTH, base), 4.0), 1.0


def dynamic(base, length):
    return dynamic_ntk_frequencies(WIDTH, 4.0, length or 256, 256, base), 1.0


def llama3(base, length):
    return llama3_frequencies(rope_frequencies(WIDTH, base), original_length=128), 1.0


def yarn(base, length):
    return yarn_frequencies(WIDTH, 4.0, 128, base), yarn_magnitude(4.0)


def yarn_of_deepseek(base, length):
    ends = {"beta_fast": 16.0, "beta_slow": 2.0, "truncate": False}
    theta = yarn_frequencies(WIDTH, 40.0, 128, base, **ends)
    return theta, yarn_magnitude(40.0) / yarn_magnitude(40.0, 0.707)


def longrope(base, length):
    theta = longrope_frequencies(SHORT, LONG, length or 1, 128, base)
    return theta, longrope_magnitude(256 / 128, 128)


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **L0}
DEEPSEEK = {"factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.707, **L0}
DEEPSEEK |= {"truncate": False, "beta_fast": 16, "beta_slow": 2}
ROPES = {  # transformers' options, and ours
    "linear": ({"factor": 4.0}, linear),
    "dynamic": ({"factor": 4.0}, dynamic),
    "llama3": (LLAMA3, llama3),
    "yarn": ({"factor": 4.0, **L0}, yarn),
    "yarn, untruncated, as DeepSeek": (DEEPSEEK, yarn_of_deepseek),
    "longrope": ({"short_factor": SHORT, "long_factor": LONG, **L0}, longrope),
}


@pytest.fixture(scope="module")
def transformers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reason = "needs transformers: pip install -e '.[test]'"
        return pytest.importorskip("transformers", reason=reason)


@pytest.mark.oracle
@pytest.mark.parametrize("base", [10000.0, 500000.0])
@pytest.mark.parametrize("length", [None, 100, 300])
@pytest.mark.parametrize("name", ROPES)
def test_stretched_ropes_against_transformers(transformers, name, length, base):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    options, ours = ROPES[name]
    kind = name.split(",")[0]
    config = transformers.LlamaConfig(
        hidden_size=4 * WIDTH,
        num_attention_heads=4,
        max_position_embeddings=256,
        rope_parameters={"rope_type": kind, "rope_theta": base, **options},
    )
    theta, magnitude = ROPE_INIT_FUNCTIONS[kind](config, seq_len=length)
    our_theta, our_magnitude = ours(base, length)
    torch.testing.assert_close(our_theta.float(), theta, rtol=1e-5, atol=0)  # theirs is float32
    assert our_magnitude == pytest.approx(magnitude, rel=1e-9)


def test_alibi_lowers_a_score_by_slope_times_distance():
    assert alibi_slopes(8).tolist() == pytest.approx([2.0**-h for h in range(1, 9)])
    distances = torch.tensor([[0, 1, 2], [1, 0, 1], [2, 1, 0]])
    assert torch.equal(alibi_bias(2, 3, 3)[0], -distances.double() / 16)
    assert torch.equal(alibi_bias(6, 2, 5), alibi_bias(6, 5, 5)[:, -2:])


def test_alibi_without_content_is_a_decay_per_head():
    """With q = 0 the softmax is a moving average with γ = exp(-slope), a normalised retention."""
    T, H = 9, 4
    q, v = torch.zeros(1, T, H, 2, **F64), torch.randn(1, T, H, 3, **F64)
    y = attend(q, q, v, causal=True, bias=alibi_bias(H, T, T))
    gamma = (-alibi_slopes(H)).exp()
    total = weight = 0
    for t in range(T):
        total, weight = gamma[:, None] * total + v[0, t], gamma[:, None] * weight + 1
        torch.testing.assert_close(y[0, t], total / weight)


@pytest.mark.oracle
@pytest.mark.parametrize("n_heads", [1, 4, 6, 8, 12])
def test_alibi_against_bloom(transformers, n_heads):
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    T = 7
    theirs = build_alibi_tensor(torch.ones(1, T), n_heads, torch.float32)
    last = alibi_bias(n_heads, T, T)[:, -1]
    ours = (last - last[:, :1]).float()  # theirs is slope · j; a softmax ignores a constant
    torch.testing.assert_close(ours, theirs.view(n_heads, T))
