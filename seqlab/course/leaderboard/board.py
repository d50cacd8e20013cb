"""The whole grid: which runs there are, running what is missing, and putting them together."""

import json
import multiprocessing
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from seqlab.course.leaderboard.contest import Contest, Setting
from seqlab.course.leaderboard.runs import Run, kept, perform
from seqlab.zoo import FAMILIES, row

Failed = dict[str, str]  # run -> what was wrong
Outcome = tuple[Run, dict[str, Any] | Exception]
# (runs, store, workers) -> outcomes, in any order
Engine = Callable[[Sequence[Run], Path, int], Iterator[Outcome]]


def local(runs: Sequence[Run], store: Path, workers: int) -> Iterator[Outcome]:
    """On this machine, in `workers` processes of one thread each."""
    if workers == 1:
        for run in runs:
            yield run, _tried(run, store)
        return
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    waiting = {pool.submit(_tried, run, store): run for run in runs}
    try:
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    except BaseException:
        for child in set(multiprocessing.active_children()) - set(others):
            child.terminate()  # its run goes on from the checkpoint next time
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _tried(run: Run, store: Path) -> dict[str, Any] | Exception:
    """A row that cannot be run must not stop the others."""
    try:
        return perform(run, store)
    except (ValueError, RuntimeError, TypeError) as error:
        return error


def run_all(
    setting: Setting, store: Path, *, workers: int = 1, engine: Engine = local, show: bool = True
) -> Failed:
    """Run what is missing, first every learning rate with one seed, then the other seeds.

    It may be stopped at any time: finished runs are kept, the others go on from a checkpoint.
    """
    failed: Failed = {}
    total = len(speeds(setting)) + sum(
        len(setting.lrs) + len(setting.seeds) - 1 for _ in _meetings(setting)
    )
    with tqdm(total=total, desc=f"leaderboard, {setting.name}", disable=not show) as bar:
        for stage in (first_stage, second_stage):
            runs = stage(setting, store)
            missing = [run for run in runs if kept(run, store) is None]
            bar.update(len(runs) - len(missing))
            for run, result in engine(missing, store, workers):
                if isinstance(result, Exception):
                    failed[str(run)] = f"{type(result).__name__}: {result}"
                bar.update()
                bar.set_postfix_str(str(run), refresh=False)
    return failed


def speeds(setting: Setting) -> list[Run]:
    return [Run(setting, setting.contests[0], name, None, 0) for name in setting.rows]


def first_stage(setting: Setting, store: Path) -> list[Run]:
    """Each row's speeds, and each learning rate with the first seed."""
    trials = [
        run for contest, name in _meetings(setting) for run in _trials(setting, contest, name)
    ]
    return [*speeds(setting), *trials]


def second_stage(setting: Setting, store: Path) -> list[Run]:
    """The other seeds, each with the learning rate that was best with the first."""
    runs = []
    for contest, name in _meetings(setting):
        best = best_run(setting, contest, name, store)
        if best is not None:
            runs += [Run(setting, contest, name, best.lr, seed) for seed in setting.seeds[1:]]
    return runs


def best_run(setting: Setting, contest: Contest, name: str, store: Path) -> Run | None:
    """The run of the first seed with the best mean over the sizes, by the sequences for choosing.

    None until every learning rate has been tried.
    """
    tried = [(run, kept(run, store)) for run in _trials(setting, contest, name)]
    scores = [
        (statistics.fmean(result["choosing"].values()), -i)
        for i, (_, result) in enumerate(tried)
        if result is not None
    ]
    return tried[-max(scores)[1]][0] if len(scores) == len(tried) else None


def _meetings(setting: Setting) -> Iterable[tuple[Contest, str]]:
    return [(contest, name) for contest in setting.contests for name in setting.rows]


def _trials(setting: Setting, contest: Contest, name: str) -> list[Run]:
    return [Run(setting, contest, name, lr, setting.seeds[0]) for lr in setting.lrs]


def lines(setting: Setting, store: Path) -> list[dict[str, Any]]:
    """One line for each row that has a result: plain data, as it is stored and drawn."""
    families = {r.name: family for family, rows in FAMILIES.items() for r in rows}
    found = []
    for name, speed in zip(setting.rows, speeds(setting), strict=True):
        contests = {
            contest.name: result
            for contest in setting.contests
            if (result := _result(setting, contest, name, store)) is not None
        }
        if contests:
            line = {"row": name, "family": families[name], "contests": contests}
            measured = kept(speed, store) or {}
            found.append(line | {k: v for k, v in measured.items() if k.endswith("per_second")})
    return found


def _result(setting: Setting, contest: Contest, name: str, store: Path) -> dict[str, Any] | None:
    """Accuracies by size and seed at the best learning rate, once all seeds are there."""
    best = best_run(setting, contest, name, store)
    if best is None:
        return None
    runs = [Run(setting, contest, name, best.lr, seed) for seed in setting.seeds]
    results = [kept(run, store) for run in runs]
    if not all(results):
        return None
    done = [result for result in results if result]
    return {
        "what": contest.what,
        "lr": best.lr,
        "seeds": list(setting.seeds),
        "accuracy": {label: [r["accuracy"][label] for r in done] for label, _ in contest.sizes},
        "chance": {label: task.chance for label, task in contest.sizes},
        "parameters": done[0]["parameters"],
        "state_bytes": done[0]["state_bytes"],
        "last_loss": [r["loss"][-1] for r in done],
        "where": sorted({r["where"] for r in done}),
    }


def load(path: Path) -> list[dict[str, Any]]:
    """The lines of a stored leaderboard."""
    return json.loads(Path(path).with_suffix(".json").read_text(encoding="utf-8"))["results"]


def narrowed(setting: Setting, rows: Sequence[str], contests: Sequence[str]) -> Setting:
    """The setting with only these rows and contests, if any are named."""
    kept_rows = tuple(row(name).name for name in rows) or setting.rows
    kept_contests = tuple(map(setting.contest, contests)) or setting.contests
    return replace(setting, rows=kept_rows, contests=kept_contests)
