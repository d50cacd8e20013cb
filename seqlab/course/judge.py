"""Judge answers: right, or which mistake it is. Pure: it calls the reference and the mistakes,
never the learner.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqlab.course.answer import Outcome, call, clone
from seqlab.course.compare import (
    close,
    family_of,
    first_along,
    first_at,
    gap_of,
    kind_of,
    not_finite,
    outputs_of,
    scale_of,
    short,
    swapped_axes,
    wrong_at,
)
from seqlab.course.exercise import Case, Exercise
from seqlab.course.report import Parting, Report, Row


@dataclass(frozen=True)
class _Tried:
    """One case: its inputs, what is right, and what the learner's function did."""

    case: Case
    right: tuple[Any, ...]
    outcome: Outcome
    kind: str  # the kind of fault, "" when right
    fault: str  # what is wrong in this case, in a few words


def judge(exercise: Exercise, cases: list[Case], outcomes: list[Outcome]) -> Report:
    """The report on `outcomes`, one for each input set of `answer.plan`, in its order."""
    tried = [_try(exercise, case, outcome) for case, outcome in zip(cases, outcomes, strict=False)]
    wrong = [t for t in tried if t.kind]
    notes = _notes(exercise, outcomes)
    broken = (
        None
        if wrong
        else _broken_property(exercise, cases, outcomes) or _another_way(exercise, tried, notes)
    )
    kind, message = _diagnose(exercise, tried, wrong) if wrong else broken or ("passed", "")
    if (
        kind == "value"
        and not exercise.numeric
        and (also := _broken_property(exercise, cases, outcomes))
    ):
        message += " " + also[1]
    passed = kind == "passed"
    return Report(
        id=exercise.id,
        title=exercise.title,
        points=exercise.points,
        earned=exercise.points if passed else 0,
        kind=kind,
        message=message if not passed else _praise(exercise),
        rows=() if kind == "not started" else _rows(exercise, tried, broken),
        notes=() if kind == "in place" else notes,
        parting=_parting(exercise, wrong) if wrong and not exercise.numeric else None,
    )


def _praise(e: Exercise) -> str:
    return f"Right: {e.name} " + (
        "is that number." if e.numeric else "agrees with the reference on every case."
    )


def failure(exercise: Exercise, kind: str, message: str) -> Report:
    """A report on an answer that could not even be asked."""
    return Report(exercise.id, exercise.title, exercise.points, 0, kind, message)


def right_answer(exercise: Exercise, function: Any, inputs: dict) -> Outcome:
    """What a trusted function (reference, mistake) answers, whatever the notebook did to torch's
    defaults.
    """
    if exercise.numeric:
        return Outcome("returned", float(function() if callable(function) else function))
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.enable_grad():
            return call(function, inputs)
    finally:
        torch.set_default_dtype(dtype)


def _try(e: Exercise, case: Case, outcome: Outcome) -> _Tried:
    reference = right_answer(e, e.reference, case.inputs)
    if reference.kind != "returned":
        raise ValueError(
            f"exercise {e.id}: the reference fails in case {case.name!r}: {reference.message}"
        )
    right = outputs_of(reference.value)
    if len(right) != len(e.outputs):
        raise ValueError(
            f"exercise {e.id}: the reference returns {len(right)} outputs, {len(e.outputs)} are named"
        )
    return _Tried(case, right, outcome, *_fault(e, right, outcome))


def _fault(e: Exercise, right: tuple, outcome: Outcome) -> tuple[str, str]:
    """(kind, a few words) on what is wrong with one outcome; ("", "") when nothing is."""
    if outcome.kind != "returned":
        words = {"slow": "out of time", "stub": "not written yet", "missing": "not defined"}
        return outcome.kind, words.get(outcome.kind) or f"{outcome.type}: {outcome.message}"
    got, names = outcome.value, e.outputs
    if e.numeric and (got is None or type(got) is tuple):
        return "type", f"{e.name} is {kind_of(got)}: a number is needed"
    needed = f"a tuple ({', '.join(names)})" if len(names) > 1 else kind_of(right[0])
    if got is None:
        return "none", f"returned None: {needed} is needed (is a return missing?)"
    if len(names) == 1 and type(got) is tuple:
        return "count", f"returned a tuple or list of {len(got)}: {names[0]} alone is needed"
    if len(names) > 1 and type(got) is not tuple:
        return "count", f"returned {kind_of(got)}: {needed} is needed"
    if len(names) > 1 and len(got) != len(names):
        return (
            "count",
            f"returned a tuple or list of {len(got)}: {len(names)} outputs are needed, ({', '.join(names)})",
        )
    faults = [
        _fault_of_output(e, n, r, g) for n, r, g in zip(names, right, outputs_of(got), strict=True)
    ]
    order = ("type", "shape", "dtype", "nan", "value")
    return min((f for f in faults if f[0]), key=lambda f: order.index(f[0]), default=("", ""))


def _fault_of_output(e: Exercise, name: str, right: Any, got: Any) -> tuple[str, str]:
    if not isinstance(right, Tensor):
        return _fault_of_number(e, e.name if e.numeric else name, right, got)
    if isinstance(got, int | float) and right.ndim == 0:
        got = torch.as_tensor(got, dtype=right.dtype)
    if not isinstance(got, Tensor):
        return "type", f"{name} is {kind_of(got)}: a torch tensor is needed"
    if got.shape != right.shape:
        swapped = swapped_axes(got.shape, right.shape)
        return (
            "shape",
            f"{name} has shape {tuple(got.shape)}: {tuple(right.shape)} is needed{swapped}",
        )
    if family_of(got) != family_of(right):
        return "dtype", f"{name} has dtype {short(got.dtype)}: {short(right.dtype)} is needed"
    bad = ~got.isfinite() & ~(got == right)
    if bad.any():
        return "nan", f"{name} holds {not_finite(got[bad])}{first_at(bad, e.time_axis_of(name))}"
    off = wrong_at(right, got, e.tolerance)
    if off.any():
        return (
            "value",
            f"{name} is off by up to {gap_of(right, got):.2g} (values reach {scale_of(right):.2g})",
        )
    return "", ""


def _fault_of_number(e: Exercise, name: str, right: float, got: Any) -> tuple[str, str]:
    if isinstance(got, Tensor) and got.numel() == 1 and got.dtype != torch.bool:
        got = got.item()
    if isinstance(got, bool) or not isinstance(got, int | float):
        return "type", f"{name} is {kind_of(got)}: a number is needed"
    if isinstance(got, float) and not math.isfinite(got):
        return "nan", f"{name} is {got}"
    error = abs(got - right) / (abs(right) or 1.0)
    if error <= e.tolerance:
        return "", ""
    return "value", f"{name} = {got:.6g} is " + (
        "nearly right: give more digits" if error < 0.01 else "not right"
    )


def _diagnose(e: Exercise, tried: list[_Tried], wrong: list[_Tried]) -> tuple[str, str]:
    """(kind, sentence): the first of these that explains the wrong answers."""
    first = wrong[0]
    kinds = {t.kind: t for t in reversed(wrong)}
    if "stub" in kinds:
        stub = (
            "is still ... (write a number in its place)"
            if e.numeric
            else "still raises NotImplementedError"
        )
        return "not started", f"Not started: {e.name} {stub}."
    if "missing" in kinds:
        return "missing", f"{e.name} is not defined: run (or write) the cell that defines it."
    if sentence := _named_mistake(e, tried):
        return "mistake", sentence
    if "slow" in kinds:
        return (
            "slow",
            f"{e.name} was still running when its time was up{_in(kinds['slow'])}: does a loop never end?",
        )
    if "raised" in kinds:
        return "exception", _exception_sentence(e, kinds["raised"])
    for kind in ("none", "count", "handed back", "type", "shape", "dtype", "nan"):
        if kind == "handed back" and not e.numeric and (name := _handed_back(e, tried)):
            return kind, f"{e.name} hands back its input {name} unchanged."
        if kind in kinds:
            return kind, f"{kinds[kind].fault}{_in(kinds[kind])}."
    if e.numeric:
        advice = (
            ""
            if "nearly" in first.fault
            else f' Write the formula down first; hint("{e.id}") opens a hint.'
        )
        return "value", f"{first.fault}.{advice}"
    return _constant(e, wrong) or _multiple(e, tried) or ("value", _where_it_parts(e, wrong))


def _named_mistake(e: Exercise, tried: list[_Tried]) -> str | None:
    """The mistake that gives these very answers, wherever it differs from the reference; exact
    matches first.
    """
    partly = None
    for sentence, function in e.mistakes.items():
        made = [right_answer(e, function, t.case.inputs) for t in tried]
        telling = [bool(_fault(e, t.right, m)[0]) for t, m in zip(tried, made, strict=True)]
        same = [_alike(e, m, t.outcome) for t, m in zip(tried, made, strict=True)]
        returns = any(
            tells and m.kind == "returned" for tells, m in zip(telling, made, strict=True)
        )
        raises = all(
            _same_exception(m, t.outcome)
            for tells, m, t in zip(telling, made, tried, strict=True)
            if tells
        )
        if not (any(telling) and (returns or raises)):
            continue  # a mistake that always raises explains the very same exceptions, and no others
        if all(same):
            return sentence
        if all(s for s, tells in zip(same, telling, strict=True) if tells):
            partly = partly or sentence
    return partly


def _alike(e: Exercise, made: Outcome, got: Outcome) -> bool:
    """Whether two outcomes are the same: the same values, NaN where NaN, or an exception in
    both.
    """
    if made.kind != "returned" or got.kind != "returned":
        return made.kind == got.kind and not got.binding
    pairs = list(zip(outputs_of(made.value), outputs_of(got.value), strict=False))
    if (type(made.value) is tuple, len(outputs_of(made.value))) != (
        type(got.value) is tuple,
        len(outputs_of(got.value)),
    ):
        return False
    return all(close(a, b, e.tolerance) for a, b in pairs)


def _same_exception(made: Outcome, got: Outcome) -> bool:
    return (made.kind, made.type, made.message) == (
        got.kind,
        got.type,
        got.message,
    ) and not got.binding


def _exception_sentence(e: Exercise, t: _Tried) -> str:
    o = t.outcome
    if o.binding and o.type == "TypeError":
        call_ = f"{e.name}({', '.join(f'{name}=…' for name in t.case.inputs)})"
        return f"{e.name} is called as {call_}, and that fails: keep the names of its parameters ({o.message})."
    said = f"{o.type}: {o.message}" if o.message else o.type
    return f"{e.name} raises {said}" + (f" ({o.line})" if o.line else "") + f"{_in(t)}."


def _handed_back(e: Exercise, tried: list[_Tried]) -> str | None:
    """The name of the input that every call returned as its (first) answer, where that is not
    right.
    """
    got = [(*outputs_of(t.outcome.value), None)[0] for t in tried if t.outcome.kind == "returned"]
    if len(got) < len(tried) or any(not isinstance(g, Tensor) for g in got):
        return None
    for name in tried[0].case.inputs:
        inputs = [t.case.inputs.get(name) for t in tried]
        if all(
            isinstance(x, Tensor) and close(x, g, 0.0) for x, g in zip(inputs, got, strict=True)
        ):
            wrong = (not close(t.right[0], g, e.tolerance) for t, g in zip(tried, got, strict=True))
            return name if any(wrong) else None
    return None


def _constant(e: Exercise, wrong: list[_Tried]) -> tuple[str, str] | None:
    for i, name in enumerate(e.outputs):
        got = [outputs_of(t.outcome.value)[i] for t in wrong]
        right = [t.right[i] for t in wrong]
        if not all(
            isinstance(g, Tensor) and g.numel() > 0 and (g == g.flatten()[0]).all() for g in got
        ):
            continue
        if all(isinstance(r, Tensor) and (r == r.flatten()[0]).all() for r in right):
            continue
        values = {g.flatten()[0].item() for g in got}
        return (
            "constant",
            f"{name} is {values.pop() if len(values) == 1 else 'one number'} everywhere{_in(wrong[0])}.",
        )
    return None


def _multiple(e: Exercise, tried: list[_Tried]) -> tuple[str, str] | None:
    """Every output right up to one and the same factor (-1 too): a scale or a sign."""
    factors = []
    for t in tried:
        for right, got in zip(t.right, outputs_of(t.outcome.value), strict=True):
            if not (
                isinstance(right, Tensor) and right.is_floating_point() and right.abs().max() > 0
            ):
                return None
            r, g = right.double().flatten(), got.double().flatten()
            if not (r.isfinite().all() and g.isfinite().all()):
                return None
            c = (g @ r / (r @ r)).item()
            if abs(c) < 1e-3 or wrong_at(c * r, g, e.tolerance).any():
                return None
            factors.append(c)
    if max(factors) - min(factors) > 1e-3 * abs(factors[0]):
        return None
    factor = "-1" if abs(factors[0] + 1) < 1e-3 else f"{factors[0]:.4g}"
    return (
        "factor",
        f"Everything is {factor} times what it should be: is a {'sign' if factor == '-1' else 'scale'} off?",
    )


def _where_it_parts(e: Exercise, wrong: list[_Tried]) -> str:
    """The first wrong time step, in the case that stays right longest."""
    steps = [(t, *_first_wrong_step(e, t)) for t in wrong]
    timed = [s for s in steps if s[2] is not None]
    if not timed:
        return f"{wrong[0].fault}{_in(wrong[0])}."
    t, name, when = max(reversed(timed), key=lambda s: s[2])
    ask = f": {e.parts_hint(when, t.case.inputs)}" if e.parts_hint else "."
    if when == 0:
        return f"{name} is wrong from the first step, t = 0{_in(t)}{ask}"
    return f"{name} is equal up to t = {when - 1}, wrong from t = {when}{_in(t)}{ask}"


def _first_wrong_step(e: Exercise, t: _Tried) -> tuple[str, int | None]:
    for name, right, got in zip(e.outputs, t.right, outputs_of(t.outcome.value), strict=True):
        axis = e.time_axis_of(name)
        if (
            isinstance(right, Tensor)
            and axis is not None
            and (off := wrong_at(right, got, e.tolerance)).any()
        ):
            return name, first_along(off, axis)
    return e.outputs[0], None


def _broken_property(
    e: Exercise, cases: list[Case], outcomes: list[Outcome]
) -> tuple[str, str] | None:
    rest = list(outcomes[len(cases) :])
    for p in e.properties:
        for case, own in zip(cases, outcomes, strict=False):
            n = len(p.variants(clone(case.inputs)))
            family, rest = [own, *rest[:n]], rest[n:]
            bad = next((o for o in family if o.kind != "returned"), None)
            if bad is not None:
                return (
                    "property",
                    f"{p.message} ({bad.type}: {bad.message})" if bad.type else p.message,
                )
            try:
                holds = p.holds(clone(case.inputs), [clone(o.value) for o in family])
            except Exception:  # an answer of another shape breaks the property's own code
                holds = False
            if not holds:
                return "property", p.message
    return None


def _another_way(
    e: Exercise, tried: list[_Tried], notes: tuple[str, ...]
) -> tuple[str, str] | None:
    """Right values by a way that the exercise rules out: a loop over tokens where chunks are asked
    for, or in place.
    """
    said = (e.effort(clone(t.case.inputs), t.outcome.effort) for t in tried if e.effort)
    if sentence := next(filter(None, said), None):
        return "effort", sentence
    return ("in place", notes[0]) if e.keeps_inputs and notes else None


def _rows(e: Exercise, tried: list[_Tried], broken) -> tuple[Row, ...]:
    rows = [Row(t.case.name, not t.kind, t.fault) for t in tried]
    if len(rows) > 1 and rows[0].detail and len({r.detail for r in rows}) == 1:
        rows = [Row(f"all {len(rows)} cases", False, rows[0].detail)]
    if e.properties and all(r.passed for r in rows):
        rows += [
            Row(p.name, broken is None or not broken[1].startswith(p.message), "")
            for p in e.properties
        ]
    if broken is not None and broken[0] in ("effort", "in place"):
        rows.append(Row("the way that is asked for", False, ""))
    return tuple(rows)


def _notes(e: Exercise, outcomes: list[Outcome]) -> tuple[str, ...]:
    changed = sorted({name for o in outcomes for name in o.changed})
    if not changed:
        return ()
    return (
        f"{e.name} changes its input {' and '.join(changed)} in place: whoever calls it loses the old value.",
    )


def _parting(e: Exercise, wrong: list[_Tried]) -> Parting | None:
    """What to draw: the case that stays right longest, the largest of equals, if the shapes are
    right.
    """
    found = [p for t in wrong if t.kind in ("value", "nan") for p in _partings(e, t)]
    return max(found, key=lambda p: (-1 if p.t is None else p.t, p.reference.numel()), default=None)


def _partings(e: Exercise, t: _Tried) -> Iterator[Parting]:
    """The first output of a case that is off."""
    for name, right, got in zip(e.outputs, t.right, outputs_of(t.outcome.value), strict=True):
        if (
            isinstance(right, Tensor)
            and right.ndim
            and (off := wrong_at(right, got, e.tolerance)).any()
        ):
            axis = e.time_axis_of(name)
            yield Parting(
                name,
                t.case.name,
                axis,
                None if axis is None else first_along(off, axis),
                got,
                right,
            )
            return


def _in(t: _Tried) -> str:
    return f", in the case {t.case.name!r}" if t.case.inputs else ""
