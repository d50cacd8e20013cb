"""The accuracy rule of the kernels: a kernel may round, but not much more than plain PyTorch in the
same type.

Truth is the reference in float64. A kernel's largest error is at most twice that of the reference
in the inputs' type, three times for gradients. A floor of a few roundings stands beside it, for
where the reference is exact by chance: roundings of the narrowest input's type, which is what the
kernel multiplies in, also where the result is float32.
"""

import inspect
from typing import NamedTuple

import torch

TIMES = {"y": 2, "gradient": 3}
ROUNDINGS = 4


class Error(NamedTuple):
    """The largest error of one output or gradient, and the largest the rule allows. nan: finite in
    one place only.
    """

    what: str
    error: float
    allowed: float

    @property
    def ok(self) -> bool:
        return self.error <= self.allowed

    def __str__(self):
        return f"{self.what}: error {self.error:.2e}, allowed {self.allowed:.2e}"


def errors(function, reference, inputs, gradients=True) -> list[Error]:
    """Every output of function(*inputs) and, with random seeds, every gradient, beside the
    reference's.
    """
    names = _names(reference, len(inputs))
    floats = [x.is_floating_point() for x in inputs]
    leaves = [x.detach().requires_grad_() if f else x for x, f in zip(inputs, floats, strict=True)]
    exact = [
        x.detach().double().requires_grad_() if f else x
        for x, f in zip(inputs, floats, strict=True)
    ]
    runs = [(function, leaves), (reference, leaves), (reference, exact)]
    outs = [as_tuple(f(*xs)) for f, xs in runs]
    eps = max(torch.finfo(x.dtype).eps for x, f in zip(inputs, floats, strict=True) if f)
    found = [
        _error(f"output {i}", "y", eps, *three) for i, three in enumerate(zip(*outs, strict=True))
    ]
    if not gradients:
        return found
    seeds = [torch.where(e.isfinite(), torch.randn_like(e), 0) for e in outs[2]]
    grads = [_gradients(ys, xs, seeds) for ys, (_, xs) in zip(outs, runs, strict=True)]
    learnt = [name for name, f in zip(names, floats, strict=True) if f]
    return found + [
        _error(f"gradient of {n}", "gradient", eps, *g)
        for n, *g in zip(learnt, *grads, strict=True)
    ]


def _gradients(ys, xs, seeds):
    seeds = [seed.to(y) for seed, y in zip(seeds, ys, strict=True)]
    return torch.autograd.grad(ys, [x for x in xs if x.is_floating_point()], seeds)


def as_tuple(out) -> tuple:
    return tuple(out) if isinstance(out, (tuple, list)) else (out,)


def largest(x) -> float:
    x = x.detach()[x.detach().isfinite()]
    return x.abs().max().item() if len(x) else 0.0


def _error(what, kind, eps, y, plain, truth) -> Error:
    if y.dtype != plain.dtype or y.shape != plain.shape:
        raise TypeError(
            f"{what} is {tuple(y.shape)} of {y.dtype}: the reference has {tuple(plain.shape)} of {plain.dtype}"
        )
    floor = ROUNDINGS * eps * max(1.0, largest(truth))
    allowed = TIMES[kind] * largest(plain.double() - truth) + floor
    same = torch.equal(y.isfinite(), truth.isfinite())
    return Error(what, largest(y.double() - truth) if same else float("nan"), allowed)


def _names(function, count) -> list[str]:
    try:
        named = [
            p.name
            for p in inspect.signature(function).parameters.values()
            if p.kind == p.POSITIONAL_OR_KEYWORD
        ]
    except ValueError:  # torch.matmul and its like have none
        named = []
    return named[:count] if len(named) >= count else [f"input {i}" for i in range(count)]
