"""What works on this machine, in plain words, and what to do about what does not."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from seqlab.course import paths

OLDEST_PYTHON = (3, 11)

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


class State(StrEnum):
    WORKS = "works"
    # The course works without it.
    NOTE = "note"
    MISSING = "missing"


@dataclass(frozen=True)
class Finding:
    """One thing that was examined."""

    what: str
    state: State
    says: str
    advice: str = ""


def examine() -> Iterator[Finding]:
    """Examine everything, one by one, so that each finding can be shown at once."""
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
    says = f"{platform.python_version()} on {platform.system()}"
    too_old = tuple(sys.version_info) < OLDEST_PYTHON
    if too_old:
        return Finding("Python", State.MISSING, says, "install Python 3.11 or newer")
    return Finding("Python", State.WORKS, says)


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:
        yield Finding("torch", State.MISSING, f"does not import ({error})", _INSTALL)
        return
    yield Finding(
        "torch", State.WORKS, f"{torch.__version__}, {torch.get_num_threads()} CPU threads"
    )
    if torch.cuda.is_available():
        yield Finding("GPU", State.WORKS, torch.cuda.get_device_name(0))
    else:
        yield Finding("GPU", State.NOTE, "none found; the whole course runs on the CPU")


def _triton() -> Finding:
    try:
        has = version("triton")
    except PackageNotFoundError:
        says = "not installed; the chapters work, the kernels do not run"
        if platform.system() == "Linux":
            return Finding("Triton", State.MISSING, says, _INSTALL)
        return Finding("Triton", State.NOTE, says, "kernels need Linux")
    import torch

    on_gpu = torch.cuda.is_available()
    if fault := _kernel_fault("cuda" if on_gpu else "cpu"):
        return Finding("Triton", State.MISSING, f"{has}: {fault}", _INSTALL)
    if on_gpu:
        return Finding("Triton", State.WORKS, f"{has}, runs kernels on the GPU")
    says = f"{has}, runs kernels in its interpreter (no GPU): correct, but slow"
    return Finding("Triton", State.WORKS, says)


def _kernel_fault(device: str) -> str:
    """What goes wrong when a small kernel runs on `device`; "" if nothing does."""
    env = os.environ | ({} if device == "cuda" else {"TRITON_INTERPRET": "1"})
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "kernel.py"
        script.write_text(KERNEL.replace("DEVICE", repr(device)))
        try:
            done = subprocess.run(
                [sys.executable, script], env=env, capture_output=True, text=True, timeout=120
            )
        except subprocess.TimeoutExpired:
            return "a small kernel did not end in 120 s"
    said = done.stderr.strip().splitlines() or ["a small kernel failed"]
    return said[-1][:200] if done.returncode else ""


def _package(what: str, name: str) -> Finding:
    try:
        return Finding(what, State.WORKS, version(name))
    except PackageNotFoundError:
        return Finding(what, State.MISSING, "not installed", _INSTALL)


def _kernel() -> Finding:
    from seqlab.course.sandbox import Sandbox

    try:
        with Sandbox(paths.root()) as sandbox:
            fault = sandbox.run("import seqlab", 60)
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"
    if fault:
        says = f"importing seqlab in a kernel {fault}"
        return Finding("notebook kernel", State.MISSING, says, _INSTALL)
    return Finding("notebook kernel", State.WORKS, "starts, and finds seqlab")


def _extension(what: str, package: str, extension: str, owner: str) -> Finding:
    found = _package(what, package)
    if found.state != State.WORKS:
        return found
    from jupyter_core.paths import jupyter_path

    if any(Path(folder, extension).is_dir() for folder in jupyter_path("labextensions")):
        says = f"{package} {found.says}, JupyterLab can draw them"
        return Finding(what, State.WORKS, says)
    advice = f"reinstall: {sys.executable} -m pip install --force-reinstall {owner}"
    return Finding(what, State.MISSING, f"JupyterLab's extension {extension} is not there", advice)


def _renderer() -> Finding:
    chosen = os.environ.get("PLOTLY_RENDERER", "plotly_mimetype")
    if "plotly_mimetype" in chosen.split("+"):
        says = f"{chosen}: JupyterLab draws figures itself, nothing is downloaded"
        return Finding("plotly renderer", State.WORKS, says)
    advice = "unset PLOTLY_RENDERER if figures stay blank"
    return Finding("plotly renderer", State.NOTE, f"PLOTLY_RENDERER is {chosen}", advice)


def _git() -> Finding:
    if shutil.which("git") is None:
        says = "not installed; only seqlab update needs it"
        return Finding("git", State.NOTE, says, "install git")
    if not (paths.root() / ".git").exists():
        says = "this folder is not a clone, so seqlab update cannot work here"
        return Finding("git", State.NOTE, says, "git clone the course")
    return Finding("git", State.WORKS, "seqlab update can fetch a newer course")


def _work() -> Finding:
    try:
        with tempfile.TemporaryFile(dir=paths.work()):
            return Finding("your answers", State.WORKS, "their folder is writable")
    except OSError as error:
        says = f"work/ is not writable: {error.strerror}"
        advice = "change its owner, or set SEQLAB_WORK to a folder of your own"
        return Finding("your answers", State.MISSING, says, advice)


_INSTALL = "run make lab (or pip install -e .) in the course's folder again"
