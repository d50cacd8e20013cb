"""The zoo as text: rows for `seqlab zoo`, and the table of the README (`seqlab zoo --markdown`)."""

import inspect
from difflib import get_close_matches
from functools import partial

from seqlab.zoo import FAMILIES, RECIPES, ZOO, recipe, row
from seqlab.zoo.row import Recipe, Row

D, SHORT, LONG = 256, 1024, 65536  # the state sizes shown: at this width, after so many tokens
LEGEND = (
    f"State: numbers kept per sequence by the row's small example, {D} wide, after {SHORT:,} tokens (→ after {LONG:,}, "
    "where that is more)."
)


def mixer_class(row: Row) -> type:
    """The class that `row.make` builds."""
    make = row.make
    while isinstance(make, partial):
        make = make.func
    return make


def source_file(row: Row) -> str:
    return mixer_class(row).__module__.replace(".", "/") + ".py"


def size(n: float) -> str:
    """Three digits at most: 33K, 1.2M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if n >= 0.9995 * unit:
            return f"{n / unit:.2g}{name}" if n < 9.95 * unit else f"{n / unit:.0f}{name}"
    return f"{n:.0f}"


def state(row: Row) -> str:
    """As LEGEND says; "none" where the whole sequence is seen at once."""
    if not row.causal:
        return "none"
    short, long = (size(row.state_floats(T, D)) for T in (SHORT, LONG))
    return short if short == long else f"{short} → {long}"


def paper_link(paper: str) -> str:
    kind, number = paper.split(":", 1)
    return f"[{paper}]({'https://arxiv.org/abs/' if kind == 'arXiv' else 'https://doi.org/'}{number})"


def cells(row: Row) -> tuple[str, ...]:
    """name, what it forgets, state, forms, year, chapter."""
    return row.name, row.gate, state(row), ", ".join(row.forms), str(row.year), f"{row.chapter:02d}"


def markdown() -> str:
    """The table of the README: one line a row, the name linked to its file."""
    lines = ["| architecture | what it forgets | state | forms | paper | chapter |", "|---|---|---|---|---|---|"]
    for family, rows in FAMILIES.items():
        lines.append(f"| *{family}* | | | | | |")
        for r in rows:
            name, gate, floats, forms, year, chapter = (c.replace("|", "\\|") for c in cells(r))
            paper = f"{paper_link(r.paper)}, {year}"
            lines.append(f"| [{name}]({source_file(r)}) | {gate} | {floats} | {forms} | {paper} | {chapter} |")
    return "\n".join(lines)


def recipes_markdown() -> str:
    """The second table of the README: whole models."""
    lines = ["| model | layout | published sizes | paper | chapter |", "|---|---|---|---|---|"]
    for r in RECIPES:
        sizes = "; ".join(r.published)
        lines.append(f"| {r.name} | {r.layout} | {sizes} | {paper_link(r.paper)}, {r.year} | {r.chapter:02d} |")
    return "\n".join(lines)


def one(name: str) -> str:
    """All the zoo knows about one architecture or model; ValueError with the names there are."""
    names = {e.name.lower() for e in ZOO}
    if name.lower() in names:
        return _architecture(row(name))
    if name.lower() in {e.name.lower() for e in RECIPES}:
        return _model(recipe(name))
    near = get_close_matches(name.lower(), [*names, *(r.name.lower() for r in RECIPES)], n=3, cutoff=0.4)
    raise ValueError(f"nothing is called {name!r}" + (f": did you mean {', '.join(near)}?" if near else ""))


def _architecture(row: Row) -> str:
    # The docstring says it all: paper, equation, and the one line that differs from the neighbour.
    facts = {
        "forgets": row.gate,
        "state": f"{state(row)} ({LEGEND[7:-1]})",
        "forms": ", ".join(row.forms) or "one",
        "paper": f"{row.paper}, {row.year}",
        "chapter": f"{row.chapter:02d}",
        "tested against": row.oracle,
        "file": source_file(row),
    }
    return f"{row.name}\n\n{inspect.getdoc(mixer_class(row))}\n\n" + _lines(facts)


def _model(r: Recipe) -> str:
    facts = {"layout": r.layout, "paper": f"{r.paper}, {r.year}", "chapter": f"{r.chapter:02d}"}
    facts |= {
        m: ", ".join(f"{k} {v:,}" if type(v) is int else f"{k} {v}" for k, v in sizes.items())
        for m, sizes in r.published.items()
    }
    return f"{r.name}\n\n" + _lines(facts | {"sizes from": r.source, "tested against": r.oracle})


def _lines(facts: dict[str, str]) -> str:
    width = max(map(len, facts)) + 2
    return "\n".join(f"{name:{width}}{value}" for name, value in facts.items())
