"""Every committed notebook is what its source gives."""

from subprocess import DEVNULL

import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient

from seqlab.course import build, paths
from seqlab.course.sandbox import ThisPython

SOURCES = build.sources() if any(paths.root().glob("*/src/[0-9]*.py")) else []


@pytest.mark.parametrize("kind, source", SOURCES, ids=lambda x: getattr(x, "stem", x))
def test_no_notebook_is_stale(kind, source):
    assert build.stale(kind, source) == [], "run seqlab build"


@pytest.mark.parametrize("kind, source", SOURCES, ids=lambda x: getattr(x, "stem", x))
def test_every_notebook_is_under_a_megabyte(kind, source):
    assert (paths.root() / kind / f"{source.stem}.ipynb").stat().st_size < 2**20


@pytest.mark.parametrize("path", sorted((paths.root() / "exercises").glob("*.ipynb")), ids=lambda p: p.stem)
def test_in_an_unsolved_notebook_only_the_checks_fail_and_all_of_them(path, monkeypatch, tmp_path):
    monkeypatch.setenv("SEQLAB_STRICT", "1")
    monkeypatch.setenv("SEQLAB_WORK", str(tmp_path))
    notebook = nbformat.read(path, 4)
    manager = KernelManager(kernel_spec_manager=ThisPython())
    client = NotebookClient(notebook, km=manager, timeout=60, allow_errors=True, record_timing=False)
    client.execute(cwd=str(path.parent), cleanup_kc=True, stdout=DEVNULL, stderr=DEVNULL)
    manager.context.destroy(linger=0)
    failed = [c.source for c in notebook.cells if any(o.output_type == "error" for o in c.get("outputs", []))]
    marked = [c.source for c in notebook.cells if "check" in c.metadata.get("tags", [])]
    assert failed == marked and len(marked) >= 8
