"""Fetch a newer course without losing a line of the learner's: save first, then move to it."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from seqlab.course import paths, records
from seqlab.course.copies import free


class CannotUpdate(RuntimeError):
    """Nothing was changed; the message is one sentence."""


@dataclass(frozen=True)
class Updated:
    """What an update did."""

    # How many commits are new.
    commits: int
    # Files saved, as (from, to).
    saved: list[tuple[str, Path]]
    # The branch that keeps local commits.
    branch: str | None
    # Whether dependencies may have changed.
    install: bool


def update(root: Path) -> Updated:
    """Fetch, save local work to work/, move to the newest version.

    Raises CannotUpdate, if at all, before anything has changed.
    """
    _require_repository(root)
    newest = _fetch(root)
    commits = int(_git(root, "rev-list", "--count", f"HEAD..{newest}"))
    if commits == 0:
        return Updated(0, [], None, False)
    now = records.now()
    saved = [*_save_edits(root, now), *_save_in_the_way(root, newest, now)]
    branch = _save_commits(root, newest, now)
    setup = ("pyproject.toml", "constraints.txt")
    changed = _git(root, "diff", "--name-only", "HEAD", newest, "--", *setup)
    _git(root, "reset", "--hard", "--quiet", newest)
    return Updated(commits, saved, branch, install=bool(changed))


def _require_repository(root: Path) -> None:
    if shutil.which("git") is None:
        raise CannotUpdate("git is not installed: install it, or download the course again")
    top = _git(root, "rev-parse", "--show-toplevel", check=False)
    if not top or Path(top).resolve() != root.resolve():
        why = "was not made by git clone, so it cannot be updated"
        raise CannotUpdate(f"{root} {why}: clone the course beside it")
    if _git(root, "rev-parse", "--verify", "--quiet", "HEAD", check=False) == "":
        raise CannotUpdate("this repository has no commit yet: clone the course instead")
    folder = root / _git(root, "rev-parse", "--git-dir")
    for name in ("MERGE_HEAD", "rebase-merge", "rebase-apply", "CHERRY_PICK_HEAD"):
        if (folder / name).exists():
            raise CannotUpdate("you are in a merge or rebase: finish it or abort it first")


def _fetch(root: Path) -> str:
    """Fetch; return the name of the newest version.

    That is the branch's upstream, or without one the remote's main branch.
    """
    ask = ("rev-parse", "--abbrev-ref", "--symbolic-full-name", "@{upstream}")
    upstream = _git(root, *ask, check=False)
    remotes = _git(root, "remote").split()
    if not remotes:
        raise CannotUpdate("this copy has no remote to update from (see git remote add)")
    usual = "origin" if "origin" in remotes else remotes[0]
    remote = next((r for r in remotes if upstream.startswith(f"{r}/")), usual)
    try:
        _git(root, "fetch", "--quiet", remote, seconds=120)
    except CannotUpdate:
        said = f"{remote} cannot be reached: are you online? Nothing was changed"
        raise CannotUpdate(said) from None
    names = (upstream, f"{remote}/HEAD", f"{remote}/main", f"{remote}/master")
    for name in filter(None, names):
        if _git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", check=False):
            return name
    raise CannotUpdate(f"{remote} has no branch main: set one with git branch --set-upstream-to")


def _save_edits(root: Path, now: str) -> list[tuple[str, Path]]:
    """Copy every tracked file that differs from the last commit to work/; staged text too."""
    plain = ("-c", "status.renames=false", "status", "--porcelain=v1", "-z")
    status = _git(root, *plain, "--untracked-files=no", raw=True)
    saved = []
    for entry in filter(None, status.split("\0")):
        state, name = entry[:2], entry[3:]
        if os.path.lexists(root / name):
            saved.append((name, _keep(root / name, _shelf(name, now))))
        if state[0] in "MAT" and state[1] != " ":
            staged = free(_shelf(f"{name}.staged", now))
            staged.parent.mkdir(parents=True, exist_ok=True)
            staged.write_bytes(_git_bytes(root, "show", f":{name}"))
            saved.append((f"{name} (staged)", staged))
    return saved


def _save_in_the_way(root: Path, newest: str, now: str) -> list[tuple[str, Path]]:
    """Move untracked files and folders away from where the new version puts a file."""
    tracked = set(_git(root, "ls-files", "-z", raw=True).split("\0"))
    new = _git(root, "ls-tree", "-r", "-z", "--name-only", newest, raw=True).split("\0")
    saved = []
    for name in filter(None, new):
        for place in [*reversed(Path(name).parents[:-1]), Path(name)]:
            if _is_in_the_way(root, place, name) and place.as_posix() not in tracked:
                for blocked in _untracked(root, place, tracked):
                    kept = _keep(root / blocked, _shelf(blocked, now), move=True)
                    saved.append((blocked, kept))
    return saved


def _is_in_the_way(root: Path, place: Path, name: str) -> bool:
    """Whether something at `place`, the file `name` or a folder above it, blocks the new file."""
    path = root / place
    if not os.path.lexists(path):
        return False
    return place == Path(name) or path.is_symlink() or not path.is_dir()


def _untracked(root: Path, place: Path, tracked: set[str]) -> list[str]:
    """What to move away: `place`, or only the untracked files in a folder that has tracked ones."""
    path = root / place
    if path.is_symlink() or not path.is_dir():
        return [place.as_posix()]
    if not any(t.startswith(f"{place.as_posix()}/") for t in tracked):
        return [place.as_posix()]
    inside = [p.relative_to(root).as_posix() for p in path.rglob("*") if p.is_file()]
    return [name for name in inside if name not in tracked]


def _save_commits(root: Path, newest: str, now: str) -> str | None:
    if _git(root, "rev-list", "--count", f"{newest}..HEAD") == "0":
        return None
    name = f"saved-{now}"
    while _git(root, "rev-parse", "--verify", "--quiet", f"refs/heads/{name}", check=False):
        name += "-again"
    _git(root, "branch", name, "HEAD")
    return name


def _shelf(name: str, now: str) -> Path:
    """Where in work/ a file is kept: notebooks at the top, the rest in a dated folder."""
    path = Path(name)
    if path.suffix == ".ipynb" and path.parts[0] in ("chapters", "exercises"):
        return paths.work() / f"{path.stem}-{path.parts[0]}-{now}.ipynb"
    return paths.work() / f"local-edits-{now}" / path


def _keep(source: Path, target: Path, move: bool = False) -> Path:
    target = free(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    if move:
        shutil.move(source, target)
    elif source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)
    return target


def _git(root: Path, *args: str, check: bool = True, raw: bool = False, seconds: float = 60) -> str:
    out = _git_bytes(root, *args, check=check, seconds=seconds).decode("utf-8", "surrogateescape")
    return out if raw else out.strip()


def _git_bytes(root: Path, *args: str, check: bool = True, seconds: float = 60) -> bytes:
    env = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        command = ["git", "-C", str(root), *args]
        quiet = {"capture_output": True, "stdin": subprocess.DEVNULL}
        done = subprocess.run(command, env=env, timeout=seconds, **quiet)
    except subprocess.TimeoutExpired:
        raise CannotUpdate(f"git {args[0]} took longer than {seconds:.0f} s") from None
    if check and done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise CannotUpdate(f"git {args[0]} failed: {said[-1]}")
    return done.stdout if done.returncode == 0 else b""
