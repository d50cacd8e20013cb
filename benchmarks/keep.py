"""What the scripts here share: the versions a figure was measured with, and where it is kept."""

import json
import platform
from importlib.metadata import version
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def versions(*packages: str) -> str:
    """torch, `packages`, Python and machine, and the one thread all of them run on."""
    others = "".join(f"{name} {version(name)}, " for name in packages)
    return f"torch {torch.__version__}, {others}Python {platform.python_version()}, {platform.machine()}, one thread"


def keep(name: str, text: str, where: str, results: list) -> None:
    """Print the table, and write it beside its figures: results/NAME.md and results/NAME.json."""
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
    (RESULTS / f"{name}.json").write_text(
        json.dumps({"where": where, "results": results}, indent=1) + "\n"
    )
