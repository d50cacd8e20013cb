import sys
from pathlib import Path

import nbformat
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import fake_course


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty course folder, with the exercises of chapter 90."""
    for folder in ("chapters/src", "solutions", "exercises"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setenv("SEQLAB_HOME", str(tmp_path))
    for name in ("SEQLAB_WORK", "SEQLAB_STRICT", "SEQLAB_GRADING"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "chapters/src/90_test.py").write_text("# %%\nprint(90)\n")
    fake_course.install(monkeypatch)
    yield tmp_path
    fake_course.forget()


@pytest.fixture
def notebook(home):
    """Write a notebook of code cells, and return its path."""

    def made(*cells, name="work/90_test.ipynb"):
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(
            nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells]), path
        )
        return path

    return made
