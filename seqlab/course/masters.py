"""Sources as notebooks: a chapter's page, and its exercises, solved and as the learner gets them.

A source is a percent script. In `exercises/chNN/notebook.py` a markdown cell tagged `exercise`
names the file whose exercise belongs there: heading, solution, check and explanation replace the
cell. If something belongs between heading and solution (the given code of a bug hunt), a cell
tagged `heading` with the same name comes first. A cell tagged `question` names an open question.
In a chapter's page, a markdown cell tagged `exercises` becomes the table of them. So a fact is
written down once.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jupytext
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

from seqlab.course import exercises
from seqlab.course.exercise import Exercise
from seqlab.course.exercise_file import BEGIN, END, heading, solved_code, stub

NBGRADER = {"schema_version": 3, "task": False}
HOW_OF = re.compile(r"\{how (\d\d\.\d+)\}")


def read(path: Path) -> NotebookNode:
    """A percent script as a notebook with fixed cell ids and the one kernel."""
    notebook = jupytext.read(path)
    for cell in notebook.cells:
        kept = {k: v for k, v in cell.metadata.items() if k in ("tags", "nbgrader")}
        cell.metadata = NotebookNode(kept)
        if "exercises" in _tags(cell):
            cell.source, cell.metadata = table(path.name[:2]), NotebookNode()
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook.metadata = NotebookNode(kernelspec=NotebookNode(kernel))
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return _numbered(notebook)


def table(chapter: str) -> str:
    """The exercises of a chapter as a table in markdown."""
    rows = ["| id | exercise | minutes | difficulty |", "|---|---|---|---|"]
    for e in exercises.of_chapter(chapter):
        rows.append(f"| {e.id} | {e.title} | {e.minutes} | {e.stars} |")
    return "\n".join(rows)


def solved(chapter: str) -> NotebookNode:
    """The exercises of `chapter` with their solutions and explanations."""
    return _assembled(chapter, _with_solution, lambda q: [new_markdown_cell(q.answer)])


def unsolved(chapter: str) -> NotebookNode:
    """The learner's copy: stubs in place of the solutions, and no explanations."""
    notebook = _assembled(chapter, _with_stub, lambda q: [])
    for cell in notebook.cells:
        if BEGIN in cell.source or END in cell.source:
            where = exercises.notebook(chapter)
            said = f"a solution's mark is left in {cell.source[:50]!r}"
            raise ValueError(f"{where.parent.name}/{where.name}: {said}")
    return notebook


def _assembled(chapter, cells_of, points_of) -> NotebookNode:
    """The notebook around the exercises, with cells_of(exercise) in place of its cell.

    An open question gets its widget, and points_of(question) below it.
    """
    asked = exercises.questions(chapter)
    known = {e.file: e for e in exercises.of_chapter(chapter)}
    notebook = read(exercises.notebook(chapter))
    cells, headed = [], set()
    for cell in notebook.cells:
        tags = _tags(cell)
        if "question" in tags:
            q = asked[cell.source.strip()]
            cells += [new_markdown_cell(q.heading), new_code_cell(f'open_question("{q.id}")')]
            cells += points_of(q)
            continue
        if not ({"heading", "exercise"} & set(tags)):
            cells.append(_filled_in(cell, known.values()))
            continue
        e = _named(cell, known, chapter)
        if e.file not in headed:
            cells.append(new_markdown_cell(heading(e)))
            headed.add(e.file)
        if "exercise" in tags:
            cells += cells_of(e)
    notebook.cells = cells
    return _numbered(notebook)


# How an exercise notebook works; `{how 05.3}` in its opening stands for it, with that exercise as
# the example.
HOW = """**How it works**

- Replace `raise NotImplementedError(...)` with your code, or `...` with a number. Then run the cell
  and the check under it.
- `check("ID", NAME)` says at once what is right. If something is wrong it says which mistake it is,
  where it can.
- Keep the names of the parameters. An answer leaves the tensors that it is given as they are, and
  returns new ones.
- `hint("ID")` opens one more of three hints: a direction, the key identity, nearly the code.
- `show_solution("ID")` explains the answer once you have tried. `progress()` shows what is done.
- `seqlab start CHAPTER` copies this notebook into `work/`: open that copy and work there. No update
  ever touches it. `seqlab grade CHAPTER` grades it."""


def _filled_in(cell: NotebookNode, all_of_them) -> NotebookNode:
    """A markdown cell with {count}, {points} and {minutes} of the chapter's exercises put in, and
    HOW for {how ID}.
    """
    if cell.cell_type == "markdown":
        names = {e.id: e.name for e in all_of_them}
        cell.source = HOW_OF.sub(lambda match: _how(match[1], names), cell.source)
        facts = {"count": len(all_of_them)}
        facts |= {
            what: sum(getattr(e, what) for e in all_of_them) for what in ("points", "minutes")
        }
        for name, value in facts.items():
            cell.source = cell.source.replace(f"{{{name}}}", str(value))
    return cell


def _how(id: str, names: dict[str, str]) -> str:
    if id not in names:
        raise ValueError(f"notebook.py: {{how {id}}} names no exercise: {', '.join(names)} do")
    text = HOW.replace("ID", id).replace("NAME", names[id])
    return text.replace("CHAPTER", id.partition(".")[0])


def _named(cell: NotebookNode, known: dict[str, Exercise], chapter: str) -> Exercise:
    name = cell.source.strip()
    if name not in known:
        raise ValueError(f"ch{chapter}/notebook.py: {name!r} has a heading, but no exercise")
    return known[name]


def _with_solution(e: Exercise) -> Iterator[NotebookNode]:
    yield _solution_cell(e, e.cell)
    yield _check_cell(e)
    yield new_markdown_cell(e.why.strip(), metadata={"tags": ["explanation"]})


def _with_stub(e: Exercise) -> Iterator[NotebookNode]:
    yield _solution_cell(e, stub(e))
    yield _check_cell(e)


def _solution_cell(e: Exercise, source: str) -> NotebookNode:
    mark = {
        "grade": False,
        "grade_id": f"solution_{_safe(e.id)}",
        "locked": False,
        "solution": True,
    }
    return new_code_cell(source, metadata={"nbgrader": NBGRADER | mark})


def _check_cell(e: Exercise) -> NotebookNode:
    mark = {"grade": True, "grade_id": f"check_{_safe(e.id)}", "locked": True, "solution": False}
    grading = NBGRADER | mark | {"points": e.points}
    metadata = {"nbgrader": grading, "tags": ["check"]}
    return new_code_cell(f'check("{e.id}", {e.name})', metadata=metadata)


def _safe(id: str) -> str:
    return id.replace(".", "_")


def _tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def _numbered(notebook: NotebookNode) -> NotebookNode:
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i:03d}"
    return notebook


def solution(id: str) -> "Solution":
    """The code and the explanation of one exercise."""
    e = exercises.find(id)
    return Solution(solved_code(e), e.why.strip())


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
