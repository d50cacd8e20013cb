"""The leaderboard: every causal architecture of the zoo on the same tasks, at the same size.

`seqlab leaderboard` runs it; docs/leaderboard.md says what is compared, and how.
"""

from seqlab.course.leaderboard.board import Failed, lines, load, run_all
from seqlab.course.leaderboard.contest import Contest, Setting
from seqlab.course.leaderboard.models import build
from seqlab.course.leaderboard.report import markdown
from seqlab.course.leaderboard.settings import FULL, SETTINGS, SMALL

__all__ = [
    "FULL",
    "SETTINGS",
    "SMALL",
    "Contest",
    "Failed",
    "Setting",
    "build",
    "lines",
    "load",
    "markdown",
    "run_all",
]
