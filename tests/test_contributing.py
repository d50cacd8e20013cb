"""CONTRIBUTING.md's worked examples do what it says."""

import inspect
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from seqlab import mixers
from seqlab.course.new_exercise import TEMPLATE
from seqlab.zoo import Row
from seqlab.zoo.papers import PAPERS
from tests import test_mixers as contract

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
SECTION = PAGE[PAGE.index("## A mixer") : PAGE.index("## A figure")]


def choices(name):
    return {
        m.args[0]: list(m.args[1])
        for m in getattr(contract, name).pytestmark
        if m.name == "parametrize"
    }


THEOREMS = [name for name in dir(contract) if name.startswith("test_")]
OF_FORMS = [name for name in THEOREMS if all(r.forms for r in choices(name)["r"])]


@pytest.fixture
def example(monkeypatch):
    """The row and the oracle test, as if each piece were in its file."""
    mixer, row, oracle = re.findall(r"```python\n(.*?)```", SECTION, re.S)
    module, names = ModuleType("seqlab.mixers.mingru"), {"Row": Row}
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(mixer, "CONTRIBUTING.md", "exec"), vars(module))
    monkeypatch.setattr(mixers, "MinGRU", module.MinGRU, raising=False)
    exec(compile(oracle, "CONTRIBUTING.md", "exec"), names)
    return eval(row, names), names["test_it_is_the_papers_equation"]


def test_the_exercise_is_what_new_exercise_writes():
    section = PAGE[PAGE.index("## An exercise") : PAGE.index("## A mixer")]
    (shown,) = re.findall(r"```python\n(.*?)```", section, re.S)
    assert shown.strip() == TEMPLATE.replace("NAME", "log_gate").strip()


def test_its_oracle_test_passes(example):
    example[1]()


@pytest.mark.parametrize("name", [name for name in THEOREMS if name not in OF_FORMS])
def test_the_contract_holds(name, example):
    options = {n: values[0] for n, values in choices(name).items() if n != "r"}
    assert set(inspect.signature(getattr(contract, name)).parameters) == {"r", *options}
    getattr(contract, name)(example[0], **options)


def test_a_paper_of_the_example_is_in_the_table(example):
    assert PAPERS[example[0].paper].year == example[0].year


def test_the_arrows_are_those_of_the_readmes_map():
    arrows = re.search(r"```\n(core →[^`]*)```", PAGE)[1]
    rooms = [re.findall(r"\w+", part) for part in arrows.split("→")]
    rows = re.findall(r"^\| `seqlab/.*", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert rooms == [re.findall(r"`seqlab/(\w+)(?:/|\.py)`", row.split(" | ")[0]) for row in rows]


def test_what_is_left_out_is_about_forms(example):
    assert not example[0].forms and 0 < len(OF_FORMS) < len(THEOREMS) / 2
