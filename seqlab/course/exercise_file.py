"""Read an exercise from its file, exercises/chNN/name.py, which says everything about it once.

* The docstring: the heading; a line `*objective · 8 minutes · ●○○ · 1 point*`; the text.
* The solution: a function, or a value, between `### BEGIN SOLUTION` and `### END SOLUTION`. The
  learner sees the same lines with a stub in their place.
* WHY explains the solution. HINTS are three.
* `reference` and `cases(rng)`, and where needed PROPERTIES, `effort`, `parts_hint`, OUTPUTS,
  TIME_AXIS, TOLERANCE and RULED_OUT: see `Exercise`. ALTERNATIVES are right answers written
  differently.
* A project has REQUIREMENTS instead of a reference: they are measured, and each sentence in
  MISTAKES is that of the requirement which the edit breaks. SECONDS bounds a check.
* MISTAKES is a table of edits of the solution, each with the sentence to say:

      gamma * S → S
          Your state is not decayed: this is linear attention. Look for γ S.

  Several edits of one mistake are joined by ` ; `. `⏎` is a line break with its indentation, and
  `*` on the left is the whole solution. Each edit must fit the solution exactly once.
* KERNEL names the function that launches a Triton kernel. The solution is then everything from the
  first function that holds marks to that one, each with marks of its own, or given whole.
* ALSO lists entries of `vocabulary`: mistakes that many exercises share.
"""

import ast
import inspect
import linecache
import math
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange

from seqlab.course.exercise import Exercise

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
FACTS = re.compile(r"\*(.+) · (\d+) minutes? · (●*○*) · (\d+) points?\*")
TOOLS = {"F": F, "einsum": torch.einsum, "math": math, "rearrange": rearrange, "torch": torch}
OPTIONS = {  # what a module may define -> the field of Exercise
    "HINTS": "hints",
    "WHY": "why",
    "ALTERNATIVES": "alternatives",
    "PROPERTIES": "properties",
    "REQUIREMENTS": "requirements",
    "SECONDS": "seconds",
    "OUTPUTS": "outputs",
    "TIME_AXIS": "time_axis",
    "TOLERANCE": "tolerance",
    "RULED_OUT": "ruled_out",
    "reference": "reference",
    "cases": "cases",
    "effort": "effort",
    "parts_hint": "parts_hint",
}


@dataclass(frozen=True)
class Mistake:
    """An edit of the solution, and what to say to an answer that gives the same numbers."""

    edit: str
    sentence: str


def exercise(module: ModuleType, id: str) -> Exercise:
    """The exercise in `module`. Raises ValueError, in one sentence, if the file is incomplete."""
    file = module.__name__.rpartition(".")[2]
    where = f"exercise {id} ({file}.py)"
    title, facts, text = _heading(module, where)
    kernel = getattr(module, "KERNEL", "")
    cell, name = _solution(inspect.getsource(module), where, kernel)
    answers: dict[str, Any] = {}
    edits: dict[str, str] = {}
    for mistake in mistakes(getattr(module, "MISTAKES", ""), where):
        if mistake.sentence in answers:
            raise ValueError(f"{where}: {mistake.sentence[:40]!r} is said of two mistakes")
        answers[mistake.sentence] = answer(edited(cell, mistake.edit, where), name, module)
        edits[mistake.sentence] = mistake.edit
    solution = getattr(module, name)
    for word in getattr(module, "ALSO", ()):
        answers[word.sentence] = word.wrong(solution)
    given = {field: getattr(module, n) for n, field in OPTIONS.items() if hasattr(module, n)}
    given["alternatives"] = (solution, *given.get("alternatives", ()))
    given.setdefault("cases", None)
    if kernel:
        given.setdefault("time_axis", None)
    return Exercise(
        id=id,
        title=title,
        name=name,
        file=file,
        text=text,
        cell=cell,
        kernel=bool(kernel),
        mistakes=answers,
        edits=edits,
        defined_by=partial(answer, name=name, module=module),
        **facts,
        **given,
    )


def mistakes(table: str, where: str) -> Iterator[Mistake]:
    """The entries of MISTAKES: an edit at the margin, its sentence indented below."""
    edit, sentence = "", []
    for line in [*table.strip("\n").splitlines(), "end"]:
        if not line.strip():
            continue
        if line[0].isspace():
            if " → " in line:
                said = f"the edit {line.strip()!r} is indented, which makes it part of a sentence"
                raise ValueError(f"{where}: {said}: begin it at the margin")
            sentence.append(line.strip())
            continue
        if edit:
            if not sentence:
                raise ValueError(f"{where}: the mistake {edit!r} has no sentence below it")
            yield Mistake(edit, " ".join(sentence))
        edit, sentence = line.strip(), []


def edited(cell: str, edit: str, where: str) -> str:
    """`cell` with each part of `edit` made between the solution's marks."""
    before, body, after = _parted(cell)
    changes = [_place(body, part, where) for part in edit.split(" ; ")]
    for start, stop, wrong in sorted(changes, reverse=True):
        body = body[:start] + wrong + body[stop:]
    return before + body + after


def _place(body: str, part: str, where: str) -> tuple[int, int, str]:
    """Where the left side of `right → wrong` stands in `body`, and the code to put there."""
    if part.count("→") != 1:
        raise ValueError(f"{where}: the edit {part!r} must look like: right → wrong")
    right, wrong = (side.strip() for side in part.split("→"))
    pattern = r"(?s)\S.*\S" if right == "*" else _pattern(right)
    places = list(re.finditer(pattern, body))
    if len(places) != 1:
        raise ValueError(
            f"{where}: {right!r} occurs {len(places)} times in the solution: "
            "an edit must fit exactly once"
        )
    start, stop = places[0].span()
    line = body[:start].rpartition("\n")[2]
    indent = line[: len(line) - len(line.lstrip())]
    return start, stop, _broken_lines(wrong, indent)


def answer(cell: str, name: str, module: ModuleType) -> Any:
    """What the code of `cell` defines under `name`, run among the names of the exercise's file.

    An edit may also use TOOLS, and `solution`, the right answer.
    """
    names = TOOLS | vars(module) | {"solution": getattr(module, name)}
    file = f"<an answer to {name}>"
    if hasattr(module, "KERNEL"):  # Triton reads the source of a kernel
        file = f"<an answer to {name}, {hash(cell):x}>"
        linecache.cache[file] = len(cell), None, cell.splitlines(keepends=True), file
    exec(compile(cell, file, "exec"), names)
    return names[name]


def _heading(module: ModuleType, where: str) -> tuple[str, dict[str, Any], str]:
    title, _, rest = inspect.cleandoc(module.__doc__ or "").partition("\n")
    line, _, text = rest.strip().partition("\n\n")
    found = FACTS.fullmatch(" ".join(line.split()))
    if found is None:
        raise ValueError(
            f"{where}: under the heading a line '*objective · 8 minutes · ●○○ · 1 point*' is needed"
        )
    objective, minutes, stars, points = found.groups()
    facts = {
        "objective": objective,
        "minutes": int(minutes),
        "difficulty": stars.count("●"),
        "points": int(points),
    }
    return title.strip(), facts, text.strip()


def _solution(source: str, where: str, kernel: str) -> tuple[str, str]:
    """The code of the solution's cell, marks included, and the name it defines."""
    lines = source.splitlines()
    marks = [i for i, line in enumerate(lines) if line.strip() in (BEGIN, END)]
    if not marks or [lines[i].strip() for i in marks] != [BEGIN, END] * (len(marks) // 2):
        raise ValueError(f"{where}: one {BEGIN!r} and one {END!r} after it are needed")
    if len(marks) > 2 and not kernel:
        raise ValueError(f"{where}: only a kernel may have more than one {BEGIN!r}")
    begin, end = marks[0], marks[-1]
    functions = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)]
    first = next((n for n in functions if _holds(n, begin)), None)
    if kernel:
        last = next((n for n in functions if n.name == kernel), None)
        if first is None or last is None:
            raise ValueError(f"{where}: KERNEL is {kernel!r}: the solution must define it")
        start = min(n.lineno for n in (first, *first.decorator_list))
        return "\n".join(lines[start - 1 : max(end + 1, last.end_lineno or 0)]), kernel
    if first is not None:
        return "\n".join(lines[first.lineno - 1 : end + 1]), first.name
    cell = "\n".join(lines[begin : end + 1])
    last = ast.parse(cell).body[-1]
    if not (isinstance(last, ast.Assign) and isinstance(last.targets[0], ast.Name)):
        raise ValueError(f"{where}: the last line of the solution must give a name its value")
    return cell, last.targets[0].id


def _holds(function: ast.FunctionDef, line: int) -> bool:
    return function.lineno - 1 <= line <= (function.end_lineno or 0)


def _parted(cell: str) -> tuple[str, str, str]:
    """The lines up to the first mark and with it, those from there to the last, and the rest."""
    lines = cell.splitlines(keepends=True)
    begin, *_, end = (i for i, x in enumerate(lines) if x.strip() in (BEGIN, END))
    parts = lines[: begin + 1], lines[begin + 1 : end], lines[end:]
    return tuple("".join(part) for part in parts)  # pyright: ignore[reportReturnType]


def _pattern(right: str) -> str:
    """The code to be replaced, as a pattern: white space matches any other, ⏎ a line break."""
    pieces = [r"\s+".join(map(re.escape, piece.split())) for piece in right.split("⏎")]
    word = re.compile(r"\w")
    before = r"(?<!\w)" if word.match(right[0]) else ""
    after = r"(?!\w)" if word.match(right[-1]) else ""
    return before + r"\s*\n\s*".join(pieces) + after


def _broken_lines(wrong: str, indent: str) -> str:
    first, *rest = (piece.rstrip() for piece in wrong.split("⏎"))
    return "\n".join([first, *(indent + piece.removeprefix(" ") for piece in rest)])


def stub(e: Exercise) -> str:
    """The cell as the learner gets it: one line in place of each part of the solution."""
    lines = e.cell.splitlines()
    line = f'raise NotImplementedError("exercise {e.id}: your code here")'
    if e.numeric:
        line = f"{e.name} = ..."
    for begin, end in reversed(parts(e.cell)):
        first = next(x for x in lines[begin + 1 : end] if x.strip())
        lines[begin : end + 1] = [first[: len(first) - len(first.lstrip())] + line]
    return "\n".join(lines)


def parts(cell: str) -> list[tuple[int, int]]:
    """The lines, counted from 0, of each BEGIN and its END."""
    marks = [i for i, x in enumerate(cell.splitlines()) if x.strip() in (BEGIN, END)]
    return list(zip(marks[::2], marks[1::2], strict=True))


def solved_code(e: Exercise) -> str:
    """The code of the solution without its marks."""
    lines = e.cell.splitlines()
    return textwrap.dedent("\n".join(x for x in lines if x.strip() not in (BEGIN, END)))


def heading(e: Exercise) -> str:
    """The markdown above the exercise."""
    points = f"{e.points} point{'s' * (e.points > 1)}"
    facts = f"*{e.objective} · {e.minutes} minutes · {e.stars} · {points}*"
    return f"## {e.id}  {e.title}\n\n{facts}\n\n{e.text}"
