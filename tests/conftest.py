import warnings

import pytest
import torch

torch.set_num_threads(1)  # tests run side by side: more threads each would only fight


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


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
