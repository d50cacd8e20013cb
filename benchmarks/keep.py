"""What the scripts here share: the versions behind a figure, and the place where it is kept."""

import platform
from importlib.metadata import version
from pathlib import Path

import torch

from seqlab.gpu.results import write

RESULTS = Path(__file__).parent / "results"


def versions(*packages: str) -> str:
    """torch, `packages`, Python and machine, and the single thread on which all of them run."""
    others = "".join(f"{name} {version(name)}, " for name in packages)
    python = platform.python_version()
    return f"torch {torch.__version__}, {others}Python {python}, {platform.machine()}, one thread"


def keep(name: str, text: str, where: str, results: list) -> None:
    """Print the table, and write it beside its figures: results/NAME.md and results/NAME.json."""
    print(text)
    write(RESULTS / name, where, results, text)
