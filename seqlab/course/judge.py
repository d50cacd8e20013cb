"""Judge answers: right, or which mistake it is.

Pure: it calls the reference and the mistakes, never the learner's code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from seqlab.course.answer import Came, Made, Outcome, calling, clone
from seqlab.course.compare import close, first_along, outputs_of, scale_of, wrong_at
from seqlab.course.exercise import Case, Exercise, Property
from seqlab.course.fault import Fault, fault_of
from seqlab.course.report import Kind, Parting, Report, Row
from seqlab.course.slip import Slip, slips
from seqlab.course.slip import sentence as sentence_of_slips

# Processor time of one call of a slip, which may never end.
SLIP_SECONDS = 2.0


@dataclass(frozen=True)
class _Tried:
    """One case: its inputs, what is right, what the learner's function did, and what is wrong."""

    case: Case
    right: tuple[Any, ...]
    outcome: Outcome
    fault: Fault | None


@dataclass(frozen=True)
class _Wrong(_Tried):
    fault: Fault


@dataclass(frozen=True)
class _Verdict:
    """The kind of a report and its sentence; `broken` is the property that does not hold."""

    kind: Kind
    sentence: str
    broken: Property | None = None
    edit: str = ""


class Trusted:
    """What the reference and the mistakes of one exercise return, each asked once per input set."""

    def __init__(self, exercise: Exercise):
        self.exercise = exercise
        self.known: dict[tuple[int, int], tuple[Outcome, Any, dict]] = {}

    def __call__(self, function: Any, inputs: dict, seconds: float | None = None) -> Outcome:
        key = id(function), id(inputs)
        if key not in self.known:
            # Kept with what it was asked: an id may be used again once its object is gone.
            outcome = right_answer(self.exercise, function, inputs, seconds)
            self.known[key] = outcome, function, inputs
        return self.known[key][0]

    @cached_property
    def slips(self) -> list[tuple[Slip, Any]]:
        """Each slip that defines a function, with that function."""
        assert self.exercise.defined_by is not None
        found = []
        for slip in slips(self.exercise.cell):
            with suppress(Exception):
                found.append((slip, self.exercise.defined_by(slip.code)))
        return found


def judge(
    exercise: Exercise,
    cases: list[Case],
    outcomes: list[Outcome],
    trusted: Trusted | None = None,
) -> Report:
    """The report on `outcomes`, one for each input set of `answer.plan`, in its order.

    Pass one `trusted` to judge many answers to the same cases.
    """
    if exercise.requirements:
        from seqlab.course.project import judge_project

        return judge_project(exercise, cases, outcomes)
    ask = trusted or Trusted(exercise)
    pairs = zip(cases, outcomes, strict=False)
    tried = [_try(exercise, case, outcome, ask) for case, outcome in pairs]
    wrong = [_Wrong(t.case, t.right, t.outcome, t.fault) for t in tried if t.fault]
    notes = _notes(exercise, outcomes)
    verdict = _verdict(exercise, cases, outcomes, tried, wrong, ask)
    passed = verdict.kind == Kind.PASSED
    return Report(
        id=exercise.id,
        title=exercise.title,
        points=exercise.points,
        earned=exercise.points if passed else 0,
        kind=verdict.kind,
        message=verdict.sentence,
        rows=() if verdict.kind == Kind.NOT_STARTED else _rows(exercise, tried, verdict),
        notes=() if verdict.kind == Kind.IN_PLACE else notes,
        parting=_parting(exercise, wrong) if wrong and not exercise.numeric else None,
        edit=verdict.edit,
    )


def failure(exercise: Exercise, kind: Kind, message: str) -> Report:
    """A report on an answer that could not even be called."""
    return Report(exercise.id, exercise.title, exercise.points, 0, kind, message)


def unanswered(e: Exercise, case: Case, outcome: Outcome) -> tuple[Kind, str] | None:
    """The kind and the sentence of a call that returned nothing; None if it returned."""
    if outcome.kind == Came.RETURNED:
        return None
    fault = fault_of(e, (), outcome)
    assert fault is not None
    verdict = _diagnose(e, [], [_Wrong(case, (), outcome, fault)], Trusted(e))
    return verdict.kind, verdict.sentence


def right_answer(
    exercise: Exercise, function: Any, inputs: dict, seconds: float | None = None
) -> Outcome:
    """What a trusted function (reference, mistake) returns, with torch's own defaults."""
    if exercise.numeric:
        number: Any = function() if callable(function) else function
        return Outcome(Came.RETURNED, float(number))
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.enable_grad():
            return calling(exercise.kernel)(function, inputs, seconds)
    finally:
        torch.set_default_dtype(dtype)


def _verdict(
    e: Exercise, cases, outcomes, tried: list[_Tried], wrong: list[_Wrong], ask: Trusted
) -> _Verdict:
    if not wrong:
        return (
            _broken_property(e, cases, outcomes)
            or _another_way(e, tried, outcomes, ask)
            or _wrong_on_a_gpu(e, tried)
            or _praise(e, tried)
        )
    verdict = _diagnose(e, tried, wrong, ask)
    if verdict.kind == Kind.VALUE and not e.numeric:
        also = _broken_property(e, cases, outcomes)
        if also:
            return _Verdict(Kind.VALUE, f"{verdict.sentence} {also.sentence}")
    return verdict


def _praise(e: Exercise, tried: list[_Tried]) -> _Verdict:
    said = "is that number." if e.numeric else "agrees with the reference on every case."
    if e.kernel:
        device = tried[0].outcome.device
        where = f"in the interpreter and on {device}" if device else "in the interpreter"
        said = f"agrees with the reference on every case, {where}; the sanitizer finds nothing."
    return _Verdict(Kind.PASSED, f"Right: {e.name} {said}")


def _wrong_on_a_gpu(e: Exercise, tried: list[_Tried]) -> _Verdict | None:
    """A kernel that is right in the interpreter, and not on the GPU of this machine."""
    for t in tried:
        if t.outcome.gpu is not None and (fault := fault_of(e, t.right, t.outcome.gpu)):
            where = f"{e.name} is right in the interpreter, but not on {t.outcome.device}"
            return _Verdict(fault.kind, f"{where}: {fault.words}{_in(t)}.")
    return None


def _try(e: Exercise, case: Case, outcome: Outcome, ask: Trusted) -> _Tried:
    reference = ask(e.reference, case.inputs)
    if reference.kind != Came.RETURNED:
        said = f"the reference fails in case {case.name!r}: {reference.message}"
        raise ValueError(f"exercise {e.id}: {said}")
    right = outputs_of(reference.value)
    if len(right) != len(e.outputs):
        said = f"the reference returns {len(right)} outputs, but {len(e.outputs)} are named"
        raise ValueError(f"exercise {e.id}: {said}")
    return _Tried(case, right, outcome, fault_of(e, right, outcome))


# Kinds that need no closer look, in the order in which they are reported.
_PLAIN = (Kind.TYPE, Kind.SHAPE, Kind.DTYPE)


def _diagnose(e: Exercise, tried: list[_Tried], wrong: list[_Wrong], ask: Trusted) -> _Verdict:
    """The first of these that explains the wrong answers."""
    first = {t.fault.kind: t for t in reversed(wrong)}
    if Kind.NOT_STARTED in first:
        return _Verdict(Kind.NOT_STARTED, _stub_sentence(e))
    if Kind.MISSING in first:
        sentence = f"{e.name} is not defined: run (or write) the cell that defines it."
        return _Verdict(Kind.MISSING, sentence)
    if sentence := _named_mistake(e, tried, ask):
        return _Verdict(Kind.MISTAKE, sentence, edit=e.edits.get(sentence, ""))
    if Kind.SLOW in first:
        return _Verdict(Kind.SLOW, _slow_sentence(e, _in(first[Kind.SLOW])))
    if Kind.EXCEPTION in first:
        return _Verdict(Kind.EXCEPTION, _exception_sentence(e, first[Kind.EXCEPTION]))
    if order := _other_order(e, tried):
        return _Verdict(Kind.MISTAKE, order)
    for kind in (Kind.NONE, Kind.COUNT):
        if kind in first:
            return _plainly(kind, first)
    if not e.numeric and (name := _handed_back(e, tried)):
        return _Verdict(Kind.HANDED_BACK, f"{e.name} returns its input {name} unchanged.")
    for kind in (*_PLAIN, Kind.SANITIZER):
        if kind in first:
            return _plainly(kind, first)
    if not any(t.fault.nearly for t in wrong) and (found := _slips(e, tried, ask)):
        edit = found[0].edit if len(found) == 1 else ""
        return _Verdict(Kind.SLIP, sentence_of_slips(e, found), edit=edit)
    if Kind.NAN in first:
        return _plainly(Kind.NAN, first)
    if e.numeric:
        return _Verdict(Kind.VALUE, _number_sentence(e, wrong[0].fault))
    found = _constant(e, wrong) or _multiple(e, tried)
    return found or _Verdict(Kind.VALUE, _where_it_parts(e, wrong))


def _plainly(kind: Kind, first: dict[Kind, _Wrong]) -> _Verdict:
    return _Verdict(kind, f"{first[kind].fault.words}{_in(first[kind])}.")


def _stub_sentence(e: Exercise) -> str:
    if e.numeric:
        return f"Not started: {e.name} is still ... (write a number in its place)."
    return f"Not started: {e.name} still raises NotImplementedError."


def _number_sentence(e: Exercise, fault: Fault) -> str:
    if fault.nearly:
        return f"{fault.words}."
    return f'{fault.words}. Write the formula down first; hint("{e.id}") opens a hint.'


def _slow_sentence(e: Exercise, where: str) -> str:
    return f"{e.name} was still running when its time was up{where}: does a loop never end?"


def _named_mistake(e: Exercise, tried: list[_Tried], ask: Trusted) -> str | None:
    """The mistake that gives these very answers, wherever it differs from the reference.

    A mistake that agrees in every case comes before one that agrees only where it differs. One that
    gives nothing but NaN there must agree in every case: NaN everywhere looks like any of these.
    """
    partly = None
    for sentence, function in e.mistakes.items():
        made, differs, same = [], [], []
        for t in tried:
            made.append(ask(function, t.case.inputs))
            differs.append(fault_of(e, t.right, made[-1]) is not None)
            same.append(_alike(e, made[-1], t))
            if differs[-1] and not same[-1]:
                break
        else:
            if not _explains(made, tried, differs):
                continue
            if all(same):
                return sentence
            if not all(_is_nan(m) for m, d in zip(made, differs, strict=True) if d):
                partly = partly or sentence
    return partly


def _slips(e: Exercise, tried: list[_Tried], ask: Trusted) -> list[Slip]:
    """The slips whose values are these in every case; none if an answer raises or is one number."""
    if e.defined_by is None or not all(_returned(t) for t in tried) or _constant(e, tried):
        return []
    if all(_is_nan(t.outcome) for t in tried):
        return []
    return [slip for slip, function in ask.slips if _shows(e, function, tried, ask)]


def _shows(e: Exercise, function: Any, tried: list[_Tried], ask: Trusted) -> bool:
    """Whether a slip, which may run for ever, comes out as the answer."""
    made = ((ask(function, t.case.inputs, SLIP_SECONDS), t) for t in tried)
    try:
        return all(_alike(e, m, t) for m, t in made)
    except Exception:
        return False


def _explains(made: list[Outcome], tried: list[_Tried], differs: list[bool]) -> bool:
    """Whether a mistake can explain answers: a mistake that always raises explains the very same
    exceptions, and no others.
    """
    pairs = [(m, t.outcome) for m, t, d in zip(made, tried, differs, strict=True) if d]
    returns = any(m.kind == Came.RETURNED for m, _ in pairs)
    return bool(pairs) and (returns or all(_same_exception(m, got) for m, got in pairs))


def _alike(e: Exercise, made: Outcome, tried: _Tried) -> bool:
    """Whether a mistake comes out as the answer: equal values, NaN where NaN, or both raise.

    Where a mistake gives nothing but 0, only what is small beside the right answer is like it. Of
    kernels, the sanitizer must find the same faults too.
    """
    got = tried.outcome
    if {fault for fault, _ in made.findings} != {fault for fault, _ in got.findings}:
        return False
    if Came.RETURNED not in (made.kind, got.kind):
        return made.kind == got.kind and not got.binding
    if made.kind != got.kind or (type(made.value) is tuple) != (type(got.value) is tuple):
        return False
    ours, theirs = outputs_of(made.value), outputs_of(got.value)
    if len(ours) != len(theirs):
        return False
    scales = [scale_of(r) if isinstance(r, Tensor) else 1.0 for r in tried.right]
    scales += [1.0] * (len(ours) - len(scales))
    pairs = zip(map(_as_output, ours), map(_as_output, theirs), scales, strict=False)
    return all(close(a, b, e.tolerance, scale) for a, b, scale in pairs)


def _as_output(x: Any) -> Any:
    """A number as the tensor of one number: an answer may return either."""
    return torch.tensor(x, dtype=torch.float64) if type(x) in (int, float) else x


def _same_exception(made: Outcome, got: Outcome) -> bool:
    said = (made.kind, made.type, made.message) == (got.kind, got.type, got.message)
    return said and not got.binding


def _exception_sentence(e: Exercise, t: _Tried) -> str:
    o = t.outcome
    if o.binding and o.type == "TypeError":
        asked = f"{e.name}({', '.join(f'{name}=…' for name in t.case.inputs)})"
        advice = f"keep the names of its parameters ({o.message})"
        return f"{e.name} is called as {asked}, and that fails: {advice}."
    return f"{e.name} raises {_raised(o)}{_in(t)}."


def _raised(o: Outcome) -> str:
    if o.type in ("LabError", "OutOfBounds"):  # a sentence that names the program and its line
        return f"an error: {o.message}"
    said = f"{o.type}: {o.message}" if o.message else o.type
    return f"{said} ({o.line})" if o.line else said


def _other_order(e: Exercise, tried: list[_Tried]) -> str | None:
    """A sentence if every output is right, but they are returned in another order."""
    n = len(e.outputs)
    for order in list(permutations(range(n)))[1:]:
        if all(_right_in(order, e, t) for t in tried):
            got = ", ".join(e.outputs[i] for i in order)
            right = ", ".join(e.outputs)
            return f"The outputs are right, but in another order: return ({right}), not ({got})."
    return None


def _right_in(order: tuple[int, ...], e: Exercise, t: _Tried) -> bool:
    got = outputs_of(t.outcome.value) if _returned(t) else ()
    return len(got) == len(order) and all(
        close(t.right[i], g, e.tolerance) for i, g in zip(order, got, strict=True)
    )


def _handed_back(e: Exercise, tried: list[_Tried]) -> str | None:
    """The name of the input that every call returned as its (first) output, if that is wrong."""
    got = [(*outputs_of(t.outcome.value), None)[0] for t in tried if _returned(t)]
    if len(got) < len(tried) or any(not isinstance(g, Tensor) for g in got):
        return None
    for name in tried[0].case.inputs:
        inputs = [t.case.inputs.get(name) for t in tried]
        if all(
            isinstance(x, Tensor) and close(x, g, 0.0) for x, g in zip(inputs, got, strict=True)
        ):
            right = [close(t.right[0], g, e.tolerance) for t, g in zip(tried, got, strict=True)]
            return None if all(right) else name
    return None


def _returned(t: _Tried) -> bool:
    return t.outcome.kind == Came.RETURNED


def _constant(e: Exercise, wrong: Sequence[_Tried]) -> _Verdict | None:
    """An output that is one number everywhere, if the right one is not."""
    for i, name in enumerate(e.outputs):
        got = [outputs_of(t.outcome.value)[i] for t in wrong]
        if not all(_is_one_number(g) for g in got) or all(
            _is_one_number(t.right[i]) for t in wrong
        ):
            continue
        values = {g.flatten()[0].item() for g in got}
        number = values.pop() if len(values) == 1 else "one number"
        return _Verdict(Kind.CONSTANT, f"{name} is {number} everywhere{_in(wrong[0])}.")
    return None


def _is_one_number(x: Any) -> bool:
    return isinstance(x, Tensor) and x.numel() > 0 and bool((x == x.flatten()[0]).all())


def _is_nan(outcome: Outcome) -> bool:
    """Whether every output is NaN everywhere: such numbers tell no slip from another."""
    parts = outputs_of(outcome.value)
    return all(isinstance(x, Tensor) and bool(x.isnan().all()) for x in parts)


def _multiple(e: Exercise, tried: list[_Tried]) -> _Verdict | None:
    """Every output right up to one and the same factor (-1 too): a scale or a sign."""
    factors = []
    for t in tried:
        for right, got in zip(t.right, outputs_of(t.outcome.value), strict=True):
            factor = _factor(right, got, e.tolerance)
            if factor is None:
                return None
            factors.append(factor)
    if max(factors) - min(factors) > 1e-3 * abs(factors[0]):
        return None
    if abs(factors[0] + 1) < 1e-3:
        sentence = "Everything is -1 times what it should be: is a sign off?"
    else:
        sentence = f"Everything is {factors[0]:.4g} times what it should be: is a scale off?"
    return _Verdict(Kind.FACTOR, sentence)


def _factor(right: Any, got: Any, tolerance: float) -> float | None:
    """The c with got = c right, if there is one that is not 0."""
    if not (isinstance(right, Tensor) and isinstance(got, Tensor) and right.is_floating_point()):
        return None
    if not right.any():
        return None
    r, g = right.double().flatten(), got.double().flatten()
    if not (r.isfinite().all() and g.isfinite().all()):
        return None
    c = (g @ r / (r @ r)).item()
    return None if abs(c) < 1e-3 or wrong_at(c * r, g, tolerance).any() else c


def _where_it_parts(e: Exercise, wrong: list[_Wrong]) -> str:
    """The first wrong time step, in the case that stays right longest."""
    steps = [(t, *_first_wrong_step(e, t)) for t in wrong]
    timed = [(t, name, when) for t, name, when in steps if when is not None]
    if not timed:
        drawn = _parting(e, wrong) if e.kernel else None
        t = next((t for t in wrong if drawn and t.case.name == drawn.case), wrong[0])
        return f"{t.fault.words}{_in(t)}{_who_wrote_it(e, t)}."
    t, name, when = max(reversed(timed), key=lambda step: step[2])
    ask = f": {e.parts_hint(when, t.case.inputs)}" if e.parts_hint else "."
    if when == 0:
        return f"{name} is wrong from the first step, t = 0{_in(t)}{ask}"
    return f"{name} is equal up to t = {when - 1}, wrong from t = {when}{_in(t)}{ask}"


def _who_wrote_it(e: Exercise, t: _Tried) -> str:
    """The first wrong element of a kernel's output, and the program that wrote it."""
    for p in _partings(e, t):
        where = tuple(int(i) for i in wrong_at(p.reference, p.yours, e.tolerance).nonzero()[0])
        place = f"{p.name}[{', '.join(map(str, where))}]"
        if p.tile is None:
            return ""
        if not p.program:
            return f"; {place} is the first, and no program wrote it"
        off = wrong_at(p.reference, p.yours, e.tolerance) & p.tile
        share = f"{int(off.sum())} of the {int(p.tile.sum())} elements that it wrote are wrong"
        share = "all that it wrote is wrong" if torch.equal(off, p.tile) else share
        return f"; {place} is the first, and {p.program} wrote it: {share}"
    return ""


def _first_wrong_step(e: Exercise, t: _Tried) -> tuple[str, int | None]:
    for name, right, got in zip(e.outputs, t.right, outputs_of(t.outcome.value), strict=True):
        axis = e.time_axis_of(name)
        if axis is None or not isinstance(right, Tensor):
            continue
        off = wrong_at(right, got, e.tolerance)
        if off.any():
            return name, first_along(off, axis)
    return e.outputs[0], None


def _broken_property(e: Exercise, cases: list[Case], outcomes: list[Outcome]) -> _Verdict | None:
    rest = list(outcomes[len(cases) :])
    for p in e.properties:
        for case, own in zip(cases, outcomes, strict=False):
            n = len(p.variants(clone(case.inputs)))
            family, rest = [own, *rest[:n]], rest[n:]
            bad = next((o for o in family if o.kind != Came.RETURNED), None)
            if bad is not None and bad.kind == Came.SLOW:
                return _Verdict(Kind.SLOW, _slow_sentence(e, f", in the case {case.name!r}"))
            if bad is not None:
                asked = f", asked with other inputs for {p.name!r} (case {case.name!r})."
                return _Verdict(Kind.EXCEPTION, f"{e.name} raises {_raised(bad)}{asked}", p)
            if not _holds(p, case, family):
                return _Verdict(Kind.PROPERTY, p.message, p)
    return None


def _holds(p: Property, case: Case, family: list[Outcome]) -> bool:
    try:
        return p.holds(clone(case.inputs), [clone(o.value) for o in family])
    except Exception:  # an answer of another shape breaks the property's own code
        return False


def _another_way(
    e: Exercise, tried: list[_Tried], outcomes: list[Outcome], ask: Trusted
) -> _Verdict | None:
    """Right values by a way that is ruled out: a loop over tokens, say, in place, or detached."""
    if e.kernel and any(not o.launches for o in outcomes):
        says = f"{e.name} gives the right numbers, but launches no kernel: start yours, k[grid](…)."
        return _Verdict(Kind.EFFORT, says)
    used = {name for t in tried for name in t.outcome.effort.used}
    for name, sentence in e.ruled_out.items():
        if name in used:
            return _Verdict(Kind.EFFORT, sentence)
    if any(_changed_in_place(t, ask(e.reference, t.case.inputs)) for t in tried):
        return _Verdict(Kind.EFFORT, _IN_PLACE)
    if e.effort:
        for t in tried:
            sentence = e.effort(clone(t.case.inputs), t.outcome.effort)
            if sentence:
                return _Verdict(Kind.EFFORT, sentence)
    if sentence := _lost_gradient(e, tried, ask):
        return _Verdict(Kind.EFFORT, sentence)
    notes = _notes(e, outcomes)
    return _Verdict(Kind.IN_PLACE, notes[0]) if notes else None


_IN_PLACE = (
    "The values are right, but they have no gradient: something that it needs was changed in "
    "place. Make a new tensor, as x = torch.cat(…) or x = x + …, where x[…] = … or x += … stands."
)


def _changed_in_place(t: _Tried, right: Outcome) -> bool:
    """Whether autograd failed on the answer, but not on the reference."""
    return bool(right.effort.gradients) and not t.outcome.effort.gradients


_GRADIENT = (
    "The values are right, but the gradient with respect to {name} is not, and a model trains by "
    "its gradient. Look for what autograd does not see through: detach, no_grad, item(), a number "
    "rounded or clamped, or a branch of where that is a constant."
)

_NOT_FINITE = (
    "The values are right, but the gradient with respect to {name} is NaN or infinite in case "
    "{case!r}, and training would stop there. Look for what has no slope where it is computed: a "
    "division by 0, sqrt or a norm at 0, log of 0, also in a branch of where that is not taken."
)


def _lost_gradient(e: Exercise, tried: list[_Tried], ask: Trusted) -> str | None:
    """What is wrong with the first gradient that the reference has and the answer does not.

    A hundredth of the gradient's scale is allowed, and the exercise's tolerance: this looks for
    what is cut off, not for digits.
    """
    for t in tried:
        got = dict(t.outcome.effort.gradients)
        for name, right in ask(e.reference, t.case.inputs).effort.gradients:
            if right is None or not right.isfinite().all() or scale_of(right, 0.0) <= e.tolerance:
                continue
            found = got.get(name)
            if isinstance(found, Tensor) and not found.isfinite().all():
                return _NOT_FINITE.format(name=name, case=t.case.name)
            allowed = max(0.01, e.tolerance / scale_of(right))
            if not isinstance(found, Tensor) or not close(right, found, allowed):
                return _GRADIENT.format(name=name)
    return None


def _rows(e: Exercise, tried: list[_Tried], verdict: _Verdict) -> tuple[Row, ...]:
    rows = [Row(t.case.name, t.fault is None, t.fault.words if t.fault else "") for t in tried]
    if len(rows) > 1 and rows[0].detail and len({r.detail for r in rows}) == 1:
        rows = [Row(f"all {len(rows)} cases", False, rows[0].detail)]
    if e.properties and all(r.passed for r in rows):
        rows += [Row(p.name, p is not verdict.broken, "") for p in e.properties]
    if verdict.kind in (Kind.EFFORT, Kind.IN_PLACE):
        rows.append(Row("the way that is asked for", False, ""))
    return tuple(rows)


def _notes(e: Exercise, outcomes: list[Outcome]) -> tuple[str, ...]:
    changed = sorted({name for o in outcomes for name in o.changed})
    if not changed:
        return ()
    what = f"{e.name} changes its input {' and '.join(changed)} in place"
    return (f"{what}: whoever calls it loses the old value. Write x = x + …, not x += ….",)


def _parting(e: Exercise, wrong: list[_Wrong]) -> Parting | None:
    """What to draw: the case that stays right longest, the largest of equals; None if a shape is
    wrong.
    """
    shaped = [t for t in wrong if t.fault.kind in (Kind.VALUE, Kind.NAN, Kind.SANITIZER)]
    found = [p for t in shaped for p in _partings(e, t)]
    return max(found, key=lambda p: (-1 if p.t is None else p.t, p.reference.numel()), default=None)


def _partings(e: Exercise, t: _Tried) -> Iterator[Parting]:
    """The first output of a case that is off."""
    outputs = zip(e.outputs, t.right, outputs_of(t.outcome.value), strict=True)
    for i, (name, right, got) in enumerate(outputs):
        if not isinstance(right, Tensor) or not right.ndim:
            continue
        off = wrong_at(right, got, e.tolerance)
        if off.any():
            axis = e.time_axis_of(name)
            when = None if axis is None else first_along(off, axis)
            tile, program = _tile(t.outcome.made[i : i + 1], got, off)
            yield Parting(name, t.case.name, axis, when, got, right, tile, program)
            return


def _tile(made: Sequence[Made | None], got: Tensor, off: Tensor) -> tuple[Tensor | None, str]:
    """What the program wrote that wrote the first element that is off, and its name."""
    if not made or made[0] is None or made[0].by.shape != got.shape:
        return None, ""
    where = tuple(int(i) for i in off.nonzero()[0])
    return made[0].by == made[0].by[where], made[0].at(where)


def _in(t: _Tried) -> str:
    return f", in the case {t.case.name!r}" if t.case.inputs else ""
