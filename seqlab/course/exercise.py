"""What an exercise is: data. A reference, inputs, properties, and the wrong answers worth
naming.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Case:
    """One set of inputs, passed by keyword. `name` says what is special about it: "T = 1", "odd T",
    "K ≠ V".
    """

    name: str
    inputs: dict[str, Any]


@dataclass(frozen=True)
class Property:
    """Something true of every right answer, told by comparing answers with each other.

    `variants(inputs)` gives further input sets; `holds(inputs, outputs)` judges what the function
    returned for [inputs, *variants]; `message` is the sentence said when it does not hold.
    """

    name: str
    variants: Callable[[dict], list[dict]]
    holds: Callable[[dict, list], bool]
    message: str


@dataclass(frozen=True)
class Effort:
    """What one call cost, whatever its machine: torch operations called, and elements of the
    largest tensor made.

    gradient_finite: False where an input that wants a gradient gets inf or nan, or none because of
    a change in place.
    """

    calls: int = 0
    largest: int = 0
    gradient_finite: bool = True


@dataclass(frozen=True)
class Exercise:
    """One exercise. With a number as `reference` it is a numeric question and has no cases."""

    id: str
    _: KW_ONLY
    title: str = ""
    objective: str = ""
    name: str = ""  # what the learner defines: a function, or a variable for a numeric question
    points: int = 0
    minutes: int = 0
    difficulty: int = 0  # 1, 2 or 3
    hints: tuple[str, ...] = ()  # a direction, the key identity, nearly the code
    reference: Callable | float | None = None
    cases: Callable[[torch.Generator], list[Case]] | None = None
    mistakes: dict[str, Callable | float] = field(
        default_factory=dict
    )  # diagnosis -> the answer that deserves it
    alternatives: tuple[Callable | float, ...] = ()  # right answers written differently
    properties: tuple[Property, ...] = ()
    outputs: tuple[str, ...] = ("y",)  # names of the returned tensors, in order
    time_axis: int | dict[str, int | None] | None = (
        1  # which axis of an output is time; None: no time
    )
    parts_hint: Callable[[int, dict], str] | None = None  # (first wrong t, inputs) -> a question
    effort: Callable[[dict, Effort], str | None] | None = (
        None  # (inputs, effort) -> why this way is not the asked one
    )
    keeps_inputs: bool = (
        False  # an answer that changes its inputs in place fails; otherwise it is only noted
    )
    tolerance: float = 1e-4  # largest error allowed, relative to the largest value of the reference

    def __post_init__(self):
        for problem in _problems(self):
            raise ValueError(f"exercise {self.id}: {problem}")

    @property
    def numeric(self) -> bool:
        return isinstance(self.reference, int | float)

    def time_axis_of(self, output: str) -> int | None:
        return self.time_axis.get(output) if isinstance(self.time_axis, dict) else self.time_axis

    def inputs_with(self, generator: torch.Generator) -> list[Case]:
        """The cases, or the one empty case of a numeric question."""
        return [Case(self.name, {})] if self.numeric else self.cases(generator)


def _problems(e: Exercise):
    """What is missing or wrong in the data, one sentence each."""
    chapter, _, number = e.id.partition(".")
    if not (len(chapter) == 2 and chapter.isdigit() and number.isdigit()):
        yield "the id must look like 03.2"
    for what in ("title", "objective"):
        if not getattr(e, what).strip():
            yield f"{what} is missing"
    if not e.name.isidentifier():
        yield f"name is {e.name!r}: the name of the function or variable that the learner defines is needed"
    for what in ("points", "minutes"):
        if not (isinstance(getattr(e, what), int) and getattr(e, what) >= 1):
            yield f"{what} is {getattr(e, what)!r}: a whole number of at least 1 is needed"
    if e.difficulty not in (1, 2, 3):
        yield f"difficulty is {e.difficulty!r}: 1, 2 or 3 is needed"
    if len(e.hints) != 3 or not all(h.strip() for h in e.hints):
        yield f"{len(e.hints)} hints: exactly three are needed (a direction, the key identity, nearly the code)"
    if len(e.mistakes) < 4:
        yield f"{len(e.mistakes)} named mistakes: at least four are needed"
    if not e.alternatives:
        yield "no alternative: at least one right answer written differently is needed"
    if not e.numeric and not callable(e.reference):
        yield "reference is missing: a function, or a number for a numeric question"
    if not e.numeric and e.cases is None:
        yield "cases are missing: a function from a torch.Generator to a list of Case"
    if e.numeric and e.cases is not None:
        yield "a numeric question has no cases"
