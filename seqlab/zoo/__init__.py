"""Every architecture of the course, as data; tests/test_mixers.py runs its contract over each row.

A new mixer is one file in mixers/, one row here (in the file of its family) and one oracle test.
"""

from seqlab.zoo import (
    attention,
    averages,
    delta,
    ffn,
    linear,
    models,
    others,
    recurrent,
    rwkv,
    selective,
    state_space,
)
from seqlab.zoo.row import CORE_FORMS, ChannelMixer, Recipe, Row

__all__ = [
    "CHANNEL_MIXERS",
    "CORE_FORMS",
    "FAMILIES",
    "RECIPES",
    "ZOO",
    "ChannelMixer",
    "Recipe",
    "Row",
    "recipe",
    "row",
]

FAMILIES: dict[str, list[Row]] = {
    "recurrent": recurrent.ROWS,
    "attention": attention.ROWS,
    "linear and gated": linear.ROWS,
    "delta rule": delta.ROWS,
    "state space": state_space.ROWS + selective.ROWS,
    "RWKV": rwkv.ROWS,
    "others": averages.ROWS + others.ROWS,
}
CHANNEL_MIXERS: list[ChannelMixer] = ffn.ROWS
RECIPES: list[Recipe] = models.RECIPES
ZOO: list[Row] = [r for rows in FAMILIES.values() for r in rows]


def row(name: str) -> Row:
    """The row called `name`, in upper or lower case; KeyError with all names if there is none."""
    return _named(name, ZOO, "architecture")


def recipe(name: str) -> Recipe:
    """The model called `name`, in upper or lower case; KeyError with all names if there is none."""
    return _named(name, RECIPES, "model")


def _named(name: str, entries: list, kind: str):
    for entry in entries:
        if entry.name.lower() == name.lower():
            return entry
    names = ", ".join(e.name for e in entries)
    raise KeyError(f"no {kind} is called {name!r}: there are {names}")
