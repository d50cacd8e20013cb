"""Notebooks are built one way, twice the same, and a broken master fails with one sentence."""

from pathlib import Path

import fake_course
import nbformat
import pytest

from seqlab.course import build, exercises, masters, paths

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


@pytest.fixture
def master(home):
    """A copy of chapter 90's exercises, with some text replaced."""

    def made(*changes):
        source = fake_course.copied(home / "fake", *changes)
        exercises.__path__ = [str(home / "fake")]
        return source

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
        'def write(S, k, v):\n    """S + v kᵀ."""\n'
        '    raise NotImplementedError("exercise 90.1: your code here")'
    )
    assert by_start["n_bytes = ..."].source == "n_bytes = ..."
    assert all(
        c.outputs == [] and c.execution_count is None for c in cells if c.cell_type == "code"
    )
    assert "Right: write agrees" in str(solved.cells) and "Why 90.1 is so." in str(solved.cells)
    assert not (home / "work").exists() or not (home / "work/progress.json").exists()
    nbformat.validate(nbformat.read(exercises, 4))


def test_solving_only_adds_lines(master):
    master()
    solved, cleared = masters.solved("90"), masters.unsolved("90")
    lines = {line for c in solved.cells for line in c.source.splitlines()}
    stubs = {'    raise NotImplementedError("exercise 90.1: your code here")', "n_bytes = ..."}
    stubs |= {'    raise NotImplementedError("exercise 90.2: your code here")'}
    assert {line for c in cleared.cells for line in c.source.splitlines()} - stubs <= lines


def test_a_wrong_solution_fails_the_build(master):
    with pytest.raises(build.BuildFailed, match=r"CheckFailed: 90\.1: Your numbers"):
        build.build(
            "solutions", master(("return S + vk\n    ### END", "return S + vk * -1\n    ### END"))
        )


def test_a_stub_that_earns_points_fails_the_build(master):
    early = (
        '"""S + v kᵀ."""\n',
        '"""S + v kᵀ."""\n    return S + v[..., :, None] * k[..., None, :]\n',
    )
    with pytest.raises(build.BuildFailed, match=r"the unsolved stub of 90\.1 earns 2 points"):
        build.build("solutions", master(early))


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("· 5 minutes · ", "· ", r"under the heading a line '\*objective · 8 minutes"),
        ("●○○ · 2 points", "easy · 2 points", "under the heading a line"),
        ("    ### END SOLUTION\n\n\nWHY", "    # end\n\n\nWHY", "and one '### END SOLUTION'"),
        ("S + vk → vk", "S + vv → vk", "'S \\+ vv' occurs 0 times in the solution"),
        (
            "S + vk → vk",
            "None → 0",
            "'None' occurs 2 times in the solution: an edit must fit exactly once",
        ),
        ("S + vk → vk", "S + vk", r"the edit 'S \+ vk' must look like: right → wrong"),
        ("\nS + vk → vk", "\n  S + vk → vk", "is indented, which makes it part of a sentence"),
        ("    The write replaces the state.\n", "", "the mistake 'S \\+ vk → vk' has no sentence"),
        ("    The write is subtracted.", "    The write counts twice.", "is said of two mistakes"),
        ("n_bytes = 4 * 64 * 64", "print(4)", "the last line of the solution must give a name"),
    ],
)
def test_a_broken_file_fails_with_one_sentence(master, old, new, words):
    master((old, new))
    with pytest.raises(ValueError, match=words) as caught:
        masters.unsolved("90")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("exercise 90.")


def test_a_mark_in_another_cell_never_reaches_the_learner(master):
    master(("# # Exercises", "# # Exercises\n#\n# ### BEGIN SOLUTION"))
    with pytest.raises(ValueError, match=r"ch90/notebook\.py: a solution's mark is left in"):
        masters.unsolved("90")


def test_how_a_notebook_works_is_written_once(master):
    master(("about {minutes} minutes.", "about {minutes} minutes.\n#\n# {how 90.1}"))
    opening = masters.unsolved("90").cells[0].source
    for said in ('check("90.1", write)', 'hint("90.1")', "`seqlab start 90` copies"):
        assert said in opening
    assert "{" not in opening and opening == masters.solved("90").cells[0].source


def test_an_example_that_is_no_exercise_is_named(master):
    master(("about {minutes} minutes.", "about {minutes} minutes.\n#\n# {how 90.7}"))
    with pytest.raises(
        ValueError, match=r"\{how 90\.7\} names no exercise: 90\.1, 90\.2, 90\.3 do"
    ):
        masters.unsolved("90")


def test_stale_notebooks_are_named(master, home, monkeypatch):
    monkeypatch.chdir(home)
    source = master()
    assert build.stale("solutions", source) == [
        "solutions/90_test.ipynb is not built yet",
        "exercises/90_test.ipynb is not what ch90/notebook.py gives",
    ]
    build.build("solutions", source)
    cleared = paths.root() / "exercises/90_test.ipynb"
    cleared.write_text(cleared.read_text().replace("your code here", "mine"))
    assert build.stale("solutions", source) == [
        "exercises/90_test.ipynb is not what ch90/notebook.py gives"
    ]
    source = master(("Why 90.1 is so.", "Why 90.1 is different."))
    found = build.stale("solutions", source)
    assert "solutions/90_test.ipynb has other cells than its source" in found


def test_unknown_chapters_are_told_so(home):
    with pytest.raises(build.BuildFailed, match="no source for 55"):
        build.sources(["55"])
