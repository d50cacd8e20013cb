"""An open question: the learner writes, then sees the points of a good answer, and ticks them.

Its file, exercises/chNN/name.py, has a docstring (the heading; a line `*Open question · 5
minutes*`; the text) and POINTS, three to five sentences. It earns nothing. What was written and
ticked is kept in `work/progress.json`.
"""

import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from types import ModuleType
from typing import Any

from seqlab.course import records

FACTS = re.compile(r"\*Open question · (\d+) minutes?\*")
# Fewer letters than this are not an answer.
SHORTEST = 20


@dataclass(frozen=True)
class Question:
    """One open question with the points to mark oneself by."""

    id: str
    title: str
    minutes: int
    text: str
    points: tuple[str, ...]

    @property
    def heading(self) -> str:
        minutes = f"{self.minutes} minute{'s' * (self.minutes > 1)}"
        facts = f"*Open question · {minutes} · you mark it yourself, it earns no points*"
        return f"## {self.id}  {self.title}\n\n{facts}\n\n{self.text}"

    @property
    def answer(self) -> str:
        """The points, as markdown."""
        return "\n".join(["**A good answer says:**", "", *(f"- {p}" for p in self.points)])


def question(module: ModuleType, id: str) -> Question:
    """The question in `module`. Raises ValueError, in one sentence, if the file is incomplete."""
    where = f"question {id} ({module.__name__.rpartition('.')[2]}.py)"
    title, _, rest = inspect.cleandoc(module.__doc__ or "").partition("\n")
    line, _, text = rest.strip().partition("\n\n")
    facts = FACTS.fullmatch(line.strip())
    if facts is None:
        raise ValueError(f"{where}: under the heading '*Open question · 5 minutes*' is needed")
    points = tuple(getattr(module, "POINTS", ()))
    if not 3 <= len(points) <= 5:
        raise ValueError(f"{where}: {len(points)} POINTS: three to five are needed")
    return Question(id, title.strip(), int(facts[1]), text.strip(), points)


def open_question(id: str) -> Any:
    """A field to write in, and a button that shows the points of a good answer."""
    if os.environ.get("SEQLAB_GRADING"):
        return None
    import ipywidgets as w

    from seqlab.course.exercises import question_of

    points = question_of(id).points
    before = records.words(id)
    field = w.Textarea(
        value=before["text"],
        placeholder="Write your answer here, in whole sentences.",
        layout=w.Layout(width="min(760px, 98%)", height="110px"),
    )
    button = w.Button(
        description="Keep it, and show what a good answer says",
        button_style="primary",
        layout=w.Layout(width="max-content"),
    )
    below = w.VBox([])

    def show(_: object = None) -> None:
        text = field.value.strip()
        if len(text) < SHORTEST:
            below.children = [w.HTML("<p>Write a sentence or two first.</p>")]
            return
        said = _kept(id, text=text)
        boxes = [_box(id, n, point) for n, point in enumerate(points)]
        below.children = [w.HTML(f"<p>{said} Tick what your answer says.</p>"), *boxes]

    button.on_click(show)
    if before["ticked"]:
        show()
    return w.VBox([field, button, below])


def _box(id: str, n: int, point: str) -> Any:
    """A point with a box before it, which keeps its tick."""
    import ipywidgets as w

    box = w.Checkbox(
        value=n in records.words(id)["ticked"], indent=False, layout=w.Layout(width="24px")
    )

    def ticked(change: Any) -> None:
        others = set(records.words(id)["ticked"]) - {n}
        _kept(id, ticked=sorted(others | ({n} if change["new"] else set())))

    box.observe(ticked, "value")
    said = w.HTML(f"<span style='line-height:1.4'>{escape(point)}</span>")
    return w.HBox([box, said], layout=w.Layout(max_width="760px"))


def _kept(id: str, **changes: Any) -> str:
    """Keep what was written; say so, or that the disk is full."""
    keep: Callable[..., None] = records.keep_words
    try:
        keep(id, **changes)
    except OSError as error:
        return f"Your answer could not be kept: {error.strerror}."
    return "Kept."
