"""How kernels are started: on the tensors' GPU, on CPU in the interpreter, on "meta" not at all.

`recorded` collects what a function would start, for `seqlab.gpu` to look at:

    with recorded() as launches:
        softmax(torch.empty(4096, 4096, dtype=torch.bfloat16, device="meta"))
    compile_report(launches[0].kernel, *launches[0].args, **launches[0].named)
"""

import contextlib
from functools import cache
from typing import Any, NamedTuple

import torch
import triton

from seqlab.gpu import interpreter

OPTIONS = ("num_warps", "num_stages")
MOST_PROGRAMS = 65535
"""The limit of a GPU along the second and the third axis of a grid."""


class Launch(NamedTuple):
    """kernel[grid](*args, **named), where named includes the first configuration."""

    kernel: Any
    grid: Any
    args: tuple
    named: dict


_listening: list[list[Launch]] = []


@contextlib.contextmanager
def recorded():
    """Collects the launches made inside the block.

    With "meta" tensors nothing runs, so sizes may be those of real models.
    """
    launches: list[Launch] = []
    _listening.append(launches)
    try:
        yield launches
    finally:
        _listening.remove(launches)


def launch(kernel, grid, *args, configs=({},), key=(), **named) -> None:
    """kernel[grid](*args, **named) with one of `configs`: dicts of constants, warps and stages.

    On a GPU the fastest is used, elsewhere the first. Tuning is repeated for new dtypes and when an
    argument in `key` crosses a power of two, not for every sequence length. grid: a tuple, or a
    function of the constants.
    """
    first = Launch(kernel, grid, args, {**named, **configs[0]})
    for launches in _listening:
        launches.append(first)
    device = next(x.device for x in args if isinstance(x, torch.Tensor))
    if device.type == "cpu":
        interpreter.launch(kernel, grid, *args, **first.named)
    elif device.type != "meta":
        values = dict(zip(kernel.arg_names, args, strict=False)) | named
        sizes = tuple(triton.next_power_of_2(values[name]) for name in key)
        tuned = _tuned(kernel, tuple(tuple(config.items()) for config in configs), sizes)
        with torch.cuda.device(device):  # Triton launches on the current device, not the tensors'
            tuned[_checked(kernel, grid)](*args, **named, enable_fp_fusion=True)


def configurations(names: str, sizes) -> tuple[dict, ...]:
    """What `launch` takes as `configs`, from tuples of the named constants, warps and stages."""
    return tuple(dict(zip((*names.split(), *OPTIONS), size, strict=True)) for size in sizes)


def row_config(D: int) -> dict:
    """For a program that holds a row of D: enough warps to leave a thread a few dozen numbers."""
    BD = triton.next_power_of_2(D)
    return {"BD": BD, "num_warps": min(16, max(1, BD // 512))}


def under_autocast(*tensors):
    """Under autocast, cast to the dtype that autocast gives `torch.matmul`; otherwise unchanged."""
    device = tensors[0].device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return tensors
    return tuple(x.to(torch.get_autocast_dtype(device)) for x in tensors)


def check_types(**tensors) -> None:
    """TypeError for a type that the kernels do not take, and for two types in one call."""
    dtypes = {name: x.dtype for name, x in tensors.items() if x is not None}
    for name, dtype in dtypes.items():
        if dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise TypeError(
                f"{name} is {dtype}: "
                "the kernels take float32, float16 and bfloat16; use the reference"
            )
    if len(set(dtypes.values())) > 1:
        said = ", ".join(f"{name} is {dtype}" for name, dtype in dtypes.items())
        raise TypeError(f"{said}: use one dtype for all")


def _checked(kernel, grid):
    """grid, with a ValueError if it is too large: Triton would say "invalid argument"."""

    def checked(constants):
        programs = grid(constants) if callable(grid) else grid
        if max(programs[1:], default=1) > MOST_PROGRAMS:
            needed = " × ".join(map(str, programs))
            raise ValueError(
                f"{kernel.fn.__name__} would need {needed} programs: "
                f"every axis but the first is limited to {MOST_PROGRAMS}; split the batch"
            )
        return programs

    return checked


@cache
def _tuned(kernel, configs, sizes):
    """The kernel with its own autotuner for these sizes. A single configuration is not timed."""
    choices = []
    for config in map(dict, configs):
        constants = {name: value for name, value in config.items() if name not in OPTIONS}
        options = {name: value for name, value in config.items() if name in OPTIONS}
        choices.append(triton.Config(constants, **options))
    return triton.autotune(choices, [])(kernel)
