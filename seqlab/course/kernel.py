"""Call an answer that launches Triton kernels, and watch what its kernels do.

Each launch on CPU is looked at by `sanitize` first. Then it runs, with the lanes that are out of
bounds switched off, and it is written down which program wrote each element. Memory from
`torch.empty` holds NaN meanwhile, so that what a kernel forgets to write is seen.
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seqlab.course.answer import Came, Made, Outcome, call, load_meter
from seqlab.gpu.anywhere import launches_on_cpu, there_is_triton
from seqlab.gpu.events import Access, Watcher, program_name

if TYPE_CHECKING:
    from seqlab.gpu.sanitize import Finding

# A launch of more programs is not an exercise's: its elements are not traced to them.
MOST_PROGRAMS = 10_000
LINE = re.compile(r"(line \d+ of the cell|\S+:\d+) `[^`]*`")


def call_kernel(
    function: Any, inputs: dict, seconds: float | None = 10.0, gpu: bool = False
) -> Outcome:
    """As `answer.call`. With `gpu`, what came out well is called on a GPU too, if there is one."""
    log = _Log()
    with launches_on_cpu(log), _poisoned():
        outcome = call(function, inputs, seconds, seen=log.see)
    if outcome.type == "NotImplementedError":
        return Outcome(Came.STUB, message=outcome.message)
    findings = tuple(dict.fromkeys(log.findings))
    outcome = replace(outcome, launches=log.launches, findings=findings, made=log.made)
    clean = outcome.kind == Came.RETURNED and log.launches and not findings
    if gpu and clean and torch.cuda.is_available():
        there = call(function, _moved(inputs, "cuda"), seconds)
        return replace(outcome, gpu=there, device=torch.cuda.get_device_name())
    return outcome


def warm_up() -> None:
    """Import what the first launch would import, which takes seconds; nothing without Triton."""
    load_meter()
    if there_is_triton():
        from seqlab.gpu import interpreter, sanitize  # noqa: F401


class _Log:
    """What the launches of one call did; it runs them."""

    def __init__(self):
        self.launches = 0
        self.findings: list[tuple[str, str]] = []
        self.made: tuple[Made | None, ...] = ()
        # Of each storage: itself, so that its address stays its own, and the writer of each byte.
        self.written: dict[int, tuple[Any, Tensor]] = {}
        self.programs: list[str] = []

    def __call__(self, kernel: Any, grid: Any, *args: Any, **named: Any) -> None:
        from seqlab.gpu.interpreter import Launch
        from seqlab.gpu.sanitize import sanitize

        self.launches += 1
        try:
            launch = Launch(kernel, grid, args, named)
            found = sanitize(kernel, grid, *args, **named)
            said = [f for f in found if not _is_unused_input(f, launch.values)]
            self.findings += [(_fault(finding), str(finding)) for finding in said]
            launch.run(_Writers(self, launch.values, launch.function.__name__))
        except Exception as error:
            if isinstance(error.__cause__, NotImplementedError):  # the kernel is still a stub
                raise error.__cause__ from None
            raise
        launch.write_back()

    def writers(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.written:
            nobody = torch.full((storage.nbytes(),), -1, dtype=torch.int32)
            self.written[storage.data_ptr()] = storage, nobody
        return self.written[storage.data_ptr()][1]

    def see(self, answer: Any) -> None:
        parts = answer if type(answer) in (tuple, list) else (answer,)
        self.made = tuple(self._made(part) for part in parts[:100])

    def _made(self, y: Any) -> Made | None:
        if not isinstance(y, Tensor) or y.untyped_storage().data_ptr() not in self.written:
            return None
        numbers = self.writers(y)[:: y.element_size()].contiguous()
        by = numbers.as_strided(y.shape, y.stride(), y.storage_offset())
        return Made(by.clone(), tuple(self.programs[:MOST_PROGRAMS]))


def _is_unused_input(finding: "Finding", values: dict) -> bool:
    """A tensor that no program touches, and that is whole: it need not be written."""
    x = values.get(finding.tensor)
    untouched = finding.kind == "never written" and finding.program is None
    return untouched and isinstance(x, Tensor) and not x.isnan().any()


def _fault(finding: "Finding") -> str:
    """A finding without the names that the learner chose: its kind, what happened and where."""
    said = LINE.sub("", f"{finding.kind}: {finding}")
    return said.replace(finding.tensor, "·") if finding.tensor else said


class _Writers(Watcher):
    """Writes down who writes what. It forgives what is out of bounds: that is a finding already."""

    def __init__(self, log: _Log, values: dict, kernel: str):
        self.log, self.values, self.kernel = log, values, kernel
        self.number: dict[tuple[int, ...], int] = {}

    def access(self, access: Access) -> None:
        tensor = self.values.get(access.argument.name)
        if access.kind == "load" or not isinstance(tensor, Tensor) or not len(access.elements):
            return
        if access.program not in self.number:
            self.number[access.program] = len(self.log.programs)
            self.log.programs.append(f"{program_name(access.program)} of {self.kernel}")
        cells = torch.from_numpy(access.argument.cells(access.elements))
        self.log.writers(tensor)[cells] = self.number[access.program]


@contextlib.contextmanager
def _poisoned() -> Iterator[None]:
    """`torch.empty` gives NaN inside the block."""
    was, warned = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warned)


def _moved(inputs: dict, device: str) -> dict:
    return {name: x.to(device) if isinstance(x, Tensor) else x for name, x in inputs.items()}
