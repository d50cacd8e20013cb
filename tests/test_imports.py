"""Who may import whom, and what importing costs."""

import ast
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "seqlab"
HEAVY = (
    "plotly",
    "ipywidgets",
    "IPython",
    "nbformat",
    "nbclient",
    "jupytext",
    "jupyter_client",
    "typer",
    "rich",
)


def rooms():
    """The folders and modules of the package."""
    found = (p.parent if p.name == "__init__.py" else p for p in PACKAGE.glob("*/__init__.py"))
    return {p.stem for p in [*found, *PACKAGE.glob("*.py")]} - {"__init__"}


def order():
    """Room -> its row in the map of the README, which is read from the bottom of the house to its
    roof.
    """
    rows = re.findall(r"^\| `seqlab/.*", (ROOT / "README.md").read_text(), re.MULTILINE)
    return {
        name: i
        for i, row in enumerate(rows)
        for name in re.findall(r"`seqlab/(\w+)(?:/|\.py)`", row)
    }


def test_the_map_of_the_readme_shows_every_room():
    assert set(order()) == rooms()


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        for name in names:
            yield name.split(".")


# gpu/cases.py is left out: it is what the kernels' benchmark runs.
SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "gpu" / "cases.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    here, place = path.relative_to(PACKAGE).with_suffix("").parts, order()
    if here == ("__init__",):
        return
    for name in imports(path):
        assert name[:2] != ["seqlab", "kernels"], "nothing imports kernels: a user chooses one"
        if name[0] == "seqlab" and len(name) > 1 and name[1] != here[0]:
            assert place[name[1]] <= place[here[0]], f"imports {'.'.join(name)}"
        if here[0] == "mixers" and here[1:] != ("__init__",):
            assert name[:2] != ["seqlab", "mixers"], "mixers never import mixers"


MIXERS = [p for p in SOURCES if p.parent.name == "mixers" and p.stem != "__init__"]


def docstring_lines(tree):
    for node in ast.walk(tree):
        holds_one = isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module)
        if holds_one and ast.get_docstring(node):
            yield from range(node.body[0].lineno, node.body[0].end_lineno + 1)


@pytest.mark.parametrize("path", MIXERS, ids=lambda p: p.stem)
def test_a_mixer_fits_on_two_pages(path):
    """Docstrings and blank lines aside."""
    source = path.read_text()
    said = set(docstring_lines(ast.parse(source)))
    lines = enumerate(source.splitlines(), start=1)
    assert sum(bool(line.strip()) and n not in said for n, line in lines) < 120


def lengths(paths):
    """(lines of its body without the docstring, where it is) of each function."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = node.end_lineno - body[0].lineno + 1 if body else 0
                yield lines, f"{path.name}:{node.lineno} {node.name}"


def test_no_function_that_a_reader_reads_is_over_forty_lines():
    read = [p for p in SOURCES if p.parent.name in ("core", "layers", "mixers", "ffn")]
    assert [where for n, where in lengths(read) if n > 40] == []


def test_the_median_function_of_the_mixers_has_twelve_lines_at_most():
    """And hardly any has more than thirty."""
    found = [n for n, _ in lengths(MIXERS)]
    assert statistics.median(found) <= 12
    assert sum(n > 30 for n in found) <= 2


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_mathematics_loads_without_the_notebook_stack():
    """So that the same code runs on a bare GPU box."""
    load = "import sys, seqlab.zoo, seqlab.model, seqlab.train"
    code = f"{load}; print([m for m in {HEAVY} if m in sys.modules])"
    assert python(code).strip() == "[]"


@pytest.mark.slow
def test_importing_seqlab_costs_little_more_than_torch():
    """A quarter of torch's own import at most, in processor time of one process: the machine may be
    busy, or slow.
    """
    code = """
import time
start = time.process_time()
import torch
after = time.process_time()
import seqlab, seqlab.zoo, seqlab.model
print((time.process_time() - after) / (after - start))
"""
    assert min(float(python(code)) for _ in range(3)) < 0.25
