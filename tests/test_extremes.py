"""Long sequences, slow decays, zero and large input: finite, and within a stated distance of
float64.
"""

from functools import partial

import pytest
import torch

from seqlab.core.recurrence import chunkwise, recurrent
from seqlab.core.scan import linear_scan
from seqlab.zoo import ZOO

LONG, LONGER, D = 16_384, 100_000, 32


def draw(T, log_a=None, delta=False, K=4, V=3):
    """Unit keys, so that the delta rule is a contraction."""
    k = torch.nn.functional.normalize(torch.randn(1, T, 1, K), dim=-1)
    x = {"q": torch.randn(1, T, 1, K), "k": k, "v": torch.randn(1, T, 1, V)}
    if log_a is not None:
        x["log_a"] = torch.full(
            (1, T, 1, 1 if isinstance(log_a, float) else K), 1.0
        ) * torch.as_tensor(log_a)
    if delta:
        x["beta"] = torch.rand(1, T, 1)
    return x


def assert_close_to_float64(form, x, tolerance):
    """The largest error of y and S, as a part of the largest value."""
    exact = form(**{name: t.double() for name, t in x.items()})
    for ours, theirs in zip(form(**x), exact, strict=True):
        assert ours.isfinite().all()
        assert (ours - theirs).abs().max() < tolerance * theirs.abs().max()


DECAYS = [None, -1e-7, -1e-8, -0.01, [-1e-7, -1e-8, -1.0, -30.0]]


@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("log_a", DECAYS, ids=str)
def test_sixteen_thousand_tokens_chunkwise(log_a, delta):
    assert_close_to_float64(chunkwise, draw(LONG, log_a, delta), 1e-4)


@pytest.mark.parametrize("log_a", [None, -1e-7, -1e-8, [-1e-7, -1e-8, -1.0, -30.0]], ids=str)
def test_a_hundred_thousand_tokens_recurrent(log_a):
    """float32 rounds each gate to a multiple of 2^-24: T steps may be off by T/2 of these, 3e-3 at
    100,000 tokens.

    Without a decay only the sums are rounded. `chunkwise` adds logarithms, which round far less:
    see the next test.
    """
    assert_close_to_float64(
        recurrent, draw(LONGER, log_a), 1e-4 if log_a is None else LONGER * 2**-25
    )


def test_a_hundred_thousand_tokens_chunkwise_are_closer():
    assert_close_to_float64(partial(chunkwise, chunk_size=1024), draw(LONGER, -1e-7), 1e-4)


@pytest.mark.parametrize("log_a", [-1e-7, -1e-8])
def test_a_decay_that_float32_cannot_hold_still_decays(log_a):
    """1 - 1e-8 rounds to 1 in float32; its logarithm does not. After 16,384 equal tokens the state
    knows.
    """
    x = draw(LONG, log_a)
    x["k"], x["v"] = torch.ones_like(x["k"]), torch.ones_like(x["v"])
    _, S = chunkwise(**{name: t.double() for name, t in x.items()})
    lost = LONG - S.flatten()[0].item()
    assert lost == pytest.approx(-log_a * LONG**2 / 2, rel=1e-2)


def test_bf16_inputs_with_a_float32_state_over_sixteen_thousand_tokens():
    """Inputs are rounded once; the sum over time is not. In a bfloat16 state 16,384 equal writes
    would stop at 256.
    """
    x = {name: t.bfloat16() for name, t in draw(LONG, -1e-4).items()}
    x["log_a"] = x["log_a"].float()
    exact, S_exact = chunkwise(**{name: t.double() for name, t in x.items()})
    y, S = chunkwise(**x)
    assert y.dtype == torch.bfloat16 and S.dtype == torch.float32
    assert (S - S_exact).abs().max() < 1e-4 * S_exact.abs().max()
    assert (y - exact).abs().max() < 2**-7 * exact.abs().max()


@pytest.mark.parametrize("T", [LONG, LONGER])
@pytest.mark.parametrize(
    "a", [1.0, 1 - 1e-7, 0.5, 0.0, torch.polar(torch.tensor(1 - 1e-7), torch.tensor(1.0))], ids=str
)
def test_a_scan_over_a_long_sequence(a, T):
    """1 - 1e-7 in float32 is 1 - 2^-23: compared with the float64 scan of that very gate."""
    a = torch.as_tensor(a).reshape(1, 1, 1)
    b = torch.randn(1, T, 2, dtype=a.dtype)
    exact = linear_scan(
        a.to(torch.promote_types(a.dtype, torch.float64)),
        b.to(torch.promote_types(b.dtype, torch.float64)),
    )
    h = linear_scan(a, b)
    assert h.isfinite().all()
    assert (h - exact).abs().max() < 1e-4 * exact.abs().max()


FIXED = [r for r in ZOO if r.causal and r.state_floats(8192, D) == r.state_floats(4096, D)]


@pytest.mark.parametrize("r", FIXED, ids=lambda r: r.name)
def test_a_mixer_over_a_long_sequence_stays_close_to_float64(r):
    """float32 against float64, over 16,384 tokens of ordinary size."""
    torch.manual_seed(0)
    # Or a window would be cut from 16,384² scores.
    options: dict = {"form": "tiled"} if "tiled" in r.forms else {}
    if r.name == "Gated RFA":  # with 64 features what it divides by is too noisy, and passes near 0
        options["n_features"] = 512
    mixer, x = r.make(D, **options), torch.randn(1, LONG, D)
    with torch.no_grad():
        y, _ = mixer(x)
        exact, _ = mixer.double()(x.double())
    assert y.isfinite().all()
    assert (y - exact).abs().max() < 1e-3 * exact.abs().max()


@pytest.mark.parametrize("r", [r for r in ZOO if r.causal], ids=lambda r: r.name)
def test_one_token_alone(r):
    """T = 1 from no state: finite, with finite gradients, in float32, at input 0, 1 and 1e4."""
    for scale in (0.0, 1.0, 1e4):
        mixer, x = r.make(D), (torch.randn(2, 1, D) * scale).requires_grad_()
        y, _ = mixer(x)
        y.sum().backward()
        assert y.isfinite().all() and x.grad.isfinite().all()
