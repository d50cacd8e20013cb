"""What the scripts here share: the versions behind a figure, and the place where it is kept."""

import math
import platform
import statistics
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


def means(losses: list[float], pieces: int = 20) -> list[float]:
    """The losses of a run in so many numbers, each the mean of a piece."""
    every = max(len(losses) // pieces, 1)
    cut = [losses[i : i + every] for i in range(0, len(losses), every)]
    return [round(statistics.fmean(piece), 4) for piece in cut]


def mean_and_error(xs: list[float], digits: int = 1) -> str:
    """The mean ± its standard error over the seeds."""
    error = statistics.stdev(xs) / math.sqrt(len(xs)) if len(xs) > 1 else 0.0
    return f"{statistics.fmean(xs):.{digits}f} ± {error:.{digits}f}"
