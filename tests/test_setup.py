"""The set-up files say one thing: what pyproject.toml says."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
name_of = re.compile(r"^[A-Za-z0-9_.-]+")


def normal(requirement):
    return name_of.match(requirement)[0].lower().replace("_", "-")


def read_yaml(path):
    return pytest.importorskip("yaml", reason="needs pyyaml: pip install -e '.[test]'").safe_load(
        path.read_text()
    )


def test_conda_takes_python_and_pip_and_leaves_the_rest_to_pip():
    env = read_yaml(ROOT / "environment.yml")
    *from_conda, from_pip = env["dependencies"]
    assert [d.split("=")[0] for d in from_conda] == ["python", "pip"]
    assert from_pip == {"pip": ["-c constraints.txt", "-e ."]}
    wanted = tuple(int(n) for n in PROJECT["requires-python"].removeprefix(">=").split("."))
    assert tuple(int(n) for n in from_conda[0].split("=")[1].split(".")) >= wanted


def test_every_dependency_is_pinned():
    pins = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and line[0] != "#"
    ]
    assert all("==" in pin for pin in pins)
    assert {normal(d) for d in PROJECT["dependencies"]} <= {normal(pin) for pin in pins}
    assert "torch==2.13.0" in pins


def test_triton_is_asked_for_on_linux_only():
    (triton,) = (d for d in PROJECT["dependencies"] if d.startswith("triton"))
    assert "platform_system == 'Linux'" in triton


def test_ci_runs_the_readmes_command_and_the_workflow_all_its_parts():
    assert re.search(r"^make test$", (ROOT / ".ci/run").read_text(), re.M)
    readme = (ROOT / "README.md").read_text()
    assert "make lab" in readme and "make test" in readme
    (job,) = read_yaml(ROOT / ".github/workflows/test.yml")["jobs"].values()
    assert {"run": "make ${{ matrix.part }}"} in job["steps"]
    parts = set(job["strategy"]["matrix"]["part"])
    makefile = (ROOT / "Makefile").read_text()
    (all_of_them,) = re.findall(r"^test: (lint .*)$", makefile, re.M)
    split = {f"tests-{name}" for name in ("models", "kernels", "course")}
    assert (parts - split) | {"tests"} == set(all_of_them.split()) and split <= parts


def test_the_parts_of_the_tests_are_all_of_them():
    """Three jobs side by side run what `make tests` runs, each test once."""
    shown = subprocess.run(
        ["make", "-n", "tests-models", "tests-kernels", "tests-course"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    ).stdout
    named = re.findall(r"\btests/\S+", shown)
    here = ROOT / "tests"
    folders = {f"tests/{p.parent.name}" for p in here.glob("*/test_*.py")}
    assert sorted(named) == sorted(folders | {f"tests/{p.name}" for p in here.glob("test_*.py")})


def test_every_package_is_listed_for_installation():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    on_disk = {
        ".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "seqlab").rglob("__init__.py")
    }
    assert on_disk | {"seqlab.kernels"} == set(tool["packages"])


def test_kernels_is_the_folder_at_the_top():
    kernels = pytest.importorskip(
        "seqlab.kernels", exc_type=ImportError, reason="needs Triton (Linux only)"
    )
    assert Path(kernels.__file__).resolve() == ROOT / "kernels" / "__init__.py"


def test_the_readmes_syllabus_is_the_syllabus():
    from seqlab.course.syllabus import table

    readme = (ROOT / "README.md").read_text()
    assert table() in readme, "paste what `python -m seqlab.course.syllabus` prints into README.md"


def python_blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)


def test_the_readmes_example_runs():
    (model,) = python_blocks("README.md")
    exec(compile(model, "README.md", "exec"), {})


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 130
    assert all(len(line) <= 100 for line in lines if line[:1] not in ("|", "!"))


@pytest.fixture
def run_kernel(tmp_path):
    """What a kernel's script prints, saved as double.py: Triton reads its source from the file."""
    pytest.importorskip("triton", reason="needs Triton (Linux only)")

    def run(source):
        (tmp_path / "double.py").write_text(source)
        return subprocess.run(
            [sys.executable, "double.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )

    return run


def test_the_kernel_of_the_docs_runs(run_kernel):
    (kernel,) = python_blocks("docs/kernel_lab.md")
    done = run_kernel(kernel)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("nothing found")


def test_without_its_mask_it_is_judged_as_the_docs_say(run_kernel):
    (kernel,) = python_blocks("docs/kernel_lab.md")
    said = re.search(r"\*(program 3 [^*]*)\*", (ROOT / "docs/kernel_lab.md").read_text())[1]
    done = run_kernel(kernel.replace("tl.load(p_x + i, mask=i < n)", "tl.load(p_x + i)"))
    assert done.stdout.startswith(" ".join(said.split()))


PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_a_page_links_to_is_there(page):
    folder = (ROOT / page).parent
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text())
    assert not [link for link in links if not (folder / link).exists()]


def test_the_readme_links_to_every_page():
    pages = " ".join((ROOT / page).read_text() for page in PAGES)
    assert all(page.removeprefix("docs/") in pages for page in PAGES)


def test_every_command_is_documented():
    from seqlab.course.cli import app

    names = [c.name or c.callback.__name__ for c in app.registered_commands]
    page = (ROOT / "docs/install.md").read_text()
    assert [n for n in names if f"`seqlab {n}" not in page] == ["new-exercise", "build"]
    authors = (ROOT / "CONTRIBUTING.md").read_text()
    assert all(f"seqlab {n}" in authors for n in ("new-exercise", "build"))
