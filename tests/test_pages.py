"""What every finished chapter's page holds, as far as a program can tell. CONTRIBUTING says why."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import pytest

from seqlab.course import exercises
from seqlab.zoo import CHANNEL_MIXERS, RECIPES, ZOO

PLOTLY = "application/vnd.plotly.v1+json"
ROOT = Path(__file__).parents[1]
PAGES = [p for p in sorted((ROOT / "chapters").glob("*.ipynb")) if p.name[:2] != "00"]
every = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name[:2])

MOST_WORDS, MOST_LINES, WIDEST, LARGEST = 3600, 360, 88, 2**20


@dataclass
class Page:
    cells: list
    prose: str = ""
    code: str = ""
    # (place, figure) of each plotly figure
    figures: list = field(default_factory=list)


def read(path):
    cells = nbformat.read(path, 4).cells
    page = Page(cells)
    page.prose = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    page.code = "\n".join(c.source for c in cells if c.cell_type == "code")
    for i, c in enumerate(cells):
        for o in c.get("outputs", []):
            if PLOTLY in o.get("data", {}):
                page.figures.append((i, o.data[PLOTLY]))
    return page


@every
def test_it_is_short(page):
    lines = [line for line in read(page).code.splitlines() if line.strip()]
    assert len(read(page).prose.split()) <= MOST_WORDS and len(lines) <= MOST_LINES
    assert not [line for line in lines if len(line) > WIDEST]
    assert page.stat().st_size <= LARGEST


@every
def test_each_figure_is_explained_and_one_moves_without_a_kernel(page):
    p = read(page)
    assert len({i for i, _ in p.figures}) >= 5
    unexplained = [
        i
        for i, _ in p.figures
        if not any("*What to see" in c.source for c in p.cells[i + 1 : i + 5])
    ]
    assert not unexplained
    assert any(f.get("frames") or f["layout"].get("sliders") for _, f in p.figures)
    assert re.search(r"\b(explore|microscope)\(", p.code)


@every
def test_it_says_what_a_reader_looks_for(page):
    p = read(page)
    for words in ("After this chapter you can", "**You need**", "**Covers**", "## Recap"):
        assert words in p.prose
    assert re.search(r"\*\*Time\*\* \d+ minutes", p.prose)
    for heading in ("In the wild", "Fact check", "Practise", "References"):
        assert re.search(rf"^#+ .*{heading}", p.prose, re.M), heading
    assert p.code.count("@holds") >= 3 and "predict(" in p.code
    assert any("measured" in c.metadata.get("tags", []) for c in p.cells)


@every
def test_sources_are_links(page):
    prose = read(page).prose
    linked = set(re.findall(r"arxiv\.org/abs/(\d{4}\.\d{4,5})", prose))
    named = set(re.findall(r"arXiv:(\d{4}\.\d{4,5})", prose))
    assert len(linked) >= 3 and named <= linked


@every
def test_the_rows_of_the_zoo_are_named(page):
    prose = read(page).prose.lower() + read(page).code.lower()
    rows = [r for r in (*ZOO, *CHANNEL_MIXERS, *RECIPES) if r.chapter == int(page.name[:2])]
    # "Performer features", "Based's short convolution": parts of a model are named with it.
    part = r",.*|\(.*?\)|features|'s short convolution|block of 2024"
    bare = [re.sub(part, "", r.name).strip().lower() for r in rows]
    missing = [name for name in bare if name not in prose and name.replace("-", " ") not in prose]
    assert not missing


@every
def test_the_exercises_are_of_every_kind(page):
    found = exercises.of_chapter(page.name[:2])
    titles = " ".join(e.title for e in found)
    assert len(found) >= 7 and any(e.numeric for e in found)
    assert "Bug hunt" in titles and "Project" in titles
    assert exercises.questions(page.name[:2])
    assert "predict(" in exercises.notebook(page.name[:2]).read_text(encoding="utf-8")
    assert not [e.id for e in found if len(e.mistakes) < 5]
