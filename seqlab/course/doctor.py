"""What works on this machine, in plain words, and what to do about what does not."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from seqlab.course import paths

KERNEL = """
import torch, triton, triton.language as tl

@triton.jit
def double(x, y, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y + i, 2 * tl.load(x + i))

x = torch.arange(16, dtype=torch.float32, device=DEVICE)
y = torch.zeros_like(x)
double[(1,)](x, y, N=16)
assert (y == 2 * x).all()
"""


@dataclass(frozen=True)
class Finding:
    """One thing looked at. state: "works", "note" (the course works without it) or "missing"."""

    what: str
    state: str
    says: str
    advice: str = ""


def examine() -> Iterator[Finding]:
    """Look at everything, one by one, so that each can be shown as it comes."""
    yield _python()
    yield from _torch()
    yield _triton()
    yield _package("JupyterLab", "jupyterlab")
    yield _kernel()
    yield _extension(
        "widgets", "ipywidgets", "@jupyter-widgets/jupyterlab-manager", "jupyterlab_widgets"
    )
    yield _extension("plotly figures", "plotly", "jupyterlab-plotly", "plotly")
    yield _renderer()
    yield _git()
    yield _work()


def _python() -> Finding:
    good = sys.version_info >= (3, 11)
    says = f"{platform.python_version()} on {platform.system()}"
    return Finding(
        "Python",
        "works" if good else "missing",
        says,
        "" if good else "install Python 3.11 or newer",
    )


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:
        yield Finding("torch", "missing", f"does not import ({error})", _INSTALL)
        return
    yield Finding("torch", "works", f"{torch.__version__}, {torch.get_num_threads()} CPU threads")
    if torch.cuda.is_available():
        yield Finding("GPU", "works", torch.cuda.get_device_name(0))
    else:
        yield Finding("GPU", "note", "none found; the whole course runs on the CPU")


def _triton() -> Finding:
    try:
        has = version("triton")
    except PackageNotFoundError:
        says = "not installed; the chapters work, the kernels do not run"
        linux = platform.system() == "Linux"
        return Finding(
            "Triton",
            "missing" if linux else "note",
            says,
            _INSTALL if linux else "kernels need Linux",
        )
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    env = os.environ | ({} if device == "cuda" else {"TRITON_INTERPRET": "1"})
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "kernel.py"
        script.write_text(KERNEL.replace("DEVICE", repr(device)))
        try:
            done = subprocess.run(
                [sys.executable, script], env=env, capture_output=True, text=True, timeout=120
            )
        except subprocess.TimeoutExpired:
            return Finding(
                "Triton", "missing", f"{has}: a small kernel did not end in 120 s", _INSTALL
            )
    if done.returncode:
        return Finding(
            "Triton", "missing", f"{has}: {done.stderr.strip().splitlines()[-1][:200]}", _INSTALL
        )
    where = (
        "runs kernels on the GPU"
        if device == "cuda"
        else "runs kernels in its interpreter (no GPU): right, but slow"
    )
    return Finding("Triton", "works", f"{has}, {where}")


def _package(what: str, name: str) -> Finding:
    try:
        return Finding(what, "works", version(name))
    except PackageNotFoundError:
        return Finding(what, "missing", "not installed", _INSTALL)


def _kernel() -> Finding:
    from seqlab.course.sandbox import Sandbox

    try:
        with Sandbox(paths.root()) as sandbox:
            fault = sandbox.run("import seqlab", 60)
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"
    if fault:
        return Finding(
            "notebook kernel", "missing", f"importing seqlab in a kernel {fault}", _INSTALL
        )
    return Finding("notebook kernel", "works", "starts, and finds seqlab")


def _extension(what: str, package: str, extension: str, owner: str) -> Finding:
    found = _package(what, package)
    if found.state != "works":
        return found
    from jupyter_core.paths import jupyter_path

    if any(Path(folder, extension).is_dir() for folder in jupyter_path("labextensions")):
        return Finding(what, "works", f"{package} {found.says}, JupyterLab knows how to draw them")
    advice = f"reinstall: {sys.executable} -m pip install --force-reinstall {owner}"
    return Finding(what, "missing", f"JupyterLab's extension {extension} is not there", advice)


def _renderer() -> Finding:
    chosen = os.environ.get("PLOTLY_RENDERER", "plotly_mimetype")
    if "plotly_mimetype" in chosen.split("+"):
        return Finding(
            "plotly renderer", "works", f"{chosen}: drawn by JupyterLab itself, nothing is fetched"
        )
    return Finding(
        "plotly renderer",
        "note",
        f"PLOTLY_RENDERER is {chosen}",
        "unset PLOTLY_RENDERER if figures stay blank",
    )


def _git() -> Finding:
    if shutil.which("git") is None:
        return Finding("git", "note", "not installed; only seqlab update needs it", "install git")
    if not (paths.root() / ".git").exists():
        return Finding(
            "git",
            "note",
            "this folder is no clone, so seqlab update cannot work here",
            "git clone the course",
        )
    return Finding("git", "works", "seqlab update can bring a newer course")


def _work() -> Finding:
    try:
        with tempfile.TemporaryFile(dir=paths.work()):
            return Finding("your answers", "works", "their folder can be written")
    except OSError as error:
        advice = "change its owner, or set SEQLAB_WORK to a folder of your own"
        return Finding(
            "your answers", "missing", f"work/ cannot be written: {error.strerror}", advice
        )


_INSTALL = "run make lab (or pip install -e .) in the course's folder again"
