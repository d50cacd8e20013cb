"""Where things are: the course's folder and the files in it."""

import os
import re
from pathlib import Path


def root() -> Path:
    """The course's folder: $SEQLAB_HOME, else the nearest one above that holds the course.

    Without either it is the folder that the package was installed from.
    """
    if home := os.environ.get("SEQLAB_HOME"):
        return Path(home).expanduser().resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if _is_course(folder):
            return folder
    return Path(__file__).resolve().parents[2]


def _is_course(folder: Path) -> bool:
    pyproject = folder / "pyproject.toml"
    if not (folder / "chapters").is_dir() or not pyproject.is_file():
        return False
    text = pyproject.read_text(errors="replace")
    return re.search(r'^name\s*=\s*"seqlab"', text, re.MULTILINE) is not None


def work() -> Path:
    """The learner's folder, created if need be: copies of exercises, progress, backups.

    $SEQLAB_WORK moves it.
    """
    folder = Path(os.environ.get("SEQLAB_WORK") or root() / "work")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def shown(path: Path) -> str:
    """`path` as the learner should read it: relative to the current folder if it is inside."""
    path, here = Path(path).resolve(), Path.cwd().resolve()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def notebook_of(chapter: str, folder: str = "exercises", suffix: str = ".ipynb") -> Path:
    """The file NN_name of `chapter` in `folder`; FileNotFoundError, in one sentence, if none."""
    files = sorted((root() / folder).glob(f"[0-9][0-9]_*{suffix}"))
    for file in files:
        if file.name.startswith(f"{chapter}_"):
            return file
    there = ", ".join(file.name[:2] for file in files) or "none"
    said = f"chapter {chapter} has nothing in {folder}/ (chapters that do: {there})"
    raise FileNotFoundError(said)


def chapter_number(text: str) -> str:
    """'3', '03', '03.2' or '03_linear_attention' -> '03'. Raises ValueError, in one sentence."""
    m = re.fullmatch(r"(\d{1,2})([._].*)?", text.strip())
    if m is None:
        raise ValueError(f"{text!r} is not a chapter: write its number, for example 03")
    return f"{int(m[1]):02d}"
