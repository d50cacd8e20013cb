"""Open JupyterLab on the course."""

import json
import os
import subprocess
import sys
from pathlib import Path

from seqlab.course import paths, records

# No news popup, no question about updates. These are defaults: a reader's own settings win.
OVERRIDES = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension:plugin": {"defaultViewers": {"python": "Jupytext Notebook"}},
}


def command(notebook: Path, *more: str) -> list[str]:
    """The command that opens `notebook` with the course's defaults; a user's settings stay."""
    settings = paths.work() / ".lab" / "settings"
    settings.mkdir(parents=True, exist_ok=True)
    records.write_whole(settings / "overrides.json", json.dumps(OVERRIDES, indent=1) + "\n")
    root = paths.root()
    where = notebook.resolve().relative_to(root).as_posix()
    options = [
        f"--ServerApp.root_dir={root}",
        f"--LabApp.default_url=/lab/tree/{where}",
        f"--LabApp.app_settings_dir={settings}",
    ]
    # In a container the user may be root; the server serves this machine only.
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--allow-root")
    return [sys.executable, "-m", "jupyterlab", *options, *more]


def run(notebook: Path, *more: str) -> int:
    """Run JupyterLab until it is stopped. Returns its exit code."""
    env = {**os.environ, "PLOTLY_RENDERER": "plotly_mimetype"}
    server = subprocess.Popen(command(notebook, *more), env=env, cwd=paths.root())
    while True:
        try:
            return server.wait()
        except KeyboardInterrupt:  # JupyterLab asks whether to stop: wait until it does
            continue
