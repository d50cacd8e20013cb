"""A hash of the code that a result depends on: comments, docstrings and layout do not count."""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

# The zoo is data: what a row says enters the key of a run, and its mixer's module the hash.
DATA = "seqlab.zoo"


def code_hash(modules: Iterable[str]) -> str:
    """Of the modules, and of all modules of seqlab that they import, directly or not."""
    return _code_hash(tuple(sorted(set(modules))))


@cache
def _code_hash(modules: tuple[str, ...]) -> str:
    found, waiting = set(), list(modules)
    while waiting:
        name = waiting.pop()
        if name not in found and not name.startswith(DATA):
            found.add(name)
            waiting += imported(name)
    text = "\n".join(f"{name} {plain(name)}" for name in sorted(found))
    return hashlib.sha256(text.encode()).hexdigest()


def modules_of(value: Any) -> Iterator[str]:
    """The modules of seqlab in which a factory, and what it is called with, are defined."""
    if isinstance(value, partial):
        for part in (value.func, *value.args, *value.keywords.values()):
            yield from modules_of(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from modules_of(part)
    elif callable(value) and _ours(value):
        yield value.__module__


@cache
def plain(module: str) -> str:
    """The source without comments, docstrings and layout."""
    tree = _tree(module)
    for node in ast.walk(tree):
        may_have = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if may_have and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


@cache
def imported(module: str) -> tuple[str, ...]:
    """The modules of seqlab that this one imports; of a name in a package, where it is defined."""
    names = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("seqlab.")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("seqlab"):
            for alias in node.names:
                names |= _behind(str(node.module), alias.name)
    return tuple(sorted(names))


def _behind(module: str, name: str) -> set[str]:
    found = import_module(module)
    if not hasattr(found, "__path__"):
        return {module}
    value = getattr(found, name, None)
    if value is None or type(value) is type(ast):
        return {f"{module}.{name}"}
    return {value.__module__} if _ours(value) else set()


def _ours(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).startswith("seqlab.")


def _tree(module: str) -> ast.Module:
    file = import_module(module).__file__
    return ast.parse(Path(str(file)).read_text(encoding="utf-8"))
