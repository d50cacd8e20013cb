"""Recurrent networks: the state is a vector, and a matrix lies on its path through time."""

from seqlab.zoo.row import Row

ROWS: list[Row] = []
