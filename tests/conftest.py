"""What all tests share: one thread, and one seed or, with --seeds N, N of them."""

import os
import random
import warnings

import numpy as np
import pytest
import torch

# Tests run side by side: more threads each would only fight.
torch.set_num_threads(int(os.environ.get("SEQLAB_THREADS", "1")))

manual_seed = torch.manual_seed
idle = set()


def pytest_addoption(parser):
    parser.addoption(
        "--seeds", type=int, default=1, help="run every test that draws numbers with N seeds"
    )
    parser.addoption("--first-seed", type=int, default=0, help="the first of them")


def pytest_generate_tests(metafunc):
    """One run, of seed 0, unless asked: names of tests stay what they were."""
    first, count = metafunc.config.getoption("first_seed"), metafunc.config.getoption("seeds")
    if (first, count) != (0, 1) and "draws" in metafunc.fixturenames:
        metafunc.parametrize(
            "draws", range(first, first + count), indirect=True, ids="seed{}".format
        )


@pytest.fixture(autouse=True)
def draws(request, monkeypatch):
    """The numbers that a test draws, from torch, numpy and random, depend on the run's seed.

    So does `torch.manual_seed(n)` inside a test or a helper: it still starts the same draws again
    within a run, but others in another run. A `torch.Generator` of a test's own is left alone.
    A test that drew nothing the first time is skipped for further seeds.
    """
    seed = getattr(request, "param", 0)
    name = request.node.nodeid.replace(f"seed{seed}", "")
    if name in idle:
        pytest.skip("draws no numbers: one seed is enough")
    monkeypatch.setattr(torch, "manual_seed", lambda n: manual_seed(n + 1_000_003 * seed))
    torch.manual_seed(0)
    np.random.seed(seed)
    random.seed(seed)
    before = state()
    yield
    if state() == before:
        idle.add(name)


def state():
    """Of the three generators."""
    return torch.get_rng_state().numpy().tobytes(), str(np.random.get_state()), random.getstate()


@pytest.fixture
def fla():
    """flash-linear-attention's naive modules: import by name, `fla("gla")`. Skips where it is not
    installed.
    """

    def load(name):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that this machine has no GPU
            return pytest.importorskip(
                f"fla.ops.{name}.naive", reason="needs fla-core: pip install -e '.[test]'"
            )

    return load


@pytest.fixture
def float64_for_float32(monkeypatch):
    """A function to call once another implementation is imported and made. From then on that gets
    float64 where it asks for float32 whatever its input (a router's scores, a norm), and where it
    asks for no type: then nothing in it rounds more than float64, and the bounds of float64 hold.
    """
    default = torch.get_default_dtype()

    def start():
        torch.set_default_dtype(torch.float64)
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
        for name in ("float", "float32"):
            monkeypatch.setattr(torch, name, torch.float64)

    yield start
    torch.set_default_dtype(default)
