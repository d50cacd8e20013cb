"""The stored notebooks: built from their sources, small, clean; and unsolved exercises fail exactly
where they should.

`make notebooks` runs chapters and solutions through nbval, cell by cell (see notebooks.py).
"""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import nbformat
import pytest

from seqlab.course import build

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(
    p for kind in ("chapters", "solutions", "exercises") for p in (ROOT / kind).glob("*.ipynb")
)
name = {"ids": lambda p: f"{p.parent.name}/{p.name}"}


@pytest.mark.parametrize(
    "kind,source", build.sources(), ids=lambda s: s if isinstance(s, str) else s.name
)
def test_no_committed_notebook_is_stale(kind, source):
    assert build.stale(kind, source) == [], (
        "run `seqlab build`, and commit the notebooks with their source"
    )


def test_every_notebook_has_a_source():
    made = {(kind, build.notebook_of(kind, source).stem) for kind, source in build.sources()}
    made |= {("exercises", stem) for kind, stem in made if kind == "solutions"}
    assert {(p.parent.name, p.stem) for p in NOTEBOOKS} == made


@pytest.mark.parametrize("path", NOTEBOOKS, **name)
def test_notebooks_are_small_and_clean(path):
    assert path.stat().st_size < 1_000_000
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    assert bool(outputs) == (path.parent.name != "exercises")
    assert not [o for o in outputs if o.output_type == "error"]
    assert "widgets" not in notebook.metadata
    for o in outputs:
        assert "application/vnd.jupyter.widget-view+json" not in o.get("data", {})


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.parent.name == "exercises"], **name)
def test_unsolved_only_the_marked_cells_fail(path, tmp_path):
    """Through nbval, with SEQLAB_STRICT=1: every check cell raises, and nothing else does."""
    env = os.environ | {"SEQLAB_STRICT": "1", "SEQLAB_WORK": str(tmp_path), "OMP_NUM_THREADS": "1"}
    report = tmp_path / "report.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval-lax",
        path,
        "--nbval-current-env",
        "--nbval-cell-timeout=60",
    ]
    subprocess.run(
        [*command, f"--junitxml={report}", "-p", "no:cacheprovider"],
        env=env,
        capture_output=True,
        cwd=ROOT,
    )
    cells = list(ET.parse(report).iter("testcase"))
    code = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    assert len(cells) == len(code)
    failed = {
        i
        for i, cell in enumerate(cells)
        if cell.find("failure") is not None or cell.find("error") is not None
    }
    assert failed == {i for i, c in enumerate(code) if "check" in c.metadata.get("tags", [])}
    assert failed
