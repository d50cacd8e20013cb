"""How the kernels here are started: on a GPU where their tensors are, on CPU in the interpreter, on
"meta" not at all.

with recorded() as launches:                  # what a function would start, for the lab to look at
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
"""Along the second and the third axis of a grid."""


class Launch(NamedTuple):
    """kernel[grid](*args, **named), with the constants and options of the first configuration among
    the named.
    """

    kernel: Any
    grid: Any
    args: tuple
    named: dict


_listening: list[list[Launch]] = []


@contextlib.contextmanager
def recorded():
    """Collects the launches made inside. With "meta" tensors nothing runs, so sizes may be those of
    real models.
    """
    launches = []
    _listening.append(launches)
    try:
        yield launches
    finally:
        _listening.remove(launches)


def launch(kernel, grid, *args, configs=({},), key=(), **named) -> None:
    """kernel[grid](*args, **named) with one of `configs`, dicts of constants, num_warps and
    num_stages.

    On a GPU it is the fastest of them; elsewhere the first. They are timed again for other types,
    and where an argument named in `key` doubles: not for every length of a sequence. grid: a tuple,
    or a function of the constants.
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
        with torch.cuda.device(
            device
        ):  # Triton launches on the current device, wherever the tensors are
            tuned[_checked(kernel, grid)](*args, **named, enable_fp_fusion=True)


def configurations(names: str, sizes) -> tuple[dict, ...]:
    """What `configs` takes, from tuples: the constants of these names, then warps and stages."""
    return tuple(dict(zip((*names.split(), *OPTIONS), size, strict=True)) for size in sizes)


def row_config(D: int) -> dict:
    """For a program that holds a row of D: warps enough that a thread has a few dozen numbers at
    most.
    """
    BD = triton.next_power_of_2(D)
    return {"BD": BD, "num_warps": min(16, max(1, BD // 512))}


def under_autocast(*tensors):
    """The same where autocast is off; else in the type in which `torch.matmul` would take them."""
    device = tensors[0].device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return tensors
    return tuple(x.to(torch.get_autocast_dtype(device)) for x in tensors)


def check_types(**tensors) -> None:
    """TypeError for what the kernels do not compute with, or for two types in one call."""
    dtypes = {name: x.dtype for name, x in tensors.items() if x is not None}
    for name, dtype in dtypes.items():
        if dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise TypeError(
                f"{name} is {dtype}: the kernels take float32, float16 and bfloat16; use the reference"
            )
    if len(set(dtypes.values())) > 1:
        said = ", ".join(f"{name} is {dtype}" for name, dtype in dtypes.items())
        raise TypeError(f"{said}: use one dtype for all")


def _checked(kernel, grid):
    """grid, and ValueError where it is larger than a GPU's: Triton would say "invalid argument"."""

    def checked(constants):
        programs = grid(constants) if callable(grid) else grid
        if max(programs[1:], default=1) > MOST_PROGRAMS:
            said = f"{kernel.fn.__name__} would need {' × '.join(map(str, programs))} programs"
            raise ValueError(
                f"{said}: after the first axis {MOST_PROGRAMS} at most can be started; split the batch"
            )
        return programs

    return checked


@cache
def _tuned(kernel, configs, sizes):
    """The kernel behind an autotuner of its own for these sizes. A single configuration is taken
    untimed.
    """
    split = [
        ({k: v for k, v in c if k not in OPTIONS}, {k: v for k, v in c if k in OPTIONS})
        for c in configs
    ]
    return triton.autotune(
        [triton.Config(constants, **options) for constants, options in split], []
    )(kernel)
