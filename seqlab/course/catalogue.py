"""Which chapters and exercises there are, read from the notebooks alone: quick, without torch."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from seqlab.course import paths
from seqlab.course.syllabus import SYLLABUS


@dataclass(frozen=True)
class Entry:
    """One exercise."""

    id: str
    title: str
    minutes: int
    difficulty: int
    points: int


@dataclass(frozen=True)
class Chapter:
    """One chapter and its exercises."""

    number: str
    title: str
    entries: tuple[Entry, ...]

    @property
    def points(self) -> int:
        return sum(e.points for e in self.entries)


_TITLES = {c.number: c.title for c in SYLLABUS}


def chapters() -> list[Chapter]:
    """Every chapter that has a notebook, in order."""
    root = paths.root()
    files = {
        p.name[:2]: p
        for folder in ("exercises", "chapters")
        for p in (root / folder).glob("[0-9][0-9]_*.ipynb")
    }
    return [Chapter(n, _TITLES.get(n, files[n].stem), entries(n)) for n in sorted(files)]


def entries(chapter: str) -> tuple[Entry, ...]:
    """The exercises of a chapter, from the headings of its exercise notebook."""
    try:
        path = paths.notebook_of(chapter)
    except FileNotFoundError:
        return ()
    return tuple(e for text in _markdown(path) if (e := _entry(text)))


def _entry(text: str) -> Entry | None:
    head = re.match(r"## +(\d\d\.\d+)\s+(.+)", text)
    if head is None:
        return None
    stars = re.search("[●○]+", text)
    difficulty = stars[0].count("●") if stars else 0
    minutes, points = (_count(word, text) for word in ("min", "point"))
    return Entry(head[1], head[2].strip(), minutes, difficulty, points)


def _count(word: str, text: str) -> int:
    """The number before `word`, as in "4 minutes"; 0 if there is none."""
    found = re.search(rf"(\d+) {word}", text)
    return int(found[1]) if found else 0


def _markdown(path: Path) -> list[str]:
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
