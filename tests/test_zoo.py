"""The zoo as data and as text."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from seqlab.course.cli import app
from seqlab.zoo import RECIPES, ZOO, recipe, row, table

ROOT = Path(__file__).parents[1]


def test_names_are_unique():
    names = [e.name.lower() for e in [*ZOO, *RECIPES]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("r", ZOO, ids=lambda r: r.name)
def test_a_row_names_its_source(r):
    assert re.match(r"arXiv:\d{4}\.\d{4,5}$|doi:10\.", r.paper) and r.oracle and r.gate
    assert 1986 <= r.year <= 2027 and 0 <= r.chapter <= 29
    assert (ROOT / table.source_file(r)).is_file()
    year = int(r.paper[6:8]) + 2000 if r.paper.startswith("arXiv") else r.year
    assert r.year in (year, year + 1), "an arXiv number starts with the year"


@pytest.mark.parametrize("r", ZOO, ids=lambda r: r.name)
def test_a_row_has_an_oracle_test_of_its_own(r):
    name = table.mixer_class(r).__name__
    tests = [p.read_text() for p in (ROOT / "tests/mixers").glob("test_*.py")]
    assert any(re.search(rf"import .*\b{name}\b", text) and f"{name}(" in text for text in tests)


def test_an_unknown_row_is_named_with_what_there_is():
    with pytest.raises(KeyError, match=r"no architecture is called 'S6': there are .*RetNet"):
        row("S6")
    assert row("retnet").year == 2023
    with pytest.raises(KeyError, match="no model is called 'GPT'"):
        recipe("GPT")


def test_a_state_is_shown_in_three_digits():
    assert [table.size(n) for n in (7, 999, 1000, 8192, 999_960, 33_554_432)] == ["7", "999", "1K", "8.2K", "1M", "34M"]
    assert table.state(row("RetNet")) == "33K" and table.state(row("attention")) == "524K → 34M"


def test_the_command_prints_every_name():
    shown = CliRunner().invoke(app, ["zoo"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert all(e.name in shown.output for e in [*ZOO, *RECIPES])


def test_the_command_says_more_about_one():
    shown = CliRunner().invoke(app, ["zoo", "retnet"])
    assert shown.exit_code == 0 and "S_t = γ_h S_{t-1} + v_t k_tᵀ" in shown.output
    assert "seqlab/mixers/retnet.py" in shown.output and "fla.ops.retention.naive" in shown.output


def test_a_name_that_is_not_there_gets_one_clear_sentence():
    with pytest.raises(ValueError, match="nothing is called 'retned': did you mean retnet"):
        table.one("retned")


def test_the_readmes_tables_are_the_zoo():
    readme = (ROOT / "README.md").read_text()
    for text in (table.markdown(), table.recipes_markdown()):
        assert text in readme, "paste what `seqlab zoo --markdown` prints into README.md"
