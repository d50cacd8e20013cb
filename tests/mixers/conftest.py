import importlib.util
import os
import warnings

import pytest
import torch


@pytest.fixture
def rwkv_package(monkeypatch):
    """The `rwkv` package's functions, run as plain PyTorch: RWKV-4 to -6, or with v7=True
    RWKV-7.
    """
    pytest.importorskip("rwkv", reason="needs rwkv: pip install --no-deps rwkv")

    def load(v7=False):
        for name, value in {
            "RWKV_JIT_ON": "0",
            "RWKV_CUDA_ON": "0",
            "RWKV_V7_ON": str(int(v7)),
        }.items():
            monkeypatch.setitem(os.environ, name, value)
        spec = importlib.util.find_spec("rwkv.model")
        module = importlib.util.module_from_spec(spec)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def drawn_from():
    """drawn_from(x, distribution): fails unless x can be a sample of the distribution.

    Kolmogorov and Smirnov's test: the empirical distribution of n numbers departs from the true one
    by more than 3 / √n once in 30 million samples (2 exp(-2 · 3²)).
    """

    def check(x, distribution):
        expected = distribution.cdf(x.detach().double().flatten()).sort().values
        found = (torch.arange(len(expected)) + 0.5) / len(expected)
        assert (expected - found).abs().max() < 3 / len(expected) ** 0.5

    return check


@pytest.fixture
def wide_floats(monkeypatch):
    """Other code drops to float32 whatever the model's dtype: make `float32` mean float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(torch, "float32", torch.float64)
