"""The kernels of the gated delta rule against `seqlab.core.recurrence.chunkwise`."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="needs Triton (Linux only)")

from seqlab.core.recurrence import chunkwise
from seqlab.gpu.sanitize import sanitize
from seqlab.gpu.trace import trace
from seqlab.kernels import chunk_delta
from seqlab.kernels.chunk_delta_backward import WALKS, of_width
from seqlab.kernels.launch import recorded
from seqlab.mixers import DeltaNet, GatedDeltaNet

NAMES = ("q", "k", "v", "beta", "log_a", "state")
KERNELS = {
    "delta_pairs",
    "delta_states",
    "delta_outputs",
    "delta_backward_states",
    "delta_backward_pairs",
    "delta_backward_inputs",
}


def tensors(T, K, V, H=1, B=1, decay=True, state=True, dtype=torch.float32):
    """q, k of length 1, v, beta up to 2, log_a, state: by name."""
    q, k, v = (torch.randn(B, T, H, width) for width in (K, K, V))
    xs = {"q": q, "k": F.normalize(k, dim=-1), "v": v, "beta": 2 * torch.rand(B, T, H)}
    xs |= {"log_a": F.logsigmoid(torch.randn(B, T, H, 1))} if decay else {}
    xs |= {"state": torch.randn(B, H, V, K)} if state else {}
    return {name: x.to(dtype) for name, x in xs.items()}


def both(names, chunk_size=16):
    """The kernels and their reference as functions of these inputs."""

    def named(function, *xs):
        return function(**dict(zip(names, xs, strict=True)))

    return partial(named, partial(chunk_delta, chunk_size=chunk_size)), partial(named, chunkwise)


CASES = {
    "a whole chunk": (16, {}),
    "chunks, the last not full": (37, {}),
    # Many heads: the largest of a handful of roundings says little about the next.
    "one token": (1, {"H": 4, "B": 4}),
    "one token after a whole chunk, no decay": (17, {"decay": False}),
    "no first state": (18, {"state": False}),
    "no decay and no first state": (5, {"decay": False, "state": False}),
    "heads and batches": (7, {"H": 3, "B": 2}),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_delta_rule_with_the_last_state_and_the_gradients_of_both(case, agree, poisoned):
    T, options = CASES[case]
    inputs = tensors(T, 16, 24, **options)
    agree(*both(inputs), *inputs.values())


def test_chunks_of_several_tiles(agree, poisoned):
    inputs = tensors(67, 16, 16)
    agree(*both(inputs, 64), *inputs.values())


@pytest.mark.parametrize("widths", [(3, 1), (80, 70)])
def test_keys_and_values_of_any_width(widths, agree, poisoned):
    """80 and 70: more than one block of each."""
    inputs = tensors(9, *widths)
    agree(*both(inputs), *inputs.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype, agree):
    """With beta at most 1, as by default in the mixers; the last state, float32, compared in the
    inputs' type.
    """
    inputs = tensors(35, 32, 32, dtype=dtype)
    inputs["beta"] = inputs["beta"] / 2

    def rounded(function, *xs):
        y, S = function(*xs)
        return y, S.to(y.dtype if y.dtype == dtype else S.dtype)

    agree(*(partial(rounded, f) for f in both(inputs, 32)), *inputs.values())


DECAYS = {
    "gates of exactly 0": [-torch.inf, -0.5, -torch.inf, -torch.inf, -1.0],
    "gates of exactly 1": [0.0],
    "a strong decay costs later weak ones nothing": [
        -3e4,
        -1e-4,
        -1e-4,
        -1e-4,
        -1e-4,
        -1e-4,
        -1e-4,
    ],
    "strong decays": [-100.0, -3e38, -60.0],
}


@pytest.mark.parametrize("decays", DECAYS)
def test_extreme_decays(decays, agree, poisoned):
    inputs = tensors(20, 16, 16)
    values = torch.tensor(DECAYS[decays])
    inputs["log_a"] = values[torch.arange(20) % len(values)].reshape(1, 20, 1, 1)
    agree(*both(inputs, 32), *inputs.values())


def repeated(beta, key):
    """64 writes under one key: L is β below the diagonal.

    Its powers grow to 1e18, (I + L)⁻¹ to β.
    """
    inputs = tensors(64, 16, 16, decay=False)
    return inputs | {"k": key.expand(1, 64, 1, 16), "beta": torch.full((1, 64, 1), beta)}


@pytest.mark.parametrize("beta", [0.0, 1.75])
def test_one_key_written_again_and_again(beta, agree, monkeypatch):
    """The reference multiplies by (I + L)⁻¹ too, as the papers do. Its triangular solve loses less
    in one order of adding (dv at β = 1.9: 2e-5, not 1e-4), and more in others.

    The key is ±1/4 in 16 places: its length is exactly 1. Else the single rounding of k·k, the same
    in all of L and another in each library, would decide the error.
    """
    solve = torch.linalg.solve_triangular

    def multiply(L, R, **options):
        return solve(L, torch.eye(L.shape[-1], dtype=L.dtype).expand_as(L), **options) @ R

    monkeypatch.setattr(torch.linalg, "solve_triangular", multiply)
    inputs = repeated(beta, (torch.rand(16) - 0.5).sign() / 4)
    agree(*both(inputs, 64), *inputs.values())


def test_one_key_written_again_and_again_is_exact_with_integers():
    """β = 2 reflects the state at every token: (I + L)⁻¹ has entries 0, ±1 and ±2, and everything
    that is added is an integer below 2²⁴. So nothing may round, in whatever order it is added;
    powers of L would.
    """
    inputs = repeated(2.0, torch.eye(16)[3])
    for name in ("q", "v", "state"):
        inputs[name] = torch.randint_like(inputs[name], -1, 2)
    seeds = torch.randint(-1, 2, (1, 64, 1, 16)), torch.randint(-1, 2, (1, 1, 16, 16))
    results = []
    for function, dtype in zip(both(inputs, 64), (torch.float32, torch.float64), strict=True):
        leaves = [x.to(dtype).requires_grad_() for x in inputs.values()]
        outputs = function(*leaves)
        grads = torch.autograd.grad(outputs, leaves, [seed.to(dtype) for seed in seeds])
        results.append((*outputs, *grads))
    for ours, exact in zip(*results, strict=True):
        assert torch.equal(ours.double(), exact)


def test_keys_need_not_have_length_one(agree):
    inputs = tensors(40, 16, 16)
    inputs["k"] = 1.5 * inputs["k"]
    inputs["beta"] = inputs["beta"] / 2
    agree(*both(inputs, 32), *inputs.values())


MIXERS = {
    "DeltaNet": partial(DeltaNet, 32, n_heads=2, negative_eigenvalues=True),
    "GatedDeltaNet": partial(GatedDeltaNet, 32, n_heads=2),
}


@pytest.mark.parametrize("name", MIXERS)
def test_it_is_a_form_of_the_mixers(name):
    """Whole, in two parts with the state carried over, and the gradient of every parameter."""
    x, mixer = torch.randn(1, 21, 32), MIXERS[name]()
    expected, state = mixer(x)
    grads = torch.autograd.grad(expected.square().sum() + state.S.sum(), mixer.parameters())
    mixer.form = partial(chunk_delta, chunk_size=16)
    y, first = mixer(x[:, :13])
    rest, last = mixer(x[:, 13:], first)
    y = torch.cat([y, rest], 1)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(last.S, state.S, rtol=1e-4, atol=1e-5)
    for got, wanted in zip(
        torch.autograd.grad(y.square().sum() + last.S.sum(), mixer.parameters()), grads, strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)


def test_under_autocast_it_multiplies_in_the_narrow_type_and_keeps_the_state_wide():
    inputs = tensors(9, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        y, S = chunk_delta(**inputs, chunk_size=16)
    assert y.dtype == torch.bfloat16 and S.dtype == torch.float32
    torch.testing.assert_close(y.float(), chunkwise(**inputs)[0], rtol=0.05, atol=0.05)


def whole(q, k, v, beta, log_a, state, chunk_size=16):
    """y and the last state in one tensor, of inputs that may be any numbers."""
    k, beta = F.normalize(k, dim=-1), beta.sigmoid()
    y, S = chunk_delta(
        q, k, v, beta=beta, log_a=F.logsigmoid(log_a), state=state, chunk_size=chunk_size
    )
    return torch.cat([y.flatten(), S.flatten().to(y.dtype)])


def shapes(T, K, V, H=1, B=1):
    return (B, T, H, K), (B, T, H, K), (B, T, H, V), (B, T, H), (B, T, H, 1), (B, H, V, K)


@pytest.mark.parametrize(("dtype", "T", "H"), [(torch.float32, 17, 1), (torch.float16, 9, 2)])
def test_the_sanitizer_finds_nothing(dtype, T, H, launches_of):
    runs = launches_of(whole, *shapes(T, 66, 20, H), dtype=dtype)
    assert {run.kernel.fn.__name__ for run in runs} == KERNELS
    for run in runs:
        assert sanitize(run.kernel, run.grid, *run.args, **run.named) == []


def test_each_kernel_moves_what_the_algorithm_must(launches_of):
    """Numbers of each kind per token and head, as the docstrings say; V and K are split where
    registers end.
    """
    T, K, V, C, H = 48, 80, 48, 16, 1
    runs = launches_of(whole, *shapes(T, K, V, H))
    n, n_k, states = -(-V // 32), -(-K // 64), K * V / C
    once = 2 * K * V / T  # the first state and the last, or their gradients
    bounds = {
        "delta_pairs": (2 * K, 2 * C),
        "delta_states": ((K + C) * n + V + once / 2, V + states + once / 2),
        "delta_outputs": (K + C + V + states, V),
        "delta_backward_states": ((2 * K + 2 * C) * n + V + once / 2, V + states + once / 2),
        "delta_backward_pairs": (4 * V + K + C, V + 2 * C),
        "delta_backward_inputs": (2 * K + (3 * V + 2 * C) * n_k + 2 * states, 2 * K),
    }
    for run in runs:
        seen = trace(run.kernel, run.grid, *run.args, **run.named)
        for moved, bound in zip(
            (seen.bytes_in, seen.bytes_out), bounds.pop(seen.kernel), strict=True
        ):
            assert bound <= moved / (4 * T * H) <= 1.2 * bound, (seen, bound)
    assert not bounds


@pytest.mark.parametrize(
    "widths",
    [
        (128, 128),
        *(
            pytest.param(w, marks=pytest.mark.slow)
            for w in ((64, 64), (96, 192), (128, 256), (256, 256))
        ),
    ],
)
def test_it_is_compiled_for_four_targets_without_spills(widths, compiled):
    reports = compiled(partial(whole, chunk_size=64), *shapes(2048, *widths, H=16, B=4))
    assert set(reports) == KERNELS
    for name, report in reports.items():
        for c in report.targets.values():
            few = (
                8 if name == "delta_pairs" and widths[0] > 128 and c.target == "sm_80" else 0
            )  # see PAIRS
            assert c.spills <= few and c.occupancy.blocks and c.tensor_cores, report


def test_wrong_arguments_get_a_sentence():
    inputs = tensors(3, 16, 16)
    without = {name: x for name, x in inputs.items() if name != "beta"}
    with pytest.raises(ValueError, match=r"beta is missing: .*chunk_recurrence"):
        chunk_delta(**without)
    with pytest.raises(
        ValueError, match=r"one per key channel use seqlab\.core\.recurrence\.chunkwise"
    ):
        chunk_delta(**inputs | {"log_a": -torch.rand(1, 3, 1, 16)})
    with pytest.raises(ValueError, match="a log decay is at most 0"):
        chunk_delta(**inputs | {"log_a": -inputs["log_a"]})
    with pytest.raises(ValueError, match="chunk_size is 48: this kernel takes 16, 32 or 64"):
        chunk_delta(**inputs, chunk_size=48)
    with pytest.raises(
        ValueError, match="q and v are 16 and 300 wide: this kernel takes 256 at most"
    ):
        chunk_delta(**tensors(3, 16, 300))
    with pytest.raises(TypeError, match=r"q is torch.float64: the kernels take float32"):
        chunk_delta(**{name: x.double() for name, x in inputs.items()})
    with pytest.raises(ValueError, match=r"state has shape"):
        chunk_delta(**inputs | {"state": torch.zeros(1, 1, 16, 15)})


def test_two_runs_give_the_same_bits_also_of_views():
    inputs = tensors(18, 16, 24, H=2)
    views = {name: x.transpose(1, 2).contiguous().transpose(1, 2) for name, x in inputs.items()}
    views["state"] = inputs["state"].mT.contiguous().mT

    def run(inputs):
        inputs = {name: x.requires_grad_() for name, x in inputs.items()}
        y, S = chunk_delta(**inputs, chunk_size=16)
        return y, S, *torch.autograd.grad(y.square().sum() + S.sum(), inputs.values())

    assert all(torch.equal(a, b) for a, b in zip(run(inputs), run(views), strict=True))


def test_memory_grows_with_the_length_and_not_with_its_square():
    def most(T):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
            inputs = [
                torch.empty(s, device="meta", requires_grad=True) for s in shapes(T, 64, 64, H=2)
            ]
            with recorded() as launches:
                whole(*inputs, chunk_size=64).sum().backward()
        held = [x for run in launches for x in run.args if isinstance(x, torch.Tensor)]
        return sum(x.numel() for x in kept), max(x.numel() for x in held)

    assert all(long <= 4 * short for short, long in zip(most(2048), most(8192), strict=True))


def test_on_blackwell_no_loop_is_pipelined(monkeypatch):
    """Where Triton was seen to get a state wrong that two products of a loop use."""
    keys = SimpleNamespace(shape=(1, 1, 1, 64), is_cuda=True, device="cuda")
    for capability, stages in (((9, 0), {1, 2, 3}), ((10, 0), {1})):
        monkeypatch.setattr(
            torch.cuda, "get_device_capability", lambda device, found=capability: found
        )
        assert {config["num_stages"] for config in of_width(WALKS, keys)} == stages
