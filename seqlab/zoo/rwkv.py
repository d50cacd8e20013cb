"""Four generations of RWKV."""

from seqlab.zoo.row import Row

ROWS: list[Row] = []
