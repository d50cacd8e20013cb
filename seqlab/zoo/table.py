"""The zoo as text, for `seqlab zoo` and docs/zoo.md.

`python -m seqlab.zoo.table docs/zoo.md` rewrites the tables of that page.
"""

import inspect
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from seqlab.zoo import CHANNEL_MIXERS, FAMILIES, RECIPES
from seqlab.zoo.find import described, find, unwrap
from seqlab.zoo.papers import PAPERS
from seqlab.zoo.row import ChannelMixer, Recipe, Row

# The state sizes shown: at this width, after so many tokens.
D, SHORT, LONG = 256, 1024, 65536
LEGEND = (
    f"State: numbers kept per sequence by the row's small example, {D} wide, "
    f"after {SHORT:,} tokens (→ after {LONG:,}, if that is more)."
)
WEIGHTS = f"Weights: how many of its small example's weights, {D} wide, one token uses."
START = "<!-- zoo: python -m seqlab.zoo.table docs/zoo.md -->"
END = "<!-- end of zoo -->"

# Where each kind of source is found.
ADDRESSES = {
    "arXiv": "https://arxiv.org/abs/",
    "doi": "https://doi.org/",
    "card": "https://huggingface.co/",
}


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
    """The state's size as LEGEND says; "none" if the row sees the whole sequence at once."""
    if not row.causal:
        return "none"
    short, long = (size(row.state_floats(T, D)) for T in (SHORT, LONG))
    return short if short == long else f"{short} → {long}"


def paper_link(paper: str) -> str:
    kind, number = paper.split(":", 1)
    shown = f"card of {number}" if kind == "card" else paper
    return f"[{shown}]({ADDRESSES[kind]}{number})"


def cells(row: Row) -> tuple[str, ...]:
    """Name, what it forgets, state, forms, year, chapter."""
    forms = ", ".join(row.forms)
    return row.name, row.gate, state(row), forms, str(row.year), f"{row.chapter:02d}"


def weights(row: ChannelMixer) -> str:
    """The weights as WEIGHTS says."""
    with torch.device("meta"):
        total = size(sum(p.numel() for p in row.make(D).parameters()))
    used = size(row.touched(D))
    return total if used == total else f"{used} of {total}"


def channel_cells(row: ChannelMixer) -> tuple[str, ...]:
    """Name, where a token goes, weights, year, chapter."""
    return row.name, row.route, weights(row), str(row.year), f"{row.chapter:02d}"


def recipe_cells(r: Recipe) -> tuple[str, ...]:
    """Name, layout, year, chapter."""
    return r.name, r.layout, str(r.year), f"{r.chapter:02d}"


def markdown() -> str:
    """The tables of docs/zoo.md."""
    parts = [
        LEGEND.replace("State", "*State*"),
        architectures_markdown(),
        WEIGHTS.replace("Weights", "*Weights*"),
        channel_mixers_markdown(),
    ]
    return "\n\n".join([*parts, recipes_markdown()] if RECIPES else parts)


def architectures_markdown() -> str:
    """One line per row, its name linked to its file."""
    head = ("architecture", "what it forgets", "state", "forms", "paper", "chapter")
    lines = _head(*head)
    for family, rows in FAMILIES.items():
        lines.append(f"| *{family}* | | | | | |")
        for r in rows:
            _, gate, floats, forms, year, chapter = cells(r)
            lines.append(_line(_linked(r), gate, floats, forms, _paper(r.paper, year), chapter))
    return "\n".join(lines)


def channel_mixers_markdown() -> str:
    lines = _head("channel mixer", "where a token goes", "weights", "paper", "chapter")
    for r in CHANNEL_MIXERS:
        _, route, used, year, chapter = channel_cells(r)
        lines.append(_line(_linked(r), route, used, _paper(r.paper, year), chapter))
    return "\n".join(lines)


def recipes_markdown() -> str:
    """Whole models, and the sizes they were published with."""
    lines = _head("model", "layout", "published sizes", "source", "chapter")
    for r in RECIPES:
        name, layout, year, chapter = recipe_cells(r)
        source = _paper(r.paper, year) if r.paper else f"no model, {year}"
        if r.method:
            source += f"; method: {paper_link(r.method)}"
        lines.append(_line(name, layout, "; ".join(r.published), source, chapter))
    return "\n".join(lines)


def _head(*names: str) -> list[str]:
    return [_line(*names), "|" + "---|" * len(names)]


def _line(*texts: str) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def _linked(row: Row | ChannelMixer) -> str:
    return f"[{row.name}](../{source_file(row)})"


def _paper(paper: str, year: str) -> str:
    return f"{paper_link(paper)}, {year}"


def rewritten(page: str) -> str:
    """`page` with new tables between its two marks."""
    before, found, rest = page.partition(START)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"the page has no place for the tables: it needs {START} and then {END}")
    return f"{before}{START}\n{markdown()}\n{END}{after}"


def one(name: str) -> str:
    """All that the zoo knows about one entry; ValueError with the names near `name`."""
    entry = find(name)
    return _model(entry) if isinstance(entry, Recipe) else _part(entry)


def call(make: Callable[..., Any], first: str = "d_model") -> tuple[str, set[str]]:
    """The call that makes what a row's factory makes, as Python, and the imports it needs."""
    made, options = unwrap(make)
    imports = {f"from {made.__module__} import {made.__name__}"}
    arguments = [first] if first else []
    for name, value in options.items():
        shown, needed = _shown(value)
        arguments.append(f"{name}={shown}")
        imports |= needed
    return f"{made.__name__}({', '.join(arguments)})", imports


def _shown(value: Any) -> tuple[str, set[str]]:
    """One argument as Python, and the imports it needs."""
    if isinstance(value, partial):
        inner, imports = call(value, "")
        shown = f"partial({inner.replace('(', ', ', 1)}"
        return shown, imports | {"from functools import partial"}
    if inspect.isclass(value) or inspect.isfunction(value):
        return value.__name__, {f"from {value.__module__} import {value.__name__}"}
    return repr(value), set()


def _part(row: Row | ChannelMixer) -> str:
    # The docstring has it all: paper, equation, and the one line that differs from the neighbour.
    code, imports = call(row.make)
    made = unwrap(row.make)[0]
    facts = _about(row)
    facts["the small example"] = "\n".join([*sorted(imports), code])
    facts["options"] = _options(made)
    if described(row) is not made:
        facts["options of the router"] = _options(described(row))
    facts |= {
        "paper": _cited(row.paper),
        "chapter": f"{row.chapter:02d}",
        "tested against": row.oracle,
        "file": source_file(row),
    }
    return f"{row.name}\n\n{inspect.getdoc(described(row))}\n\n" + _lines(facts)


def _about(row: Row | ChannelMixer) -> dict[str, str]:
    if isinstance(row, ChannelMixer):
        return {"a token goes": row.route, "weights": f"{weights(row)}, {D} wide"}
    forms = ", ".join(row.forms) or "one"
    return {"forgets": row.gate, "state": _state(row), "forms": forms}


def _state(row: Row) -> str:
    if not row.causal:
        return "none: the whole sequence is seen at once"
    after = f"after {SHORT:,} tokens"
    if "→" in state(row):
        after += f" → after {LONG:,}"
    return f"{state(row)} numbers per sequence: the small example, {D} wide, {after}"


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
    facts = {"layout": r.layout, "source": _cited(r.paper) if r.paper else "no model"}
    if r.method:
        facts["method from"] = _cited(r.method)
    facts["year"] = str(r.year)
    facts["chapter"] = f"{r.chapter:02d}"
    facts["the small example"] = f"from seqlab.zoo import recipe\nrecipe({r.name!r}).tiny()"
    for model, sizes in r.published.items():
        facts[model] = ", ".join(f"{name} {_number(value)}" for name, value in sizes.items())
    return f"{r.name}\n\n" + _lines(facts | {"sizes from": r.source, "tested against": r.oracle})


def _cited(paper: str) -> str:
    """`paper` with its title and year, if it is a paper."""
    if paper not in PAPERS:
        return paper
    year, author, title = PAPERS[paper]
    return f"{paper}: {title} ({author}, {year})"


def _number(value: Any) -> str:
    return f"{value:,}" if type(value) is int else f"{value}"


def _lines(facts: dict[str, str]) -> str:
    width = max(map(len, facts)) + 2
    indent = "\n" + " " * width
    lines = (name.ljust(width) + value.replace("\n", indent) for name, value in facts.items())
    return "\n".join(lines)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:] or ["docs/zoo.md"]):
        path.write_text(rewritten(path.read_text()))
