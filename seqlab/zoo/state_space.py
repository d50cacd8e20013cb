"""State spaces: a linear recurrence per channel, its gate a discretised rate."""

from seqlab.zoo.row import Row

ROWS: list[Row] = []
