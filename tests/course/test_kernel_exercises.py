"""An answer that launches a kernel is taken along to a process of its own: what happens to it there
costs the notebook nothing, and is said in one sentence.
"""

import itertools
import linecache
import os
import subprocess
import sys
import textwrap
import time

import nbformat
import psutil
import pytest
import torch

pytest.importorskip("triton", reason="needs Triton (Linux only)")

from nbclient import NotebookClient

from seqlab.course import exercises, kernel
from seqlab.course.answer import Came, Outcome, plan
from seqlab.course.build import ThisPython
from seqlab.course.checking import report_on
from seqlab.course.exercise import Case
from seqlab.course.exercise_file import answer as defined
from seqlab.course.grade import grade
from seqlab.course.judge import judge
from seqlab.course.parting import figure
from seqlab.course.report import Kind
from seqlab.course.taken import CannotTake, restore, take
from seqlab.course.worker import worker
from seqlab.gpu.anywhere import launches_on_cpu
from seqlab.gpu.compile import TARGETS, compile_report
from seqlab.gpu.interpreter import launch

COPY = exercises.find("23.1")
OPENING = """
import torch
import triton
import triton.language as tl
"""
GOOD = """
@triton.jit
def block(i, BLOCK: tl.constexpr):
    return i * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def copy(p_x, p_y, n, BLOCK: tl.constexpr):
    i = block(tl.program_id(0), BLOCK)
    tl.store(p_y + i, tl.load(p_x + i, mask=i < n), mask=i < n)


SIZE = 16


def ragged_copy(x):
    y = torch.empty_like(x)
    copy[(triton.cdiv(len(x), SIZE),)](x, y, len(x), BLOCK=SIZE)
    return y
"""
numbers = itertools.count()


def cell(source, names=None):
    """Run cells as a notebook does: their text is in linecache, their names are in __main__."""
    names = {"__name__": "__main__"} if names is None else names
    for part in (OPENING, source):
        file = f"/tmp/ipykernel_1/{next(numbers)}.py"
        part = textwrap.dedent(part).strip() + "\n"
        linecache.cache[file] = len(part), None, part.splitlines(keepends=True), file
        exec(compile(part, file, "exec"), names)
    return names


def checked(source, seconds=4.0):
    return report_on(COPY, cell(source)["ragged_copy"], seconds=seconds, apart=True)


def test_a_right_kernel_passes_and_its_helpers_and_numbers_come_along():
    report = checked(GOOD)
    assert report.passed and "the sanitizer finds nothing" in report.message


def test_a_process_that_ends_in_the_launch_costs_the_notebook_nothing():
    ended = checked("def ragged_copy(x):\n    import os\n    os._exit(3)")
    assert ended.kind == Kind.CRASHED and "ended the Python process" in ended.message
    assert checked(GOOD).passed  # in a fresh process


@pytest.mark.parametrize(
    "turn",
    ["pass", "try: 1 / 0\n        except BaseException: pass"],
    ids=["endless", "swallows the alarm"],
)
def test_an_endless_loop_is_stopped(turn):
    endless = f"def ragged_copy(x):\n    while True:\n        {turn}"
    report = checked(endless, seconds=1.0)
    assert report.kind in (Kind.SLOW, Kind.CRASHED) and report.earned == 0
    assert "time was up" in report.message or "ran longer" in report.message
    assert checked(GOOD).passed


def test_a_kernel_whose_loop_never_ends_is_stopped():
    endless = GOOD.replace("    i = block", "    while n > 0:\n        n += 0\n    i = block")
    report = checked(endless, seconds=1.0)
    assert report.kind in (Kind.SLOW, Kind.CRASHED), report


def test_a_flood_of_print_changes_nothing():
    flood = GOOD.replace("    y = torch", "    print('x' * 10_000_000)\n    y = torch")
    assert checked(flood).passed


def test_right_numbers_with_a_fault_that_only_a_gpu_shows_are_not_enough():
    report = checked(GOOD.replace("tl.load(p_x + i, mask=i < n)", "tl.load(p_x + i)"))
    assert report.kind == Kind.MISTAKE or "loads p_x[" in report.message
    assert "loads p_x[1]" in report.rows[0].detail and "line " in report.rows[0].detail


def test_a_race_is_named_though_the_last_program_wins():
    race = GOOD.replace("i = block(tl.program_id(0), BLOCK)", "i = block(0, n_all)")
    race = race.replace("n, BLOCK: tl", "n, n_all: tl").replace("BLOCK=SIZE", "n_all=128")
    report = checked(race)
    assert report.kind == Kind.SANITIZER and "which of the two values remains" in report.message


def test_where_it_parts_names_the_program_and_draws_its_tile():
    wrong = GOOD.replace("mask=i < n), mask", "mask=i < n) * (1.0 + 3 * (i == 33)), mask")
    report = checked(wrong)
    said = "y[33] is the first, and program 2 of copy wrote it: 1 of the 16 elements"
    assert report.kind == Kind.VALUE and said in report.message
    assert report.parting is not None and report.parting.tile.nonzero().flatten().tolist() == list(
        range(32, 48)
    )
    drawn = figure(report.parting)
    assert "program 2 of copy" in drawn.layout.title.text and len(drawn.layout.shapes) >= 3


def test_what_a_kernel_forgets_to_write_is_said():
    half = GOOD.replace("len(x), BLOCK=SIZE", "len(x) // 2, BLOCK=SIZE")
    report = checked(half)
    said = {row.name: row.detail for row in report.rows}
    assert report.kind == Kind.SANITIZER
    assert "no program writes p_y[38], in all 39 of 77" in said["a ragged end"]


def test_a_stub_and_a_kernel_that_is_not_begun_say_so():
    for name in ("copy", "ragged_copy"):
        at = GOOD.index("\n    ", GOOD.index(f"def {name}("))
        stub = GOOD[:at] + "\n    raise NotImplementedError('your code here')" + GOOD[at:]
        report = checked(stub)
        assert report.kind == Kind.NOT_STARTED, report


def test_an_answer_without_a_kernel_is_refused():
    report = checked("def ragged_copy(x):\n    return x.clone()")
    assert report.kind == Kind.EFFORT and "launches no kernel" in report.message


def test_a_name_that_is_not_there_is_said_with_its_line():
    report = checked(GOOD.replace("SIZE = 16", ""))
    assert report.kind == Kind.EXCEPTION and "name 'SIZE' is not defined" in report.message
    assert "line " in report.message


def test_what_cannot_be_taken_along_is_named():
    with pytest.raises(CannotTake, match=r"ragged_copy uses SIZE \(generator\), which cannot be"):
        take(cell(GOOD.replace("SIZE = 16", "SIZE = (n for n in [16])"))["ragged_copy"])
    report = checked(GOOD.replace("SIZE = 16", "SIZE = __import__('threading').Lock()"))
    assert report.kind == Kind.CRASHED and "make it a number" in report.message
    with pytest.raises(CannotTake, match="made with def"):
        take(cell("ragged_copy = lambda x: x")["ragged_copy"])


TUNED = """
CONFIGS = [triton.Config({"BLOCK": 16}, num_warps=2), triton.Config({"BLOCK": 32})]
ONE = tl.constexpr(1)
F32 = tl.float32


def blocks(n, BLOCK):
    return triton.cdiv(n, BLOCK)


@triton.autotune(configs=CONFIGS, key=["n"])
@triton.heuristics({"EVEN": lambda named: named["n"] % named["BLOCK"] == 0})
@triton.jit
def copy(p_x, p_y, n, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK) * ONE
    if EVEN:
        tl.store(p_y + i, tl.load(p_x + i).to(F32))
    else:
        tl.store(p_y + i, tl.load(p_x + i, mask=i < n).to(F32), mask=i < n)


def ragged_copy(x):
    y = torch.empty_like(x)
    grid = lambda named: (blocks(len(x), named["BLOCK"]),)
    copy[grid](x, y, len(x))
    return y
"""


def test_autotuners_heuristics_and_helpers_come_along():
    assert checked(TUNED).passed


def test_only_what_is_used_comes_along():
    names = cell(GOOD + "\nlock = __import__('threading').Lock()\nother = ragged_copy\n")
    taken = take(names["ragged_copy"])
    assert {s.name for s in taken.steps} == {
        "tl", "triton", "torch", "block", "copy", "SIZE", "ragged_copy"
    }  # fmt: skip
    x = torch.randn(50)
    outcome = kernel.call_kernel(restore(taken), {"x": x})
    assert outcome.kind == Came.RETURNED and torch.equal(outcome.value, x)


def test_the_process_ends_with_its_worker():
    checked(GOOD)
    kernel_pid = worker().sandbox.manager.provisioner.pid
    before = time.monotonic()
    assert checked(GOOD).passed
    assert time.monotonic() - before < 10  # warm
    assert worker().sandbox.manager.provisioner.pid == kernel_pid
    worker().close()
    assert not psutil.pid_exists(kernel_pid) or (
        psutil.Process(kernel_pid).status() == psutil.STATUS_ZOMBIE
    )


def test_it_works_in_a_notebook_and_its_process_ends_with_it(tmp_path):
    check = (
        "from seqlab.course import check\n"
        "from seqlab.course.worker import worker\n"
        "check('23.1', ragged_copy)\n"
        "print('pid', worker().sandbox.manager.provisioner.pid)"
    )
    cells = [nbformat.v4.new_code_cell(c) for c in (OPENING, GOOD, check)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    os.environ["SEQLAB_WORK"] = str(tmp_path)
    try:
        client = NotebookClient(notebook, timeout=120)
        client.create_kernel_manager().kernel_spec_manager = ThisPython()
        client.execute()
    finally:
        del os.environ["SEQLAB_WORK"]
    said = "".join(str(o) for o in notebook.cells[2].outputs)
    assert "the sanitizer finds nothing" in said
    pid = int(said.partition("pid ")[2].split("\\n")[0])
    for _ in range(50):
        if not psutil.pid_exists(pid):
            return
        time.sleep(0.1)
    assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_the_grader_judges_kernels(tmp_path):
    for source, earned, words in (
        (GOOD, 1, "sanitizer finds nothing"),
        (GOOD.replace("tl.load(p_x + i, mask=i < n)", "tl.load(p_x + i)"), 0, ""),
        ("def ragged_copy(x):\n    import os\n    os._exit(3)", 0, "ended the Python process"),
    ):
        cells = [nbformat.v4.new_code_cell(c) for c in (OPENING, source)]
        path = tmp_path / "23.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
        (report,) = grade("23", path, only="23.1")
        assert report.earned == earned and words in report.message, report


def test_on_a_gpu_the_same_check_runs_too_and_both_are_said():
    """Simulated: outcomes as a machine with a GPU would send them."""
    case = Case("one", {"x": torch.arange(3.0)})
    right = Outcome(Came.RETURNED, case.inputs["x"], launches=1, device="a fake GPU")
    for there, passed, words in (
        (Outcome(Came.RETURNED, case.inputs["x"]), True, "in the interpreter and on a fake GPU"),
        (Outcome(Came.RETURNED, case.inputs["x"] + 1), False, "but not on a fake GPU: y is off"),
        (Outcome(Came.RAISED, type="RuntimeError", message="illegal"), False, "illegal"),
    ):
        data = {**right.as_dict(), "gpu": there.as_dict()}
        report = judge(COPY, [case], [Outcome.from_dict(data)])
        assert report.passed == passed and words in report.message


def test_what_is_clean_is_called_on_the_gpu_too_and_nothing_else(monkeypatch):
    """Simulated: the second call gets the same tensors, and runs unwatched in the interpreter."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a fake GPU")
    monkeypatch.setattr(kernel, "_moved", lambda inputs, device: inputs)
    x = torch.randn(20)
    clean = kernel.call_kernel(cell(GOOD)["ragged_copy"], {"x": x}, gpu=True)
    assert clean.device == "a fake GPU" and torch.equal(clean.gpu.value, x)
    assert judge(COPY, [Case("one", {"x": x})], [clean]).passed
    unmasked = GOOD.replace("tl.load(p_x + i, mask=i < n)", "tl.load(p_x + i)")
    assert kernel.call_kernel(cell(unmasked)["ragged_copy"], {"x": x}, gpu=True).gpu is None
    assert kernel.call_kernel(cell(GOOD)["ragged_copy"], {"x": x}).gpu is None


HIDDEN = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "triton" else find(name, *a)
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "triton":
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Hide())
from seqlab.course import check, exercises
from seqlab.course.checking import progress_rows
from seqlab.course.grade import grade
e = exercises.find("23.1")
assert "triton" not in sys.modules
check("23.1", lambda x: x)
assert any(row[0] == "23.1" for row in progress_rows())
from seqlab.gpu.anywhere import tl, triton
@triton.jit
def kernel(p_x, BLOCK: tl.constexpr):
    pass
try:
    kernel[(1,)](0, BLOCK=triton.next_power_of_2(8))
except RuntimeError as error:
    print(error)
"""


def test_without_triton_it_says_so_in_one_sentence(tmp_path):
    env = {**os.environ, "SEQLAB_WORK": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("needs Triton, which can be installed on Linux only") == 2
    assert not (tmp_path / "progress.json").exists()


def test_an_edit_of_a_kernel_is_a_kernel():
    from importlib import import_module

    module = import_module("seqlab.course.exercises.ch23.ragged_copy")
    edited = defined(COPY.cell.replace("i < n", "i < 0"), COPY.name, module)
    assert kernel.call_kernel(edited, {"x": torch.ones(5)}).findings


KERNELS = [e for c in exercises.chapters() for e in exercises.of_chapter(c) if e.kernel]


@pytest.mark.parametrize("e", KERNELS, ids=lambda e: e.id)
def test_the_solutions_kernels_compile_for_every_target_without_spills(e):
    launches = []

    def record(kernel, grid, *args, **named):
        launches.append((kernel, args, named))
        launch(kernel, grid, *args, **named)

    solution = e.alternatives[0]
    with launches_on_cpu(record):
        solution(**plan(e, 0)[0][-1].inputs)
    assert launches
    for started, args, named in launches:
        report = compile_report(started, *args, **named)
        assert [c.spills for c in report.targets.values()] == [0] * len(TARGETS)
