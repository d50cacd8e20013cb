"""The masters solutions/src/NN_name.py: which cells belong to which exercise, and what a learner's
copy leaves out.

An exercise is a heading `## 03.2  Title` with a line `*objective · minutes · difficulty ●●○ · points*`, a code cell
with `### BEGIN SOLUTION` and `### END SOLUTION`, a check cell `check("03.2", write)`, and cells tagged `explanation`.
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
        cell.metadata = NotebookNode(
            {k: v for k, v in cell.metadata.items() if k in ("tags", "nbgrader")}
        )
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook.metadata = NotebookNode(kernelspec=NotebookNode(kernel))
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def parts(notebook: NotebookNode, where: str = "the notebook") -> dict[str, Part]:
    """Exercise id -> its cells. Raises ValueError, in one sentence, where the layout is broken."""
    found: dict[str, Part] = {}
    heading = solution = None
    last = None
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and re.match(r"## +\d\d\.\d+\b", cell.source):
            _require_checked(solution, heading, where)
            heading, solution, last = cell, None, None
        elif cell.cell_type == "code" and BEGIN in cell.source:
            if solution is not None:
                raise ValueError(
                    f"{where}: two solution cells before one check, near {_title(heading)!r}"
                )
            solution = cell
        elif cell.cell_type == "code" and (m := CHECK.search(cell.source)):
            if heading is None or solution is None or m[1] in found:
                raise ValueError(
                    f"{where}: the check of {m[1]} needs its own heading and its own solution cell above it"
                )
            if m[1] != _title(heading).split()[0]:
                raise ValueError(
                    f"{where}: the check of {m[1]} stands under the heading {_title(heading)!r}"
                )
            found[m[1]] = last = Part(heading, solution, cell, [])
            solution = None
        elif "explanation" in cell.metadata.get("tags", []):
            if last is None:
                raise ValueError(
                    f"{where}: an explanation has no check cell above it: {cell.source[:50]!r}"
                )
            last.explanation.append(cell)
    _require_checked(solution, heading, where)
    return found


def _require_checked(
    solution: NotebookNode | None, heading: NotebookNode | None, where: str
) -> None:
    if solution is not None:
        raise ValueError(f"{where}: the solution under {_title(heading)!r} has no check cell")


def validate(notebook: NotebookNode, chapter: str, where: str) -> dict[str, Part]:
    """The parts, if notebook and data agree. Raises ValueError, in one sentence, if they do not."""
    found = parts(notebook, where)
    known = {e.id: e for e in exercises.of_chapter(chapter)}
    for missing, place in (
        (known.keys() - found.keys(), where),
        (found.keys() - known.keys(), f"ch{chapter}.py"),
    ):
        if missing:
            raise ValueError(f"{where}: exercise {min(missing)} is missing in {place}")
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
            raise ValueError(
                f"{where}: a solution marker is left in a cell that no check follows: {cell.source[:50]!r}"
            )
    return notebook


def stub(source: str, exercise: Exercise) -> str:
    """`source` with one line in place of what stands between the markers. Raises ValueError if they
    do not pair.
    """
    before, after, indent = _split(source, exercise.id)
    line = (
        "..."
        if exercise.numeric
        else f'raise NotImplementedError("exercise {exercise.id}: your code here")'
    )
    line = f"{exercise.name} = {line}" if exercise.numeric else line
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
    """A solution as it is shown: the code, then why."""

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
        raise ValueError(
            f"exercise {id}: one {BEGIN!r} and one {END!r} after it are needed, each on its own line"
        )
    b, e = begins[0], ends[0]
    if not any(line.strip() and not line.strip().startswith("#") for line in lines[b + 1 : e]):
        raise ValueError(f"exercise {id}: nothing stands between the solution markers")
    indent = lines[b][: len(lines[b]) - len(lines[b].lstrip())]
    return lines[:b], lines[e + 1 :], indent


def _validate_part(e: Exercise, part: Part, where: str) -> None:
    heading, said = _title(part.heading), part.heading.source
    named = CHECK.search(part.check.source)[2]
    facts = {
        f"the title {e.title!r}": heading.partition(" ")[2].strip() == e.title,
        f"{e.minutes} min": re.search(rf"\b{e.minutes} min", said),
        f"the difficulty {'●' * e.difficulty + '○' * (3 - e.difficulty)}": "●" * e.difficulty
        + "○" * (3 - e.difficulty)
        in said,
        f"{e.points} point{'s' * (e.points > 1)}": re.search(rf"\b{e.points} point", said),
        f'check("{e.id}", {e.name})': named == e.name,
        f"nbgrader's points {e.points} on the check cell": part.check.metadata.get(
            "nbgrader", {}
        ).get("points")
        == e.points,
        "nbgrader's solution mark on the solution cell": part.solution.metadata.get(
            "nbgrader", {}
        ).get("solution"),
        "the tag `check` on the check cell": "check" in part.check.metadata.get("tags", []),
        "an explanation after the check": bool(part.explanation),
    }
    for fact, there in facts.items():
        if not there:
            raise ValueError(f"{where}: exercise {e.id} lacks {fact}")


def _title(heading: NotebookNode | None) -> str:
    return heading.source.splitlines()[0].lstrip("# ").strip() if heading is not None else ""
