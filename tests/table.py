"""Print what the tests of each chapter took, from pytest's reports: python tests/table.py A.xml …

Seconds that the tests ran, on however many workers. `named` counts the one-node changes of the
solutions that get a diagnosis of their own.
"""

import re
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

NOTEBOOK = re.compile(r"(chapters|solutions)[./](\d\d)_")
PROOF = re.compile(r"test_every_exercise.*\[.*?(\d\d)\.\d+")


def totals(reports: list[Path]) -> dict[str, dict[str, float]]:
    """Chapter -> seconds of run, solutions and proof; named and tried changes."""
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for case in (case for report in reports for case in ET.parse(report).iter("testcase")):
        name = f"{case.get('file') or case.get('classname')}::{case.get('name')}"
        seconds = float(case.get("time", 0))
        if where := NOTEBOOK.search(name):
            kind = "run" if where[1] == "chapters" else "solutions"
            found[where[2]][kind] += seconds
        elif proven := PROOF.search(name):
            found[proven[1]]["proof"] += seconds
            for said in case.iter("property"):
                if said.get("name") == "named":
                    named, tried = map(int, re.findall(r"\d+", said.get("value", "")))
                    found[proven[1]]["named"] += named
                    found[proven[1]]["tried"] += tried
    return found


def main(reports: list[str]) -> None:
    found = totals([Path(report) for report in reports])
    print(f"\n{'chapter':8}{'run':>8}{'solutions':>11}{'proof':>8}   named changes")
    for chapter, t in sorted(found.items()):
        named = f"{t['named']:.0f} of {t['tried']:.0f}" if t["tried"] else ""
        times = f"{t['run']:7.0f}s{t['solutions']:10.0f}s{t['proof']:7.0f}s"
        print(f"{chapter:8}{times}   {named}")


if __name__ == "__main__":
    main(sys.argv[1:])
