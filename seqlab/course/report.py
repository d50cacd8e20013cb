"""What the judge says about one exercise, as data, text and HTML."""

from dataclasses import dataclass
from enum import StrEnum
from html import escape

from torch import Tensor


class Kind(StrEnum):
    """What a report says: that an answer passed, or what sort of wrong it is."""

    PASSED = "passed"
    NOT_STARTED = "not started"
    MISSING = "missing"
    # One of the exercise's named mistakes.
    MISTAKE = "mistake"
    # The numbers of the solution with one operator, term or number changed.
    SLIP = "slip"
    SLOW = "slow"
    EXCEPTION = "exception"
    # The learner's process died.
    CRASHED = "crashed"
    NONE = "none"
    COUNT = "count"
    HANDED_BACK = "handed back"
    TYPE = "type"
    SHAPE = "shape"
    DTYPE = "dtype"
    NAN = "nan"
    VALUE = "value"
    CONSTANT = "constant"
    FACTOR = "factor"
    PROPERTY = "property"
    # Right, but not in the way that the exercise asks for.
    EFFORT = "effort"
    IN_PLACE = "in place"
    # What a GPU would punish: an access out of bounds, a race, …
    SANITIZER = "sanitizer"
    # A kernel, where there is no Triton.
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True)
class Row:
    """One case or property."""

    name: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True)
class Parting:
    """Where an answer leaves the reference: output `name`, first at step `t` along `axis`."""

    name: str
    case: str
    axis: int | None
    t: int | None
    yours: Tensor
    reference: Tensor
    # Where the program of a kernel wrote that made the first wrong element, and its name.
    tile: Tensor | None = None
    program: str = ""


@dataclass(frozen=True, repr=False)
class Report:
    """The verdict; `message` is the sentence for the learner."""

    id: str
    title: str
    points: int
    earned: int
    kind: Kind
    message: str
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    parting: Parting | None = None
    # What was probably written, "right → wrong", where the numbers tell.
    edit: str = ""

    @property
    def passed(self) -> bool:
        return self.kind == Kind.PASSED

    def __str__(self) -> str:
        earned = f"{self.earned} of {_points(self.points)}"
        lines = [f"{_mark(self.passed)}  {self.id}  {self.title}: {earned}", f"   {self.message}"]
        lines += [f"   Note: {note}" for note in self.notes]
        for r in self.rows:
            detail = f": {r.detail}" if r.detail else ""
            lines.append(f"   {_mark(r.passed)}  {r.name}{detail}")
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        frame = f"border-left:5px solid {_colour(self.passed)};padding:6px 12px;max-width:760px"
        title = f"<b>{escape(self.id)}&ensp;{escape(self.title)}</b>"
        earned = f"{self.earned} of {_points(self.points)}"
        notes = "".join(_paragraph(f"Note: {note}") for note in self.notes)
        rows = "".join(_table_row(r) for r in self.rows)
        return (
            f"<div style='{frame}'>"
            f"<div>{_badge(self.passed)} &nbsp;{title}&ensp;{earned}</div>"
            f"{_paragraph(self.message)}{notes}"
            f"<table style='margin:6px 0 0 0;border-collapse:collapse'>{rows}</table></div>"
        )


def _paragraph(text: str) -> str:
    return f"<div style='margin-top:4px'>{escape(text)}</div>"


def _table_row(r: Row) -> str:
    cell = "text-align:left;padding:2px 10px 2px 0;background:none"
    cells = (_badge(r.passed), escape(r.name), escape(r.detail))
    return "<tr>" + "".join(f"<td style='{cell}'>{text}</td>" for text in cells) + "</tr>"


# JupyterLab's own green and red, with fallbacks. Each has a contrast of at least 4.5, on white and
# on JupyterLab's dark grey; words say it as well.
_PASSED = "var(--jp-success-color1, #2e7d32)"
_FAILED = "var(--jp-error-color1, #c62828)"


def _colour(passed: bool) -> str:
    return _PASSED if passed else _FAILED


def _mark(passed: bool) -> str:
    return "✓ passed" if passed else "✗ failed"


def _badge(passed: bool) -> str:
    style = f"color:{_colour(passed)};font-weight:600;white-space:nowrap"
    return f"<span style='{style}'>{_mark(passed)}</span>"


def _points(n: int) -> str:
    return f"{n} point" if n == 1 else f"{n} points"
