"""The exercises of the course: chNN.py holds EXERCISES of chapter NN, a list in the order of the notebook."""

from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from seqlab.course.exercise import Exercise


def chapters() -> list[str]:
    """Chapters with exercises: ["03", "04"]."""
    return sorted(path.stem[2:] for path in Path(__file__).parent.glob("ch[0-9][0-9].py"))


def of_chapter(chapter: str) -> list[Exercise]:
    """The exercises of one chapter. Raises ValueError, in one sentence, if it has none."""
    if chapter not in chapters():
        raise ValueError(
            f"chapter {chapter} has no exercises: choose one of {', '.join(chapters()) or '(none yet)'}"
        )
    return import_module(f"{__name__}.ch{chapter}").EXERCISES


def find(id: str) -> Exercise:
    """The exercise called `id`. Raises ValueError, in one sentence, naming the ids that come near."""
    id = str(id).zfill(len(str(id)) + 1) if str(id)[1:2] == "." else str(id)  # 3.2 is 03.2
    chapter = id.partition(".")[0]
    known = {
        e.id: e for c in ([chapter] if chapter in chapters() else chapters()) for e in of_chapter(c)
    }
    if id in known:
        return known[id]
    near = get_close_matches(id, known, n=3, cutoff=0.4) or list(known)[:8]
    raise ValueError(f"there is no exercise {id[:40]!r}: did you mean {', '.join(near)}?")
