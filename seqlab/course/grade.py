"""Grade a notebook: run that file in a kernel of its own, ask each function for its answers, judge
them here.

The learner's process returns tensors; the reference, the comparison and the marks stay in this one.
"""

import json
import os
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from seqlab.course import exercises
from seqlab.course.answer import Outcome, plan
from seqlab.course.exercise import Exercise
from seqlab.course.judge import failure, judge
from seqlab.course.report import Report
from seqlab.course.sandbox import Sandbox

CHECK = re.compile(r"""^[^#\n]*\bcheck\(\s*(['"])(\d\d\.\d+)\1""", re.MULTILINE)
BIGGEST_FILE = 200 * 2**20
SEED = 1  # not the seed of `check`: an answer fitted to the check's numbers is not an answer


class NotGradable(ValueError):
    """The file cannot be graded; the message is one sentence for the person who asked."""


@dataclass(frozen=True)
class Limits:
    cell: float = 10.0  # seconds for one cell, and for all calls of one exercise
    total: float = 180.0  # seconds for the notebook
    memory_gb: float = 4.0  # beyond what Python and torch take


def grade(
    chapter: str, path: Path, limits: Limits | None = None, only: str | None = None
) -> list[Report]:
    """One report for each exercise of the chapter (or for `only` one), from the notebook at
    `path`.
    """
    wanted = [e for e in exercises.of_chapter(chapter) if only in (None, e.id)]
    cells = read_cells(Path(path))
    if not any(
        re.search(rf"\b{e.name}\b|\b{re.escape(e.id)}\b", source)
        for e in wanted
        for source in cells
    ):
        raise NotGradable(
            f"{path} is not the notebook of chapter {chapter}: it defines none of its answers"
        )
    with _Grading(Path(path).resolve().parent, cells, limits or Limits()) as grading:
        return grading.reports(wanted)


def summary(reports: list[Report]) -> dict:
    """The reports as the JSON that `seqlab grade --json` prints."""
    return {
        "points": sum(r.points for r in reports),
        "earned": sum(r.earned for r in reports),
        "exercises": [
            {"id": r.id, "points": r.points, "earned": r.earned, "message": r.message}
            for r in reports
        ],
    }


def read_cells(path: Path) -> list[str]:
    """The sources of the code cells. Raises NotGradable, in one sentence, for anything that is not
    a notebook.
    """
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
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        return [s if isinstance(s := cell["source"], str) else "".join(s) for cell in code]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise NotGradable(
            f"{path} is not a Jupyter notebook: its contents cannot be read as one"
        ) from None


class _Grading:
    """One notebook being graded: the kernel, the cells that ran well so far, and what the others
    did.
    """

    def __init__(self, folder: Path, cells: list[str], limits: Limits):
        self.folder, self.cells, self.limits = folder, cells, limits
        self.stop = time.monotonic() + limits.total
        self.good: list[str] = []
        self.faults: list[
            str
        ] = []  # of the cells since the last check cell, for a function that is missing
        self.sandbox: Sandbox | None = None

    def __enter__(self):
        self.scratch = tempfile.TemporaryDirectory(prefix="seqlab-grade-")
        return self

    def __exit__(self, *_):
        if self.sandbox is not None:
            self.sandbox.close()
        self.scratch.cleanup()

    def reports(self, wanted: list[Exercise]) -> list[Report]:
        """Run the cells in order until every exercise was asked: at its last check cell, or at the
        end without one.
        """
        ids = [set(m[1] for m in CHECK.findall(source)) for source in self.cells]
        last = {
            e.id: max((i for i, found in enumerate(ids) if e.id in found), default=len(ids))
            for e in wanted
        }
        done: dict[str, Report] = {}
        for i in range(len(self.cells) + 1):
            if i < len(self.cells):
                self._run_cell(self.cells[i])
            for e in wanted:
                if last[e.id] == i:
                    done[e.id] = self._report(e)
            if i < len(self.cells) and ids[i]:
                self.faults = []
            if len(done) == len(wanted):
                break
        return [done[e.id] for e in wanted]

    def _run_cell(self, source: str) -> None:
        if not source.strip() or self._left() <= 0:
            return
        fault = self._kernel().run(source, min(self.limits.cell, self._left()))
        self.faults += [fault] if fault else []
        if (
            not fault or self.sandbox.alive
        ):  # an exception leaves what the cell did before it: replay that too
            self.good.append(source)

    def _report(self, e: Exercise) -> Report:
        if self._left() <= 0:
            return failure(
                e, "slow", f"The notebook used up its {self.limits.total:g} s before this exercise."
            )
        cases, inputs = plan(e, SEED)
        fault, outcomes = self._ask(e, inputs)
        if fault:
            return failure(e, "crashed", f"Calling {e.name} {fault}.")
        if outcomes[0].kind == "missing":
            own = f"name '{e.name}' is not defined"  # the check cell stumbling over what is missing is no reason
            fault = next((f for f in self.faults if own not in f), None)
            why = f"its cell {fault}" if fault else "no cell defines it"
            return failure(e, "missing", f"{e.name} is not defined: {why}.")
        return judge(e, cases, outcomes)

    def _ask(self, e: Exercise, inputs: list[dict]) -> tuple[str, list[Outcome]]:
        """(what went wrong, the outcomes). The file that comes back is data from a stranger: it is
        read as such.
        """
        given, taken = (
            str(Path(self.scratch.name) / f"{e.id}.{end}") for end in ("inputs", "answers")
        )
        torch.save(inputs, given)
        Path(taken).unlink(missing_ok=True)
        args = (e.name, given, taken, e.numeric, self.limits.cell)
        code = f"__import__('seqlab.course.ask', fromlist=['ask']).ask(*{args!r})"
        fault = self._kernel().run(code, self.limits.cell + 2)
        if fault:
            return fault, []
        try:
            if os.path.getsize(taken) > BIGGEST_FILE:
                return "returned more than 200 MB", []
            outcomes = [Outcome.from_dict(d) for d in torch.load(taken, weights_only=True)]
        except Exception:
            return "gave nothing that can be read", []
        whole = len(outcomes) == len(inputs) or [o.kind for o in outcomes] in (
            ["missing"],
            ["stub"],
        )
        return ("", outcomes) if whole else ("gave too few answers", [])

    def _left(self) -> float:
        return self.stop - time.monotonic()

    def _kernel(self) -> Sandbox:
        """The kernel; a fresh one, with the good cells replayed, if the last one is gone."""
        if self.sandbox is None or not self.sandbox.alive:
            if self.sandbox is not None:
                self.sandbox.close()
            self.sandbox = Sandbox(self.folder)
            prepare = f"__import__('seqlab.course.ask', fromlist=['ask']).prepare({self.limits.memory_gb})"
            if fault := self.sandbox.run(prepare, 60):
                raise NotGradable(f"the kernel does not start here ({fault}): try seqlab doctor")
            for source in list(self.good):
                self.sandbox.run(source, self.limits.cell)
                if not self.sandbox.alive:  # it ran well once, and not now: do without it
                    self.good.remove(source)
                    return self._kernel()
        return self.sandbox
