"""Turn every source into its notebooks: chapters and solutions executed, exercises cleared.

Two builds give identical files. Outputs that depend on the machine or the clock (cells tagged
`measured`) are kept from the stored notebook as long as no code up to that cell has changed.
"""

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from seqlab.course import exercises, masters, paths
from seqlab.course.sandbox import ThisPython

WIDGET = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
PLOTLY = "application/vnd.plotly.v1+json"
SAID = "Run this cell in JupyterLab to move the controls; below is their first position."
NOTE = f"<p><i>{SAID}</i></p>"
SECONDS = 300


class BuildFailed(RuntimeError):
    """The build stopped; the message is one sentence."""


def sources(chapters: list[str] | None = None) -> list[tuple[str, Path]]:
    """("chapters" or "solutions", source) of the chosen chapters, or of all.

    The source of the solutions, and of the exercises cleared of them, is `chNN/notebook.py` among
    the exercises.
    """
    pages = sorted((paths.root() / "chapters/src").glob("[0-9]*.py"))
    found = [("chapters", page) for page in pages]
    found += [("solutions", exercises.notebook(chapter)) for chapter in exercises.chapters()]
    found = [s for s in found if not chapters or _chapter(*s) in chapters]
    if not found:
        wanted = ", ".join(chapters or ["any chapter"])
        raise BuildFailed(f"there is no source for {wanted} in chapters/src or the exercises")
    return found


def build(kind: str, source: Path, fresh: bool = False) -> list[Path]:
    """Build one source. Returns the notebooks written."""
    target = notebook_of(kind, source)
    notebook = _read(kind, source)
    written = [target]
    if kind == "solutions":
        written.append(write(masters.unsolved(_chapter(kind, source)), _cleared(target)))
    stored = nbformat.read(target, 4) if target.exists() and not fresh else None
    execute(notebook, target.parent, where=_shown(source))
    freeze_widgets(notebook)
    clean(notebook)
    keep_measured(notebook, stored)
    write(notebook, target)
    if kind == "solutions":
        _stubs_earn_nothing(_chapter(kind, source), _cleared(target))
    return written


def stale(kind: str, source: Path) -> list[str]:
    """One sentence for each notebook of `source` that differs from its source; runs nothing."""
    target = notebook_of(kind, source)
    found = [f"{paths.shown(target)} {why}" for why in _differences(_read(kind, source), target)]
    if kind == "solutions":
        cleared, wanted = _cleared(target), text(masters.unsolved(_chapter(kind, source)))
        if not cleared.exists() or cleared.read_text(encoding="utf-8") != wanted:
            found.append(f"{paths.shown(cleared)} is not what {_shown(source)} gives")
    return found


def _chapter(kind: str, source: Path) -> str:
    return source.name[:2] if kind == "chapters" else source.parent.name[2:]


def notebook_of(kind: str, source: Path) -> Path:
    """The notebook that `source` gives; exercises bear the name of their chapter's page."""
    page = source
    if kind == "solutions":
        page = paths.notebook_of(_chapter(kind, source), "chapters/src", ".py")
    return paths.root() / kind / f"{page.stem}.ipynb"


def _cleared(solutions: Path) -> Path:
    return solutions.parents[1] / "exercises" / solutions.name


def _shown(source: Path) -> str:
    return source.name if source.name != "notebook.py" else f"{source.parent.name}/notebook.py"


def execute(notebook: NotebookNode, folder: Path, where: str) -> None:
    """Run all cells in a fresh kernel of this Python, which does not see the learner's work."""
    options = {"timeout": SECONDS, "record_timing": False, "coalesce_streams": True}
    options["resources"] = {"metadata": {"path": str(folder)}}
    with tempfile.TemporaryDirectory() as work, _environment(work):
        manager = KernelManager(kernel_spec_manager=ThisPython())
        client = NotebookClient(notebook, km=manager, **options)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the notebook stack's own
                client.execute(stdout=DEVNULL, stderr=DEVNULL)
        except CellTimeoutError:
            raise BuildFailed(f"{where}: a cell ran longer than {SECONDS} s") from None
        except DeadKernelError:
            raise BuildFailed(f"{where}: the kernel died") from None
        except CellExecutionError as error:
            said = f"a cell raises {error.ename}: {error.evalue}"
            raise BuildFailed(f"{where}: {said}\n{error}") from None
        finally:
            if client.kc is not None:
                client.kc.stop_channels()  # nbclient leaves them open if the manager is ours
            if manager.has_kernel:
                manager.shutdown_kernel(now=True)
            manager.context.destroy(linger=0)


def freeze_widgets(notebook: NotebookNode) -> None:
    """Replace a widget by what its Output shows: a static page can show that, and it is small."""
    widgets = notebook.metadata.get("widgets", {})
    states = widgets.get(WIDGET_STATE, {}).get("state", {})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [frozen for output in cell.outputs for frozen in _frozen(output, states)]


def clean(notebook: NotebookNode) -> None:
    """Drop what differs between builds or machines."""
    for name in ("widgets", "language_info", "jupytext"):
        notebook.metadata.pop(name, None)
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i:03d}"
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if PLOTLY in output.get("data", {}):
                output.data.pop("image/png", None)
                output.data.pop("text/html", None)


def keep_measured(notebook: NotebookNode, stored: NotebookNode | None) -> None:
    """Restore the stored outputs of cells tagged `measured`, up to the first changed code."""
    if stored is None:
        return
    new, old = ([c for c in nb.cells if c.cell_type == "code"] for nb in (notebook, stored))
    for cell, before in zip(new, old, strict=False):
        if cell.source != before.source:
            return
        if "measured" in cell.metadata.get("tags", []) and before.outputs:
            cell.outputs = before.outputs


def text(notebook: NotebookNode) -> str:
    return nbformat.writes(notebook) + "\n"


def write(notebook: NotebookNode, path: Path) -> Path:
    from seqlab.course.records import write_whole

    write_whole(path, text(notebook))
    path.chmod(0o644)
    return path


def _read(kind: str, source: Path) -> NotebookNode:
    return masters.read(source) if kind == "chapters" else masters.solved(_chapter(kind, source))


def _stubs_earn_nothing(chapter: str, notebook: Path) -> None:
    """Grade the unsolved notebook: its stubs must not earn points."""
    from seqlab.course.grade import grade

    for report in grade(chapter, notebook):
        if report.earned:
            earned = f"the unsolved stub of {report.id} earns {report.earned} points"
            raise BuildFailed(f"ch{chapter}: {earned}")


def _differences(fresh: NotebookNode, target: Path) -> Iterator[str]:
    if not target.exists():
        yield "is not built yet"
        return
    stored = nbformat.read(target, 4)
    code = [c for c in stored.cells if c.cell_type == "code" and c.source.strip()]
    if [_seen(c) for c in fresh.cells] != [_seen(c) for c in stored.cells]:
        yield "has other cells than its source"
    elif any(c.execution_count is None for c in code):
        yield "holds a cell that was never run"


def _seen(cell: NotebookNode) -> tuple:
    return cell.cell_type, cell.source, cell.id, dict(cell.metadata)


def _frozen(output: NotebookNode, states: dict) -> list[Any]:
    if WIDGET not in output.get("data", {}):
        return [output]
    inside = list(_outputs_inside(output.data[WIDGET]["model_id"], states))
    data = {"text/html": NOTE, "text/plain": "(a widget)"}
    note = nbformat.v4.new_output("display_data", data=data)
    return [note, *(nbformat.from_dict(o) for o in inside)] if inside else []


def _outputs_inside(model: str, states: dict) -> Iterator[dict]:
    state = states.get(model, {}).get("state", {})
    yield from state.get("outputs", ())
    for child in state.get("children", ()):
        yield from _outputs_inside(child.removeprefix("IPY_MODEL_"), states)


@contextmanager
def _environment(work: str):
    """The environment of a build: strict checks, plotly's JSON, no records, no progress bars."""
    wanted = {
        "SEQLAB_STRICT": "1",
        "SEQLAB_WORK": work,
        "TQDM_DISABLE": "1",
        "PLOTLY_RENDERER": "plotly_mimetype",
        "PYTHONHASHSEED": "0",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
