"""The texts a kernel becomes on its way to a GPU, each line beside the source line it came from.

TTIR is Triton's program over blocks; TTGIR says which thread holds what; PTX (AMD: amdgcn) is the
assembly.
"""

import re
from pathlib import Path
from typing import NamedTuple

from seqlab.gpu.events import LabError

STAGES = ("ttir", "ttgir", "ptx", "amdgcn")


class Line(NamedTuple):
    """One line of a stage's text, and the line of the kernel's file that it came from.

    source is None for what came from nowhere, or from a library.
    """

    text: str
    source: int | None


def assembly_of(target: str) -> str:
    return "ptx" if target.startswith("sm_") else "amdgcn"


def lines_of(texts: dict[str, str]) -> dict[str, list[Line]]:
    """The lines of every stage.

    The kernel's file has the name it had when Triton first compiled it and cached the result. The
    cache ignores file names, and a notebook cell gets a new one whenever any of its lines changes.
    """
    texts = {stage: texts[stage] for stage in STAGES if stage in texts}
    found = _FUNCTION.search(texts["ttir"])
    if found is None:
        raise LabError("this Triton's TTIR does not say which file the kernel is in")
    file = Path(found[1]).name
    return {
        stage: (_mlir if stage.startswith("tt") else _assembly)(text, file)
        for stage, text in texts.items()
    }


_FUNCTION = re.compile(r'^#loc = loc\("([^"]+)":\d+:\d+\)', re.M)  # where the kernel itself begins
_LOCATION = re.compile(r"^(#loc\d*) = loc\((.*)\)$")
_MARK = re.compile(r" loc\((?:[^()]|\([^()]*\))*\)")
_PLACE = re.compile(r'"([^"]+)":(\d+):\d+')


def _mlir(text: str, file: str) -> list[Line]:
    """TTIR and TTGIR: the locations are in a table at the end, and refer to each other."""
    places: dict[str, str] = {}
    for line in text.splitlines():
        if found := _LOCATION.match(line):
            places[found[1]] = found[2]

    def source(place: str) -> int | None:
        """The first line of our file in a location.

        Of code that was inlined this is the innermost line; a name counts as what it names.
        """
        for found in re.finditer(r'"[^"]+":\d+:\d+|#loc\d*', place):
            direct = _PLACE.fullmatch(found[0])
            if direct is None:
                line = source(places.get(found[0], ""))
                if line is not None:
                    return line
            elif Path(direct[1]).name == file:
                return int(direct[2])
        return None

    lines = []
    for line in text.splitlines():
        if not line.startswith("#loc"):
            marks = _MARK.findall(line)
            lines.append(Line(_MARK.sub("", line), source(marks[-1]) if marks else None))
    return lines


def _assembly(text: str, file: str) -> list[Line]:
    """PTX and AMD's assembly: a directive .loc says where the lines after it came from.

    It also says where that place was inlined.
    """
    lines: list[Line] = []
    source, callers, inline = None, {}, False
    files = re.findall(r'\.file\s+(\d+)\s.*"([^"\n]+)"', text)
    ours = {number for number, path in files if Path(path).name == file}
    for line in text.splitlines():
        if re.match(r"\s*\.section\s|\.Lfunc_end", line):
            break
        if found := _LOC.match(line):
            place = found["file"], int(found["line"])
            if found["caller"]:
                callers[place] = found["caller"], int(found["caller_line"])
            else:
                callers[place] = _comment(line, ours, file)
            # Inside inline assembly LLVM counts lines of assembly as if they were the kernel's.
            if not inline:
                source = _ours(place, ours, callers)
        elif "inline asm" in line:
            inline = "begin" in line
        elif line.strip() and not re.match(r"\s*(\.file|\.cfi|//|;|\$L__tmp|\.Ltmp)", line):
            lines.append(Line(line.expandtabs(4).rstrip(), source))
    return lines


_LOC = re.compile(
    r"\s*\.loc\s+(?P<file>\d+)\s+(?P<line>\d+)"
    r"(?:.*inlined_at (?P<caller>\d+) (?P<caller_line>\d+))?"
)


def _comment(line: str, ours: set[str], file: str) -> tuple[str, int] | None:
    """AMD's chain of callers, which is in a comment: standard.py:314:12 @[ kernel.py:40:19 ]."""
    rows = re.findall(rf"@\[ {re.escape(file)}:(\d+):", line)
    return (next(iter(ours)), int(rows[0])) if rows and ours else None


def _ours(place, ours: set[str], callers: dict) -> int | None:
    """The line of our file at a place, or the line that called the library function there."""
    for _ in range(len(callers) + 1):
        if place is None:
            return None
        if place[0] in ours:
            return place[1] or None
        place = callers.get(place)
    return None
