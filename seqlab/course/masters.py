"""The masters solutions/src/NN_name.py: the cells of each exercise, and what a copy leaves out.

An exercise is a heading `## 03.2  Title` with a line `*objective · minutes · difficulty ●●○ ·
points*`, a code cell with `### BEGIN SOLUTION` and `### END SOLUTION`, a check cell
`check("03.2", write)`, and cells tagged `explanation`.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import jupytext
from nbformat import NotebookNode

from seqlab.course import exercises, paths
from seqlab.course.exercise import Exercise

CHECK = re.compile(r"""^check\(\s*["'](\d\d\.\d+)["']\s*,\s*(\w+)\s*\)""", re.MULTILINE)
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"


@dataclass(frozen=True)
class Part:
    """The cells of one exercise."""

    heading: NotebookNode
    solution: NotebookNode
    check: NotebookNode
    explanation: list[NotebookNode]


def read(path: Path) -> NotebookNode:
    """A percent script as a notebook with fixed cell ids and the one kernel."""
    notebook = jupytext.read(path)
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i:03d}"
        kept = {k: v for k, v in cell.metadata.items() if k in ("tags", "nbgrader")}
        cell.metadata = NotebookNode(kept)
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook.metadata = NotebookNode(kernelspec=NotebookNode(kernel))
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def parts(notebook: NotebookNode, where: str = "the notebook") -> dict[str, Part]:
    """Exercise id -> its cells. Raises ValueError, in one sentence, if the layout is broken."""
    reader = _Reader(where)
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and re.match(r"## +\d\d\.\d+\b", cell.source):
            reader.start(cell)
        elif cell.cell_type == "code" and BEGIN in cell.source:
            reader.solve(cell)
        elif cell.cell_type == "code" and (check := CHECK.search(cell.source)):
            reader.check(cell, check[1])
        elif "explanation" in cell.metadata.get("tags", []):
            reader.explain(cell)
    reader.end()
    return reader.found


class _Reader:
    """Collects the cells of each exercise, in order; ValueError if one is out of place."""

    def __init__(self, where: str):
        self.where = where
        self.found: dict[str, Part] = {}
        self.heading: NotebookNode | None = None
        # A solution that no check cell has followed yet.
        self.solution: NotebookNode | None = None
        # The part to which an explanation would belong.
        self.last: Part | None = None

    def start(self, heading: NotebookNode) -> None:
        self.end()
        self.heading, self.last = heading, None

    def solve(self, cell: NotebookNode) -> None:
        if self.solution is not None:
            near = _title(self.heading)
            raise ValueError(f"{self.where}: two solution cells before one check, near {near!r}")
        self.solution = cell

    def check(self, cell: NotebookNode, id: str) -> None:
        if self.heading is None or self.solution is None or id in self.found:
            needed = "its own heading and its own solution cell above it"
            raise ValueError(f"{self.where}: the check of {id} needs {needed}")
        title = _title(self.heading)
        if id != title.split()[0]:
            raise ValueError(f"{self.where}: the check of {id} is under the heading {title!r}")
        self.found[id] = self.last = Part(self.heading, self.solution, cell, [])
        self.solution = None

    def explain(self, cell: NotebookNode) -> None:
        if self.last is None:
            what = repr(cell.source[:50])
            raise ValueError(f"{self.where}: an explanation has no check cell above it: {what}")
        self.last.explanation.append(cell)

    def end(self) -> None:
        if self.solution is not None:
            title = _title(self.heading)
            raise ValueError(f"{self.where}: the solution under {title!r} has no check cell")


def validate(notebook: NotebookNode, chapter: str, where: str) -> dict[str, Part]:
    """The parts, if notebook and data agree; if not, ValueError in one sentence."""
    found = parts(notebook, where)
    known = {e.id: e for e in exercises.of_chapter(chapter)}
    if missing := known.keys() - found.keys():
        raise ValueError(f"{where}: exercise {min(missing)} is missing in {where}")
    if missing := found.keys() - known.keys():
        raise ValueError(f"{where}: exercise {min(missing)} is missing in ch{chapter}.py")
    for id, part in found.items():
        _validate_part(known[id], part, where)
    return found


def cleared(notebook: NotebookNode, chapter: str, where: str) -> NotebookNode:
    """The learner's copy: solutions replaced by a stub, explanations and outputs removed."""
    found = validate(notebook, chapter, where)
    names = {e.id: e for e in exercises.of_chapter(chapter)}
    for id, part in found.items():
        part.solution.source = stub(part.solution.source, names[id])
    notebook.cells = [c for c in notebook.cells if "explanation" not in c.metadata.get("tags", [])]
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i:03d}"
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if BEGIN in cell.source or END in cell.source:
            left = "a solution marker is left in a cell that no check follows"
            raise ValueError(f"{where}: {left}: {cell.source[:50]!r}")
    return notebook


def stub(source: str, exercise: Exercise) -> str:
    """`source` with one line in place of its solution; ValueError if the markers do not pair."""
    before, after, indent = _split(source, exercise.id)
    line = f'raise NotImplementedError("exercise {exercise.id}: your code here")'
    if exercise.numeric:
        line = f"{exercise.name} = ..."
    return "\n".join([*before, indent + line, *after])


def solution(id: str) -> "Solution":
    """The code between the markers and the explanation of one exercise."""
    path = paths.notebook_of(id.partition(".")[0], "solutions/src", ".py")
    part = parts(read(path), path.name).get(id)
    if part is None:
        raise ValueError(f"{path.name} holds no exercise {id}")
    code = part.solution.source.replace(BEGIN, "").replace(END, "")
    code = "\n".join(line for line in code.splitlines() if line.strip())
    return Solution(code, "\n\n".join(c.source for c in part.explanation))


@dataclass(frozen=True, repr=False)
class Solution:
    """A solution as it is shown: the code, then the explanation."""

    code: str
    explanation: str

    def __str__(self) -> str:
        return f"{self.code}\n\n{self.explanation}"

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.code}\n```\n\n{self.explanation}"


def _split(source: str, id: str) -> tuple[list[str], list[str], str]:
    """Lines before and after the solution, and its indent."""
    lines = source.splitlines()
    begins, ends = (
        [i for i, line in enumerate(lines) if line.strip() == marker] for marker in (BEGIN, END)
    )
    if len(begins) != 1 or len(ends) != 1 or ends[0] < begins[0]:
        needed = f"one {BEGIN!r} and one {END!r} after it are needed"
        raise ValueError(f"exercise {id}: {needed}, each on its own line")
    b, e = begins[0], ends[0]
    inside = (line.strip() for line in lines[b + 1 : e])
    if not any(line and not line.startswith("#") for line in inside):
        raise ValueError(f"exercise {id}: there is nothing between the solution markers")
    indent = lines[b].removesuffix(lines[b].lstrip())
    return lines[:b], lines[e + 1 :], indent


def _validate_part(e: Exercise, part: Part, where: str) -> None:
    said = part.heading.source
    check = CHECK.search(part.check.source)
    grading, solution = (c.metadata.get("nbgrader", {}) for c in (part.check, part.solution))
    difficulty = "●" * e.difficulty + "○" * (3 - e.difficulty)
    facts = {
        f"the title {e.title!r}": _title(part.heading).partition(" ")[2].strip() == e.title,
        f"{e.minutes} min": re.search(rf"\b{e.minutes} min", said),
        f"the difficulty {difficulty}": difficulty in said,
        f"{e.points} point{'s' * (e.points > 1)}": re.search(rf"\b{e.points} point", said),
        f'check("{e.id}", {e.name})': check and check[2] == e.name,
        f"nbgrader's points {e.points} on the check cell": grading.get("points") == e.points,
        "nbgrader's solution mark on the solution cell": solution.get("solution"),
        "the tag `check` on the check cell": "check" in part.check.metadata.get("tags", []),
        "an explanation after the check": bool(part.explanation),
    }
    for fact, there in facts.items():
        if not there:
            raise ValueError(f"{where}: exercise {e.id} lacks {fact}")


def _title(heading: NotebookNode | None) -> str:
    return heading.source.splitlines()[0].lstrip("# ").strip() if heading is not None else ""
