"""`compare`: where a kernel leaves the right result, which program made it, and what it looks like.

    compare(softmax, (4,), x, y, 64, BLOCK=16, right={"p_y": x.softmax(-1)})
    compare(mine, grid, *args, right=theirs)     # a kernel with the same arguments is right

With a kernel as `right`, the loops of the two run side by side: the report says in which step a
variable first differs from that of the same name. `diagnosis.py` guesses at the cause.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqlab.gpu.diagnosis import causes
from seqlab.gpu.events import Argument, Line, program_name
from seqlab.gpu.interpreter import Launch
from seqlab.gpu.observed import Observed, Step
from seqlab.gpu.show import PLOTLY, shown

TOLERANCES = {torch.float16: 2**-9, torch.bfloat16: 2**-6}
"""Over the largest right number, by the narrowest type of the arguments; else 1e-5."""


@dataclass(frozen=True)
class Wrong:
    """What is wrong in one tensor: of each element, whether it is, and which program wrote it last.

    writers: the number of a program in `programs`, or -1 for none. line: the store of the first
    wrong element.
    """

    argument: Argument
    ours: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    writers: np.ndarray
    programs: tuple[tuple[int, ...], ...]
    line: Line | None

    @property
    def first(self) -> int:
        return int(np.flatnonzero(self.wrong)[0])

    @property
    def program(self) -> tuple[int, ...] | None:
        """The one that wrote the first wrong element."""
        number = int(self.writers[self.first])
        return None if number < 0 else self.programs[number]

    @property
    def wrong_programs(self) -> set[tuple[int, ...]]:
        return {self.programs[i] for i in np.unique(self.writers[self.wrong]) if i >= 0}

    def __str__(self) -> str:
        ours, right = self.ours[self.first], self.right[self.first]
        place = self.argument.place(self.first)
        who = (
            f"{program_name(self.program)} wrote it ({self.line})"
            if self.program
            else "nobody wrote it"
        )
        wrong, n = int(self.wrong.sum()), len(self.wrong)
        of = f"{len(self.wrong_programs):,} of {len(self.programs):,} programs"
        return (
            f"{place} is {ours:.6g}, and {right:.6g} is right: {who}. "
            f"In all, {wrong:,} of {n:,} elements are wrong, made by {of}."
        )


@dataclass(frozen=True)
class Parts:
    """The first step of a loop after which a variable differs from the right kernel's.

    step: -1 if it differs before the loop begins.
    """

    program: tuple[int, ...]
    name: str
    line: Line
    step: int

    def __str__(self) -> str:
        when = f"in step {self.step} of" if self.step >= 0 else "before"
        return (
            f"In {program_name(self.program)} `{self.name}` first leaves the right kernel's "
            f"{when} the loop at {self.line}."
        )


@dataclass(frozen=True, repr=False)
class Comparison:
    """The tensors that are wrong, where the loops part, and what may be the cause."""

    kernel: str
    grid: tuple[int, ...]
    wrong: tuple[Wrong, ...]
    largest: float
    parts: Parts | None
    causes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.wrong

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        if self.ok:
            error = f"{self.largest:.2g} of the largest number"
            return f"{self.kernel} is right: the largest error is {error}"
        said = [str(wrong) for wrong in self.wrong]
        said += [str(self.parts)] if self.parts else []
        return "\n".join([*said, *self.causes])

    def _repr_mimebundle_(self, **_) -> dict:
        """In a notebook, where it is wrong is also drawn."""
        bundle = {"text/plain": repr(self)}
        drawn = None if self.ok else shown("figures.comparison", "comparison", self)
        if drawn is not None:
            bundle[PLOTLY] = json.loads(drawn.to_json()) | {"config": {"displayModeBar": False}}
        return bundle


def compare(
    kernel,
    grid,
    *args,
    right: Mapping[str, Tensor] | Callable | Any,
    tolerance: float | None = None,
    **constexprs,
) -> Comparison:
    """Run `kernel[grid](*args, **constexprs)` on copies and compare what it writes with `right`.

    right: the right tensors under the names of the kernel's parameters, or a kernel that takes the
    same arguments. tolerance: the largest error that passes, over the largest right number.
    ValueError for a name that is no tensor argument, or a tensor of another shape.
    """
    launch, ours = _run(kernel, grid, args, constexprs)
    theirs = None
    if not isinstance(right, Mapping):
        other, theirs = _run(right, grid, args, constexprs)
        right = {n: a.copy for n, a in other.arguments.items() if n in theirs.writers}
    _check(launch, right)
    if tolerance is None:
        tolerance = _tolerance(launch)
    found = [_wrong(launch, ours, name, value, tolerance) for name, value in right.items()]
    wrong = tuple(w for w, _ in found if w.wrong.any())
    largest = max((error for _, error in found), default=0.0)
    parts = _parts(wrong, ours, theirs, tolerance) if theirs else None
    name = launch.function.__name__
    return Comparison(name, launch.grid, wrong, largest, parts, tuple(causes(wrong, ours, theirs)))


def _run(kernel, grid, args, constexprs) -> tuple[Launch, Observed]:
    launch = Launch(kernel, grid, args, constexprs)
    watcher = Observed(launch.programs)
    launch.run_some(watcher, launch.programs)
    return launch, watcher


def _check(launch: Launch, right: Mapping[str, Tensor]) -> None:
    has = launch.arguments
    if unknown := set(right) - set(has):
        said, known = ", ".join(sorted(unknown)), ", ".join(has)
        raise ValueError(f"{launch.function.__name__} has no tensor {said}: it has {known}")
    for name, value in right.items():
        if tuple(value.shape) != has[name].shape:
            shape = tuple(value.shape)
            raise ValueError(f"the right {name} has shape {shape}, the kernel's {has[name].shape}")


def _tolerance(launch: Launch) -> float:
    kinds = {argument.dtype for argument in launch.arguments.values()}
    return max((TOLERANCES.get(kind, 1e-5) for kind in kinds), default=1e-5)


def _wrong(launch: Launch, seen: Observed, name: str, right: Tensor, tolerance: float):
    argument = launch.arguments[name]
    ours = argument.copy.double().flatten().numpy()
    truth = right.detach().cpu().double().flatten().numpy()
    with np.errstate(invalid="ignore"):  # inf - inf
        apart = np.abs(ours - truth)
    same = (ours == truth) | np.isnan(ours) & np.isnan(truth)
    finite = np.abs(truth[np.isfinite(truth)])
    scale = max(float(finite.max(initial=0)), 1e-30)
    wrong = ~same & ~(apart <= tolerance * scale)
    writers, lines = seen.writers_of(argument)
    first = int(np.flatnonzero(wrong)[0]) if wrong.any() else None
    line = None if first is None or writers[first] < 0 else lines[first]
    programs = tuple(launch.programs)
    error = float(np.where(same, 0, apart).max(initial=0)) / scale
    return Wrong(argument, ours, truth, wrong, writers, programs, line), error


def _parts(wrong: tuple[Wrong, ...], ours: Observed, theirs: Observed, tolerance) -> Parts | None:
    """Of the program that wrote the first wrong element, the first variable that differs."""
    if not wrong or wrong[0].program is None:
        return None
    program = wrong[0].program
    for mine, right in zip(ours.steps_of(program), theirs.steps_of(program), strict=False):
        if mine.loop != right.loop or mine.step != right.step:
            return None
        for name in [n for n in mine.values if n in right.values]:
            if _differ(mine, right, name, tolerance):
                return Parts(program, name, mine.line, mine.step - 1)
    return None


def _differ(mine: Step, right: Step, name: str, tolerance: float) -> bool:
    a, b = mine.values[name].numbers, right.values[name].numbers
    if a.shape != b.shape:
        return False
    same = (a == b) | np.isnan(a) & np.isnan(b)
    scale = np.abs(b[np.isfinite(b)]).max(initial=0)
    with np.errstate(invalid="ignore"):
        return bool((~same & ~(np.abs(a - b) <= tolerance * scale)).any())
