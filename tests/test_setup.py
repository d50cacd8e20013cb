"""The set-up files say one thing: what pyproject.toml says."""

import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
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


def test_ci_and_the_workflow_call_what_the_readme_says():
    assert re.search(r"^make test$", (ROOT / ".ci/run").read_text(), re.M)
    (job,) = read_yaml(ROOT / ".github/workflows/test.yml")["jobs"].values()
    assert {"run": "make test"} in job["steps"]
    readme = (ROOT / "README.md").read_text()
    assert "make lab" in readme and "make test" in readme


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


def test_the_readmes_examples_run(tmp_path):
    model, kernel = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    exec(compile(model, "README.md", "exec"), {})
    if find_spec("triton") is not None:  # Triton reads a kernel's source in its file
        (tmp_path / "double.py").write_text(kernel)
        done = subprocess.run(
            [sys.executable, "double.py"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0 and done.stdout.startswith("nothing found"), done.stderr


def test_every_file_the_readme_links_to_is_there():
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert links and not [link for link in links if not (ROOT / link).exists()]


def test_contributings_exercise_works_as_it_says():
    """Its reference, alternatives and named mistakes, through the same check a learner meets."""
    from seqlab.course.checking import report_on

    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    (block,) = (b for b in blocks if "EXERCISES = [" in b)
    names = {}
    exec(compile(block, "CONTRIBUTING.md", "exec"), names)
    for exercise in names["EXERCISES"]:
        for right in (exercise.reference, *exercise.alternatives):
            assert report_on(exercise, right).passed
        for diagnosis, mistake in exercise.mistakes.items():
            assert report_on(exercise, mistake).message == diagnosis
