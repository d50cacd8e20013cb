"""Gated moving averages: RG-LRU, MEGA, Megalodon."""

from seqlab.zoo.row import Row

ROWS: list[Row] = []
