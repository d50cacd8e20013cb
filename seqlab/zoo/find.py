"""Find an entry of the zoo by what a person types: its name, class or file, or a part of one."""

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import Any

from seqlab.zoo import CHANNEL_MIXERS, RECIPES, ZOO
from seqlab.zoo.row import ChannelMixer, Recipe, Row

Entry = Row | ChannelMixer | Recipe

# A name that fits more entries than this is answered with the first of them and a count.
SHOWN = 9


def find(asked: str) -> Entry:
    """The one entry that `asked` fits; ValueError with the names near it."""
    wanted = plain(asked)
    entries: list[Entry] = [*ZOO, *CHANNEL_MIXERS, *RECIPES]
    found = _fitting(wanted, entries)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(e.name for e in found[:SHOWN])
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise ValueError(f"{asked!r} fits {names}{more}: say which one you mean")
    names = {plain(e.name): e.name for e in entries}
    near = [names[n] for n in get_close_matches(wanted, names, n=3, cutoff=0.5)]
    advice = f"did you mean {', '.join(near)}?" if near else "seqlab zoo lists all names"
    raise ValueError(f"nothing in the zoo is called {asked!r}: {advice}")


def plain(name: str) -> str:
    """Letters and digits alone: Mamba-2, mamba 2 and mamba2 are the same."""
    return "".join(c for c in name.lower() if c.isalnum())


def unwrap(make: Callable[..., Any]) -> tuple[Any, dict[str, Any]]:
    """The class (or function) that a factory finally calls, and the options it passes."""
    options = {}
    while isinstance(make, partial):
        options = {**make.keywords, **options}
        make = make.func
    return make, options


def described(entry: Row | ChannelMixer) -> type:
    """The class whose docstring describes the entry: for a mixture of experts, its router."""
    made, options = unwrap(entry.make)
    return unwrap(options["router"])[0] if "router" in options else made


def _fitting(wanted: str, entries: list[Entry]) -> list[Entry]:
    """The entries that fit by name; if there are none, by class; else by a part of either."""
    for fits in (_by_name, _by_class, _by_part):
        found = [e for e in entries if wanted and fits(e, wanted)]
        if found:
            return found
    return []


def _by_name(entry: Entry, wanted: str) -> bool:
    return plain(entry.name) == wanted


def _by_class(entry: Entry, wanted: str) -> bool:
    return wanted in [plain(c.__name__) for c in _classes(entry)]


def _by_part(entry: Entry, wanted: str) -> bool:
    classes = _classes(entry)
    files = [c.__module__.rsplit(".", 1)[1] for c in classes]
    texts = [entry.name, *(c.__name__ for c in classes), *files]
    return any(wanted in plain(text) for text in texts)


def _classes(entry: Entry) -> tuple[type, ...]:
    if isinstance(entry, Recipe):
        return ()
    return unwrap(entry.make)[0], described(entry)
