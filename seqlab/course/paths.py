"""Where things are: the course's folder and the files in it."""

import os
import re
from pathlib import Path


def root() -> Path:
    """The course's folder: $SEQLAB_HOME, else the nearest folder above that holds the course, else
    the package's.
    """
    if home := os.environ.get("SEQLAB_HOME"):
        return Path(home).expanduser().resolve()
    here = Path.cwd().resolve()
    return next(
        (p for p in (here, *here.parents) if _is_course(p)), Path(__file__).resolve().parents[2]
    )


def _is_course(folder: Path) -> bool:
    pyproject = folder / "pyproject.toml"
    if not (folder / "chapters").is_dir() or not pyproject.is_file():
        return False
    return (
        re.search(r'^name\s*=\s*"seqlab"', pyproject.read_text(errors="replace"), re.MULTILINE)
        is not None
    )


def work() -> Path:
    """The learner's folder: copies of exercises, progress, backups. $SEQLAB_WORK moves it. Created
    when asked for.
    """
    folder = Path(os.environ.get("SEQLAB_WORK") or root() / "work")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def shown(path: Path) -> str:
    """`path` as the learner should read it: relative to where they are, when it is below."""
    path = Path(path).resolve()
    return (
        str(path.relative_to(Path.cwd().resolve()))
        if path.is_relative_to(Path.cwd().resolve())
        else str(path)
    )


def notebook_of(chapter: str, folder: str = "exercises", suffix: str = ".ipynb") -> Path:
    """The file NN_name of `chapter` in `folder`. Raises FileNotFoundError, in one sentence, if
    there is none.
    """
    found = sorted((root() / folder).glob(f"{chapter}_*{suffix}"))
    if not found:
        there = (
            ", ".join(sorted(p.name[:2] for p in (root() / folder).glob(f"[0-9][0-9]_*{suffix}")))
            or "none"
        )
        raise FileNotFoundError(
            f"chapter {chapter} has nothing in {folder}/: these chapters do: {there}"
        )
    return found[0]


def chapter_number(text: str) -> str:
    """'3', '03', '03.2' or '03_linear_attention' -> '03'. Raises ValueError, in one sentence."""
    if not (m := re.fullmatch(r"(\d{1,2})([._].*)?", text.strip())):
        raise ValueError(f"{text!r} is not a chapter: write its number, for example 03")
    return f"{int(m[1]):02d}"
