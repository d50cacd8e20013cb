"""What the learner has done: work/progress.json, written whole or not at all."""

import json
import os
import tempfile
from datetime import datetime
from pathlib import Path

from seqlab.course import paths


def load() -> dict[str, dict]:
    """Exercise id -> {attempts, earned, hints, first, last, solved, mistake, asked}.

    `mistake` is what the last attempt probably wrote, an edit of the solution, and `asked` counts
    the hints asked for since.

    A damaged file is renamed, never overwritten.
    """
    return _whole()["exercises"]


def of(id: str) -> dict:
    return load().get(id, _blank())


def attempt(id: str, earned: int, mistake: str | None = None) -> None:
    """Count one attempt, with the edit that gives its numbers if known. Points once earned stay."""
    record = of(id)
    today = datetime.now().isoformat(timespec="seconds")
    _save(
        id,
        attempts=record["attempts"] + 1,
        earned=max(earned, record["earned"]),
        first=record["first"] or today,
        last=today,
        solved=record["solved"] or (today if earned else None),
        mistake=mistake,
        asked=0,
    )


def state(earned: int, points: int, attempts: int) -> str:
    """What a table of progress says about one exercise."""
    if earned >= points:
        return "✓ done"
    return "… tried" if attempts else "not started"


def guess(id: str) -> str | float | None:
    """What the learner predicted at the question `id`, before its figure appeared."""
    return _whole()["guesses"].get(id)


def keep_guess(id: str, guess: str | float) -> str | float:
    """Keep a first guess, and return the first one there was."""
    whole = _whole()
    first = whole["guesses"].setdefault(id, guess)
    _write(whole)
    return first


def words(id: str) -> dict:
    """What the learner wrote to an open question: {text, ticked}."""
    return {"text": "", "ticked": []} | _whole()["questions"].get(id, {})


def keep_words(id: str, **changes) -> None:
    whole = _whole()
    whole["questions"][id] = words(id) | changes
    _write(whole)


def open_hint(id: str, n: int) -> None:
    """Keep that `n` hints are open, and count that one was asked for since the last attempt."""
    _save(id, hints=n, asked=of(id)["asked"] + 1)


def now() -> str:
    """Date and time, in characters that a file name may have."""
    return datetime.now().strftime("%Y-%m-%d-%H%M%S")


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a crash leaves either the old one or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _blank() -> dict:
    counts = dict.fromkeys(("attempts", "earned", "hints", "asked"), 0)
    return counts | dict.fromkeys(("first", "last", "solved", "mistake"))


def _save(id: str, **changes) -> None:
    whole = _whole()
    whole["exercises"][id] = whole["exercises"].get(id, _blank()) | changes
    _write(whole)


def _whole() -> dict[str, dict]:
    """All that is kept, by kind."""
    path = paths.work() / "progress.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        exercises = {id: _blank() | record for id, record in kept["exercises"].items()}
        others = {kind: dict(kept.get(kind, {})) for kind in ("guesses", "questions")}
        return kept | {"exercises": exercises} | others
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError, AttributeError):
        os.replace(path, path.with_name(f"progress.damaged-{now()}.json"))
    return {"exercises": {}, "guesses": {}, "questions": {}}


def _write(whole: dict[str, dict]) -> None:
    text = json.dumps(whole, indent=1, sort_keys=True) + "\n"
    write_whole(paths.work() / "progress.json", text)
