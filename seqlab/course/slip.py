"""A slip: the solution with one operator, term or number changed, recognised by its numbers.

An author names the mistakes of thought. Slips need no author: each is made from the solution by a
change in one place, and an answer with the same numbers in every case is told which slip they show.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from seqlab.course.exercise import Exercise


@dataclass(frozen=True)
class Slip:
    """What was changed, in words and as an edit, and the code of the whole cell with the change."""

    what: str
    edit: str
    code: str


def sentence(e: Exercise, found: list[Slip]) -> str:
    """What the numbers show. Slips with the same numbers are all named."""
    numbers = "Your number is that" if e.numeric else "Your numbers are those"
    whats = ", or ".join(dict.fromkeys(s.what for s in found))
    shows = f' A second hint("{e.id}") shows where.' if len(found) == 1 else ""
    return f"{numbers} of a right answer in which {whats}.{shows}"


_SWAPPED = {
    ast.Add: (ast.Sub, "one + has become a -"),
    ast.Sub: (ast.Add, "one - has become a +"),
    ast.Mult: (ast.Div, "one multiplication has become a division"),
    ast.Div: (ast.Mult, "one division has become a multiplication"),
}
_LEFT_OUT = {
    ast.Add: "one term of a sum is left out",
    ast.Mult: "one factor is left out",
    ast.Sub: "one subtraction is left out",
    ast.Div: "one division is left out",
}
_FIRST_LEFT_OUT = {
    ast.Add: "the first terms of a sum are left out",
    ast.Mult: "the first factors of a product are left out",
}
_COMPARED = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
_CONFUSED = {  # the equal case, and the other side
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
}


def slips(cell: str) -> Iterator[Slip]:
    """Each slip that can be made between the marks of a solution's cell."""
    from seqlab.course.exercise_file import parts

    own = [range(begin + 1, end + 1) for begin, end in parts(cell)]
    for node in ast.walk(ast.parse(cell)):
        line = getattr(node, "lineno", 0)
        if not any(line in part for part in own) or not _stands_as_read(cell, node):
            continue
        for what, wrong in _changes(node):
            edit = f"{ast.unparse(node)} → {ast.unparse(wrong)}"
            yield Slip(what, edit, _replaced(cell, node, f"({ast.unparse(wrong)})"))


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What may be written in place of one node."""
    if isinstance(node, ast.BinOp) and type(node.op) in _SWAPPED:
        op, what = _SWAPPED[type(node.op)]
        yield what, ast.BinOp(node.left, op(), node.right)
        yield _LEFT_OUT[type(node.op)], node.left
        if isinstance(node.op, ast.Add | ast.Mult):
            # a + b + c is (a + b) + c: its right side alone lacks a and b.
            chained = isinstance(node.left, ast.BinOp) and type(node.left.op) is type(node.op)
            yield (_FIRST_LEFT_OUT if chained else _LEFT_OUT)[type(node.op)], node.right
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in _CONFUSED:
        was = _COMPARED[type(node.ops[0])]
        for op in _CONFUSED[type(node.ops[0])]:
            what = f"one {was} has become a {_COMPARED[op]}"
            yield what, ast.Compare(node.left, [op(), *node.ops[1:]], node.comparators)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "one minus sign is missing", node.operand
    elif isinstance(node, ast.Constant):
        was = node.value
        if isinstance(was, int | float) and not isinstance(was, bool):
            for value in (was + 1, was - 1):
                yield f"one {was} has become {value:.6g}", ast.Constant(value)


def _stands_as_read(cell: str, node: ast.AST) -> bool:
    """Whether the source of the node is where it says: inside an f-string it may not be."""
    segment = ast.get_source_segment(cell, node) if isinstance(node, ast.expr) else None
    if segment is None:
        return False
    try:
        return ast.dump(ast.parse(f"({segment})", mode="eval").body) == ast.dump(node)
    except SyntaxError:
        return False


def _replaced(cell: str, node: ast.AST, wrong: str) -> str:
    """Columns count bytes."""
    lines = [line.encode() for line in cell.splitlines(keepends=True)]
    assert isinstance(node, ast.expr) and node.end_lineno and node.end_col_offset is not None
    before = b"".join(lines[: node.lineno - 1]) + lines[node.lineno - 1][: node.col_offset]
    after = lines[node.end_lineno - 1][node.end_col_offset :] + b"".join(lines[node.end_lineno :])
    return (before + wrong.encode() + after).decode()
