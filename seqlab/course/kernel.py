"""Call an answer that launches Triton kernels, and watch what its kernels do.

Each launch on CPU is looked at by `sanitize`, whose run in order, with the lanes that are out of
bounds switched off, is the launch; which program wrote each element is kept. Memory from
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
    from seqlab.gpu.inspector import Inspector
    from seqlab.gpu.interpreter import Launch
    from seqlab.gpu.sanitize import Finding

# The programs of one call that are kept by name.
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
        from seqlab.gpu.sanitize import inspected

        self.launches += 1
        try:
            seen = inspected(kernel, grid, args, named)
            launch = seen.launch
            said = [f for f in seen.findings if not _is_unused_input(f, launch.values)]
            self.findings += [(_fault(finding), str(finding)) for finding in said]
            if seen.whole:
                self._keep_writers(seen.inspector)
            else:
                launch = Launch(kernel, grid, args, named)
                launch.run(_Forgiving())
                self._forget(launch)
        except Exception as error:
            if isinstance(error.__cause__, NotImplementedError):  # the kernel is still a stub
                raise error.__cause__ from None
            raise
        launch.write_back()

    def _keep_writers(self, inspector: "Inspector") -> None:
        """Which program wrote each byte of the caller's tensors last."""
        launch = inspector.launch
        name = launch.function.__name__
        numbers = {program: len(self.programs) + i for i, program in enumerate(launch.programs)}
        self.programs += [f"{program_name(program)} of {name}" for program in launch.programs]
        number = torch.tensor([-1, *(numbers[program] for program, _ in inspector.writes)])
        for argument in launch.arguments.values():
            tensor, held = launch.values.get(argument.name), inspector.memories[argument.memory]
            if isinstance(tensor, Tensor):
                writer = torch.from_numpy(held.writer).long()
                first_bytes = self.writers(tensor)[:: held.cell]
                first_bytes[writer > 0] = number[writer[writer > 0]].int()

    def _forget(self, launch: "Launch") -> None:
        """Of a large launch it is not kept who wrote what."""
        for tensor in launch.values.values():
            if isinstance(tensor, Tensor):
                self.writers(tensor).fill_(-1)

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


class _Forgiving(Watcher):
    """Lets what is out of bounds pass: that is a finding already."""

    def access(self, access: Access) -> None:
        pass


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
