"""Every committed notebook is what its source gives."""

import pytest

from seqlab.course import build, paths

SOURCES = build.sources() if any(paths.root().glob("*/src/[0-9]*.py")) else []


@pytest.mark.parametrize("kind, source", SOURCES, ids=lambda x: getattr(x, "stem", x))
def test_no_notebook_is_stale(kind, source):
    assert build.stale(kind, source) == [], "run seqlab build"


@pytest.mark.parametrize("kind, source", SOURCES, ids=lambda x: getattr(x, "stem", x))
def test_every_notebook_is_under_a_megabyte(kind, source):
    assert (paths.root() / kind / f"{source.stem}.ipynb").stat().st_size < 2**20
