"""An entry of the zoo by what a person types: its name, its class or its file, in any case, or a
part of one.
"""

import inspect
from difflib import get_close_matches
from functools import partial

from seqlab.zoo import CHANNEL_MIXERS, RECIPES, ZOO
from seqlab.zoo.row import ChannelMixer, Recipe, Row

Entry = Row | ChannelMixer | Recipe


def find(asked: str) -> Entry:
    """The one entry that `asked` fits; ValueError with the names near it."""
    wanted, entries = plain(asked), [*ZOO, *CHANNEL_MIXERS, *RECIPES]
    for fits in (_by_name, _by_class, _by_part):
        if found := [e for e in entries if wanted and fits(e, wanted)]:
            break
    if len(found) == 1:
        return found[0]
    if found:
        more = f" and {len(found) - 9} more" if len(found) > 9 else ""
        raise ValueError(f"{asked!r} fits {', '.join(e.name for e in found[:9])}{more}: say which")
    names = {plain(e.name): e.name for e in entries}
    near = [names[n] for n in get_close_matches(wanted, names, n=3, cutoff=0.5)]
    raise ValueError(
        f"nothing is called {asked!r}: "
        + (f"did you mean {', '.join(near)}?" if near else "see seqlab zoo")
    )


def plain(name: str) -> str:
    """Letters and digits alone: Mamba-2, mamba 2 and mamba2 are one."""
    return "".join(c for c in name.lower() if c.isalnum())


def unwrap(make) -> tuple[type, dict]:
    """The class (or function) a factory calls in the end, and the options it hands over."""
    options = {}
    while isinstance(make, partial):
        make, options = make.func, {**make.keywords, **options}
    return make, options


def described(entry: Row | ChannelMixer) -> type:
    """The class whose docstring says what is particular to it: a mixture's is its router."""
    made, options = unwrap(entry.make)
    return unwrap(options["router"])[0] if "router" in options else made


def _by_name(entry, wanted):
    return plain(entry.name) == wanted


def _by_class(entry, wanted):
    return wanted in [plain(c.__name__) for c in _classes(entry)]


def _by_part(entry, wanted):
    files = [plain(inspect.getmodule(c).__name__.rsplit(".", 1)[1]) for c in _classes(entry)]
    return any(
        wanted in text
        for text in [plain(entry.name), *(plain(c.__name__) for c in _classes(entry)), *files]
    )


def _classes(entry):
    return () if isinstance(entry, Recipe) else (unwrap(entry.make)[0], described(entry))
