"""What a learner calls in a notebook: check, hint, show_solution, progress. None of them raises."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from html import escape
from threading import Event, Thread
from typing import Any

import torch

from seqlab.course import exercises, paths, records
from seqlab.course.answer import Came, Outcome, answers, calling, number, plan, unavailable
from seqlab.course.exercise import Case, Exercise
from seqlab.course.judge import failure, judge
from seqlab.course.report import Kind, Parting, Report


class CheckFailed(AssertionError):
    """Raised by `check` under SEQLAB_STRICT=1 if an answer is not fully right."""


def check(id: str, answer: Any) -> None:
    """Check an answer, show the report and where it leaves the reference, record the attempt."""
    if os.environ.get("SEQLAB_GRADING"):  # the grader calls the answers itself
        return
    exercise = _find(id)
    if exercise is None:
        _fail_if_strict(f"there is no exercise {id!r}")
        return
    with _saying_so(exercise):
        report = report_on(exercise, answer, apart=exercise.kernel)
    _show(report)
    if report.parting is not None:
        _show_parting(report.parting)
    unsaid = report.kind in (Kind.NOT_STARTED, Kind.UNAVAILABLE)
    if not unsaid and not _strict():
        _recorded(records.attempt, exercise.id, report.earned, report.edit)
    if not report.passed:
        _fail_if_strict(f"{exercise.id}: {report.message}")


def report_on(
    exercise: Exercise,
    answer: Any,
    seed: int = 0,
    seconds: float | None = None,
    apart: bool = False,
) -> Report:
    """The report on an answer of this process: a function, or the number of a numeric question.

    apart: the function is taken along to another process and called there.
    """
    if why := unavailable(exercise):
        return failure(exercise, Kind.UNAVAILABLE, why)
    cases, inputs = plan(exercise, seed)
    if exercise.numeric:
        return judge(exercise, cases, [_number(answer)])
    if answer is ...:
        return judge(exercise, cases, [Outcome(Came.STUB)] * len(inputs))
    if not callable(answer):
        passed = f"a {type(answer).__name__} was passed to check"
        return failure(exercise, Kind.TYPE, f"{exercise.name} should be a function; {passed}.")
    seconds = seconds or exercise.seconds
    if apart:
        return _report_apart(exercise, answer, cases, inputs, seconds)
    return judge(exercise, cases, answers(answer, inputs, seconds, calling(exercise.kernel)))


def _report_apart(
    e: Exercise, answer: Any, cases: list[Case], inputs: list[dict], seconds: float
) -> Report:
    from seqlab.course.taken import CannotTake
    from seqlab.course.worker import worker

    try:
        fault, outcomes = worker().outcomes(answer, inputs, seconds)
    except CannotTake as error:
        return failure(e, Kind.CRASHED, str(error))
    if fault:
        return failure(e, Kind.CRASHED, f"Calling {e.name} {fault}.")
    return judge(e, cases, outcomes)


def hint(id: str) -> None:
    """Open one more hint each call; the second after a named mistake also shows its mend."""
    exercise = _find(id)
    if exercise is None:
        return
    done = _recorded(records.of, exercise.id, default={"hints": 0, "asked": 0, "mistake": None})
    n_hints = len(exercise.hints)
    opened = min(done["hints"] + 1, n_hints)
    _recorded(records.open_hint, exercise.id, opened)
    lines = [
        f"Hint {i} of {n_hints}: {text}" for i, text in enumerate(exercise.hints[:opened], start=1)
    ]
    if opened == n_hints:
        then = f'After an attempt, show_solution("{exercise.id}") explains the answer.'
        lines.append(f"That was the last one. {then}")
    if done["asked"] and (mend := mend_of(done["mistake"])):
        lines.append(mend)
    _show(Text(lines))


def mend_of(edit: str | None) -> str:
    """What was probably written, and what is asked for; "" if the edit replaces the whole."""
    if "→" not in (edit or ""):
        return ""
    said = []
    for part in str(edit).split(" ; "):
        right, wrong = (" ".join(x.replace("⏎", " ").split()) for x in part.split("→"))
        if right == "*":
            return ""
        said.append(f"`{wrong}` where `{right}` is needed" if wrong else f"nothing for `{right}`")
    return f"You probably wrote {', and '.join(said)}." if said else ""


def show_solution(id: str) -> None:
    """Show the code and the explanation of the solution, after at least one attempt."""
    exercise = _find(id)
    if exercise is None:
        return
    if not _recorded(records.of, exercise.id, default={"attempts": 0})["attempts"]:
        first = f'run check("{exercise.id}", {exercise.name}) once with an answer of your own'
        _show(Text([f"Try it first: {first}."]))
        return
    from seqlab.course.masters import solution

    try:
        _show(solution(exercise.id))
    except (OSError, ValueError) as error:
        _show(Text([f"The solution cannot be shown: {error}"]))


def progress() -> None:
    """Show every exercise: points earned, attempts, hints opened."""
    _show(Table(progress_rows()))


def when_written(draw: Callable[[], Any]) -> None:
    """Show what `draw` returns (a figure or a sentence; None shows nothing).

    If it raises, say that it waits for an answer.
    """
    try:
        shown = draw()
    except Exception as error:
        shown = f"This waits for an answer of yours that runs. ({error})"
    if shown is not None:
        _show(Text([shown]) if isinstance(shown, str) else shown)


def progress_rows() -> list[tuple]:
    """(id, title, earned, points, attempts, hints) of every exercise there is."""
    done = _recorded(records.load, default={})
    blank = {"earned": 0, "attempts": 0, "hints": 0}
    rows = []
    for chapter in exercises.chapters():
        for e in exercises.of_chapter(chapter):
            r = done.get(e.id, blank)
            earned = min(r["earned"], e.points)
            rows.append((e.id, e.title, earned, e.points, r["attempts"], r["hints"]))
    return rows


@contextmanager
def _saying_so(exercise: Exercise) -> Iterator[None]:
    """Say, once a check has taken a second, that it still works; and each second how long."""
    if _strict():  # a build keeps its output
        yield
        return
    done, told = Event(), False

    def tell() -> None:
        nonlocal told
        began = time.monotonic()
        while not done.wait(1.0):
            told = True
            print(
                f"\rChecking {exercise.name} … {time.monotonic() - began:.0f} s", end="", flush=True
            )

    watch = Thread(target=tell, daemon=True)
    watch.start()
    try:
        yield
    finally:
        done.set()
        watch.join()
        if told:
            print("\r" + " " * 60 + "\r", end="", flush=True)


class Text:
    """Lines, shown as paragraphs."""

    def __init__(self, lines: list[str]):
        self.lines = lines

    def __str__(self) -> str:
        return "\n".join(self.lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        style = "margin:2px 0;max-width:760px"
        return "".join(f"<p style='{style}'>{escape(line)}</p>" for line in self.lines)


class Table:
    """The progress table."""

    HEAD = ("exercise", "", "points", "attempts", "hints", "")

    def __init__(self, rows: list[tuple]):
        self.rows = []
        for id, title, earned, points, attempts, hints in rows:
            state = records.state(earned, points, attempts)
            self.rows.append((id, title, f"{earned} of {points}", attempts, hints, state))
        self.total = f"{sum(r[2] for r in rows)} of {sum(r[3] for r in rows)} points"

    def __str__(self) -> str:
        lines = [f"{r[0]:6} {r[1][:44]:44} {r[2]:>8}  {r[5]}" for r in self.rows]
        return "\n".join([*lines, self.total])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = _line("th", self.HEAD)
        rows = "".join(_line("td", row) for row in self.rows)
        table = f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"
        return f"{table}<p><b>{self.total}</b></p>"


def _line(tag: str, texts: Iterable) -> str:
    """One row of a table."""
    cells = (f"<{tag} style='text-align:left'>{escape(str(text))}</{tag}>" for text in texts)
    return f"<tr>{''.join(cells)}</tr>"


def _number(answer: Any) -> Outcome:
    try:
        return number(answer)
    except Exception:  # an object whose own methods raise
        return Outcome(Came.RETURNED, str(type(answer).__name__))


def _find(id: Any) -> Exercise | None:
    try:
        return exercises.find(id)
    except ValueError as error:
        sentence = str(error)
        _show(Text([sentence[0].upper() + sentence[1:]]))
        return None


def _recorded(function: Callable[..., Any], *args: Any, default: Any = None) -> Any:
    """Call into the records; with a full disk or a read-only folder the check still answers."""
    try:
        result = function(*args)
        return default if result is None else result
    except OSError as error:
        _show(Text([f"Progress could not be saved in {paths.root() / 'work'}: {error.strerror}."]))
        return default


def _strict() -> bool:
    return os.environ.get("SEQLAB_STRICT") == "1"


def _fail_if_strict(sentence: str) -> None:
    if _strict():
        raise CheckFailed(sentence)


def _show_parting(parting: Parting) -> None:
    from seqlab.course.parting import figure

    with torch.no_grad():
        _show(figure(parting))


def _show(thing: Any) -> None:
    """Display in a notebook, print elsewhere."""
    if _in_notebook():
        from IPython.display import display

        display(thing)
    elif not hasattr(thing, "to_plotly_json"):
        print(thing)


def _in_notebook() -> bool:
    import sys

    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")
