"""The scan kernels against `seqlab.core.scan.linear_scan`."""

from importlib import import_module

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton (Linux only)")

from seqlab.core.scan import linear_scan as reference
from seqlab.core.scan import sequential
from seqlab.gpu.compile import compile_report
from seqlab.gpu.sanitize import sanitize
from seqlab.gpu.trace import trace
from seqlab.kernels.launch import recorded
from seqlab.kernels.linear_scan import linear_scan
from seqlab.mixers import LRU, RGLRU, S5

BOTH = linear_scan, reference


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """2 tokens, 2 channels a tile, so that a few tokens have whole tiles, edges and a last one that
    is not full.
    """
    tuned = {"configs": ({"BT": 2, "BW": 2, "AHEAD": 1, "num_warps": 4},), "key": ()}
    monkeypatch.setattr(import_module("seqlab.kernels.linear_scan"), "TUNED", tuned)


SHAPES = {
    "a gate for every number": ((2, 3, 3), (2, 3, 3)),
    "whole tiles only": ((1, 4, 2), (1, 4, 2)),
    "one token": ((2, 1, 3), (2, 1, 3)),
    "one tile": ((1, 2, 2), (1, 2, 2)),
    "constant over time": ((2, 1, 3), (2, 3, 3)),
    "constant over time and sequences": ((1, 1, 3), (2, 3, 3)),
    "the same for all sequences": ((1, 3, 3), (2, 3, 3)),
    "the same for some channels": ((2, 3, 1, 3), (2, 3, 2, 3)),
    "the same for all channels": ((2, 3, 1, 1), (2, 3, 2, 1)),
    "no channels": ((2, 3), (2, 3)),
}


@pytest.mark.parametrize("start", [True, False], ids=["from a state", "from 0"])
@pytest.mark.parametrize("case", SHAPES)
def test_it_is_the_scan_with_its_gradients(case, start, agree, poisoned):
    gate, shape = SHAPES[case]
    states = [torch.randn(shape[0], *shape[2:])] * start
    agree(*BOTH, torch.rand(gate), torch.randn(shape), *states)


def on_pairs(scan):
    """A scan of complex numbers, as a function of their real and imaginary parts."""

    def function(*pairs):
        return torch.view_as_real(scan(*map(torch.view_as_complex, pairs)))

    return function


COMPLEX = [
    "a gate for every number",
    "one token",
    "constant over time and sequences",
    "the same for some channels",
]


@pytest.mark.parametrize("case", COMPLEX)
def test_complex_numbers_and_their_gradients(case, agree, poisoned):
    gate, shape = SHAPES[case]
    state = torch.randn(shape[0], *shape[2:], 2)
    agree(*map(on_pairs, BOTH), 0.7 * torch.randn(*gate, 2), torch.randn(*shape, 2), state)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_one_complex_input_makes_the_scan_complex(which):
    xs = [torch.rand(1, 3, 3), torch.randn(1, 3, 3), torch.randn(1, 3)]
    xs[which] = torch.complex(xs[which], torch.randn_like(xs[which]))
    grads = []
    for scan in BOTH:
        leaves = [x.clone().requires_grad_() for x in xs]
        h = scan(*leaves)
        assert h.dtype == torch.complex64
        grads.append(torch.autograd.grad(h.real.square().sum() + h.imag.sum(), leaves))
    for ours, theirs, x in zip(*grads, xs, strict=True):
        assert ours.dtype == x.dtype
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype, agree):
    agree(
        *BOTH,
        torch.rand(1, 3, 3).to(dtype),
        torch.randn(1, 3, 3).to(dtype),
        torch.randn(1, 3).to(dtype),
    )


def test_each_input_has_a_type_of_its_own():
    """Gates are float32 beside bfloat16 values. Nothing is rounded: h is float32, each gradient in
    its input's type.
    """
    xs = torch.rand(1, 3, 3), torch.randn(1, 3, 3).bfloat16(), torch.randn(1, 3).half()
    for ours, theirs in zip(*([h, *g] for h, g in map(run_with(xs), BOTH)), strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs)


def run_with(xs):
    def run(scan):
        leaves = [x.clone().requires_grad_() for x in xs]
        h = scan(*leaves)
        return h, torch.autograd.grad(h.square().sum(), leaves)

    return run


@pytest.mark.parametrize("gate", [0.0, 1.0, 1e-30, 1 - 1e-7, -1.0])
def test_extreme_gates(gate, agree, poisoned):
    """A gate of 0 forgets all, also in the middle of a tile; a gate of 1 is a sum."""
    a = torch.where(torch.rand(1, 5, 3) < 0.5, gate, torch.rand(1, 5, 3))
    agree(*BOTH, a, torch.randn(1, 5, 3), torch.randn(1, 3))


def test_a_gate_of_one_sums_and_a_gate_of_zero_copies():
    b = torch.randn(1, 5, 3)
    torch.testing.assert_close(linear_scan(torch.ones(1, 1, 1), b), b.cumsum(1))
    assert torch.equal(linear_scan(torch.zeros(1, 1, 1), b, torch.randn(1, 3)), b)


def test_two_halves_with_the_state_carried_are_the_whole():
    a, b = torch.rand(1, 5, 3), torch.randn(1, 5, 3)
    first = linear_scan(a[:, :3], b[:, :3])
    rest = linear_scan(a[:, 3:], b[:, 3:], first[:, -1])
    torch.testing.assert_close(torch.cat([first, rest], 1), sequential(a, b))


def test_views_give_what_copies_give():
    a, b = torch.rand(1, 3, 5).mT, torch.randn(1, 5, 2, 3)[:, :, 1]
    assert torch.equal(linear_scan(a, b), linear_scan(a.contiguous(), b.contiguous()))
    z = torch.randn(1, 5, 3, dtype=torch.complex64)
    assert torch.equal(linear_scan(z.conj(), z), linear_scan(z.conj().resolve_conj(), z))


@pytest.mark.parametrize(
    "make", [lambda: RGLRU(6, n_heads=2), lambda: LRU(6), lambda: S5(6, d_state=8)]
)
def test_it_is_a_form_of_the_mixers(make):
    mixer, x = make(), torch.randn(1, 5, 6)
    expected, final = mixer(x)
    expected_grads = torch.autograd.grad(expected.square().sum(), list(mixer.parameters()))
    mixer.form = linear_scan
    with recorded() as launches:
        y, state = mixer(x)
    assert launches
    torch.testing.assert_close((y, state), (expected, final))
    grads = torch.autograd.grad(y.square().sum(), list(mixer.parameters()))
    torch.testing.assert_close(grads, expected_grads, rtol=1e-4, atol=1e-4)
    y, state = mixer(x[:, :3])
    for t in range(3, 5):
        y_t, state = mixer(x[:, t : t + 1], state)
        torch.testing.assert_close(y_t, expected[:, t : t + 1])


@pytest.mark.parametrize("make", [RGLRU, LRU, S5])
def test_it_is_a_form_when_the_mixer_is_made(make):
    assert make(16, form=linear_scan).form is linear_scan


RUNS = {
    "real": (linear_scan, [(2, 3, 3), (2, 3, 3), (2, 3)]),
    "constant over time": (linear_scan, [(1, 1, 3), (1, 3, 3), (1, 3)]),
    "complex": (on_pairs(linear_scan), [(1, 3, 3, 2), (1, 3, 3, 2), (1, 3, 2)]),
}


@pytest.mark.parametrize(
    "case, dtype", [(case, torch.float32) for case in RUNS] + [("real", torch.float16)]
)
def test_it_is_clean(case, dtype, launches_of):
    function, shapes = RUNS[case]
    for run in launches_of(function, *shapes, dtype=dtype):
        assert sanitize(run.kernel, run.grid, *run.args, **run.named) == []


@pytest.mark.parametrize("case", RUNS)
def test_nothing_is_read_or_written_twice(case, launches_of):
    """Forward a, b and h; backward a, g, h, da and db; and a row of state each way.

    A gate that is constant over time is a row that each tile asks for again; it comes from memory
    once.
    """
    function, shapes = RUNS[case]
    forward, backward = (
        trace(run.kernel, run.grid, *run.args, **run.named)
        for run in launches_of(function, *shapes)
    )
    gates, values, states = (4 * torch.Size(shape).numel() for shape in shapes)
    again = [
        t.traffic["p_a"].bytes_read_again if case == "constant over time" else 0
        for t in (forward, backward)
    ]
    assert forward.bytes - again[0] <= 1.2 * (gates + 2 * values + states)
    da = values if shapes[0][1] > 1 else states
    assert backward.bytes - again[1] <= 1.2 * (gates + 2 * values + states + da + values + states)


def report(*inputs, configs):
    with recorded() as launches:
        h = linear_scan(*inputs)
        h.backward(torch.empty_like(h))
    return [compile_report(run.kernel, *run.args, **run.named | configs[0]) for run in launches]


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_it_is_compiled_for_four_targets_without_spills(kind):
    """At the default configuration: an RG-LRU of 4096 channels, an LRU of 1024 modes."""
    configs = import_module("seqlab.kernels.linear_scan").CONFIGS
    options = {"device": "meta", "requires_grad": True}
    if kind == "real":
        inputs = [torch.empty(8, 4096, 4096, **options) for _ in range(2)]
    else:
        inputs = [
            torch.empty(*s, 1024, dtype=torch.complex64, **options) for s in ((1, 1), (8, 4096))
        ]
    for c in (c for r in report(*inputs, configs=configs) for c in r.targets.values()):
        assert c.spills == 0 and c.occupancy.blocks


def test_tiles_are_fetched_ahead_where_the_configuration_says_so():
    """Triton does so by itself only for what a dot takes."""
    with recorded() as launches:
        linear_scan(
            *(torch.empty(8, 4096, 4096, dtype=torch.bfloat16, device="meta") for _ in range(2))
        )
    (run,) = launches
    for config in import_module("seqlab.kernels.linear_scan").CONFIGS[:2]:
        text = compile_report(run.kernel, *run.args, targets=("sm_90",), **run.named | config).text(
            "sm_90", "ptx"
        )
        assert ("cp.async" in text) == (config["AHEAD"] > 1)


def test_two_runs_give_the_same_bits():
    a, b = torch.rand(1, 1, 3), torch.randn(2, 3, 3)
    (h, grads), (again, same) = (run_with((a, b))(linear_scan) for _ in range(2))
    assert torch.equal(h, again) and all(map(torch.equal, grads, same))


def test_wrong_arguments_get_a_sentence():
    b = torch.randn(2, 6, 5)
    with pytest.raises(
        ValueError, match=r"a has shape \(2, 6, 4\), b has \(2, 6, 5\): each axis of a must be"
    ):
        linear_scan(torch.rand(2, 6, 4), b)
    with pytest.raises(ValueError, match=r"h0 has shape \(5,\): \(B, ...\) = \(2, 5\) is needed"):
        linear_scan(b, b, torch.randn(5))
    with pytest.raises(
        TypeError, match=r"b is torch.float64: the kernels take float32, float16 and bfloat16"
    ):
        linear_scan(b, b.double())
