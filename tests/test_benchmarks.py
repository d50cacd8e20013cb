"""The benchmark scripts run and their implementations agree. What they measure is in
benchmarks/results, not here.
"""

import sys
from importlib import import_module
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """A script as a module, with smaller sizes; a module's own name may be another's, so it goes
    when the test ends.
    """

    def load(name, **sizes):
        monkeypatch.syspath_prepend(str(FOLDER))
        monkeypatch.delitem(sys.modules, name, raising=False)
        module = import_module(name)
        for size, value in sizes.items():
            assert hasattr(module, size)
            monkeypatch.setattr(module, size, value)
        return module

    yield load
    for name in [
        n for n, m in sys.modules.items() if str(getattr(m, "__file__", "")).startswith(str(FOLDER))
    ]:
        del sys.modules[name]


def test_chunkwise(script):
    module = script("chunkwise", LENGTHS=[128, 4096], ROUNDS=1, LONGEST_RECURRENT=4096, H=1, K=8)
    assert "| forward | seqlab chunkwise |" in module.table(module.measure(), "here")


def test_moe(script):
    module = script("moe", T=64, SIZES=[(32, 64)], EXPERTS=[8], ROUNDS=1)
    assert "| forward | 32 | 64 | 8 |" in module.table(module.measure(), "here")


def test_peer(script):
    module = script("peer", T=128, ROUNDS=1)
    assert "| 256 | 16 |" in module.table([module.line(16, 16, False)], "here")


def test_versions_compares_this_checkout_with_itself(script, monkeypatch, capsys):
    module = script("versions", T=16, D=32, ROUNDS=1)
    monkeypatch.setattr(sys, "argv", ["versions.py", str(FOLDER.parent), "GLA"])
    module.main()
    printed = capsys.readouterr().out
    assert "GLA" in printed and "slower by more than 5 %:" in printed


def test_zoo(script):
    """Of the pairs, those that need no other package."""
    module = script("zoo", T=128)
    results = [(pair.name, pair.peer, module.measure(pair, 1)) for pair in module.torch_pairs()]
    assert len(results) > 2 and "LSTM" in module.table(results, "here")


def test_byte_lm_goes_on_where_it_stopped(script, tmp_path, monkeypatch):
    module = script("byte_lm", SEEDS=(0,), EVERY=2, BATCH=2, T=16, KEPT=tmp_path / "whole")
    sizes = [module.size(make()) for make in module.MODELS.values()]
    assert max(sizes) < 1.01 * min(sizes)
    task = module.Text(module.split()[0], n_tokens=16)
    whole = module.train("hybrid", 0, 4, task)
    monkeypatch.setattr(module, "KEPT", tmp_path / "parts")

    def stopped(*args, **what):
        save(*args, **what)
        raise KeyboardInterrupt

    save = module.save
    monkeypatch.setattr(module, "save", stopped)
    with pytest.raises(KeyboardInterrupt):
        module.train("hybrid", 0, 4, task)
    monkeypatch.setattr(module, "save", save)
    assert module.train("hybrid", 0, 4, task)["losses"] == whole["losses"]


def test_byte_lm_writes_a_row_for_each_model(script, tmp_path, monkeypatch):
    module = script("byte_lm", SEEDS=(0,), EVERY=1, BATCH=2, T=16, KEPT=tmp_path)
    monkeypatch.setattr(
        module, "split", lambda: (b"to be or not to be " * 20, b"to be or not " * 3)
    )
    text = module.table(module.measure(1), 1, "here")
    assert all(f"| {name} |" in text for name in (*module.MODELS, "5-gram"))


def test_scaling_measures_what_is_missing_and_fits_a_slope(script, tmp_path):
    sizes = {"LENGTHS": [32, 64, 128], "FITTED_FROM": 32, "LONGEST_PLAIN": 64, "ROUNDS": 1}
    module = script("scaling", KEPT=tmp_path / "scaling.json", **sizes)
    known = {"attention, plain": {"32": {"seconds": 5.0, "bytes": 7}}}
    module.save(known)
    found = module.measure()
    assert found["attention, plain"][32] == {"seconds": 5.0, "bytes": 7}
    assert list(found["attention, plain"]) == [32, 64]
    assert list(found["recurrence, in chunks"]) == [32, 64, 128]
    text = module.table(found, "here")
    assert "| attention, plain | 5e+03 |" in text and "| MiB | T = 32 |" in text


def test_recall_trains_each_stack_and_goes_on_where_it_stopped(script, tmp_path, monkeypatch):
    sizes = {"STEPS": 2, "TRIED": 1, "LRS": (0.01, 0.03), "SEEDS": (0, 1), "BATCH": 2}
    module = script("recall", ASKED=16, KEPT=tmp_path, **sizes)
    kept = ("linear attention", "hybrid 1:3")
    monkeypatch.setattr(module, "STACKS", {name: module.STACKS[name] for name in kept})
    results = module.measure(2)
    assert [r["state"] for r in results] == [64, 3 * 64 + 2 * 64 * 8]
    assert module.measure(2) == results
    text = module.table(results, 2, "here")
    assert "| linear attention | 64 |" in text and "| hybrid 1:3 | 1,216 |" in text


def test_in_context_writes_a_row_for_each_model_and_for_least_squares(script, tmp_path):
    sizes = {"TRIED": 1, "SEEDS": (0, 1), "BATCH": 2, "ASKED": 64}
    models = {"delta rule": ("delta", 8, 1)}
    module = script("in_context", MODELS=models, KEPT=tmp_path, **sizes)
    results = module.measure(2)
    assert max(results[-1]["errors"][0][module.DIM :]) < 1e-6
    text = module.table(results, 2, "here")
    assert "| delta rule | 0.0" in text and "| least squares |  |" in text
