"""Grading runs one file, and whatever a cell does costs its own exercise and nothing else."""

import json
import os
import subprocess
import sys
import time

import psutil
import pytest
from fake_course import EXERCISES

from seqlab.course import grade as grading
from seqlab.course.checking import report_on
from seqlab.course.grade import Limits, NotGradable, Sandbox, grade, read_cells, summary

WRITE = "def write(S, k, v):\n    return S + v[..., :, None] * k[..., None, :]"
SUM = (
    "def running_sum(x, state=None, chunk_size=4):\n"
    "    y = x.cumsum(1) if state is None else x.cumsum(1) + state[:, None]\n"
    "    return y, y[:, -1]"
)
NUMBER = "n_bytes = 4 * 64 * 64"
CHECKS = [f'check("{e.id}", {e.name})' for e in EXERCISES]
START = "import torch\nfrom seqlab.course import check"
LIMITS = Limits(cell=1.5, memory_gb=1)


@pytest.fixture
def graded(notebook):
    """Grade a notebook with these answers; each may come as several cells."""

    def run(write=WRITE, running_sum=SUM, number=NUMBER, checks=CHECKS, limits=LIMITS):
        cells = [START]
        for answer, check in zip((write, running_sum, number), checks, strict=True):
            cells += [answer] if isinstance(answer, str) else answer
            cells += [check]
        reports = grade("90", notebook(*cells), limits)
        return {r.id: (r.earned, r.message) for r in reports}

    return run


def others_are_graded(marks):
    return marks["90.2"][0] == 3 and marks["90.3"][0] == 1


def kernels():
    """The live children of this process, without multiprocessing's tracker: another test may have
    started that one, and it lives as long as this process.
    """
    children = psutil.Process().children(recursive=True)
    alive = [p for p in children if p.status() != psutil.STATUS_ZOMBIE]
    return [p for p in alive if "multiprocessing.resource_tracker" not in " ".join(p.cmdline())]


def test_right_answers_earn_all_points_in_one_kernel(graded, monkeypatch):
    """Starting a kernel and importing torch in it is what costs seconds."""
    started = []
    monkeypatch.setattr(
        grading, "Sandbox", lambda folder: started.append(folder) or Sandbox(folder)
    )
    assert [earned for earned, _ in graded().values()] == [2, 3, 1]
    assert len(started) == 1


def test_checks_are_not_needed_and_do_nothing(graded, home):
    assert [earned for earned, _ in graded(checks=["", "check = None", "1 / 0"]).values()] == [
        2,
        3,
        1,
    ]
    assert not (home / "work/progress.json").exists()


# A thread computes, so the processor time runs out; the main one swallows every interrupt.
SWALLOWED = """import threading, time
threading.Thread(target=lambda: any(iter(int, 1)), daemon=True).start()
while True:
  try: time.sleep(9)
  except BaseException: pass
"""

MISDEEDS = {
    "an endless loop": ("while True: pass\n" + WRITE, "ran longer than 1.5 s"),
    "a swallowed interrupt": (
        SWALLOWED + WRITE,
        "would not stop",
    ),
    "os._exit": ("import os; os._exit(0)", "ended the Python process"),
    "exit()": ("exit()\n" + WRITE, "raised SystemExit"),
    "a crash": ("import ctypes; ctypes.string_at(0)", "ended the Python process"),
    "a memory hog": ("hog = torch.empty(2**30)\n" + WRITE, "raised RuntimeError"),
    "a syntax error": ("def write(S, k, v)\n    pass", "raised SyntaxError"),
    "nothing": ("", "no cell defines it"),
    "an exception": ("1 / 0\n" + WRITE, "raised ZeroDivisionError: division by zero"),
    "input()": ("input()\n" + WRITE, "raised StdinNotImplementedError"),
}


@pytest.mark.parametrize("what", MISDEEDS)
def test_a_misdeed_in_a_cell_costs_its_own_exercise(graded, what):
    cell, words = MISDEEDS[what]
    marks = graded(write=cell)
    assert (
        marks["90.1"][0] == 0
        and "write is not defined" in marks["90.1"][1]
        and words in marks["90.1"][1]
    )
    assert others_are_graded(marks)
    assert kernels() == []


CALLS = {
    "an endless loop": ("while True: pass", "still running when its time was up"),
    "a swallowed interrupt": (
        SWALLOWED.replace("\n", "\n    "),
        "ran longer than 3.5 s",
    ),
    "os._exit": ("import os; os._exit(0)", "ended the Python process"),
    "a memory hog": ("return torch.empty(2**30)", "RuntimeError"),
    "too much": ("return torch.ones(2, 3, 5, 4).expand(10**6, 2, 3, 5, 4)", "numbers"),
    "a stub": ("raise NotImplementedError", "Not started"),
    "a wrong answer": ("return S", "returns its input S"),
}


@pytest.mark.parametrize("what", CALLS)
def test_a_misdeed_in_a_call_costs_its_own_exercise(graded, what):
    body, words = CALLS[what]
    marks = graded(write=f"def write(S, k, v):\n    {body}")
    assert marks["90.1"][0] == 0 and words in marks["90.1"][1]
    assert others_are_graded(marks)


def test_megabytes_of_print_cost_nothing(graded):
    marks = graded(
        write=[WRITE, "for _ in range(200):\n    print('x' * 100_000)"], limits=Limits(cell=10)
    )
    assert marks["90.1"][0] == 2 and others_are_graded(marks)


CHEATS = {
    "torch's comparisons patched": "torch.allclose = torch.equal = lambda *args, **kwargs: True",
    "the judge patched": (
        "import seqlab.course.judge as j, seqlab.course.grade as g\n"
        "j.judge = g.judge = lambda e, cases, outcomes: j.failure(e, 'passed', '')\n"
        "j.fault_of = lambda *args: None"
    ),
    "an object that equals everything": (
        "class Yes:\n  def __eq__(self, other): return True\n"
        "  def __getattr__(self, name): return self\n"
        "  __class__ = torch.Tensor\ndef write(S, k, v): return Yes()"
    ),
    "a tensor that equals everything": (
        "class Yes(torch.Tensor):\n  @classmethod\n"
        "  def __torch_function__(cls, *args, **kwargs): return True\n"
        "def write(S, k, v): return torch.zeros(S.shape).as_subclass(Yes)"
    ),
}


@pytest.mark.parametrize("what", CHEATS)
def test_cheating_gains_nothing(graded, what):
    marks = graded(write=["def write(S, k, v): return torch.zeros_like(S)", CHEATS[what]])
    assert marks["90.1"][0] == 0 and others_are_graded(marks)


def test_answers_fitted_to_the_numbers_of_the_check_gain_nothing(graded):
    cheat = (
        "import sys; sys.path.insert(0, '/')\ntable = {}\n"
        "def write(S, k, v):\n    right = S + v[..., :, None] * k[..., None, :]\n"
        "    return table.get(S.sum().item(), 0 * S)\n"
    )
    assert graded(write=cheat)["90.1"][0] == 0


def test_later_cells_cannot_spoil_what_was_graded(graded):
    marks = graded(running_sum=["del write\ntorch.Tensor.__add__ = None", SUM])
    assert marks["90.1"][0] == 2


def test_processes_that_a_cell_starts_do_not_outlive_the_grading(graded):
    cell = (
        "import subprocess; p = subprocess.Popen(['sleep', '4321'], start_new_session=True)\n"
        + WRITE
    )
    assert graded(write=cell)["90.1"][0] == 2
    assert not [
        p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "4321"]
    ]


def test_a_cell_that_waits_is_stopped_too_but_later(graded):
    """It takes no processor time, so it has PATIENCE times its limit by the clock."""
    marks = graded(write="import time\ntime.sleep(60)\n" + WRITE, limits=Limits(cell=0.5))
    assert "waited longer than 5 s and was stopped" in marks["90.1"][1]
    assert others_are_graded(marks)


def test_the_whole_notebook_has_a_time_limit_too(graded):
    """Five cells would compute for 45 s, each within its own limit."""
    cell = "import time\nstop = time.process_time() + 9\nwhile time.process_time() < stop: pass"
    start = time.process_time()
    marks = graded(write=[cell] * 5, limits=Limits(cell=10, total=6))
    assert time.process_time() - start < 5 * 9
    assert all(earned == 0 for earned, _ in marks.values())
    assert "used up its 6 s" in marks["90.3"][1]


def test_the_summary_is_what_the_command_line_prints(notebook):
    reports = grade("90", notebook(START, WRITE), LIMITS)
    marks = json.loads(json.dumps(summary(reports)))
    assert (marks["points"], marks["earned"]) == (6, 2)
    assert marks["exercises"][0] == {
        "id": "90.1",
        "points": 2,
        "earned": 2,
        "message": reports[0].message,
    }


@pytest.mark.parametrize(
    "content, words",
    [
        ("", "is empty"),
        ("# Title", "is not a Jupyter notebook"),
        ("[]", "is not a Jupyter notebook"),
        ('{"cells": 3}', "is not a Jupyter notebook"),
        ('{"cells": [{"cell_type": "code"}]}', "is not a Jupyter notebook"),
        ("[" * 100_000, "is not a Jupyter notebook"),
        (b"\x80\xff", "cannot be read as a notebook"),
    ],
)
def test_what_is_not_a_notebook_is_told_so(tmp_path, content, words):
    path = tmp_path / "x.ipynb"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(NotGradable, match=words):
        read_cells(path)


def test_a_notebook_of_another_chapter_is_told_so(tmp_path):
    path = tmp_path / "x.ipynb"
    path.write_text('{"cells": [{"cell_type": "code", "source": "x = 1"}]}')
    with pytest.raises(NotGradable, match="is not the notebook of chapter 03"):
        grade("03", path)


def test_a_missing_file_and_a_folder_are_told_so(tmp_path):
    with pytest.raises(NotGradable, match="does not exist"):
        read_cells(tmp_path / "nope.ipynb")
    with pytest.raises(NotGradable, match="is a folder"):
        read_cells(tmp_path)


@pytest.fixture
def crowded():
    """One core for this process and its children, shared with four that only compute."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system cannot give a process one core")
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    yield
    for process in busy:
        process.kill()
        process.wait()
    os.sched_setaffinity(0, cores)


def test_on_a_crowded_core_marks_and_diagnoses_are_the_same(graded, crowded):
    """Whatever computes takes five times as long by the clock there."""
    assert [earned for earned, _ in graded().values()] == [2, 3, 1]
    for e in EXERCISES:
        for sentence, mistake in e.mistakes.items():
            given = mistake if e.numeric else lambda mistake=mistake, **inputs: mistake(**inputs)
            assert report_on(e, given).message == sentence
