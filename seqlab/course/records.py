"""What the learner has done: work/progress.json, written whole or not at all."""

import json
import os
import tempfile
from datetime import datetime
from pathlib import Path

from seqlab.course import paths


def load() -> dict[str, dict]:
    """Exercise id -> {attempts, earned, hints, first, last, solved}.

    A damaged file is renamed, never overwritten.
    """
    path = paths.work() / "progress.json"
    try:
        records = json.loads(path.read_text(encoding="utf-8"))["exercises"]
        return {id: _blank() | record for id, record in records.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        os.replace(path, path.with_name(f"progress.damaged-{now()}.json"))
        return {}


def of(id: str) -> dict:
    return load().get(id, _blank())


def attempt(id: str, earned: int) -> None:
    """Count one attempt. Points once earned stay."""
    record = of(id)
    today = datetime.now().isoformat(timespec="seconds")
    _save(
        id,
        attempts=record["attempts"] + 1,
        earned=max(earned, record["earned"]),
        first=record["first"] or today,
        last=today,
        solved=record["solved"] or (today if earned else None),
    )


def state(earned: int, points: int, attempts: int) -> str:
    """What a table of progress says about one exercise."""
    if earned >= points:
        return "✓ done"
    return "… tried" if attempts else "not started"


def open_hint(id: str, n: int) -> None:
    _save(id, hints=n)


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
    return {"attempts": 0, "earned": 0, "hints": 0, "first": None, "last": None, "solved": None}


def _save(id: str, **changes) -> None:
    records = load()
    records[id] = records.get(id, _blank()) | changes
    text = json.dumps({"exercises": records}, indent=1, sort_keys=True) + "\n"
    write_whole(paths.work() / "progress.json", text)
