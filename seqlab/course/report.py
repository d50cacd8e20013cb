"""What the judge says of one exercise, as data, text and HTML."""

from dataclasses import dataclass
from html import escape

from torch import Tensor


@dataclass(frozen=True)
class Row:
    """One case or property."""

    name: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True)
class Parting:
    """Where an answer leaves the reference: output `name` in `case`, first at step `t` along
    `axis`.
    """

    name: str
    case: str
    axis: int | None
    t: int | None
    yours: Tensor
    reference: Tensor


@dataclass(frozen=True, repr=False)
class Report:
    """The verdict. `kind` is "passed" or what sort of wrong it is; `message` is the sentence for
    the learner.
    """

    id: str
    title: str
    points: int
    earned: int
    kind: str
    message: str
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    parting: Parting | None = None

    @property
    def passed(self) -> bool:
        return self.kind == "passed"

    def __str__(self) -> str:
        lines = [
            f"{_mark(self.passed)}  {self.id}  {self.title}: {self.earned} of {_points(self.points)}"
        ]
        lines += [f"   {self.message}", *(f"   Note: {note}" for note in self.notes)]
        lines += [
            f"   {_mark(r.passed)}  {r.name}" + (f": {r.detail}" if r.detail else "")
            for r in self.rows
        ]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        notes = "".join(
            f"<div style='margin-top:4px'>Note: {escape(note)}</div>" for note in self.notes
        )
        rows = "".join(
            f"<tr><td style='{_CELL}'>{_badge(r.passed)}</td><td style='{_CELL}'>{escape(r.name)}</td>"
            f"<td style='{_CELL}'>{escape(r.detail)}</td></tr>"
            for r in self.rows
        )
        return (
            f"<div style='border-left:5px solid {_colour(self.passed)};padding:6px 12px;max-width:760px'>"
            f"<div>{_badge(self.passed)} &nbsp;<b>{escape(self.id)}&ensp;{escape(self.title)}</b>"
            f"&ensp;{self.earned} of {_points(self.points)}</div>"
            f"<div style='margin-top:4px'>{escape(self.message)}</div>{notes}"
            f"<table style='margin:6px 0 0 0;border-collapse:collapse'>{rows}</table></div>"
        )


# Both greens and reds keep a contrast of at least 4.5 on white and on JupyterLab's dark grey; words
# say it as well.
_PASSED, _FAILED = "var(--jp-success-color1, #2e7d32)", "var(--jp-error-color1, #c62828)"
_CELL = "text-align:left;padding:2px 10px 2px 0;background:none"


def _colour(passed: bool) -> str:
    return _PASSED if passed else _FAILED


def _mark(passed: bool) -> str:
    return "✓ passed" if passed else "✗ failed"


def _badge(passed: bool) -> str:
    return f"<span style='color:{_colour(passed)};font-weight:600;white-space:nowrap'>{_mark(passed)}</span>"


def _points(n: int) -> str:
    return f"{n} point" if n == 1 else f"{n} points"
