"""A process of its own for answers that launch kernels: a crash or a hang takes no notebook down.

It is started by the first check and kept, since importing torch and Triton takes seconds. It is
ended when a check crashes it or runs out of time, and with the notebook.
"""

import atexit
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from seqlab.course.answer import Outcome
from seqlab.course.grade import Limits, asked, source_of
from seqlab.course.sandbox import Sandbox
from seqlab.course.taken import take

# Seconds to start Python, torch and Triton.
START = 120


class Worker:
    """One warm process, or none."""

    def __init__(self):
        self.sandbox: Sandbox | None = None
        atexit.register(self.close)

    def outcomes(
        self, answer: Any, inputs: list[dict], seconds: float
    ) -> tuple[str, list[Outcome]]:
        """(what went wrong, as the end of a sentence, the outcomes). Raises CannotTake."""
        taken = take(answer)
        with tempfile.TemporaryDirectory(prefix="seqlab-check-") as folder:
            path = Path(folder) / "taken"
            torch.save(taken, path)

            def ask(given: str, answers: str) -> str:
                args = str(path), given, answers, seconds
                return self.run(source_of("ask_taken", *args), seconds + 2)

            return asked(ask, folder, inputs)

    def run(self, source: str, seconds: float) -> str:
        if self.sandbox is None or not self.sandbox.alive:
            self.close()
            self.sandbox = Sandbox(Path.cwd())
            if fault := self.sandbox.run(source_of("prepare_kernels", Limits.memory_gb), START):
                self.close()
                return f"cannot begin, because the process for it {fault}"
        fault = self.sandbox.run(source, seconds)
        if fault:
            self.close()
        return fault

    def close(self) -> None:
        if self.sandbox is not None:
            self.sandbox.close()
            self.sandbox = None


@cache
def worker() -> Worker:
    return Worker()
