"""State spaces that read their input: Mamba and its kin."""

from seqlab.zoo.row import Row

ROWS: list[Row] = []
