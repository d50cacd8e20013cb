"""Triton for a notebook that may have no GPU: `kernel[grid](…)` runs on tensors in ordinary memory.

    from seqlab.gpu.anywhere import tl, triton

`triton` and `tl` are the real modules. Once they come from here, a launch whose tensors are on CPU
runs in the lab's interpreter; a launch on a GPU is untouched. Where Triton cannot be installed they
are stand-ins: a kernel can still be written and read, and a launch says why it does not run.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch

from seqlab.gpu.events import LabError

MISSING = (
    "This needs Triton, which can be installed on Linux only: here the chapter can be read, and "
    "its kernels can be run on Linux, in the dev container or on Binder."
)

# The last one runs the launches on CPU; without any, the lab's interpreter does.
_running: list[Callable[..., None]] = []


def there_is_triton() -> bool:
    return find_spec("triton") is not None


@contextlib.contextmanager
def launches_on_cpu(run: Callable[..., None]) -> Iterator[None]:
    """Inside the block, run(kernel, grid, *args, **named) is called for each launch on CPU."""
    _running.append(run)
    try:
        yield
    finally:
        _running.remove(run)


def _launched(native: Callable, kernel: Any, grid: Any, *args: Any, **named: Any) -> Any:
    devices = {x.device.type for x in (*args, *named.values()) if isinstance(x, torch.Tensor)}
    if devices - {"cpu"}:
        return native(kernel, grid)(*args, **named)
    if _running:
        return _running[-1](kernel, grid, *args, **named)
    from seqlab.gpu.interpreter import launch

    return launch(kernel, grid, *args, **named)


class _Absent:
    """Stands for Triton and for everything in it. As a decorator it makes an `_Unlaunched`."""

    def __getattr__(self, name: str) -> "_Absent":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **named: Any) -> Any:
        return _Unlaunched(args[0]) if len(args) == 1 and callable(args[0]) else self


class _Unlaunched:
    """A kernel that was written where it cannot run."""

    def __init__(self, fn: Any):
        self.fn = fn

    def __getitem__(self, grid: Any) -> Any:
        raise LabError(MISSING)


triton: Any
tl: Any
if there_is_triton():
    import triton
    import triton.language as tl

    _native = triton.KernelInterface.__getitem__
    if not getattr(_native, "on_cpu_too", False):

        def _item(kernel: Any, grid: Any) -> Callable:
            return partial(_launched, _native, kernel, grid)

        _item.on_cpu_too = True  # pyright: ignore[reportFunctionMemberAccess]
        triton.KernelInterface.__getitem__ = _item
else:
    triton = tl = _Absent()
