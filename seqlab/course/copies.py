"""The learner's own copies of exercise notebooks, in work/."""

import shutil
from pathlib import Path

from seqlab.course import paths, records


def copy_of(chapter: str) -> Path:
    """Where the learner's copy is, or would be."""
    return paths.work() / paths.notebook_of(chapter).name


def started(chapter: str) -> Path:
    """The learner's copy. Raises FileNotFoundError, in one sentence, if there is none yet."""
    copy = copy_of(chapter)
    if not copy.exists():
        raise FileNotFoundError(
            f"there is no copy of chapter {chapter} in work/ yet: run seqlab start {chapter} first"
        )
    return copy


def start(chapter: str) -> tuple[Path, bool]:
    """(the learner's copy, whether it is new). Never overwrites."""
    copy = copy_of(chapter)
    try:
        with open(copy, "xb") as file:
            file.write(paths.notebook_of(chapter).read_bytes())
    except FileExistsError:
        return copy, False
    return copy, True


def reset(chapter: str) -> tuple[Path, Path | None]:
    """(a fresh copy, where the old one was moved to). Nothing is deleted."""
    copy = copy_of(chapter)
    backup = None
    if copy.exists():
        backup = free(paths.work() / "backups" / f"{copy.stem}-{records.now()}{copy.suffix}")
        backup.parent.mkdir(exist_ok=True)
        shutil.move(copy, backup)
    return start(chapter)[0], backup


def free(path: Path) -> Path:
    """`path`, or the first of path-2, path-3, … that does not exist."""
    if not path.exists():
        return path
    numbered = (path.with_name(f"{path.stem}-{i}{path.suffix}") for i in range(2, 10_000))
    return next(p for p in numbered if not p.exists())
