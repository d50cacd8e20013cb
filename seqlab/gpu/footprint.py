"""What a run did to one storage: a few numbers for each of its cells, in the order of the run.

The arrays start as zeros that no one has touched, which the system gives away for nothing: a large
tensor costs what the kernel touches of it.
"""

import numpy as np


class Footprint:
    """A cell is as large as the smallest element of the tensors that share the storage.

    unwritten: it holds no value yet. writer: the number of the last access that wrote it, from 1.
    by_atomic: that access was atomic. read: it was read before anything was stored to it.
    loaded, stored: the moment of the last load and store. loader, storer: the lane that did it.
    several: more than one lane has read it at that moment.
    owner: the number of the program that touched it, from 1, or -1 for more than one.
    shared: some cell was written by one program and touched by another.
    """

    def __init__(self, bytes: int, cell: int):
        self.cell = cell
        size = -(-bytes // cell)
        self.unwritten = np.zeros(size, dtype=bool)
        self.writer = np.zeros(size, dtype=np.int32)
        self.by_atomic = np.zeros(size, dtype=bool)
        self.read = np.zeros(size, dtype=bool)
        self.loaded = np.zeros(size, dtype=np.int32)
        self.stored = np.zeros(size, dtype=np.int32)
        self.loader = np.zeros(size, dtype=np.int64)
        self.storer = np.zeros(size, dtype=np.int64)
        self.several = np.zeros(size, dtype=bool)
        self.owner = np.zeros(size, dtype=np.int32)
        self._place = np.zeros(size, dtype=np.int32)
        self.touched = self.ever_read = self.shared = False
        self.only_atomics = self.in_place = True
        self.exchanged = False

    def at(self, bytes: np.ndarray) -> np.ndarray:
        """The cells at these bytes."""
        return bytes // self.cell

    def touch(self, cells: np.ndarray, program: int, writes: bool) -> None:
        """Program number `program` is about to read or write the cells."""
        owner = self.owner[cells]
        others = (owner != 0) & (owner != program)
        self.shared |= bool((others if writes else others & (self.writer[cells] > 0)).any())
        self.owner[cells] = np.where(others, -1, program)

    def write(self, cells: np.ndarray, writer: int, atomic: bool) -> None:
        self.unwritten[cells] = False
        self.writer[cells] = writer
        self.by_atomic[cells] = atomic

    def partner(self, cells: np.ndarray) -> np.ndarray:
        """For each lane, the last lane with the same cell."""
        self._place[cells] = np.arange(len(cells))
        return self._place[cells]
