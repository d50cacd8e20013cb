"""Take a function of a notebook along to another process, with what it needs and nothing else.

Its source goes, and that of the notebook's own functions and kernels that it uses; of a module, or
of what a module defines, its name; of a number, a text or a tensor, its value. Cells are not run
again. What cannot be taken is named in one sentence.
"""

import inspect
import linecache
import pickle
import symtable
import textwrap
from dataclasses import dataclass, field
from importlib import import_module
from types import FunctionType, ModuleType
from typing import Any

import torch

OWN = ("__main__", "__seqlab_answer__")
# Elements of the largest tensor that is taken along.
LARGEST = 1_000_000


class CannotTake(ValueError):
    """What cannot be taken along, as a sentence for the learner."""


@dataclass(frozen=True)
class Step:
    """How one name is defined again. kind: "import", "value" or "code".

    what: (module, path in it), a value, or source. line: where the source begins in its file.
    """

    kind: str
    name: str
    what: Any
    file: str = ""
    line: int = 0


@dataclass
class Taken:
    """A function, as steps that define it again, and the text of the cells that they stand in."""

    name: str
    steps: list[Step] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


def take(function: Any) -> Taken:
    """`function` and what it needs. Raises CannotTake."""
    name = getattr(function, "__name__", type(function).__name__)
    taken, known = Taken(name), {}
    _take(name, function, name, taken, known)
    return taken


def restore(taken: Taken) -> Any:
    """Define it again, in a namespace of its own; messages name the lines of the notebook."""
    names: dict[str, Any] = {"__name__": OWN[1]}
    for file, text in taken.files.items():
        linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file
    for step in taken.steps:
        if step.kind == "import":
            names[step.name] = _found(*step.what)
        elif step.kind == "value":
            names[step.name] = step.what
        else:
            source = "\n" * (step.line - 1) + step.what
            exec(compile(source, step.file, "exec"), names)
    return names[taken.name]


def _take(name: str, value: Any, user: str, taken: Taken, known: dict[str, Any]) -> None:
    if name in known:
        if known[name] is not value:
            raise CannotTake(f"{user} uses {name}, and so does another function, for other things.")
        return
    known[name] = value
    function = _inner(value)
    if isinstance(value, ModuleType):
        taken.steps.append(Step("import", name, (value.__name__, "")))
    elif isinstance(function, FunctionType) and _is_own(function):
        _take_code(name, function, taken, known)
    elif place := _place(value):
        taken.steps.append(Step("import", name, place))
    elif _is_plain(value):
        taken.steps.append(Step("value", name, value))
    else:
        kind = type(value).__name__
        what = f"{name} ({'a class' if isinstance(value, type) else kind})"
        raise CannotTake(
            f"{user} uses {what}, which cannot be taken along to the process that runs it: "
            f"make it a number, or define it inside {user}."
        )


def _take_code(name: str, function: FunctionType, taken: Taken, known: dict[str, Any]) -> None:
    try:
        lines, first = inspect.getsourcelines(function)
    except (OSError, TypeError):
        raise CannotTake(f"The source of {name} cannot be read: define it in a cell.") from None
    source = textwrap.dedent("".join(lines))
    if function.__name__ != name or not source.lstrip().startswith(("def ", "@")):
        raise CannotTake(f"{name} must be made with def, under that name, in a cell.")
    there = {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
    for used in sorted(_globals_of(source) - {name}):
        if used in there:
            _take(used, there[used], name, taken, known)
    file = function.__code__.co_filename
    taken.files[file] = "".join(linecache.getlines(file))
    taken.steps.append(Step("code", name, source, file, first))


def _globals_of(source: str) -> set[str]:
    """The names that a definition reads from around it: in its body, decorators and defaults."""
    table = symtable.symtable(source, "?", "exec")
    found = {s.get_name() for s in table.get_symbols() if s.is_referenced()}
    tables = list(table.get_children())
    while tables:
        table = tables.pop()
        found |= {s.get_name() for s in table.get_symbols() if s.is_global() and s.is_referenced()}
        tables += table.get_children()
    return found


def _inner(value: Any) -> Any:
    """The Python function inside a kernel, its autotuner and its heuristics."""
    while not isinstance(value, FunctionType | type) and hasattr(value, "fn"):
        value = value.fn
    return value


def _is_own(function: FunctionType) -> bool:
    """Whether the learner wrote it, in a cell."""
    return function.__module__ in OWN


def _place(value: Any) -> tuple[str, str] | None:
    """The module and the name in it under which a function or class can be imported."""
    inner = _inner(value)
    module, path = getattr(inner, "__module__", None), getattr(inner, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(path, str) or module in OWN:
        return None
    try:
        return (module, path) if _found(module, path) is value else None
    except (ImportError, AttributeError):
        return None


def _found(module: str, path: str) -> Any:
    there = import_module(module)
    for part in path.split(".") if path else ():
        there = getattr(there, part)
    return there


def _is_plain(value: Any) -> bool:
    """A value that another process can read: numbers, texts, tensors, and boxes of these."""
    if isinstance(value, torch.Tensor):
        return value.numel() <= LARGEST
    if isinstance(value, dict):
        return all(_is_plain(x) for pair in value.items() for x in pair)
    if isinstance(value, list | tuple | set | frozenset) and type(value).__module__ not in OWN:
        return all(map(_is_plain, value))
    if type(value).__module__ in OWN or isinstance(value, type | FunctionType):
        return False
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True
