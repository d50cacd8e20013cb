"""The delta rule: a write first removes what its key returned."""

from seqlab.zoo.row import Row

ROWS: list[Row] = []
