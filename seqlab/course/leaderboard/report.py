"""The leaderboard as a table."""

import math
import statistics
from typing import Any

from seqlab.course.leaderboard.contest import Setting

Line = dict[str, Any]


def by_seed(result: dict[str, Any]) -> list[float]:
    """For each seed, the mean accuracy over the sizes."""
    return [statistics.fmean(column) for column in zip(*result["accuracy"].values(), strict=True)]


def mean_and_error(xs: list[float]) -> tuple[float, float]:
    """The mean, and its standard error (0 for a single number)."""
    error = statistics.stdev(xs) / math.sqrt(len(xs)) if len(xs) > 1 else 0.0
    return statistics.fmean(xs), error


def ranked(lines: list[Line], contest: str) -> list[Line]:
    """The best first; rows without a result in that contest at the end."""

    def score(line: Line) -> float:
        result = line["contests"].get(contest)
        return statistics.fmean(by_seed(result)) if result else -1.0

    return sorted(lines, key=score, reverse=True)


def cells(line: Line, contests: list[str]) -> list[str]:
    """Name, family, parameters, bytes of state, an accuracy for each contest, speeds."""
    first = next(iter(line["contests"].values()))
    shown = [line["row"], line["family"], f"{first['parameters']:,}", f"{first['state_bytes']:,}"]
    for contest in contests:
        result = line["contests"].get(contest)
        if result is None:
            shown.append("")
            continue
        mean, error = mean_and_error(by_seed(result))
        shown.append(f"{100 * mean:.1f} ± {100 * error:.1f}")
    for kind in ("training", "decoding"):
        speed = line.get(f"{kind}_tokens_per_second")
        shown.append("" if speed is None else f"{float(f'{speed:.3g}'):,.0f}")
    return shown


def head(contests: list[str]) -> list[str]:
    speeds = ["training, tokens/s", "decoding, tokens/s"]
    return ["architecture", "family", "parameters", "state, bytes", *contests, *speeds]


def where(lines: list[Line]) -> str:
    """The versions behind the results."""
    found = {w for line in lines for r in line["contests"].values() for w in r["where"]}
    return "; ".join(sorted(found))


def markdown(setting: Setting, lines: list[Line]) -> str:
    """The table as Markdown, the best of the first contest first."""
    contests = [contest.name for contest in setting.contests]
    names = head(contests)
    steps = ", ".join(f"{c.name} {c.steps:,} steps of {c.batch_size}" for c in setting.contests)
    text = [
        f"# Leaderboard, {setting.name} setting",
        "",
        f"Width {setting.d_model}, {setting.depth} block of each architecture with a SwiGLU, "
        f"{setting.block_parameters:,} parameters a block; {steps}.",
        f"Learning rate: the best of {', '.join(f'{lr:g}' for lr in setting.lrs)} for each row and "
        f"task; seeds {', '.join(map(str, setting.seeds))}; {where(lines)}.",
        "Percent of right answers, mean over sizes, ± the standard error over seeds. Parameters "
        "and state: of the first task. Speeds: of processor time, the first task's model.",
        "",
        f"| {' | '.join(names)} |",
        "|---|---|" + "---:|" * (len(names) - 2),
    ]
    for line in ranked(lines, contests[0]):
        text.append(f"| {' | '.join(cells(line, contests))} |")
    return "\n".join(text) + "\n"
