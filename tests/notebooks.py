"""Copy the chapters and solutions to where nbval runs them, each chapter with one more cell.

    python tests/notebooks.py build/nbval        # every chapter
    python tests/notebooks.py build/nbval 05     # one

The last cell moves each dial of a chapter to both its ends, and opens each prediction's figure
again: a figure drawn then sees the names as the last cells left them. So a chapter runs once, for
its cells and for its dials.
"""

import shutil
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]

EVERY_DIAL = """
from ipywidgets import HTML, Dropdown, Output, Text, VBox
from ipywidgets.widgets.widget import _instances

FIGURE = "application/vnd.plotly.v1+json"


def ends_of(control):
    if isinstance(control, Dropdown):
        options = list(control.options)
        return options[:: max(1, len(options) - 1)]
    if isinstance(control, Text):
        return [control.value[:1], 2 * control.value, control.value]
    return [getattr(control, "min", False), getattr(control, "max", True), control.value]


for box in [w for w in _instances.values() if isinstance(w, VBox)]:
    outputs = [child for child in box.children if isinstance(child, Output)]
    controls = [c for c in box.children if hasattr(c, "value") and not isinstance(c, HTML)]
    for control in controls if outputs else []:
        for value in ends_of(control):
            control.value = value
            drawn = outputs[0].outputs[0]["data"]
            assert FIGURE in drawn, f"{control.description} = {value}: {drawn}"


# What is drawn or said: the names of the curves, or the sentence.
def _drawn_in(shown):
    data = [output["data"] for output in shown]
    return [[t.get("name") for t in d[FIGURE]["data"]] if FIGURE in d else d for d in data]


for box in [w for w in _instances.values() if hasattr(w, "shown_again")]:
    first, again = _drawn_in(box.children[-1].outputs), _drawn_in(box.shown_again())
    assert first == again, f"a guess made at the end of the page is shown {again}, not {first}"
""".strip()


def copy(to: Path, chapter: str = "") -> None:
    """The stored notebooks of `chapter` (all without it), in `to`/chapters and `to`/solutions."""
    shutil.rmtree(to, ignore_errors=True)
    for kind in ("chapters", "solutions"):
        (to / kind).mkdir(parents=True)
        for path in sorted((ROOT / kind).glob(f"{chapter}*.ipynb")):
            notebook = nbformat.read(path, 4)
            if kind == "chapters":
                notebook.cells.append(nbformat.v4.new_code_cell(EVERY_DIAL, id="every-dial"))
            nbformat.write(notebook, to / kind / path.name)


if __name__ == "__main__":
    copy(Path(sys.argv[1]), *sys.argv[2:])
