import importlib
import sys
import warnings
from contextlib import contextmanager

import pytest
import torch

FLOAT32 = torch.float32
KERNELS = ("fla", "mamba_ssm", "causal_conv1d")


def fresh(family):
    """`transformers`' modelling module of a family, bound to its own PyTorch code.

    When such a module is imported it swaps functions for GPU kernels wherever a kernel library can
    be imported. So it is imported anew with those libraries out of sight; afterwards everything is
    as before.
    """
    name = f"transformers.models.{family}.modeling_{family}"
    hidden = [m for m in sys.modules if m.split(".")[0] in KERNELS or m == name]
    before = {m: sys.modules.pop(m) for m in hidden}
    sys.modules.update(dict.fromkeys(KERNELS))  # None: cannot be imported
    try:
        return importlib.import_module(name)
    finally:
        for m in (*KERNELS, name):
            sys.modules.pop(m, None)
        sys.modules.update(before)


@contextmanager
def in_float64():
    """Where `transformers` asks for float32 (norms, angles, softmax, states), it gets float64.

    Its experts run one by one: whether it would group them depends on what was imported before, and
    torch's grouped_mm knows no float64.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "transformers.PreTrainedModel.get_correct_experts_implementation",
            lambda self, asked: "eager",
        )
        for name in ("float", "float32"):
            patch.setattr(torch, name, torch.float64)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(FLOAT32)


@pytest.fixture(scope="session")
def float64_throughout():
    return in_float64


@pytest.fixture(scope="session")
def transformers_family():
    """transformers_family("llama") -> (its config class, its causal language model class)."""
    loaded = {}

    def load(family):
        if family not in loaded:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                needs = "needs transformers: pip install -e '.[test]'"
                transformers = pytest.importorskip("transformers", reason=needs)
                transformers.logging.set_verbosity_error()
                with in_float64():  # for the defaults of functions
                    module = fresh(family)
            classes = [c for name, c in vars(module).items() if name.endswith("ForCausalLM")]
            model = next(c for c in classes if c.__module__ == module.__name__)
            loaded[family] = model.config_class, model
        return loaded[family]

    return load
