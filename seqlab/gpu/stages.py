"""The texts that a kernel becomes on its way to a GPU, line by line beside the source line that
made each.

TTIR is Triton's program over blocks; TTGIR says which thread holds what; PTX (AMD: amdgcn) is the
assembly.
"""

import re
from pathlib import Path
from typing import NamedTuple

STAGES = ("ttir", "ttgir", "ptx", "amdgcn")


class Line(NamedTuple):
    """One line of a stage's text, and the line of the kernel's file that made it (None: none, or a
    library's).
    """

    text: str
    source: int | None


def assembly_of(target: str) -> str:
    return "ptx" if target.startswith("sm_") else "amdgcn"


def lines_of(texts: dict[str, str]) -> dict[str, list[Line]]:
    """Every stage's lines. The kernel's file is known by the name it had when Triton compiled it,
    and kept the result.

    (Triton's cache does not ask for the file: a notebook cell of which a later line changed has a
    new name each time.)
    """
    texts = {stage: texts[stage] for stage in STAGES if stage in texts}
    file = Path(_FUNCTION.search(texts["ttir"])[1]).name
    return {
        stage: (_mlir if stage.startswith("tt") else _assembly)(text, file)
        for stage, text in texts.items()
    }


_FUNCTION = re.compile(r'^#loc = loc\("([^"]+)":\d+:\d+\)', re.M)  # where the kernel itself begins
_LOCATION = re.compile(r"^(#loc\d*) = loc\((.*)\)$")
_MARK = re.compile(r" loc\((?:[^()]|\([^()]*\))*\)")
_PLACE = re.compile(r'"([^"]+)":(\d+):\d+')


def _mlir(text: str, file: str) -> list[Line]:
    """TTIR and TTGIR: the locations stand at the end as a table, and refer to each other."""
    table = dict(m.groups() for m in map(_LOCATION.match, text.splitlines()) if m)

    def source(place: str) -> int | None:
        """The first line of our file in a location: of what was inlined the innermost, of names
        what they name.
        """
        for found in re.finditer(r'"[^"]+":\d+:\d+|#loc\d*', place):
            if (direct := _PLACE.fullmatch(found[0])) is None:
                if (line := source(table.get(found[0], ""))) is not None:
                    return line
            elif Path(direct[1]).name == file:
                return int(direct[2])
        return None

    lines = []
    for line in text.splitlines():
        if line.startswith("#loc"):
            continue
        places = _MARK.findall(line)
        lines.append(Line(_MARK.sub("", line), source(places[-1]) if places else None))
    return lines


def _assembly(text: str, file: str) -> list[Line]:
    """PTX and AMD's assembly: a directive .loc names the place of what follows, and where that was
    inlined.
    """
    lines, source, callers, inline = [], None, {}, False
    ours = {
        n
        for n, path in re.findall(r'\.file\s+(\d+)\s.*"([^"\n]+)"', text)
        if Path(path).name == file
    }
    for line in text.splitlines():
        if re.match(r"\s*\.section\s|\.Lfunc_end", line):
            break
        if place := _LOC.match(line):
            number, row, caller = place["file"], int(place["line"]), place["caller"]
            callers[number, row] = (
                (caller, int(place["caller_line"])) if caller else _comment(line, ours, file)
            )
            if (
                not inline
            ):  # inside inline assembly LLVM counts on, a line of the kernel for a line of assembly
                source = _ours((number, row), ours, callers)
        elif "inline asm" in line:
            inline = "begin" in line
        elif line.strip() and not re.match(r"\s*(\.file|\.cfi|//|;|\$L__tmp|\.Ltmp)", line):
            lines.append(Line(line.expandtabs(4).rstrip(), source))
    return lines


_LOC = re.compile(
    r"\s*\.loc\s+(?P<file>\d+)\s+(?P<line>\d+)(?:.*inlined_at (?P<caller>\d+) (?P<caller_line>\d+))?"
)


def _comment(line: str, ours: set[str], file: str) -> tuple[str, int] | None:
    """AMD's chain of callers, which stands in a comment: standard.py:314:12 @[ kernel.py:40:19
    ].
    """
    rows = re.findall(rf"@\[ {re.escape(file)}:(\d+):", line)
    return (next(iter(ours)), int(rows[0])) if rows and ours else None


def _ours(place, ours: set[str], callers: dict) -> int | None:
    """The line of our file at a place, or where the library function there was called from."""
    for _ in range(len(callers) + 1):
        if place is None:
            return None
        if place[0] in ours:
            return place[1] or None
        place = callers.get(place)
    return None
