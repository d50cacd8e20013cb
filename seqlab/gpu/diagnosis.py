"""What wrong numbers look like: the faults of logic that authors of kernels make.

Each guess is a sentence that says what was seen, and then what would explain it.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise, permutations
from typing import TYPE_CHECKING

import numpy as np

from seqlab.gpu.observed import Observed, Step, Value

if TYPE_CHECKING:
    from seqlab.gpu.compare import Wrong

NEARLY = 0.05
"""Errors below this, over the largest right number, look like rounding."""
DIGITS = {"fp16": 3, "bf16": 2}

Program = tuple[int, ...]


def causes(wrong: Sequence["Wrong"], ours: Observed, theirs: Observed | None) -> Iterator[str]:
    """The guesses that fit, the surest first."""
    if not wrong:
        return
    first = wrong[0]
    if moved := _moved(first):
        yield moved
        return
    yield from filter(
        None,
        (
            _fewer_steps(first, ours, theirs),
            _unread(ours),
            _narrow(first, ours),
            _not_rescaled(first, ours),
            _which_programs(first),
        ),
    )


def _moved(wrong: "Wrong") -> str | None:
    """The right numbers in other places."""
    shape, name = wrong.argument.shape, wrong.argument.name
    ours, right = wrong.ours.reshape(shape), wrong.right.reshape(shape)
    if not _close(np.sort(wrong.ours), np.sort(wrong.right)):
        return None
    for order in list(permutations(range(len(shape))))[1:]:
        turned = right.transpose(order)
        if turned.size == ours.size and _close(turned.reshape(shape), ours):
            return (
                f"All numbers of {name} are right, but laid out with the axes in the order "
                f"{order}: "
                "two axes or their strides have changed places."
            )
    for axis in range(len(shape)):
        for by in range(1, shape[axis]):
            if _close(np.roll(right, by, axis), ours):
                moved = f"moved by {by} along axis {axis}"
                return f"All numbers of {name} are right, but {moved}: is an offset missing?"
    said = f"All numbers of {name} are right, but in other places"
    return f"{said}: look at the addresses of the store."


def _fewer_steps(wrong: "Wrong", ours: Observed, theirs: Observed | None) -> str | None:
    """A loop that takes another number of steps than the right kernel's."""
    if theirs is None or wrong.program is None:
        return None
    mine, right = (_lengths(seen.steps_of(wrong.program)) for seen in (ours, theirs))
    for loop in sorted(mine.keys() & right.keys()):
        (line, n), (_, m) = mine[loop], right[loop]
        if n != m:
            return (
                f"The loop at {line} takes {n} steps where the right kernel's takes {m}: "
                "look at its bounds."
            )
    return None


def _lengths(steps: Sequence[Step]) -> dict:
    return {s.loop: (s.line, s.step) for s in steps if s.last}


def _unread(ours: Observed) -> str | None:
    """Part of an input that no program reads."""
    for name, read in ours.read.items():
        missing = np.flatnonzero(~read)
        if len(missing) and name not in ours.writers:
            place = ours.arguments[name].place(int(missing[0]))
            some = f"{len(missing):,} of {len(read):,} elements"
            return (
                f"No program reads {place} ({some} of {name}): "
                "does a loop end a tile early, or a mask cut off too much?"
            )
    return None


def _narrow(wrong: "Wrong", ours: Observed) -> str | None:
    """A sum over a loop that is kept in 16 bits, if the wrong numbers are nearly right."""
    scale = np.abs(wrong.right[np.isfinite(wrong.right)]).max(initial=0)
    ours_there, right_there = wrong.ours[wrong.wrong], wrong.right[wrong.wrong]
    with np.errstate(invalid="ignore"):
        nearly = bool((np.abs(ours_there - right_there) <= NEARLY * scale).all())
    if not nearly:
        return None
    for name, values, steps in _carried(wrong, ours):
        kind = values[0].kind
        if kind in DIGITS and any(_changed(a, b) for a, b in pairwise(values)):
            return (
                f"`{name}` is carried through the {steps[-1].step} steps of the loop at "
                f"{steps[0].line} in {kind}, which rounds it to {DIGITS[kind]} digits each time: "
                "carry it in float32."
            )
    return None


def _not_rescaled(wrong: "Wrong", ours: Observed) -> str | None:
    """A running maximum that grows exactly where the result is wrong."""
    grown, step_of = {}, {}
    for program in dict.fromkeys(wrong.programs):
        for name, values, steps in _carried(wrong, ours, program):
            if not _is_running_maximum(values):
                continue
            later = [(b.numbers > a.numbers) for a, b in pairwise(values[1:])]
            grew = np.any(later, axis=0) if later else np.zeros_like(values[0].numbers, bool)
            grown.setdefault((name, steps[0].line), {})[program] = grew
            when = [s.step for s, g in zip(steps[1:], later, strict=False) if g.any()]
            step_of.setdefault(name, []).extend(when)
    for (name, line), by_program in grown.items():
        pairs = [pair for p, grew in by_program.items() for pair in _rows(wrong, ours, p, grew)]
        if not any(is_wrong for is_wrong, _ in pairs) or all(grew for _, grew in pairs):
            continue  # nothing to tell rows apart by
        if all(is_wrong <= grew for is_wrong, grew in pairs):
            return (
                f"Wrong are only rows whose maximum `{name}` still grows after the first step "
                f"of the loop at {line} (the earliest in step {min(step_of[name])}): what was "
                "summed under the old maximum must be multiplied by exp(old - new)."
            )
    return None


def _rows(wrong: "Wrong", ours: Observed, program: Program, grew) -> list[tuple[bool, bool]]:
    """(is it wrong, did its maximum grow) of each row that a program stores, or of all together."""
    access = ours.tiles.get((wrong.argument.name, program))
    if access is None:
        return []
    is_wrong = wrong.wrong[access.elements]
    if grew.ndim != 1 or not access.shape or access.shape[0] != len(grew):
        return [(bool(is_wrong.any()), bool(np.any(grew)))]
    row = access.lanes // max(1, int(np.prod(access.shape[1:])))
    return [(bool(is_wrong[row == r].any()), bool(grew[r])) for r in np.unique(row)]


def _carried(
    wrong: "Wrong", ours: Observed, program: Program | None = None
) -> Iterator[tuple[str, list[Value], list[Step]]]:
    """Each variable that one program has before a loop and keeps through it, step by step."""
    program = wrong.program if program is None else program
    steps = [] if program is None else ours.steps_of(program)
    for loop in dict.fromkeys(s.loop for s in steps):
        mine = [s for s in steps if s.loop == loop]
        for name in mine[0].values:
            values = [s.values[name] for s in mine if name in s.values]
            same = {(v.kind, v.numbers.shape) for v in values}
            if len(values) == len(mine) > 1 and len(same) == 1:
                yield name, values, mine


def _is_running_maximum(values: Sequence[Value]) -> bool:
    """It begins below everything and never falls."""
    if values[0].kind[:2] not in ("fp", "bf") or not (values[0].numbers < -1e4).all():
        return False
    rises = all((b.numbers >= a.numbers).all() for a, b in pairwise(values))
    return rises and any(_changed(a, b) for a, b in pairwise(values))


def _which_programs(wrong: "Wrong") -> str | None:
    """Programs that are wrong for where they are."""
    bad, every = wrong.wrong_programs, set(wrong.programs)
    if not bad or bad == every:
        return None
    for axis in range(len(wrong.programs[0])):
        last = max(p[axis] for p in every)
        if last == 0:
            continue
        if bad == {p for p in every if p[axis] == last}:
            return (
                f"Wrong are the last programs along axis {axis} of the grid, and no others: "
                "look at the ragged end."
            )
        if bad == {p for p in every if p[axis] > 0}:
            return (
                f"Along axis {axis} of the grid program 0 is right and all others are wrong: "
                "look at what the program's id is multiplied by."
            )
    return None


def _changed(a: Value, b: Value) -> bool:
    return not np.array_equal(a.numbers, b.numbers, equal_nan=True)


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape:
        return False
    scale = np.abs(b[np.isfinite(b)]).max(initial=0)
    return bool(np.allclose(a, b, rtol=0, atol=1e-3 * scale, equal_nan=True))
