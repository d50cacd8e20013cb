"""Why a kernel does not compile, in the compiler's own words: its first lines, not its pages."""

import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator

from seqlab.gpu.events import LabError

LINES, WIDTH = 3, 160


class Refused(LabError):
    """A compiler refused the kernel."""


class Said:
    """What was printed meanwhile."""

    def __init__(self):
        self.text = ""


@contextlib.contextmanager
def overheard() -> Iterator[Said]:
    """Keeps what compilers print, also from C++, off the screen."""
    said = Said()
    python = io.StringIO()
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            with contextlib.redirect_stdout(python), contextlib.redirect_stderr(python):
                yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            said.text = file.read().decode(errors="replace") + python.getvalue()


def words(error: BaseException, printed: str) -> str:
    """The first lines of what a compiler said.

    printed: what it wrote on the screen, where some say more than in their exception.
    """
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    for inner in reversed(chain):  # a helper function's own error is the innermost
        if marked := re.search(r"^(.*)\n *\^(?:\n(.*))?", str(inner), re.MULTILINE):
            return _short([f"`{marked[1].strip()}`", marked[2] or str(chain[-1])])
    said = str(chain[-1])
    errors = _errors(said) or _errors(printed)
    return _short(errors or said.splitlines() or [type(error).__name__])


def _errors(text: str) -> list[str]:
    """Lines with "error:", each with the line after it if that is the line at fault."""
    lines = text.splitlines()
    found = []
    for i, line in enumerate(lines):
        marked = re.search(r"\berror\s*: *(.+)", line)
        if marked and "codegen error" not in line:
            found.append(marked[1])
            if i + 2 < len(lines) and lines[i + 2].strip() == "^":
                found.append(f"`{lines[i + 1].strip()}`")
    return list(dict.fromkeys(found))


def _short(lines: list[str]) -> str:
    lines = [line.strip() for line in lines if line.strip()]
    return "; ".join(line[:WIDTH] for line in lines[:LINES])


def check_assembly(ttir: str, target: str) -> None:
    """Raises Refused if inline assembly for NVIDIA is compiled for AMD."""
    for text in re.findall(r'elementwise_inline_asm "((?:[^"\\]|\\.)*)"', ttir):
        for instruction in re.split(r"[;\n{}]|\\0A", text):
            if re.match(r"\s*(@!?\S+\s+)?[a-z]\w*\.\w", instruction):
                raise Refused(
                    f"`{instruction.strip()}` is PTX, the assembly of NVIDIA's GPUs, "
                    f"which {target} does not run"
                )
