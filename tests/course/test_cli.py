"""The command line: quick, safe with the learner's files, and one sentence for every bad input."""

import json
import os
import subprocess
import sys
import time

import fake_course
import nbformat
import pytest
from fake_course import EXERCISES

from seqlab.course import cli, doctor, exercises, lab, paths
from seqlab.course.checking import report_on

WRITE = "def write(S, k, v):\n    return S + v[..., :, None] * k[..., None, :]"


@pytest.fixture
def course(home, monkeypatch):
    """Chapter 90 with its exercise notebook, and the folder as the current one."""
    cells = [nbformat.v4.new_markdown_cell("# Exercises")]
    for e in EXERCISES:
        stars = "●" * e.difficulty + "○" * (3 - e.difficulty)
        about = f"*{e.objective} · {e.minutes} min · {stars} · {e.points} points*"
        cells.append(nbformat.v4.new_markdown_cell(f"## {e.id}  {e.title}\n\n{about}"))
        cells.append(
            nbformat.v4.new_code_cell(f"def {e.name}(**inputs):\n    raise NotImplementedError")
        )
        cells.append(nbformat.v4.new_code_cell(f'check("{e.id}", {e.name})'))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), home / "exercises/90_test.ipynb")
    nbformat.write(nbformat.v4.new_notebook(), home / "chapters/00_start_here.ipynb")
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def seqlab(course, monkeypatch, capsys):
    """Run the command line in this process: (exit code, stdout, stderr)."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["seqlab", *args])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as stopped:
            cli.main()
            sys.exit(0)
        said = capsys.readouterr()
        return stopped.value.code or 0, said.out, said.err

    return run


def solve(course, source=WRITE):
    path = course / "work/90_test.ipynb"
    notebook = nbformat.read(path, 4)
    notebook.cells[2].source = source
    nbformat.write(notebook, path)
    return path


def test_start_never_overwrites(seqlab, course):
    assert seqlab("start", "90")[0] == 0
    path = solve(course)
    mine = path.read_bytes()
    code, said, _ = seqlab("start", "90")
    assert code == 0 and "You have started already: your copy is work/90_test.ipynb" in said
    assert path.read_bytes() == mine


def test_reset_keeps_every_old_copy(seqlab, course):
    seqlab("start", "90")
    for i in range(3):
        solve(course, f"answer = {i}")
        assert "Your old copy is kept as work/backups/90_test-" in seqlab("reset", "90")[1]
    kept = [p.read_text() for p in (course / "work/backups").iterdir()]
    assert len(kept) == 3 and all(any(f"answer = {i}" in text for text in kept) for i in range(3))
    assert (course / "work/90_test.ipynb").read_bytes() == (
        course / "exercises/90_test.ipynb"
    ).read_bytes()


def test_grade_prints_json_and_records_progress(seqlab, course):
    seqlab("start", "90")
    solve(course)
    code, said, _ = seqlab("grade", "90", "--json")
    marks = json.loads(said)
    assert code == 0 and (marks["points"], marks["earned"]) == (6, 2)
    assert [e["earned"] for e in marks["exercises"]] == [2, 0, 0]
    assert set(marks) == {"points", "earned", "exercises"}
    assert set(marks["exercises"][0]) == {"id", "points", "earned", "message"}
    code, said, _ = seqlab("progress")
    assert "2 of 6 points" in said and "✓ done" in said
    assert "2 of 6" in seqlab("list")[1]


def test_grading_another_file_is_not_the_learners_progress(seqlab, course):
    seqlab("start", "90")
    path = solve(course).rename(course / "other.ipynb")
    code, said, _ = seqlab("grade", "90", str(path))
    assert code == 0 and "2 of 6 points" in said
    assert "0 of 6 points" in seqlab("progress")[1]


def test_check_one_exercise_shows_its_cases(seqlab, course):
    seqlab("start", "90")
    solve(course)
    code, said, _ = seqlab("check", "90.1")
    assert code == 0 and "✓ passed  K ≠ V" in said and "90.2" not in said
    assert seqlab("check", "90.2")[0] == 1


@pytest.mark.parametrize(
    "args, words",
    [
        (["start", "77"], "chapter 77 has nothing in exercises/ (chapters that do: 90)"),
        (["start", "many"], "'many' is not a chapter"),
        (["reset", "77"], "chapter 77 has nothing in exercises/"),
        (["grade", "90"], "run seqlab start 90 first"),
        (["grade", "77", "exercises/90_test.ipynb"], "chapter 77 has no exercises"),
        (["grade", "90", "nope.ipynb"], "nope.ipynb does not exist"),
        (["grade", "90", "broken.ipynb"], "broken.ipynb is not a Jupyter notebook"),
        (["check", "90.9"], "there is no exercise '90.9': did you mean 90."),
        (["lab", "77"], "chapter 77 has nothing in chapters/"),
        (["build", "77"], "there is no source for 77"),
        (["update"], "was not made by git clone"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_two(seqlab, course, args, words):
    (course / "broken.ipynb").write_text("# no notebook")
    code, out, err = seqlab(*args)
    assert code == 2 and out == ""
    assert (
        err.startswith("seqlab: ")
        and words in err
        and "Traceback" not in err
        and err.count("\n") == 1
    )


def test_an_unknown_command_and_a_missing_argument_exit_with_two(seqlab):
    assert seqlab("dance")[0] == 2
    assert seqlab("grade")[0] == 2


def test_listing_takes_less_than_a_second_and_no_torch(course):
    code = (
        "import sys; sys.argv = ['seqlab', 'list']\nfrom seqlab.course import cli\n"
        "try: cli.main()\nfinally: print('torch' in sys.modules, 'plotly' in sys.modules)"
    )
    times = []
    for _ in range(3):
        start = os.times()
        said = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        end = (
            os.times()
        )  # processor time of the command: a busy machine is waited for, and does not count
        times.append(
            end.children_user + end.children_system - start.children_user - start.children_system
        )
    assert said.splitlines()[-1] == "False False"
    assert min(times) < 1


def test_lab_opens_the_first_chapter_with_settings_of_its_own(seqlab, course, monkeypatch):
    ran = []
    monkeypatch.setattr(lab, "run", lambda notebook, *more: ran.append((notebook, more)) or 0)
    assert seqlab("lab")[0] == 0 and seqlab("lab", "--no-browser")[0] == 0
    seqlab("lab", "90", "--exercises")
    start, mine = course / "chapters/00_start_here.ipynb", course / "work/90_test.ipynb"
    assert ran == [(start, ()), (start, ("--no-browser",)), (mine, ())]
    command = " ".join(lab.command(start))
    assert "default_url=/lab/tree/chapters/00_start_here.ipynb" in command
    settings = json.loads((course / "work/.lab/settings/overrides.json").read_text())
    assert settings["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"


def test_the_doctor_says_what_is_missing_and_what_to_do(seqlab, monkeypatch):
    findings = [
        doctor.Finding("torch", "works", "2"),
        doctor.Finding("git", "note", "no"),
        doctor.Finding("x", "missing", "y", "do z"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda: findings[:2])
    assert seqlab("doctor")[0] == 0
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    code, said, _ = seqlab("doctor")
    assert code == 1 and "✗ missing x: y" in said and "→ do z" in said


def test_the_doctor_finds_everything_here(course):
    states = {f.what: f.state for f in doctor.examine()}
    assert "missing" not in states.values()
    expected = "Python, torch, GPU, Triton, JupyterLab, widgets, plotly renderer, git, your answers"
    assert set(expected.split(", ")) <= set(states)


def test_the_root_is_found_from_below_and_by_name(tmp_path, monkeypatch):
    monkeypatch.delenv("SEQLAB_HOME", raising=False)
    (tmp_path / "chapters/deep").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "seqlab"\n')
    monkeypatch.chdir(tmp_path / "chapters/deep")
    assert paths.root() == tmp_path
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\n')
    assert paths.root() != tmp_path  # the package's own folder
    monkeypatch.setenv("SEQLAB_HOME", str(tmp_path / "chapters"))
    assert paths.root() == tmp_path / "chapters"


def test_a_terminated_grader_leaves_no_kernel(course):
    import psutil

    path = course / "work/90_test.ipynb"
    path.parent.mkdir()
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("while True: pass\nwrite = 0")]),
        path,
    )
    code = (
        f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "import fake_course; fake_course.install()\n"
        f"sys.argv = ['seqlab', 'grade', '90', {str(path)!r}]\n"
        "from seqlab.course import cli; cli.main()"
    )
    grader = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    kernels, stop = [], time.monotonic() + 120
    while not kernels and time.monotonic() < stop:
        time.sleep(0.2)
        kernels = psutil.Process(grader.pid).children(recursive=True)
    assert kernels
    grader.terminate()
    grader.wait(60)
    _, alive = psutil.wait_procs(kernels, timeout=60)
    assert not alive


def test_a_new_exercise_is_complete_and_overwrites_nothing(seqlab, home):
    to = fake_course.copied(home / "fake").parent
    exercises.__path__ = [str(home / "fake")]
    code, said, _ = seqlab("new-exercise", "90", "halved")
    assert code == 0 and "ch90/halved.py" in said
    fake_course.forget()
    e = exercises.find("90.4")
    assert e.name == "halved" and report_on(e, e.reference).passed
    for sentence, wrong in e.mistakes.items():
        assert report_on(e, wrong).message == sentence
    (to / "halved.py").write_text("mine")
    code, _, said = seqlab("new-exercise", "90", "halved")
    assert code == 2 and "exists already" in said and (to / "halved.py").read_text() == "mine"
    code, _, said = seqlab("new-exercise", "90", "two words")
    assert code == 2 and "is no name for a function" in said
