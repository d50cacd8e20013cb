"""The worked example of a new mixer in CONTRIBUTING.md is one: it passes the contract and its own oracle test."""

import inspect
import re
from pathlib import Path

import pytest
import torch

from seqlab.zoo import Row
from tests import test_mixers as contract

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
SECTION = PAGE[PAGE.index("## A mixer") : PAGE.index("## A figure")]


@pytest.fixture
def example():
    mixer, row, oracle = re.findall(r"```python\n(.*?)```", SECTION, re.S)
    names = {"torch": torch, "Row": Row}
    exec(compile(mixer + oracle, "CONTRIBUTING.md", "exec"), names)
    return eval(row, names), names["test_it_is_the_papers_equation"]


def test_its_oracle_test_passes(example):
    example[1]()


@pytest.mark.parametrize("name", [n for n in dir(contract) if n.startswith("test_")])
def test_the_contract_holds(name, example):
    theorem = getattr(contract, name)
    marks = [m for m in theorem.pytestmark if m.name == "parametrize"]
    choices = {m.args[0]: m.args[1] for m in marks}
    assert "r" in choices
    options = {n: values[0] for n, values in choices.items() if n != "r"}
    assert set(inspect.signature(theorem).parameters) == {"r", *options}
    theorem(example[0], **options)
