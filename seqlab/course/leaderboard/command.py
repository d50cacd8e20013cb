"""What `seqlab leaderboard` does, apart from printing."""

from collections.abc import Sequence
from pathlib import Path

from seqlab.course.leaderboard.board import lines, narrowed, run_all
from seqlab.course.leaderboard.contest import Setting
from seqlab.course.leaderboard.report import Line, cells, head, markdown, ranked, where
from seqlab.course.leaderboard.settings import SETTINGS
from seqlab.gpu.results import write as write_results

__all__ = ["chosen", "lines", "run_all", "table", "write"]


def chosen(setting: str, rows: Sequence[str], tasks: Sequence[str]) -> Setting:
    """The setting called `setting`, with only these rows and tasks if any are named."""
    if setting not in SETTINGS:
        raise ValueError(f"there is no setting {setting!r}: there are {', '.join(SETTINGS)}")
    return narrowed(SETTINGS[setting], rows, tasks)


def table(setting: Setting, found: list[Line]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The names of the columns, and the rows, the best of the first task first."""
    contests = [contest.name for contest in setting.contests]
    rows = [tuple(cells(line, contests)) for line in ranked(found, contests[0])]
    return tuple(head(contests)), rows


def write(setting: Setting, found: list[Line], to: Path, figures: Path | None) -> list[Path]:
    """TO.md and TO.json; with `figures`, a page of each figure there."""
    write_results(to, where(found), found, markdown(setting, found))
    written = [to.with_name(f"{to.name}{suffix}") for suffix in (".md", ".json")]
    if figures is not None:
        figures.mkdir(parents=True, exist_ok=True)
        for name, fig in _figures(setting, found).items():
            path = figures / f"{name.replace(' ', '_')}.html"
            fig.write_html(path, include_plotlyjs="directory")
            written.append(path)
    return written


def _figures(setting: Setting, found: list[Line]) -> dict:
    from seqlab.figures.leaderboard import accuracy_by_size, accuracy_by_state, speeds

    drawn = {}
    for contest in setting.contests:
        have = [line for line in ranked(found, contest.name) if contest.name in line["contests"]]
        if have:
            drawn[f"{contest.name} state"] = accuracy_by_state(have, contest.name)
        if have and len(contest.sizes) > 1:
            drawn[f"{contest.name} {contest.what}"] = accuracy_by_size(have, contest.name)
    if any("training_tokens_per_second" in line for line in found):
        drawn["speeds"] = speeds(found)
    return drawn
