"""The machinery of the course: checks in notebooks, and the command line around them."""

from collections.abc import Callable, Sequence
from typing import Any

__all__ = [
    "check",
    "hint",
    "holds",
    "open_question",
    "predict",
    "progress",
    "show_solution",
    "when_written",
]

# The modules are imported by the first call, so that `import seqlab.course` costs nothing.


def check(id: str, answer: Any) -> None:
    """Check an answer to exercise `id`: show what passed, what did not and why; record it."""
    from seqlab.course.checking import check

    check(id, answer)


def hint(id: str) -> None:
    """Open one more of three hints: a direction, the key identity, nearly the code."""
    from seqlab.course.checking import hint

    hint(id)


def show_solution(id: str) -> None:
    """Show the explained solution of exercise `id`, once there has been an attempt."""
    from seqlab.course.checking import show_solution

    show_solution(id)


def holds(claim: Callable[[], object]) -> None:
    """Run a claim as soon as it is defined, and say that it holds: its name is the claim."""
    from seqlab.course.theorem import holds

    holds(claim)


def open_question(id: str) -> Any:
    """A field to write an answer in; then the points of a good one, to mark oneself by."""
    from seqlab.course.question import open_question

    return open_question(id)


def predict(
    id: str, question: str, show: Callable[[], Any], choices: Sequence[str] | None = None
) -> Any:
    """Ask `question` (one of `choices`, or a number); then show what `show()` makes."""
    from seqlab.course.prediction import predict

    return predict(id, question, show, choices)


def progress() -> None:
    """Show what is done and what is left."""
    from seqlab.course.checking import progress

    progress()


def when_written(draw: Callable[[], Any]) -> None:
    """Show what `draw` makes of your answers, or say what it still waits for.

    So a notebook with unsolved exercises runs to its end.
    """
    from seqlab.course.checking import when_written

    when_written(draw)
