"""Grade a notebook: run it in a kernel of its own, call each function there, judge outcomes here.

The learner's process returns tensors; the reference, the comparison and the marks stay in this one.
"""

import json
import os
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from seqlab.course import exercises
from seqlab.course.answer import Came, Outcome, plan, unavailable
from seqlab.course.exercise import Exercise
from seqlab.course.judge import failure, judge
from seqlab.course.report import Kind, Report
from seqlab.course.sandbox import PATIENCE, Sandbox

CHECK = re.compile(r"""^[^#\n]*\bcheck\(\s*(['"])(\d\d\.\d+)\1""", re.MULTILINE)
BIGGEST_FILE = 200 * 2**20
# Not the seed of `check`: an answer fitted to the numbers of the check is not an answer.
SEED = 1


class NotGradable(ValueError):
    """The file cannot be graded; the message is one sentence for the person who asked."""


@dataclass(frozen=True)
class Limits:
    """Seconds of processor time for one cell (and for all calls of one exercise) and for the
    notebook, and GiB. What waits instead of computing has ten times as long.
    """

    cell: float = 10.0
    total: float = 180.0
    # Beyond what Python and torch take.
    memory_gb: float = 4.0


def grade(
    chapter: str, path: Path, limits: Limits | None = None, only: str | None = None
) -> list[Report]:
    """One report for each exercise of the chapter (or for `only` one) in the notebook at `path`."""
    wanted = [e for e in exercises.of_chapter(chapter) if only in (None, e.id)]
    cells = read_cells(Path(path))
    if not any(_mentions(source, e) for e in wanted for source in cells):
        why = "it defines none of its answers"
        raise NotGradable(f"{path} is not the notebook of chapter {chapter}: {why}")
    with _Grading(Path(path).resolve().parent, cells, limits or Limits()) as grading:
        return grading.reports(wanted)


def _mentions(source: str, e: Exercise) -> bool:
    return re.search(rf"\b{e.name}\b|\b{re.escape(e.id)}\b", source) is not None


def summary(reports: list[Report]) -> dict:
    """The reports as the JSON that `seqlab grade --json` prints."""
    each = [
        {"id": r.id, "points": r.points, "earned": r.earned, "message": r.message} for r in reports
    ]
    points, earned = (sum(r[name] for r in each) for name in ("points", "earned"))
    return {"points": points, "earned": earned, "exercises": each}


def read_cells(path: Path) -> list[str]:
    """The sources of the code cells; NotGradable, in one sentence, if it is not a notebook."""
    if not path.exists():
        raise NotGradable(f"{path} does not exist")
    if path.is_dir():
        raise NotGradable(f"{path} is a folder: the path of a notebook (.ipynb) is needed")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NotGradable(f"{path} cannot be read as a notebook ({type(error).__name__})") from None
    if not text.strip():
        raise NotGradable(f"{path} is empty")
    try:
        notebook = json.loads(text)
        # A source is a string or a list of lines.
        return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        why = "its contents cannot be read as one"
        raise NotGradable(f"{path} is not a Jupyter notebook: {why}") from None


class _Grading:
    """One notebook being graded: its kernel, the cells that ran so far, the faults of others."""

    def __init__(self, folder: Path, cells: list[str], limits: Limits):
        self.folder = folder
        self.cells = cells
        self.limits = limits
        self.used = 0.0
        self.stop = time.monotonic() + PATIENCE * limits.total
        self.good: list[str] = []
        # Of the cells since the last check cell: they say why a function is missing.
        self.faults: list[str] = []
        self.sandbox: Sandbox | None = None

    def __enter__(self):
        self.scratch = tempfile.TemporaryDirectory(prefix="seqlab-grade-")
        return self

    def __exit__(self, *_):
        if self.sandbox is not None:
            self.sandbox.close()
        self.scratch.cleanup()

    def reports(self, wanted: list[Exercise]) -> list[Report]:
        """Run the cells in order; ask each exercise at its last check cell, or after the end."""
        checked = [{m[1] for m in CHECK.findall(source)} for source in self.cells]
        end = len(self.cells)
        last = {
            e.id: max((i for i, ids in enumerate(checked) if e.id in ids), default=end)
            for e in wanted
        }
        done: dict[str, Report] = {}
        for i in range(end + 1):
            if i < end:
                self._run_cell(self.cells[i])
            done |= {e.id: self._report(e) for e in wanted if last[e.id] == i}
            if i < end and checked[i]:
                self.faults = []
            if len(done) == len(wanted):
                break
        return [done[e.id] for e in wanted]

    def _run_cell(self, source: str) -> None:
        if not source.strip() or self._left() <= 0:
            return
        kernel = self._kernel()
        fault = self._timed(kernel, source, min(self.limits.cell, self._left()))
        self.faults += [fault] if fault else []
        # What a cell did before it raised stays, so such a cell is replayed too.
        if not fault or kernel.alive:
            self.good.append(source)

    def _report(self, e: Exercise) -> Report:
        if self._left() <= 0:
            said = f"The notebook used up its {self.limits.total:g} s before this exercise."
            return failure(e, Kind.SLOW, said)
        if why := unavailable(e):
            return failure(e, Kind.UNAVAILABLE, why)
        cases, inputs = plan(e, SEED)
        fault, outcomes = asked(partial(self._ask, e), self.scratch.name, inputs)
        if fault:
            return failure(e, Kind.CRASHED, f"Calling {e.name} {fault}.")
        if outcomes[0].kind == Came.MISSING:
            # That the check cell does not find the name is not the reason.
            own = f"name '{e.name}' is not defined"
            fault = next((f for f in self.faults if own not in f), None)
            why = f"its cell {fault}" if fault else "no cell defines it"
            return failure(e, Kind.MISSING, f"{e.name} is not defined: {why}.")
        return judge(e, cases, outcomes)

    def _ask(self, e: Exercise, given: str, taken: str) -> str:
        """Have the kernel answer the inputs in one file, in another. Returns what went wrong."""
        seconds = max(self.limits.cell, e.seconds if e.requirements or e.kernel else 0.0)
        args = (e.name, given, taken, e.numeric, e.kernel, seconds)
        return self._timed(self._kernel(), source_of("ask", *args), seconds + 2)

    def _timed(self, kernel: Sandbox, source: str, seconds: float) -> str:
        """Run `source`, and count what it took."""
        fault = kernel.run(source, seconds)
        self.used += kernel.used
        return fault

    def _left(self) -> float:
        """Seconds of processor time that remain; none once PATIENCE by the clock is at its end."""
        return self.limits.total - self.used if time.monotonic() < self.stop else 0.0

    def _kernel(self) -> Sandbox:
        """The kernel; if the last one is gone, a fresh one in which the good cells ran again."""
        if self.sandbox is None or not self.sandbox.alive:
            if self.sandbox is not None:
                self.sandbox.close()
            self.sandbox = Sandbox(self.folder)
            if fault := self.sandbox.run(source_of("prepare", self.limits.memory_gb), 60):
                raise NotGradable(f"the kernel does not start here ({fault}): try seqlab doctor")
            for source in list(self.good):
                self.sandbox.run(source, self.limits.cell)
                if not self.sandbox.alive:  # it ran once, and not now: do without it
                    self.good.remove(source)
                    return self._kernel()
        return self.sandbox


def asked(
    ask: Callable[[str, str], str], folder: str, inputs: list[dict]
) -> tuple[str, list[Outcome]]:
    """(what went wrong, the outcomes) of ask(inputs' file, answers' file).

    The file that comes back is not trusted.
    """
    given, taken = Path(folder) / "inputs", Path(folder) / "answers"
    torch.save(inputs, given)
    taken.unlink(missing_ok=True)
    if fault := ask(str(given), str(taken)):
        return fault, []
    try:
        if os.path.getsize(taken) > BIGGEST_FILE:
            return "returned more than 200 MB", []
        outcomes = [Outcome.from_dict(d) for d in torch.load(taken, weights_only=True)]
    except Exception:
        return "gave nothing that can be read", []
    not_called = [o.kind for o in outcomes] in ([Came.MISSING], [Came.STUB])
    if len(outcomes) != len(inputs) and not not_called:
        return "gave too few answers", []
    return "", outcomes


def source_of(name: str, *args: object) -> str:
    """Source that calls a function of seqlab.course.ask and leaves no name in the notebook."""
    return f"__import__('seqlab.course.ask', fromlist=['ask']).{name}(*{args!r})"
