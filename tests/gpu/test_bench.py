"""The benchmark of the kernels, on CPU: everything but the clock, which each test supplies."""

import json
import sys
from dataclasses import replace

import pytest
import torch
import typer
from typer.testing import CliRunner

pytest.importorskip("triton", reason="needs Triton (Linux only)")

from seqlab import kernels
from seqlab.gpu import bench, cases
from seqlab.gpu.cases import CASES

NAMED = {case.kernel: case for case in CASES}
app = typer.Typer()
app.command()(bench.run)


def invoke(*options):
    return CliRunner().invoke(app, options)


def clock(ms):
    """A timer that runs what it times once."""

    def timer(f):
        f()
        return ms, 0.9 * ms, 1.1 * ms

    return timer


def missing(*inputs):
    import a_package_that_is_not_here  # noqa: F401


PEERS = {
    "right": torch.matmul,
    "wrong": lambda a, b: 2 * (a @ b),
    "broken": lambda a, b: a @ b @ b,
    "missing": missing,
}
SMALL = {"M": 20, "N": 30, "K": 40}


@pytest.fixture
def matmul():
    return replace(NAMED["matmul"], peers=PEERS)


def test_every_kernel_has_a_case():
    """Kernels of a mixture of experts that only move rows are timed in `mix_stacked`."""
    assert set(NAMED) == set(kernels.__all__) - {"mix", "permute", "combine"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kernel} {case.use}")
def test_every_case_is_right_in_the_interpreter_and_says_its_flops(case):
    for dtype in (torch.float32, torch.float16):
        assert bench.check(case, "cpu", dtype) == []
    assert all(case.flops(**size) >= 0 for size in case.sizes)


ELSEWHERE = ("fla", "flash", "mamba", "causal-conv1d", "compile", "flex", "cuDNN", "efficient")
"""Parts of the names of peers that need a GPU, another package or a C compiler."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kernel} {case.use}")
def test_the_peers_that_run_here_give_the_same_answer(case):
    here = {
        name: f for name, f in case.peers.items() if not any(word in name for word in ELSEWHERE)
    }
    case = replace(case, peers=here, beside={})
    times = bench.measure(case, case.checks[0], "cpu", "fp32", lambda f: (1.0, 1.0, 1.0))
    assert {t.implementation for t in times} == {"seqlab", *here}
    assert not [t for t in times if t.note]


def test_without_a_gpu_it_says_so_and_succeeds(tmp_path):
    result = invoke("--kernel", "softmax", "--out", str(tmp_path / "x"))
    assert result.exit_code == 0 and "nothing was timed" in result.output
    assert "1 of 1 cases are as accurate as the rule asks" in result.output
    assert not list(tmp_path.iterdir())


def test_without_triton_it_says_what_is_missing(monkeypatch):
    needing = ("seqlab.kernels", "seqlab.gpu.cases")
    for name in [name for name in sys.modules if name.startswith(needing)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("seqlab.kernels")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = invoke()
    assert result.exit_code == 2 and result.output.startswith("seqlab.kernels needs Triton")


def test_a_kernel_that_is_wrong_is_named_and_not_timed(monkeypatch):
    wrong = replace(NAMED["softmax"], function=lambda x: torch.softmax(x, 0))
    monkeypatch.setattr(cases, "CASES", (wrong,))
    monkeypatch.setattr(bench, "measure", None)
    result = invoke()
    assert result.exit_code == 1 and "softmax, M 5 N 37: output 0: error" in result.output


@pytest.mark.parametrize("options", [["--kernel", "sofmax"], ["--dtype", "int8"]])
def test_what_is_unknown_gets_the_list(options):
    result = invoke(*options)
    assert result.exit_code == 2 and f"'{options[1]}' is unknown: choose from" in result.output


def test_a_peer_is_timed_only_if_it_gives_the_same_answer(matmul):
    times = bench.measure(matmul, SMALL, "cpu", "fp32", clock(2.0))
    timed = {(t.implementation, t.passed) for t in times if t.ms}
    passes = ("forward", "backward", "forward + backward")
    assert timed == {(name, passed) for name in ("seqlab", "right") for passed in passes}
    notes = {t.implementation: t.note for t in times if t.note}
    assert notes["wrong"] == "another answer than ours, 100% away"
    assert notes["broken"].startswith("RuntimeError: ")
    assert notes["missing"] == "not installed: a_package_that_is_not_here"


def test_rates_follow_from_the_time_the_flops_and_what_goes_in_and_out(matmul):
    times = bench.measure(matmul, SMALL, "cpu", "fp32", clock(2.0))
    ours, right = (
        next(t for t in times if t.implementation == name) for name in ("seqlab", "right")
    )
    assert ours.tflops == pytest.approx(2 * 20 * 30 * 40 / 2e-3 / 1e12)
    assert ours.gigabytes == pytest.approx(4 * (20 * 40 + 40 * 30 + 20 * 30) / 2e-3 / 1e9)
    assert ours.ratio == 1 and right.ratio == 1 and ours.roofline is None


def test_the_ratio_is_above_one_where_seqlab_is_faster(matmul):
    took = iter([1.0, 1.0, 1.0, 3.0, 3.0, 3.0])
    times = bench.measure(matmul, SMALL, "cpu", "fp32", lambda f: (next(took), 0, 0))
    assert {t.implementation: t.ratio for t in times if t.ms} == {"seqlab": 1.0, "right": 3.0}


def test_the_roofline_is_that_of_the_device_in_use(matmul, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    assert bench.named_device("cuda") == "H100" and bench.named_device("cpu") is None
    monkeypatch.setattr(bench, "named_device", lambda device: "H100")
    first = bench.measure(matmul, SMALL, "cpu", "bf16", clock(1e-6))[0]
    assert first.roofline == pytest.approx(2 * (20 * 40 + 40 * 30 + 20 * 30) / 3350e9 / 1e-9)


@pytest.mark.parametrize("name", ["A GPU of tomorrow", "NVIDIA L40S", "NVIDIA GH200 480GB"])
def test_a_device_that_is_not_listed_has_no_roofline(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert bench.named_device("cuda") is None


def test_inputs_are_drawn_where_they_are_used():
    for case in CASES:
        if case.kernel != "grouped_matmul":  # its inputs depend on counts, and "meta" has none
            inputs = bench._draw(case, case.checks[0], "meta", torch.bfloat16)
            assert {x.device.type for x in inputs} == {"meta"}


def test_a_compiled_peer_is_compiled_for_one_size_at_a_time():
    seen = []

    def backend(graph, inputs):
        seen.append([x for x in inputs if isinstance(x, torch.SymInt)])
        return graph

    double = torch.compile(lambda x: 2 * x, backend=backend)
    for n in (2, 3, 4):
        bench.forget_compiled()
        double(torch.ones(n))
    assert seen == [[], [], []]


def test_a_kernel_that_fails_while_it_is_timed_is_noted_and_its_peers_are_not_run(matmul):
    def broken(a, b):
        raise RuntimeError("out of memory\nmore lines")

    (t,) = bench.measure(replace(matmul, function=broken), SMALL, "cpu", "fp32", clock(1.0))
    assert t.implementation == "seqlab" and t.note == "RuntimeError: out of memory"


def test_results_are_kept_as_data_and_as_tables(matmul, tmp_path):
    times = bench.measure(matmul, SMALL, "cpu", "fp32", clock(2.0))
    bench.keep(tmp_path / "new" / "h1.5", times, "a GPU, torch 1")
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"h1.5.json", "h1.5.md"}
    data = json.loads((tmp_path / "new" / "h1.5.json").read_text())
    assert data["where"] == "a GPU, torch 1" and data["results"][0]["ms"] == 2.0
    text = (tmp_path / "new" / "h1.5.md").read_text()
    assert "## matmul, M 20 N 30 K 40, fp32" in text
    assert "| forward | right | 2.000 | 1.800 to 2.200 |" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
