"""Long convolutions, moving averages, and states that are themselves learners."""

from seqlab.zoo.row import Row

ROWS: list[Row] = []
