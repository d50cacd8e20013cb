"""What `sanitize` found, as data: a kind, a sentence, and where."""

import json
from dataclasses import dataclass
from typing import Any

from seqlab.gpu.events import Line
from seqlab.gpu.show import PLOTLY, shown

KINDS = (
    "out of bounds",
    "never written",
    "two writers",
    "two lanes",
    "lane order",
    "undefined",
    "order",
    "small dot",
    "scan order",
    "bf16",
    "unwritten read",
)


@dataclass(frozen=True)
class Finding:
    """One fault at one line; `str(finding)` is its sentence.

    kind: one of KINDS. program, index, lanes: of the first occurrence. index counts elements in
    row-major order; out of bounds, it is the offset from the tensor's first element. element: the
    same as indices, None out of bounds. lanes: which of the tile's lanes did it, in row-major
    order; the second one is the other lane, if two are at fault.
    """

    kind: str
    program: tuple[int, ...] | None
    tensor: str | None
    index: int | None
    line: Line | None
    sentence: str
    lanes: tuple[int, ...] = ()
    element: tuple[int, ...] | None = None

    def __str__(self):
        return self.sentence

    __repr__ = __str__


class Findings(list):
    """A list of findings, printed one a line.

    note: what was sampled and what was proven, if the grid was too large to run; "" if all of it
    ran. outside: a trace of a program that leaves its tensor, to be drawn.
    """

    note: str = ""
    outside: Any = None

    def __repr__(self):
        lines = [*map(str, self)] or ["nothing found"]
        return "\n".join([*lines, self.note] if self.note else lines)

    def _repr_mimebundle_(self, **_) -> dict:
        """In a notebook, an access out of bounds is also drawn."""
        bundle = {"text/plain": repr(self)}
        drawn = self.outside and shown("figures.kernel_trace", "kernel_trace", self.outside)
        if drawn is not None:
            bundle[PLOTLY] = json.loads(drawn.to_json()) | {"config": {"displayModeBar": False}}
        return bundle
