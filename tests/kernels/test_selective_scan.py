"""The kernels of Mamba's selective scan against `seqlab.mixers.mamba.selective_scan`."""

from importlib import import_module

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton (Linux only)")

from seqlab.gpu.compile import compile_report
from seqlab.gpu.sanitize import sanitize
from seqlab.gpu.trace import trace
from seqlab.kernels.launch import recorded
from seqlab.kernels.selective_scan import selective_scan
from seqlab.mixers import Mamba
from seqlab.mixers.mamba import selective_scan as reference

module = import_module("seqlab.kernels.selective_scan")


@pytest.fixture
def small_tiles(monkeypatch):
    """4 tokens a chunk, at N = 2 2 of them held, 2 channels a program: a few tokens fill chunks and
    parts of one.
    """
    for name, value in {
        "TOKENS": 4,
        "HELD": 4,
        "CHANNELS": 2,
        "FORWARD": ({"BE": 2, "num_warps": 1},),
    }.items():
        monkeypatch.setattr(module, name, value)


def tensors(B, T, E, N, dtype=torch.float32):
    """x, Δ > 0, A < 0, B, C and a state."""
    shapes = (B, T, E), (B, T, E), (E, N), (B, T, N), (B, T, N), (B, E, 1, N)
    x, dt, A, k, q, state = (torch.randn(shape) for shape in shapes)
    return [u.to(dtype) for u in (x, dt.exp(), -A.exp(), k, q, state)]


def with_state(scan):
    return lambda x, dt, A, B, C, state: scan(x, dt, A, B, C, state=state)


BOTH = with_state(selective_scan), with_state(reference)
SIZES = {  # B, T, E, N
    "several chunks": (1, 9, 3, 2),
    "two sequences": (2, 5, 3, 2),
    "whole chunks": (1, 4, 2, 4),
    "one token": (2, 1, 3, 2),
    "three numbers a channel": (1, 3, 3, 3),
    "one number a channel": (1, 3, 2, 1),
    "one channel": (1, 3, 1, 2),
}


@pytest.mark.parametrize("case", SIZES)
def test_it_is_the_scan_with_its_state_and_the_gradients_of_all(case, agree, poisoned, small_tiles):
    agree(*BOTH, *tensors(*SIZES[case]))


def test_without_a_state(agree, poisoned, small_tiles):
    agree(selective_scan, reference, *tensors(2, 5, 3, 2)[:5])


def test_the_chunks_of_a_gpu(agree, poisoned):
    """At the default sizes, N = 16 of Mamba, over more than one chunk and more than one program."""
    agree(*BOTH, *tensors(1, 11, 17, 16))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype, agree, small_tiles):
    """As in the mixer, Δ, A and the state stay float32; each result has the type that the reference
    gives it.
    """
    x, dt, A, B, C, state = tensors(1, 5, 3, 2)
    agree(*BOTH, x.to(dtype), dt, A, B.to(dtype), C.to(dtype), state)


def test_all_inputs_may_be_halves(small_tiles):
    halves = tensors(1, 5, 3, 2, torch.float16)
    y, last = BOTH[0](*halves)
    exact = BOTH[1](*(u.double() for u in halves))
    assert y.dtype == last.dtype == torch.float16
    torch.testing.assert_close((y.double(), last.double()), exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "decay", [0.0, 1e-8, 50.0, 1e30], ids=["none", "hardly any", "strong", "at once"]
)
def test_extreme_decays(decay, agree, poisoned, small_tiles):
    """A state that is forgotten at once leaves a gradient of exactly 0, however large A is."""
    x, dt, A, B, C, state = tensors(1, 5, 2, 2)
    A[:, 0] = -decay
    agree(*BOTH, x, dt, A, B, C, state)


def test_a_closed_gate_keeps_the_state_and_an_open_one_replaces_it(small_tiles):
    x, dt, A, B, C, state = tensors(1, 5, 3, 2)
    _, kept = selective_scan(x, 0 * dt, A, B, C, state=state)
    assert torch.equal(kept, state)
    y, _ = selective_scan(x, dt, -1e30 * torch.ones_like(A), B, C, state=state)
    torch.testing.assert_close(y[..., 0], dt * x * (B * C).sum(-1, keepdim=True))


@pytest.mark.parametrize("only", [0, 1], ids=["only y", "only the state"])
def test_a_loss_of_one_output_alone(only, small_tiles):
    inputs = [u.requires_grad_() for u in tensors(1, 3, 2, 2)]
    for ours, theirs in zip(
        *(
            torch.autograd.grad(scan(*inputs)[only].square().sum(), inputs, allow_unused=True)
            for scan in BOTH
        ),
        strict=True,
    ):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if theirs is None else theirs)


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_the_chunk_size_does_not_matter(chunk_size):
    x, dt, A, B, C, state = tensors(1, 9, 3, 2)
    y, last = selective_scan(x, dt, A, B, C, state=state, chunk_size=chunk_size)
    torch.testing.assert_close((y, last), reference(x, dt, A, B, C, state=state))


def test_parts_with_the_state_carried_are_the_whole(small_tiles):
    x, dt, A, B, C, state = tensors(1, 6, 3, 2)
    whole, final = selective_scan(x, dt, A, B, C, state=state)
    parts = []
    for t in (slice(0, 3), slice(3, 4), slice(4, 6)):
        y, state = selective_scan(x[:, t], dt[:, t], A, B[:, t], C[:, t], state=state)
        parts.append(y)
    torch.testing.assert_close((torch.cat(parts, 1), state), (whole, final))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_a_form_of_mamba(dtype, small_tiles):
    mixer, x = Mamba(4, d_state=3, expand=1).to(dtype), torch.randn(1, 5, 4, dtype=dtype)
    expected, final = mixer(x)
    expected_grads = torch.autograd.grad(expected.square().sum(), list(mixer.parameters()))
    mixer.form = selective_scan
    with recorded() as launches:
        y, state = mixer(x)
    assert len(launches) == 1
    tolerance = (
        {"rtol": 0, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
    )
    torch.testing.assert_close((y, *state), (expected, *final), **tolerance)
    grads = torch.autograd.grad(y.square().sum(), list(mixer.parameters()))
    torch.testing.assert_close(grads, expected_grads, **tolerance)
    y, state = mixer(x[:, :3])
    for t in (3, 4):
        y_t, state = mixer(x[:, t : t + 1], state)
        torch.testing.assert_close(y_t, expected[:, t : t + 1], **tolerance)


def test_it_is_a_form_when_the_mixer_is_made():
    assert Mamba(4, form=selective_scan).form is selective_scan


def both_outputs(x, dt, A, B, C, state):
    y, last = selective_scan(x, dt, -A.abs(), B, C, state=state)
    return torch.cat([y.flatten(), last.flatten().to(y.dtype)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_it_is_clean(dtype, launches_of, small_tiles):
    B, T, E, N = 1, 5, 3, 3
    shapes = [(B, T, E), (B, T, E), (E, N), (B, T, N), (B, T, N), (B, E, 1, N)]
    for run in launches_of(both_outputs, *shapes, dtype=dtype):
        assert sanitize(run.kernel, run.grid, *run.args, **run.named) == []


def test_the_bytes_are_those_of_the_algorithm(launches_of):
    """At the default chunk, with P programs across the channels; A and the states of a sequence
    count too.
    """
    B, T, E, N = 1, 16, 32, 16
    shapes = [(B, T, E), (B, T, E), (E, N), (B, T, N), (B, T, N), (B, E, 1, N)]
    forward, backward = (
        trace(run.kernel, run.grid, *run.args, **run.named)
        for run in launches_of(both_outputs, *shapes)
    )
    x, k, state, chunks = 4 * B * T * E, 4 * B * T * N, 4 * B * E * N, T // module.TOKENS
    P = E // module.FORWARD[0]["BE"]
    assert forward.bytes <= 1.2 * (3 * x + 2 * k * P + (chunks + 3) * state)
    P = E // module.CHANNELS
    assert backward.bytes <= 1.2 * (5 * x + 3 * k * P + 2 * k * P + (chunks + 4) * state)
    assert (
        forward.traffic["p_x"].bytes_in
        == forward.traffic["p_dt"].bytes_in
        == backward.traffic["p_dy"].bytes_in
        == x
    )
    assert backward.traffic["p_x"].bytes_in == 1.5 * x


def test_of_the_states_one_a_chunk_is_kept():
    """(B, T, E, N) is never held."""
    kept = []
    options = {"device": "meta", "requires_grad": True}
    inputs = [
        torch.empty(s, **options)
        for s in ((1, 64, 32), (1, 64, 32), (32, 16), (1, 64, 16), (1, 64, 16))
    ]
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda u: kept.append(u) or u, lambda u: u),
        recorded(),
    ):
        selective_scan(*inputs)
    assert max(u.numel() for u in kept) == 64 // 8 * 32 * 16


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, pytest.param(torch.float32, marks=pytest.mark.slow)]
)
def test_it_is_compiled_for_four_targets_without_spills(dtype):
    """At the default configuration: Mamba-1's N = 16, the inner width of a model of 2048. Δ and A
    are float32.
    """
    B, T, E, N = 8, 4096, 4096, 16
    shapes = {
        (B, T, E): dtype,
        (B, T, E, 1): torch.float32,
        (E, N): torch.float32,
        (B, T, N): dtype,
    }
    x, dt, A, k = (
        torch.empty(s, dtype=t, device="meta", requires_grad=True) for s, t in shapes.items()
    )
    with recorded() as launches:
        selective_scan(x, dt[..., 0], A, k, k)[0].sum().backward()
    for run in launches:
        report = compile_report(run.kernel, *run.args, **run.named)
        assert all(c.spills == 0 and c.occupancy.blocks for c in report.targets.values()), report


def test_two_runs_give_the_same_bits(small_tiles):
    inputs = [u.requires_grad_() for u in tensors(1, 5, 3, 2)]
    runs = [torch.autograd.grad(both_outputs(*inputs).square().sum(), inputs) for _ in range(2)]
    assert all(map(torch.equal, *runs))


def test_wrong_arguments_get_a_sentence():
    x, dt, A, B, C, state = tensors(2, 5, 3, 2)
    with pytest.raises(
        ValueError, match=r"dt has shape \(2, 4, 3\): \(2, 5, 3\) is needed for x \(2, 5, 3\)"
    ):
        selective_scan(x, dt[:, 1:], A, B, C)
    with pytest.raises(ValueError, match=r"C has shape \(2, 5, 1\): \(2, 5, 2\) is needed"):
        selective_scan(x, dt, A, B, C[..., 1:])
    with pytest.raises(ValueError, match=r"state has shape \(2, 3, 2\): \(2, 3, 1, 2\) is needed"):
        selective_scan(x, dt, A, B, C, state=state[:, :, 0])
    with pytest.raises(ValueError, match=r"x has shape \(2, 0, 3\): T must be at least 1"):
        selective_scan(x[:, :0], dt[:, :0], A, B[:, :0], C[:, :0])
    with pytest.raises(ValueError, match="chunk_size is 0: it must be at least 1"):
        selective_scan(x, dt, A, B, C, chunk_size=0)
    with pytest.raises(TypeError, match=r"x is torch.float64: the kernels take float32"):
        selective_scan(x.double(), dt, A, B, C)
