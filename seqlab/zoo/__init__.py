"""Every architecture of the course, as data. The contract of tests/test_mixers.py runs over every row.

A new mixer is one file in mixers/, one row here (in the file of its family) and one oracle test.
"""

from seqlab.zoo import attention, averages, delta, linear, others, recurrent, rwkv, selective, state_space
from seqlab.zoo.row import CORE_FORMS, Row

__all__ = ["CORE_FORMS", "FAMILIES", "ZOO", "Row", "row"]

FAMILIES: dict[str, list[Row]] = {
    "recurrent": recurrent.ROWS,
    "attention": attention.ROWS,
    "linear and gated": linear.ROWS,
    "delta rule": delta.ROWS,
    "state space": state_space.ROWS + selective.ROWS,
    "RWKV": rwkv.ROWS,
    "others": averages.ROWS + others.ROWS,
}
ZOO: list[Row] = [r for rows in FAMILIES.values() for r in rows]


def row(name: str) -> Row:
    """The row called `name`; KeyError with the names there are."""
    for r in ZOO:
        if r.name == name:
            return r
    raise KeyError(f"no architecture is called {name!r}: there are {', '.join(r.name for r in ZOO)}")
