"""The accuracy rule of the kernels: round, but not much more than plain PyTorch in the same type.

Truth is the reference in float64. A kernel's largest error is at most twice that of the reference
in the inputs' type, three times for gradients. A floor of a few roundings is added, for inputs on
which the reference happens to be exact. They are roundings of the narrowest input's type even if
the result is float32, because that is the type in which the kernel multiplies.

The reference runs twice, and the larger error counts. A product of matrices adds its terms in no
particular order: MKL adds them one after another, OpenBLAS (numpy's, and so the interpreter's) in
several sums on some processors, a GPU in its own way. If large terms cancel, the order alone
changes the error tenfold. So the second run adds even and odd terms of each float32 product apart.
Narrower types are added in float32 and rounded afterwards, which hides the order.

A third run is in float64, on inputs each of which is moved by one rounding of its type. Where it
errs as much, the answer is as sensitive as that, and the exact answer to inputs which nobody could
tell apart is right. It also keeps the luck of a few lucky roundings out of the rule.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

TIMES = {"y": 2, "gradient": 3}
"""The largest error allowed, over that of the reference."""
ROUNDINGS = 4
"""The floor."""


class Error(NamedTuple):
    """The largest error of one output or gradient, and the largest that the rule allows.

    error is NaN if an element is finite in only one of the two.
    """

    what: str
    error: float
    allowed: float

    @property
    def ok(self) -> bool:
        return self.error <= self.allowed

    def __str__(self):
        return f"{self.what}: error {self.error:.2e}, allowed {self.allowed:.2e}"


class EvenAndOddApart(TorchDispatchMode):
    """Adds the even and the odd terms of each float32 product of matrices apart."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
            a, b = args
            if a.dtype == torch.float32:
                return func(a[..., ::2], b[..., ::2, :]) + func(a[..., 1::2], b[..., 1::2, :])
        return func(*args, **(kwargs or {}))


def errors(
    function: Callable, reference: Callable, inputs: Sequence[Tensor], gradients: bool = True
) -> list[Error]:
    """The error of every output of function(*inputs) and, for random seeds, of every gradient."""
    learnt = [x.is_floating_point() for x in inputs]

    def leaves(double: bool) -> list[Tensor]:
        given = [x.detach() for x in inputs]
        given = [x.double() if f and double else x for x, f in zip(given, learnt, strict=True)]
        return [x.requires_grad_() if f else x for x, f in zip(given, learnt, strict=True)]

    runs = [
        (function, leaves(double=False), nullcontext()),
        (reference, leaves(double=False), nullcontext()),
        (reference, leaves(double=False), EvenAndOddApart()),
        (reference, _moved(inputs, leaves(double=True)), nullcontext()),
        (reference, leaves(double=True), nullcontext()),
    ]
    outs = []
    for f, xs, order in runs:
        with order:
            outs.append(as_tuple(f(*xs)))
    eps = max(torch.finfo(x.dtype).eps for x in inputs if x.is_floating_point())
    found = [
        _error(f"output {i}", "y", eps, *five) for i, five in enumerate(zip(*outs, strict=True))
    ]
    if not gradients:
        return found
    seeds = [torch.where(y.isfinite(), torch.randn_like(y), 0) for y in outs[-1]]
    grads = []
    for ys, (_, xs, order) in zip(outs, runs, strict=True):
        with order:
            grads.append(_gradients(ys, xs, seeds))
    names = [n for n, f in zip(_names(reference, len(inputs)), learnt, strict=True) if f]
    return found + [
        _error(f"gradient of {name}", "gradient", eps, *five)
        for name, *five in zip(names, *grads, strict=True)
    ]


def _moved(inputs: Sequence[Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """The float64 leaves, each number up or down by one rounding of the type it came in."""
    rng = torch.Generator().manual_seed(0)
    for given, x in zip(inputs, leaves, strict=True):
        if x.is_floating_point():
            up = torch.randint(2, x.shape, generator=rng).to(x.device) * 2 - 1
            x.data = x.data * (1 + up * torch.finfo(given.dtype).eps / 2)
    return leaves


def _gradients(ys, xs, seeds):
    seeds = [seed.to(y) for seed, y in zip(seeds, ys, strict=True)]
    return torch.autograd.grad(ys, [x for x in xs if x.is_floating_point()], seeds)


def as_tuple(out) -> tuple:
    return tuple(out) if isinstance(out, (tuple, list)) else (out,)


def largest(x: Tensor) -> float:
    """The largest absolute value among the finite numbers, 0 if there are none."""
    x = x.detach()[x.detach().isfinite()]
    return x.abs().max().item() if len(x) else 0.0


def _error(
    what: str,
    kind: str,
    eps: float,
    y: Tensor,
    plain: Tensor,
    apart: Tensor,
    moved: Tensor,
    truth: Tensor,
) -> Error:
    if y.dtype != plain.dtype or y.shape != plain.shape:
        raise TypeError(
            f"{what} is {tuple(y.shape)} of {y.dtype}: "
            f"the reference has {tuple(plain.shape)} of {plain.dtype}"
        )
    floor = ROUNDINGS * eps * max(1.0, largest(truth))
    lost = max(largest(x.double() - truth) for x in (plain, apart, moved))
    allowed = TIMES[kind] * lost + floor
    same = torch.equal(y.isfinite(), truth.isfinite())
    return Error(what, largest(y.double() - truth) if same else float("nan"), allowed)


def _names(function: Callable, count: int) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # torch.matmul and its like have no signature
        parameters = ()
    names = [p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]
    return names[:count] if len(names) >= count else [f"input {i}" for i in range(count)]
