"""Judge a project: by what comes out of it, not by comparison with one right answer."""

from __future__ import annotations

from seqlab.course.answer import Outcome, clone
from seqlab.course.compare import kind_of, outputs_of
from seqlab.course.exercise import Case, Exercise
from seqlab.course.report import Kind, Report, Row


def judge_project(e: Exercise, cases: list[Case], outcomes: list[Outcome]) -> Report:
    """Every requirement with what was measured; the first that is not met gives the sentence."""
    from seqlab.course.judge import unanswered

    for case, outcome in zip(cases, outcomes, strict=False):
        if verdict := unanswered(e, case, outcome) or _miscounted(e, outcome):
            return _report(e, *verdict)
    inputs = [clone(case.inputs) for case in cases]
    values = [clone(outcome.value) for outcome in outcomes]
    rows, said = [], ""
    for requirement in e.requirements:
        try:
            met, measured = requirement.measure(inputs, values)
        except Exception as error:  # of a shape that cannot be measured, say
            met, measured = False, f"cannot be measured: {' '.join(str(error).split())[:200]}"
        rows.append(Row(requirement.name, met, measured))
        if not met and not said:
            said = requirement.says
    if said:
        return _report(e, Kind.MISTAKE, said, rows)
    return _report(e, Kind.PASSED, f"{e.name} meets all {len(rows)} requirements.", rows)


def _miscounted(e: Exercise, outcome: Outcome) -> tuple[Kind, str] | None:
    names, got = e.outputs, outcome.value
    needed = f"({', '.join(names)})" if len(names) > 1 else "".join(names)
    if got is None:
        return Kind.NONE, f"{e.name} returned None: {needed} is needed (is a return missing?)."
    if (type(got) is tuple) != (len(names) > 1) or len(outputs_of(got)) != len(names):
        return Kind.COUNT, f"{e.name} returned {kind_of(got)}: {needed} is needed."
    return None


def _report(e: Exercise, kind: Kind, said: str, rows: list[Row] | None = None) -> Report:
    earned = e.points if kind == Kind.PASSED else 0
    return Report(e.id, e.title, e.points, earned, kind, said, tuple(rows or ()))
