"""What an exercise is: data. A reference, inputs, properties, and the wrong answers with names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Case:
    """One set of inputs, passed by keyword. `name` says what is special about it: "T = 1", say."""

    name: str
    inputs: dict[str, Any]


@dataclass(frozen=True)
class Property:
    """Something true of every right answer, which a comparison of its outputs shows.

    `variants(inputs)` gives further input sets; `holds(inputs, outputs)` judges what the function
    returned for [inputs, *variants]; `message` is the sentence shown if it does not hold.
    """

    name: str
    variants: Callable[[dict], list[dict]]
    holds: Callable[[dict, list], bool]
    message: str


@dataclass(frozen=True)
class Requirement:
    """What a project must reach, however it is written.

    `measure(inputs, values)` gets the input sets and what the function returned for each, and
    returns whether the requirement is met, and what was measured, in a few words. `says` is the
    sentence for whoever does not meet it.
    """

    name: str
    measure: Callable[[list[dict], list[Any]], tuple[bool, str]]
    says: str


@dataclass(frozen=True)
class Effort:
    """What one call cost, on any machine."""

    # Torch operations.
    calls: int = 0
    # Elements of the largest tensor made.
    largest: int = 0
    # False if an input that wants a gradient gets inf or nan, or none because of a change in place.
    gradient_finite: bool = True
    # Of each input that wants a gradient, its name and the gradient of one weighted sum of all
    # outputs; None if no output depends on it.
    gradients: tuple[tuple[str, torch.Tensor | None], ...] = ()
    # The names of torch's functions that it called, and the types of numbers that it made.
    used: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exercise:
    """One exercise. With a number as `reference` it is a numeric question and has no cases.

    With `requirements` it is a project: they are measured, and there is no reference.
    """

    id: str
    _: KW_ONLY
    title: str = ""
    objective: str = ""
    # What the learner defines: a function, or a variable for a numeric question.
    name: str = ""
    points: int = 0
    minutes: int = 0
    # 1, 2 or 3
    difficulty: int = 0
    # A direction, the key identity, nearly the code.
    hints: tuple[str, ...] = ()
    reference: Callable | float | None = None
    cases: Callable[[torch.Generator], list[Case]] | None = None
    # The name of its file.
    file: str = ""
    # The markdown under the heading.
    text: str = ""
    # The code of the solution's cell, with its marks.
    cell: str = ""
    # The explanation of the solution.
    why: str = ""
    # What the code of a changed cell defines: an answer. None: slips are not looked for.
    defined_by: Callable[[str], Any] | None = None
    # Diagnosis -> the edit of the solution that deserves it.
    edits: dict[str, str] = field(default_factory=dict)
    # Diagnosis -> the answer that deserves it.
    mistakes: dict[str, Callable | float] = field(default_factory=dict)
    # Right answers, written differently.
    alternatives: tuple[Callable | float, ...] = ()
    properties: tuple[Property, ...] = ()
    requirements: tuple[Requirement, ...] = ()
    # Seconds of processor time for all calls of one check.
    seconds: float = 10.0
    # The answer launches Triton kernels: it is called in a process of its own, and watched.
    kernel: bool = False
    # Names of the returned tensors, in order.
    outputs: tuple[str, ...] = ("y",)
    # Which axis of an output is time; None: no time.
    time_axis: int | dict[str, int | None] | None = 1
    # (first wrong t, inputs) -> a question
    parts_hint: Callable[[int, dict], str] | None = None
    # (inputs, effort) -> why a correct value is still refused
    effort: Callable[[dict, Effort], str | None] | None = None
    # What a right answer may not use, a name in `Effort.used` -> the sentence for whoever does.
    ruled_out: dict[str, str] = field(default_factory=dict)
    # Largest error allowed, relative to the largest value of the reference.
    tolerance: float = 1e-4

    def __post_init__(self):
        for problem in _problems(self):
            raise ValueError(f"exercise {self.id}: {problem}")

    @property
    def numeric(self) -> bool:
        return isinstance(self.reference, int | float)

    @property
    def stars(self) -> str:
        return "●" * self.difficulty + "○" * (3 - self.difficulty)

    def time_axis_of(self, output: str) -> int | None:
        return self.time_axis.get(output) if isinstance(self.time_axis, dict) else self.time_axis

    def inputs_with(self, generator: torch.Generator) -> list[Case]:
        """The cases, or the one empty case of a numeric question."""
        if self.numeric or self.cases is None:
            return [Case(self.name, {})]
        return self.cases(generator)


def _problems(e: Exercise) -> Iterator[str]:
    """What is missing or wrong in the data, one sentence each."""
    chapter, _, number = e.id.partition(".")
    if not (len(chapter) == 2 and chapter.isdigit() and number.isdigit()):
        yield "the id must look like 03.2"
    for what in ("title", "objective"):
        if not getattr(e, what).strip():
            yield f"{what} is missing"
    if not e.name.isidentifier():
        yield f"name is {e.name!r}: it must name the function or variable that the learner defines"
    for what in ("points", "minutes"):
        if not (isinstance(getattr(e, what), int) and getattr(e, what) >= 1):
            yield f"{what} is {getattr(e, what)!r}: a whole number of at least 1 is needed"
    if e.difficulty not in (1, 2, 3):
        yield f"difficulty is {e.difficulty!r}: 1, 2 or 3 is needed"
    if len(e.hints) != 3 or not all(h.strip() for h in e.hints):
        kinds = "a direction, the key identity, nearly the code"
        yield f"{len(e.hints)} hints: exactly three are needed ({kinds})"
    if len(e.mistakes) < 4:
        yield f"{len(e.mistakes)} named mistakes: at least four are needed"
    if not e.alternatives:
        yield "no alternative: at least one right answer written differently is needed"
    if e.requirements:
        yield from _project_problems(e)
    elif not e.numeric and not callable(e.reference):
        yield "reference is missing: a function, or a number for a numeric question"
    if not e.numeric and e.cases is None:
        yield "cases are missing: a function from a torch.Generator to a list of Case"
    if e.numeric and e.cases is not None:
        yield "a numeric question has no cases"


def _project_problems(e: Exercise) -> Iterator[str]:
    if e.reference is not None or e.properties or e.effort:
        yield "a project has requirements, and neither reference, properties nor effort"
    unsaid = set(e.mistakes) - {r.says for r in e.requirements}
    for sentence in sorted(unsaid):
        yield f"no requirement says {sentence[:60]!r}"
