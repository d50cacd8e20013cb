"""The command line of the course, `seqlab`. Nothing heavy is imported until a command needs it."""

import json
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from seqlab.course import catalogue, copies, paths, records

app = typer.Typer(
    help="The course on modern sequence models. Start with: seqlab lab",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
ChapterArg = Annotated[str, typer.Argument(help="A chapter's number, such as 03.", metavar="NN")]


def main() -> None:
    """Run the command line. Every foreseen failure is one sentence and exit code 2."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app()
    except (ValueError, OSError, RuntimeError) as error:
        err.print(f"seqlab: {_said(error)}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)


def _terminated(*_: object) -> None:
    """Exit as an exception does, so that a terminated grader still ends its kernel."""
    sys.exit(143)


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror is not None:
        return f"{error.filename or 'the system'}: {error.strerror}"
    return str(error)


@app.command("list")
def list_() -> None:
    """Show the chapters, their exercises and the points earned."""
    table = Table("", "chapter", "exercises", "minutes", "points", "", box=None, pad_edge=False)
    done = records.load()
    for c in catalogue.chapters():
        started = "in work/" if (paths.work() / f"{_stem(c.number)}.ipynb").exists() else ""
        table.add_row(c.number, c.title, *_counts(c, done), started)
    out.print(table)
    says = "seqlab lab NN opens a chapter, seqlab start NN copies its exercises to work/."
    out.print(says, style="dim")


def _counts(chapter: catalogue.Chapter, done: dict[str, dict]) -> tuple[str, str, str]:
    """Exercises, minutes, points; empty if the chapter has no exercises."""
    if not chapter.entries:
        return "", "", ""
    earned = sum(_earned(done, e) for e in chapter.entries)
    minutes = sum(e.minutes for e in chapter.entries)
    return str(len(chapter.entries)), str(minutes), f"{earned} of {chapter.points}"


@app.command()
def start(
    chapter: ChapterArg,
    open_: Annotated[bool, typer.Option("--open", help="Open the copy in JupyterLab.")] = False,
) -> None:
    """Copy a chapter's exercises to work/, where they are yours. Never overwrites."""
    number = paths.chapter_number(chapter)
    copy, new = copies.start(number)
    said = "Your copy is" if new else "You have started already: your copy is"
    out.print(f"{said} {paths.shown(copy)}", soft_wrap=True)
    if open_:
        _open(copy)
    out.print(f"Open it with: seqlab lab {number} --exercises", style="dim")


@app.command()
def check(
    what: Annotated[
        str, typer.Argument(help="A chapter (03) or one exercise (03.2).", metavar="NN[.m]")
    ],
) -> None:
    """Check your copy in work/ with every case. Exit code 1 if something is not right yet."""
    from seqlab.course import exercises

    number = paths.chapter_number(what)
    only = exercises.find(what).id if "." in what else None
    reports = _grade(number, copies.started(number), only)
    _record(reports)
    for report in reports:
        style = "green" if report.passed else "red"
        out.print(str(report), style=style, markup=False, soft_wrap=True)
    raise typer.Exit(0 if all(r.passed for r in reports) else 1)


@app.command()
def grade(
    chapter: ChapterArg,
    path: Annotated[
        Path | None, typer.Argument(help="A notebook; without it, your copy in work/.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the marks as JSON.")] = False,
) -> None:
    """Grade a notebook: run it in a kernel of its own, with limits, and judge its answers here.

    Exit code 0 whenever it could be graded, whatever the marks; `seqlab check` exits with 1 if
    something is wrong.
    """
    number = paths.chapter_number(chapter)
    reports = _grade(number, path or copies.started(number))
    if path is None:
        _record(reports)
    from seqlab.course.grade import summary

    if as_json:
        print(json.dumps(summary(reports), ensure_ascii=False, indent=1))
    else:
        _print_marks(reports)


@app.command()
def progress() -> None:
    """Show what you have done."""
    table = Table("", "exercise", "points", "attempts", "hints", "", box=None, pad_edge=False)
    done = records.load()
    entries = [e for c in catalogue.chapters() for e in c.entries]
    for e in entries:
        r = done.get(e.id, {"attempts": 0, "hints": 0})
        points = _earned(done, e)
        state = records.state(points, e.points, r["attempts"])
        counts = (f"{points} of {e.points}", str(r["attempts"]), str(r["hints"]))
        table.add_row(e.id, e.title, *counts, state)
    out.print(table)
    earned = sum(_earned(done, e) for e in entries)
    out.print(f"{earned} of {sum(e.points for e in entries)} points", style="bold")


@app.command()
def reset(chapter: ChapterArg) -> None:
    """Start a chapter's exercises again. Your old copy is kept in work/backups/."""
    copy, backup = copies.reset(paths.chapter_number(chapter))
    if backup:
        out.print(f"Your old copy is kept as {paths.shown(backup)}", soft_wrap=True)
    out.print(f"A fresh copy is {paths.shown(copy)}", soft_wrap=True)


@app.command()
def doctor() -> None:
    """Say what works on this machine, and how to get the rest. Exit code 1 if a need is missing."""
    from seqlab.course.doctor import State, examine

    marks = {
        State.WORKS: ("✓ works", "green"),
        State.NOTE: ("· note", "yellow"),
        State.MISSING: ("✗ missing", "red"),
    }
    missing = 0
    for f in examine():
        mark, style = marks[f.state]
        missing += f.state == State.MISSING
        out.print(f"{mark:10}", style=style, end="")
        out.print(f"{f.what}: {f.says}", markup=False, soft_wrap=True)
        if f.advice:
            out.print(f"{'':10}→ {f.advice}", markup=False, soft_wrap=True)
    if missing:
        out.print("Install what is missing, then run this again.")
    else:
        out.print("Everything the course needs works here.")
    raise typer.Exit(1 if missing else 0)


@app.command()
def zoo(
    name: Annotated[
        list[str] | None,
        typer.Argument(help="One architecture, channel mixer or model; without it, all of them."),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the tables of docs/zoo.md.")
    ] = False,
) -> None:
    """Show every architecture: what it forgets, its state, its paper, what it is tested against."""
    from seqlab.zoo import table

    if markdown and name:
        raise ValueError("--markdown prints the whole tables: leave out the name, or the option")
    if markdown:
        return print(table.markdown())
    if name:
        return out.print(table.one(" ".join(name)), markup=False, soft_wrap=True)
    for names, lines in _zoo():
        if lines:
            out.print(_fitted(names, lines), "")
    out.print(f"{table.LEGEND} {table.WEIGHTS} seqlab zoo NAME says more about one.", style="dim")


def _zoo() -> list[tuple[tuple[str, ...], list]]:
    """The three tables: names of the columns, and lines; a line that is a str is a heading."""
    from seqlab.zoo import CHANNEL_MIXERS, FAMILIES, RECIPES, table

    rows = []
    for family, members in FAMILIES.items():
        rows += [family, *map(table.cells, members)]
    channel_mixers = [*map(table.channel_cells, CHANNEL_MIXERS)]
    models = [*map(table.recipe_cells, RECIPES)]
    return [
        (("architecture", "what it forgets", "state", "forms", "year", "ch."), rows),
        (("channel mixer", "where a token goes", "weights", "year", "ch."), channel_mixers),
        (("model", "layout", "year", "ch."), models),
    ]


def _fitted(names: tuple[str, ...], lines: list) -> Table:
    """A table of the columns for which the window has room."""
    dropped = {"forms", "year"} if out.width < 120 else set()
    dropped |= {"what it forgets", "where a token goes"} if out.width < 70 else set()
    kept = [i for i, name in enumerate(names) if name not in dropped]
    long = {"what it forgets", "where a token goes", "layout", "forms"}
    columns = (Column(names[i], no_wrap=names[i] not in long) for i in kept)
    view = Table(*columns, box=None, pad_edge=False)
    for line in lines:
        heading = isinstance(line, str)
        cells = [f"[bold]{line}[/]"] if heading else [_plain(line[i]) for i in kept]
        view.add_row(*cells)
    return view


@app.command()
def leaderboard(
    setting: Annotated[str, typer.Option(help="small (minutes) or full (hours).")] = "small",
    row: Annotated[
        list[str] | None, typer.Option(help="Only this architecture; repeat it.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task; repeat it.")] = None,
    workers: Annotated[int, typer.Option(help="Processes, one thread each.", min=1)] = 2,
    show: Annotated[bool, typer.Option("--show", help="Run nothing: show what is kept.")] = False,
    to: Annotated[Path | None, typer.Option(help="Write TO.md and TO.json.")] = None,
    figures: Annotated[Path | None, typer.Option(help="A folder for pages with figures.")] = None,
) -> None:
    """Compare architectures at equal size on the same tasks. May be stopped; goes on next time.

    Exit code 1 if a run failed.
    """
    from seqlab.course.leaderboard import command

    store = paths.work() / "leaderboard" / "runs"
    chosen = command.chosen(setting, row or (), task or ())
    failed = {} if show else command.run_all(chosen, store, workers=workers)
    lines = command.lines(chosen, store)
    if lines:
        names, rows = command.table(chosen, lines)
        dropped = {"family", "parameters"} if out.width < 120 else set()
        kept = [i for i, name in enumerate(names) if name not in dropped]
        view = Table(box=None, pad_edge=False)
        for i in kept:
            view.add_column(names[i], justify="left" if i < 2 else "right")
        for cells in rows:
            view.add_row(*(_plain(cells[i]) for i in kept))
        out.print(view)
        to = to or paths.work() / "leaderboard" / chosen.name
        for written in command.write(chosen, lines, to, figures):
            out.print(paths.shown(written), soft_wrap=True)
    else:
        out.print("There is no result yet: seqlab leaderboard runs what is missing.")
    for run, says in failed.items():
        err.print(f"{run}: {says}", style="red", markup=False, soft_wrap=True)
    raise typer.Exit(1 if failed else 0)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(
    context: typer.Context,
    chapter: Annotated[str, typer.Argument(help="The chapter to open.", metavar="[NN]")] = "00",
    exercises: Annotated[
        bool, typer.Option("--exercises", help="Open your copy of its exercises.")
    ] = False,
) -> None:
    """Open the course in JupyterLab. Further options go to JupyterLab, for example --no-browser."""
    if chapter.startswith("-"):
        context.args.insert(0, chapter)
        chapter = "00"
    number = paths.chapter_number(chapter)
    notebook = copies.start(number)[0] if exercises else paths.notebook_of(number, "chapters")
    _open(notebook, *context.args)


@app.command()
def update() -> None:
    """Fetch a newer version of the course. What you changed is saved to work/ first."""
    from seqlab.course.update import update

    with err.status("Looking for a newer version …"):
        done = update(paths.root())
    for source, target in done.saved:
        out.print(f"Your {source} is kept as {paths.shown(target)}", markup=False, soft_wrap=True)
    if done.branch:
        out.print(f"Your own commits are kept on the branch {done.branch}")
    if done.commits:
        changes = "1 change" if done.commits == 1 else f"{done.commits} changes"
        out.print(f"The course is up to date: {changes} fetched.")
    else:
        out.print("The course was up to date already.")
    if done.install:
        out.print("Its requirements have changed: run make lab (or pip install -e .) once.")


@app.command("new-exercise")
def new_exercise_(
    chapter: ChapterArg,
    name: Annotated[str, typer.Argument(help="The function that the learner will write.")],
) -> None:
    """For authors: write the file of a new exercise, with everything to fill in."""
    from seqlab.course.new_exercise import new_exercise

    for path in new_exercise(paths.chapter_number(chapter), name):
        print(f"wrote {paths.shown(path)}")


@app.command()
def build(
    chapters: Annotated[
        list[str] | None, typer.Argument(help="Chapters; without them, all.", metavar="[NN]…")
    ] = None,
    only_check: Annotated[
        bool, typer.Option("--check", help="Build nothing; say which notebooks are stale.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Also measure again what is tagged `measured`.")
    ] = False,
) -> None:
    """For authors: build notebooks from sources. With --check, exit code 1 if one is stale."""
    from rich.progress import track

    from seqlab.course import build as builder

    numbers = [paths.chapter_number(c) for c in chapters or ()]
    found = builder.sources(numbers)
    if only_check:
        stale = [sentence for kind, source in found for sentence in builder.stale(kind, source)]
        for sentence in stale:
            out.print(f"{sentence}: run seqlab build", markup=False, soft_wrap=True)
        raise typer.Exit(1 if stale else 0)
    for kind, source in track(found, "Building", console=err):
        for written in builder.build(kind, source, fresh):
            out.print(paths.shown(written), soft_wrap=True)


def _grade(number: str, path: Path, only: str | None = None):
    with err.status(f"Running {path} …"):
        from seqlab.course.grade import grade

        return grade(number, path, only=only)


def _record(reports) -> None:
    from seqlab.course.report import Kind

    for report in reports:
        if report.kind != Kind.NOT_STARTED:
            records.attempt(report.id, report.earned)


def _print_marks(reports) -> None:
    from seqlab.course.report import Kind

    table = Table("", "", "points", "", box=None, pad_edge=False)
    for r in reports:
        if r.passed:
            mark, said = "[green]✓ passed[/]", r.title
        elif r.kind == Kind.NOT_STARTED:
            mark, said = "[dim]· not started[/]", r.title
        else:
            mark, said = "[red]✗ failed[/]", r.message
        table.add_row(r.id, mark, f"{r.earned} of {r.points}", _plain(said))
    out.print(table)
    earned, points = sum(r.earned for r in reports), sum(r.points for r in reports)
    out.print(f"{earned} of {points} points", style="bold")


def _open(notebook: Path, *more: str) -> None:
    from seqlab.course import lab

    raise typer.Exit(lab.run(notebook, *more))


def _earned(done: dict, entry: catalogue.Entry) -> int:
    return min(done.get(entry.id, {}).get("earned", 0), entry.points)


def _stem(number: str) -> str:
    return next((p.stem for p in (paths.root() / "exercises").glob(f"{number}_*.ipynb")), number)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


if __name__ == "__main__":
    main()
