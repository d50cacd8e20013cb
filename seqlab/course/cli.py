"""The command line: seqlab list, start, check, grade, progress, reset, doctor, lab, zoo, update,
build.

Nothing heavy is imported until a command needs it.
"""

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
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # so that a terminated grader still ends its kernel
    try:
        app()
    except (ValueError, OSError, RuntimeError) as error:
        said = (
            str(error)
            if not isinstance(error, OSError) or error.strerror is None
            else _system(error)
        )
        err.print(f"seqlab: {said}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)


@app.command("list")
def list_() -> None:
    """Show the chapters, their exercises and the points earned."""
    table = Table("", "chapter", "exercises", "minutes", "points", "", box=None, pad_edge=False)
    done = records.load()
    for c in catalogue.chapters():
        earned = sum(_earned(done, e) for e in c.entries)
        started = "in work/" if (paths.work() / f"{_stem(c.number)}.ipynb").exists() else ""
        minutes = sum(e.minutes for e in c.entries)
        cells = (
            (str(len(c.entries)), str(minutes), f"{earned} of {c.points}")
            if c.entries
            else ("", "", "")
        )
        table.add_row(c.number, c.title, *cells, started)
    out.print(table)
    out.print(
        "seqlab lab NN opens a chapter, seqlab start NN copies its exercises to work/.", style="dim"
    )


@app.command()
def start(
    chapter: ChapterArg,
    open_: Annotated[bool, typer.Option("--open", help="Open the copy in JupyterLab.")] = False,
) -> None:
    """Copy a chapter's exercises to work/, where they are yours. Never overwrites."""
    number = paths.chapter_number(chapter)
    copy, new = copies.start(number)
    out.print(
        f"{'Your copy is' if new else 'You have started already: your copy is'} {paths.shown(copy)}",
        soft_wrap=True,
    )
    if open_:
        _open(copy)
    out.print(f"Open it with: seqlab lab {number} --exercises", style="dim")


@app.command()
def check(
    what: Annotated[
        str, typer.Argument(help="A chapter (03) or one exercise (03.2).", metavar="NN[.m]")
    ],
) -> None:
    """Check your copy in work/: each exercise with every case. Exit code 1 if something is not
    right yet.
    """
    number, only = paths.chapter_number(what), what if "." in what else None
    from seqlab.course import exercises

    if only is not None:
        only = exercises.find(only).id
    reports = _grade(number, copies.started(number), only)
    _remember(reports)
    for report in reports:
        out.print(
            str(report), style="green" if report.passed else "red", markup=False, soft_wrap=True
        )
    raise typer.Exit(0 if all(r.passed for r in reports) else 1)


@app.command()
def grade(
    chapter: ChapterArg,
    path: Annotated[
        Path | None, typer.Argument(help="A notebook; without it, your copy in work/.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the marks as JSON.")] = False,
) -> None:
    """Grade a notebook: run that file in a kernel of its own, with limits, and judge its answers
    outside it.

    Exit code 0 whenever it could be graded, whatever the marks; `seqlab check` exits with 1 if
    something is wrong.
    """
    number = paths.chapter_number(chapter)
    reports = _grade(number, path or copies.started(number))
    if path is None:
        _remember(reports)
    from seqlab.course.grade import summary

    if as_json:
        print(json.dumps(summary(reports), ensure_ascii=False, indent=1))
    else:
        _print_marks(reports)


@app.command()
def progress() -> None:
    """Show what you have done."""
    table = Table("", "exercise", "points", "attempts", "hints", "", box=None, pad_edge=False)
    done, total, earned = records.load(), 0, 0
    for e in (e for c in catalogue.chapters() for e in c.entries):
        r = done.get(e.id, {"attempts": 0, "hints": 0})
        points = _earned(done, e)
        total, earned = total + e.points, earned + points
        state = records.state(points, e.points, r["attempts"])
        table.add_row(
            e.id, e.title, f"{points} of {e.points}", str(r["attempts"]), str(r["hints"]), state
        )
    out.print(table)
    out.print(f"{earned} of {total} points", style="bold")


@app.command()
def reset(chapter: ChapterArg) -> None:
    """Begin a chapter's exercises again. Your old copy is kept in work/backups/."""
    copy, backup = copies.reset(paths.chapter_number(chapter))
    if backup:
        out.print(f"Your old copy is kept as {paths.shown(backup)}", soft_wrap=True)
    out.print(f"A fresh copy is {paths.shown(copy)}", soft_wrap=True)


@app.command()
def doctor() -> None:
    """Say what works on this machine, and what to do about the rest. Exit code 1 if something
    needed is missing.
    """
    from seqlab.course.doctor import examine

    marks = {
        "works": ("✓ works", "green"),
        "note": ("· note", "yellow"),
        "missing": ("✗ missing", "red"),
    }
    missing = 0
    for f in examine():
        mark, style = marks[f.state]
        missing += f.state == "missing"
        out.print(f"{mark:10}", style=style, end="")
        out.print(f"{f.what}: {f.says}", markup=False, soft_wrap=True)
        if f.advice:
            out.print(f"{'':10}→ {f.advice}", markup=False, soft_wrap=True)
    out.print(
        "Everything the course needs works here."
        if not missing
        else "Mend what is missing, then run this again."
    )
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
    """Show every architecture: what it forgets, the size of its state, its paper and what it is
    tested against.
    """
    from seqlab.zoo import CHANNEL_MIXERS, FAMILIES, RECIPES, table

    if markdown and name:
        raise ValueError("--markdown prints the whole tables: leave out the name, or the option")
    if markdown:
        return print(table.markdown())
    if name:
        return out.print(table.one(" ".join(name)), markup=False, soft_wrap=True)
    sections = [
        ("architecture", "what it forgets", "state", "forms", "year", "ch."),
        ("channel mixer", "where a token goes", "weights", "year", "ch."),
        ("model", "layout", "year", "ch."),
    ]
    rows = [
        [],
        map(table.channel_cells, CHANNEL_MIXERS),
        ((r.name, r.layout, str(r.year), f"{r.chapter:02d}") for r in RECIPES),
    ]
    for family, members in FAMILIES.items():
        rows[0] += [family, *map(table.cells, members)]
    for names, lines in zip(sections, map(list, rows), strict=True):
        if lines:
            out.print(_zoo(names, lines), "")
    out.print(f"{table.LEGEND} {table.WEIGHTS} seqlab zoo NAME says more about one.", style="dim")


def _zoo(names: tuple[str, ...], lines: list) -> Table:
    """The columns there is room for. A line that is no row is a heading."""
    narrow = {"forms", "year"} if out.width < 120 else set()
    narrow |= {"what it forgets", "where a token goes"} if out.width < 70 else set()
    kept = [i for i, name in enumerate(names) if name not in narrow]
    long = {"what it forgets", "where a token goes", "layout", "forms"}
    view = Table(
        *(Column(names[i], no_wrap=names[i] not in long) for i in kept), box=None, pad_edge=False
    )
    for line in lines:
        view.add_row(
            *([f"[bold]{line}[/]"] if isinstance(line, str) else (_plain(line[i]) for i in kept))
        )
    return view


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
    _open(
        copies.start(number)[0] if exercises else paths.notebook_of(number, "chapters"),
        *context.args,
    )


@app.command()
def update() -> None:
    """Bring a newer version of the course. What you changed is saved to work/ first."""
    from seqlab.course.update import update

    with err.status("Looking for a newer version …"):
        done = update(paths.root())
    for source, target in done.saved:
        out.print(f"Your {source} is kept as {paths.shown(target)}", markup=False, soft_wrap=True)
    if done.branch:
        out.print(f"Your own commits are kept on the branch {done.branch}")
    changes = "1 change" if done.commits == 1 else f"{done.commits} changes"
    out.print(
        f"The course is up to date: {changes} brought."
        if done.commits
        else "The course is up to date already."
    )
    if done.install:
        out.print("What it needs has changed: run make lab (or pip install -e .) once.")


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
    """For authors: make the notebooks from their sources. With --check, exit code 1 if one is
    stale.
    """
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


def _remember(reports) -> None:
    for report in reports:
        if report.kind != "not started":
            records.attempt(report.id, report.earned)


def _print_marks(reports) -> None:
    table = Table("", "", "points", "", box=None, pad_edge=False)
    for r in reports:
        blank = r.kind == "not started"
        style = "green" if r.passed else "dim" if blank else "red"
        mark = f"[{style}]{'✓ passed' if r.passed else '· not started' if blank else '✗ failed'}[/]"
        said = r.title if r.passed or blank else r.message
        table.add_row(r.id, mark, f"{r.earned} of {r.points}", _plain(said))
    out.print(table)
    out.print(
        f"{sum(r.earned for r in reports)} of {sum(r.points for r in reports)} points", style="bold"
    )


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


def _system(error: OSError) -> str:
    return f"{error.filename or 'the system'}: {error.strerror}"


if __name__ == "__main__":
    main()
