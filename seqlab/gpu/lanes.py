"""The lanes of one program: they run in any order, until a barrier makes them wait.

A GPU gives the lanes of a tile to many threads. Triton puts no barrier between a load and a store
of the same tensor, so a lane may read an element before or after another lane stores it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from seqlab.gpu.events import Access
from seqlab.gpu.footprint import Footprint


class LaneFault(NamedTuple):
    """kind: "two lanes" or "lane order". places: positions in the access's elements."""

    kind: str
    says: Callable[[int], str]
    places: np.ndarray
    lanes: Callable[[int], tuple[int, ...]]


class LaneOrder:
    """Sees which lanes of the running program touch an element without a barrier between."""

    def __init__(self):
        self.now = 1  # the number of times that all lanes have waited for each other
        self.fence = 1  # when they last did so at a tl.debug_barrier(), or started
        self.shapes: dict[tuple[int, ...], int] = {}

    def start(self) -> None:
        self.barrier(named=True)

    def barrier(self, named: bool) -> None:
        self.now += 1
        if named:
            self.fence = self.now

    def access(self, access: Access, held: Footprint, cells: np.ndarray) -> list[LaneFault]:
        """The faults of an access that is about to happen. Atomic ones wait for each other."""
        if access.kind == "atomic" or not len(cells):
            return []
        shape = self.shapes.setdefault(access.shape, len(self.shapes) + 1)
        keys = (shape << 40) + access.lanes
        partner = held.partner(cells)
        twice = partner != np.arange(len(cells))
        if access.kind == "load":
            return self._load(access, held, cells, keys, twice)
        return self._store(access, held, cells, keys, partner, twice)

    def _load(self, access, held, cells, keys, twice) -> list[LaneFault]:
        recent = (held.stored[cells] >= self.fence) & (held.storer[cells] != keys)
        others = held.storer[cells]
        again = (held.loaded[cells] == self.now) & (
            held.several[cells] | (held.loader[cells] != keys)
        )
        held.several[cells] = again
        held.several[cells[twice]] = True
        held.loaded[cells], held.loader[cells] = self.now, keys
        if not recent.any():
            return []

        def says(place: int) -> str:
            element = access.argument.place(int(access.elements[place]))
            return (
                f"reads {element}, which another lane of the program has just stored: "
                "put tl.debug_barrier() between the two"
            )

        def lanes(place: int) -> tuple[int, ...]:
            return int(access.lanes[place]), _lane(others[place])

        return [LaneFault("lane order", says, np.flatnonzero(recent), lanes)]

    def _store(self, access, held, cells, keys, partner, twice) -> list[LaneFault]:
        faults = []
        unequal = twice & _differ(access.stored, access.stored[partner])
        updated = twice & held.several[cells] & (held.loaded[cells] >= self.fence) & ~unequal
        if updated.any():
            held_now = access.argument.values(access.elements[updated])
            updated[updated] = _differ(held_now, access.numbers()[updated])
        if unequal.any() or updated.any():
            faults.append(_two_lanes(access, partner, unequal | updated, updated))
        else:
            faults += self._early(access, held, cells, keys)
        held.stored[cells], held.storer[cells] = self.now, keys
        return faults

    def _early(self, access, held, cells, keys) -> list[LaneFault]:
        """A lane stores what another lane has read, and may read later on a GPU."""
        other = held.loader[cells]
        same_tile = other >> 40 == keys >> 40
        early = (
            (held.loaded[cells] == self.now) & same_tile & (held.several[cells] | (other != keys))
        )
        if not early.any():
            return []

        def says(place: int) -> str:
            element = access.argument.place(int(access.elements[place]))
            return (
                f"stores {element}, which another lane of the program reads just before: "
                "it may read the new value; put tl.debug_barrier() between the two, "
                "or write to another tensor"
            )

        def lanes(place: int) -> tuple[int, ...]:
            return int(access.lanes[place]), _lane(other[place])

        return [LaneFault("lane order", says, np.flatnonzero(early), lanes)]


def _two_lanes(access: Access, partner: np.ndarray, wrong: np.ndarray, updated: np.ndarray):
    def lanes(place: int) -> tuple[int, ...]:
        return int(access.lanes[place]), int(access.lanes[partner[place]])

    def says(place: int) -> str:
        element = access.argument.place(int(access.elements[place]))
        first, second = lanes(place)
        if updated[place]:
            return (
                f"updates {element} in lane {first} and in lane {second}, which both read it "
                "before: one of the two updates is lost; use an atomic, as tl.atomic_add"
            )
        return (
            f"stores different values to {element} in lane {first} and in lane {second}: "
            "which of them remains is chance"
        )

    return LaneFault("two lanes", says, np.flatnonzero(wrong), lanes)


def _lane(key: int) -> int:
    return int(key) & ((1 << 40) - 1)


def _differ(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a != b) & ~((a != a) & (b != b))
