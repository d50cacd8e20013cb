"""The exercises of the course: chNN/ holds those of chapter NN, one file each.

`chNN/notebook.py` is the notebook around them, a percent script in which a markdown cell tagged
`exercise` names the file that belongs there. So it gives the order, and with it the numbers. A cell
tagged `question` names the file of an open question in the same way.
"""

import re
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path

from seqlab.course.exercise import Exercise
from seqlab.course.exercise_file import exercise
from seqlab.course.question import Question, question

PLACE = re.compile(r"^# %% \[markdown\] tags=\[\"exercise\"\]\n# (\w+)$", re.MULTILINE)
ASKED = re.compile(r"^# %% \[markdown\] tags=\[\"question\"\]\n# (\w+)$", re.MULTILINE)


def folders() -> dict[str, Path]:
    """Chapter -> the folder of its exercises."""
    found = [
        p for here in __path__ for p in Path(here).glob("ch[0-9][0-9]/notebook.py")
    ]
    return {p.parent.name[2:]: p.parent for p in sorted(found)}


def chapters() -> list[str]:
    """Chapters with exercises: ["03", "04"]."""
    return list(folders())


def notebook(chapter: str) -> Path:
    """The notebook around the exercises of a chapter. ValueError if it has none."""
    if chapter not in folders():
        there = ", ".join(chapters()) or "(none yet)"
        raise ValueError(f"chapter {chapter} has no exercises: choose one of {there}")
    return folders()[chapter] / "notebook.py"


def of_chapter(chapter: str) -> list[Exercise]:
    """The exercises of one chapter. Raises ValueError, in one sentence, if it has none."""
    return _read(notebook(chapter))


@cache
def _read(path: Path) -> list[Exercise]:
    chapter, files = (
        path.parent.name[2:],
        PLACE.findall(path.read_text(encoding="utf-8")),
    )
    found = []
    for number, file in enumerate(files, start=1):
        module = import_module(f"{__name__}.ch{chapter}.{file}")
        found.append(exercise(module, f"{chapter}.{number}"))
    return found


@cache
def questions(chapter: str) -> dict[str, Question]:
    """The open questions of a chapter, by the name of their file; their ids are 03.A, 03.B, …"""
    files = ASKED.findall(notebook(chapter).read_text(encoding="utf-8"))
    return {
        file: question(
            import_module(f"{__name__}.ch{chapter}.{file}"), f"{chapter}.{letter}"
        )
        for file, letter in zip(files, "ABCDEFGH", strict=False)
    }


def question_of(id: str) -> Question:
    """The open question called `id`. Raises ValueError, in one sentence."""
    for q in questions(str(id)[:2]).values():
        if q.id == id:
            return q
    raise ValueError(f"there is no open question {str(id)[:40]!r}")


def find(id: str) -> Exercise:
    """The exercise called `id`. Raises ValueError, in one sentence, naming the ids that come near."""
    id = (
        str(id).zfill(len(str(id)) + 1) if str(id)[1:2] == "." else str(id)
    )  # 3.2 is 03.2
    chapter = id.partition(".")[0]
    known = {
        e.id: e
        for c in ([chapter] if chapter in chapters() else chapters())
        for e in of_chapter(c)
    }
    if id in known:
        return known[id]
    near = get_close_matches(id, known, n=3, cutoff=0.4) or list(known)[:8]
    raise ValueError(
        f"there is no exercise {id[:40]!r}: did you mean {', '.join(near)}?"
    )
