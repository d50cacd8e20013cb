"""The zoo as text, for `seqlab zoo` and the README (`python -m seqlab.zoo.table README.md` makes
its tables anew).
"""

import inspect
import sys
from functools import partial
from pathlib import Path

import torch

from seqlab.zoo import CHANNEL_MIXERS, FAMILIES, RECIPES
from seqlab.zoo.find import described, find, unwrap
from seqlab.zoo.row import ChannelMixer, Recipe, Row

D, SHORT, LONG = 256, 1024, 65536  # the state sizes shown: at this width, after so many tokens
LEGEND = (
    f"State: numbers kept per sequence by the row's small example, {D} wide, after {SHORT:,} tokens (→ after {LONG:,}, "
    "where that is more)."
)
WEIGHTS = f"Weights: how many one token meets, of all those of the row's small example, {D} wide."
START, END = "<!-- zoo: python -m seqlab.zoo.table README.md -->", "<!-- end of zoo -->"


def mixer_class(row: Row) -> type:
    """The class that `row.make` builds."""
    return unwrap(row.make)[0]


def source_file(row: Row | ChannelMixer) -> str:
    return described(row).__module__.replace(".", "/") + ".py"


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
    return (
        f"[{paper}]({'https://arxiv.org/abs/' if kind == 'arXiv' else 'https://doi.org/'}{number})"
    )


def cells(row: Row) -> tuple[str, ...]:
    """name, what it forgets, state, forms, year, chapter."""
    return row.name, row.gate, state(row), ", ".join(row.forms), str(row.year), f"{row.chapter:02d}"


def weights(row: ChannelMixer) -> str:
    """As WEIGHTS says."""
    with torch.device("meta"):
        total = size(sum(p.numel() for p in row.make(D).parameters()))
    met = size(row.touched(D))
    return total if met == total else f"{met} of {total}"


def channel_cells(row: ChannelMixer) -> tuple[str, ...]:
    """name, where a token goes, weights, year, chapter."""
    return row.name, row.route, weights(row), str(row.year), f"{row.chapter:02d}"


def markdown() -> str:
    """The tables of the README."""
    parts = [
        architectures_markdown(),
        WEIGHTS.replace("Weights", "*Weights*"),
        channel_mixers_markdown(),
    ]
    return "\n\n".join([*parts, recipes_markdown()] if RECIPES else parts)


def architectures_markdown() -> str:
    """One line a row, the name linked to its file."""
    lines = [
        "| architecture | what it forgets | state | forms | paper | chapter |",
        "|---|---|---|---|---|---|",
    ]
    for family, rows in FAMILIES.items():
        lines.append(f"| *{family}* | | | | | |")
        for r in rows:
            name, gate, floats, forms, year, chapter = (c.replace("|", "\\|") for c in cells(r))
            paper = f"{paper_link(r.paper)}, {year}"
            lines.append(
                f"| [{name}]({source_file(r)}) | {gate} | {floats} | {forms} | {paper} | {chapter} |"
            )
    return "\n".join(lines)


def channel_mixers_markdown() -> str:
    lines = [
        "| channel mixer | where a token goes | weights | paper | chapter |",
        "|---|---|---|---|---|",
    ]
    for r in CHANNEL_MIXERS:
        name, route, met, year, chapter = channel_cells(r)
        lines.append(
            f"| [{name}]({source_file(r)}) | {route} | {met} | {paper_link(r.paper)}, {year} | {chapter} |"
        )
    return "\n".join(lines)


def recipes_markdown() -> str:
    """Whole models, and the sizes they were published with."""
    lines = ["| model | layout | published sizes | paper | chapter |", "|---|---|---|---|---|"]
    for r in RECIPES:
        sizes = "; ".join(r.published)
        lines.append(
            f"| {r.name} | {r.layout} | {sizes} | {paper_link(r.paper)}, {r.year} | {r.chapter:02d} |"
        )
    return "\n".join(lines)


def rewritten(page: str) -> str:
    """`page` with the tables between its two marks made anew."""
    before, found, rest = page.partition(START)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(
            f"the page has no tables to make anew: they stand between {START} and {END}"
        )
    return f"{before}{START}\n{markdown()}\n{END}{after}"


def one(name: str) -> str:
    """All the zoo knows about one entry; ValueError with the names near `name`."""
    entry = find(name)
    return _model(entry) if isinstance(entry, Recipe) else _part(entry)


def call(make, first: str = "d_model") -> tuple[str, set[str]]:
    """The call that makes what a row's factory makes, as Python, and the imports it needs."""
    made, options = unwrap(make)
    imports, arguments = (
        {f"from {made.__module__} import {made.__name__}"},
        [first] if first else [],
    )
    for name, value in options.items():
        if isinstance(value, partial):
            inner, more = call(value, "")
            shown = f"partial({inner.replace('(', ', ', 1)}"
            imports |= more | {"from functools import partial"}
        elif inspect.isclass(value) or inspect.isfunction(value):
            shown = value.__name__
            imports.add(f"from {value.__module__} import {shown}")
        else:
            shown = repr(value)
        arguments.append(f"{name}={shown}")
    return f"{made.__name__}({', '.join(arguments)})", imports


def _part(row: Row | ChannelMixer) -> str:
    # The docstring says it all: paper, equation, and the one line that differs from the neighbour.
    code, imports = call(row.make)
    facts = {
        "the small example": "\n".join([*sorted(imports), code]),
        "options": _options(unwrap(row.make)[0]),
    }
    if isinstance(row, Row):
        facts = {
            "forgets": row.gate,
            "state": _state(row),
            "forms": ", ".join(row.forms) or "one",
        } | facts
    else:
        facts = {"a token goes": row.route, "weights": f"{weights(row)}, {D} wide"} | facts
        if described(row) is not unwrap(row.make)[0]:
            facts["options of the router"] = _options(described(row))
    facts |= {
        "paper": f"{row.paper}, {row.year}",
        "chapter": f"{row.chapter:02d}",
        "tested against": row.oracle,
        "file": source_file(row),
    }
    return f"{row.name}\n\n{inspect.getdoc(described(row))}\n\n" + _lines(facts)


def _state(row):
    if not row.causal:
        return "none: the whole sequence is seen at once"
    grows = f" → after {LONG:,}" if "→" in state(row) else ""
    return f"{state(row)} numbers per sequence: the small example, {D} wide, after {SHORT:,} tokens{grows}"


def _options(made: type) -> str:
    """The signature without annotations, and without d_model."""
    parameters = list(inspect.signature(made).parameters.values())[1:]
    shown = []
    for i, p in enumerate(parameters):
        if p.kind is p.KEYWORD_ONLY and (i == 0 or parameters[i - 1].kind is not p.KEYWORD_ONLY):
            shown.append("*")
        if p.kind is not p.VAR_KEYWORD:
            default = getattr(p.default, "__name__", repr(p.default))
            shown.append(p.name if p.default is p.empty else f"{p.name}={default}")
    return ", ".join(shown) or "none"


def _model(r: Recipe) -> str:
    facts = {"layout": r.layout, "paper": f"{r.paper}, {r.year}", "chapter": f"{r.chapter:02d}"}
    facts["the small example"] = f"from seqlab.zoo import recipe\nrecipe({r.name!r}).tiny()"
    facts |= {
        m: ", ".join(f"{k} {v:,}" if type(v) is int else f"{k} {v}" for k, v in sizes.items())
        for m, sizes in r.published.items()
    }
    return f"{r.name}\n\n" + _lines(facts | {"sizes from": r.source, "tested against": r.oracle})


def _lines(facts: dict[str, str]) -> str:
    width = max(map(len, facts)) + 2
    return "\n".join(
        f"{name:{width}}{value.replace(chr(10), chr(10) + ' ' * width)}"
        for name, value in facts.items()
    )


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:] or ["README.md"]):
        path.write_text(rewritten(path.read_text()))
