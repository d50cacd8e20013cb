"""Notebooks are built one way, twice the same, and a broken master fails with one sentence."""

from pathlib import Path

import nbformat
import pytest

from seqlab.course import build, masters, paths

HERE = Path(__file__).parent

CHAPTER = """# %% [markdown]
# # 90 A chapter

# %%
import random
import ipywidgets as w
import plotly.graph_objects as go
from IPython.display import display
print("stable")

# %%
out = w.Output()
with out:
    display(go.Figure(go.Scatter(y=[1, 2]), layout={"title": {"text": "inside the widget"}}))
w.VBox([w.IntSlider(), out])

# %% tags=["measured"]
print(random.random())
"""

NBGRADER = (
    '"grade_id": "{id}", "schema_version": 3, "task": false, '
    '"locked": {locked}, "grade": {grade}, "solution": {solution}'
)


def exercise(id, title, meta, name, body, points):
    solution = NBGRADER.format(id=f"solution-{id}", locked="false", grade="false", solution="true")
    check = NBGRADER.format(id=f"check-{id}", locked="true", grade="true", solution="false")
    return f"""
# %% [markdown]
# ## {id}  {title}
#
# *Objective · {meta}*

# %% nbgrader={{{solution}}}
{body}

# %% tags=["check"] nbgrader={{{check}, "points": {points}}}
check("{id}", {name})

# %% [markdown] tags=["explanation"]
# Why {id} is so.
"""


FIRST = exercise(
    "90.1",
    "Write into the memory",
    "5 min · ●○○ · 2 points",
    "write",
    "def write(S, k, v):\n    ### BEGIN SOLUTION\n"
    "    vk = v[..., :, None] * k[..., None, :]\n    return S + vk\n    ### END SOLUTION",
    2,
)
SECOND = exercise(
    "90.2",
    "A running sum in chunks",
    "10 min · ●●○ · 3 points",
    "running_sum",
    "def running_sum(x, state=None, chunk_size=4):\n    ### BEGIN SOLUTION\n"
    "    y = x.cumsum(1) + (0 if state is None else state[:, None])\n    return y, y[:, -1]\n"
    "    ### END SOLUTION",
    3,
)
THIRD = exercise(
    "90.3",
    "The bytes of a state",
    "3 min · ●○○ · 1 point",
    "n_bytes",
    "### BEGIN SOLUTION\nn_bytes = 4 * 64 * 64\n### END SOLUTION",
    1,
)
MASTER = (
    f"""# %% [markdown]
# # Exercises

# %%
import sys
sys.path.insert(0, {str(HERE)!r})
import fake_course
fake_course.install()
from seqlab.course import check
"""
    + FIRST
    + SECOND
    + THIRD
)


@pytest.fixture
def master(home):
    """Write the master of chapter 90, with some text replaced."""

    def made(*changes):
        text = MASTER
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = home / "solutions/src/90_test.py"
        path.write_text(text)
        return path

    return made


@pytest.fixture
def chapter(home):
    path = home / "chapters/src/90_test.py"
    path.write_text(CHAPTER)
    return path


def test_two_builds_are_identical_and_measured_outputs_are_kept(chapter, home):
    (target,) = build.build("chapters", chapter)
    first = target.read_bytes()
    build.build("chapters", chapter)
    assert target.read_bytes() == first
    assert build.stale("chapters", chapter) == []

    build.build("chapters", chapter, fresh=True)
    assert target.read_bytes() != first  # the dice were thrown again

    measured = nbformat.read(target, 4).cells[-1].outputs
    chapter.write_text(CHAPTER.replace('print("stable")', 'print("other")'))
    assert "has other cells than its source" in build.stale("chapters", chapter)[0]
    build.build("chapters", chapter)
    assert (
        nbformat.read(target, 4).cells[-1].outputs != measured
    )  # earlier code changed: measured again


def test_a_built_chapter_holds_first_figures_instead_of_widgets(chapter):
    (target,) = build.build("chapters", chapter)
    notebook, text = nbformat.read(target, 4), target.read_text()
    assert "inside the widget" in text and "widget-view" not in text and "widget-state" not in text
    assert "image/png" not in text and "execution" not in notebook.cells[1].metadata
    assert [c.id for c in notebook.cells] == [f"cell-{i:03d}" for i in range(len(notebook.cells))]
    assert notebook.metadata == {
        "kernelspec": {
            "display_name": "Python 3 (ipykernel)",
            "language": "python",
            "name": "python3",
        }
    }
    nbformat.validate(notebook)


def test_a_chapter_that_raises_fails_the_build(chapter):
    chapter.write_text(CHAPTER.replace('print("stable")', "1 / 0"))
    with pytest.raises(build.BuildFailed, match=r"90_test\.py: a cell raises ZeroDivisionError"):
        build.build("chapters", chapter)


def test_a_master_gives_solutions_and_cleared_exercises(master, home):
    source = master()
    solutions, exercises = build.build("solutions", source)
    assert build.stale("solutions", source) == []
    text, solved = exercises.read_text(), nbformat.read(solutions, 4)
    for hidden in ("SOLUTION", "S + vk", "4 * 64", "Why 90.", "explanation"):
        assert hidden not in text
    cells = nbformat.read(exercises, 4).cells
    by_start = {c.source.split("(")[0].split("\n")[0]: c for c in cells}
    assert by_start["def write"].source == (
        'def write(S, k, v):\n    raise NotImplementedError("exercise 90.1: your code here")'
    )
    assert by_start["n_bytes = ..."].source == "n_bytes = ..."
    assert all(
        c.outputs == [] and c.execution_count is None for c in cells if c.cell_type == "code"
    )
    assert "Right: write agrees" in str(solved.cells) and "Why 90.1 is so." in str(solved.cells)
    assert not (home / "work").exists() or not (home / "work/progress.json").exists()
    nbformat.validate(nbformat.read(exercises, 4))


def test_solving_only_adds_lines(master):
    source = master()
    solved, cleared = masters.read(source), masters.cleared(masters.read(source), "90", "x")
    lines = {line for c in solved.cells for line in c.source.splitlines()}
    stubs = {'    raise NotImplementedError("exercise 90.1: your code here")', "n_bytes = ..."}
    stubs |= {'    raise NotImplementedError("exercise 90.2: your code here")'}
    assert {line for c in cleared.cells for line in c.source.splitlines()} - stubs <= lines


def test_a_wrong_solution_fails_the_build(master):
    with pytest.raises(build.BuildFailed, match=r"CheckFailed: 90\.1: The write is subtracted"):
        build.build("solutions", master(("return S + vk", "return S - vk")))


def test_a_stub_that_earns_points_fails_the_build(master):
    early = (
        "def write(S, k, v):\n",
        "def write(S, k, v):\n    return S + v[..., :, None] * k[..., None, :]\n",
    )
    with pytest.raises(build.BuildFailed, match=r"the unsolved stub of 90\.1 earns 2 points"):
        build.build("solutions", master(early))


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("Write into the memory", "Something else", "90.1 lacks the title 'Write into the memory'"),
        ("5 min · ", "", "90.1 lacks 5 min"),
        ("●○○ · 2 points", "2 points", "90.1 lacks the difficulty ●○○"),
        (" · 2 points", "", "90.1 lacks 2 points"),
        ('"points": 2', '"points": 4', "90.1 lacks nbgrader's points 2"),
        ("    ### END SOLUTION", "    # end", "are needed, each on its own line"),
        (
            "    vk = v[..., :, None] * k[..., None, :]\n    return S + vk\n",
            "",
            "there is nothing between",
        ),
        (FIRST, "", "exercise 90.1 is missing in x"),
        ("90.3", "90.4", "exercise 90.3 is missing in x"),
        ('check("90.1", write)', 'check("90.1", wrote)', r'lacks check\("90.1", write\)'),
        ('check("90.1", write)', 'check("90.2", write)', "is under the heading"),
        ('check("90.1", write)', "pass", "has no check cell"),
        (FIRST, FIRST + FIRST, "needs its own heading and its own solution cell"),
        (
            '# %% [markdown] tags=["explanation"]\n# Why 90.1 is so.',
            "",
            "90.1 lacks an explanation",
        ),
        ("# # Exercises", "# # Exercises\n#\n# ### BEGIN SOLUTION", "a solution marker is left"),
    ],
)
def test_a_broken_master_fails_with_one_sentence(master, old, new, words):
    notebook = masters.read(master((old, new)))
    with pytest.raises(ValueError, match=words) as caught:
        masters.cleared(notebook, "90", "x")
    assert "\n" not in str(caught.value)


def test_stale_notebooks_are_named(master, home, monkeypatch):
    monkeypatch.chdir(home)
    source = master()
    assert build.stale("solutions", source) == [
        "solutions/90_test.ipynb is not built yet",
        "exercises/90_test.ipynb is not what 90_test.py gives",
    ]
    build.build("solutions", source)
    exercises = paths.root() / "exercises/90_test.ipynb"
    exercises.write_text(exercises.read_text().replace("your code here", "mine"))
    assert build.stale("solutions", source) == [
        "exercises/90_test.ipynb is not what 90_test.py gives"
    ]
    source.write_text(MASTER.replace("# Why 90.1 is so.", "# Why 90.1 is different."))
    assert "solutions/90_test.ipynb has other cells than its source" in build.stale(
        "solutions", source
    )


def test_unknown_chapters_are_told_so(home):
    with pytest.raises(build.BuildFailed, match="no source for 55"):
        build.sources(["55"])
