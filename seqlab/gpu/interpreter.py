"""Run a `@triton.jit` kernel on CPU, in Triton's interpreter, and watch it.

The kernel works on copies of its tensors (`memory.py`), and it need not have been decorated under
TRITON_INTERPRET=1. The parts of Triton that a run replaces (`triton_private.py`) are restored
afterwards, even after an exception. Three things do not run: pointers that a kernel reads from
memory, inline assembly, and the functions of libdevice that `libdevice.py` lacks.
"""

import contextlib
import inspect
import linecache
import math
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from types import FrameType, FunctionType, TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch

from seqlab.gpu import triton_private
from seqlab.gpu.affine import Mask, Shadow
from seqlab.gpu.events import Access, Dot, LabError, Line, Watcher, program_name
from seqlab.gpu.memory import Astray, Memory

OPTIONS = {"num_warps", "num_stages", "num_ctas", "maxnreg", "enable_fp_fusion", "launch_pdl"}
OPTIONS |= {"launch_cooperative_grid", "waves_per_eu", "matrix_instr_nonkdim", "kpack", "debug"}
"""Names a launch may use besides the kernel's parameters: they tune a GPU and do nothing here."""

MARK = "__a_kernel_of_the_reader__"
"""A name in the globals of rewritten kernels, by which their frames are found on the stack."""
Poison = Callable[[Line, np.dtype], Any]
"""From the line and the type of a load, what its undefined lanes hold; None leaves them zero."""
_ONE_AT_A_TIME = threading.RLock()


def launch(kernel, grid, *args, **constexprs) -> None:
    """`kernel[grid](*args, **constexprs)`: on the GPU that holds the tensors, else on CPU."""
    devices = {x.device.type for x in (*args, *constexprs.values()) if isinstance(x, torch.Tensor)}
    if devices - {"cpu", "meta"}:
        kernel[grid](*args, **constexprs)
        return
    run = Launch(kernel, grid, args, constexprs)
    run.run()
    run.write_back()


class Observer:
    """Turns what the interpreter reports into events of the current program and line."""

    def __init__(self, memory: Memory, watcher: Watcher, poison: Poison | None = None):
        self.memory = memory
        self.watcher = watcher
        self.poison = poison
        self.program: tuple[int, ...] = ()
        self.steps: tuple[int, ...] = ()
        self.follows_steps = type(watcher).step is not Watcher.step

    def start(self, program: tuple[int, ...]) -> None:
        self.program = program
        self.steps = ()

    def access(
        self,
        kind: str,
        address: np.ndarray,
        on: np.ndarray,
        width: int,
        exchanges: bool = False,
        stored: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The real address of each lane of a load, store or atomic; whether it may be used."""
        line = current_line()

        def tell(touch):
            values = None if stored is None else stored.reshape(-1)[touch.lanes]
            access = Access(
                kind=kind,
                program=self.program,
                argument=touch.argument,
                elements=touch.elements,
                outside=touch.outside,
                width=touch.width,
                line=line,
                exchanges=exchanges,
                lanes=touch.lanes,
                shape=address.shape,
                stored=values,
                find_masked=touch.masked,
                steps=self.steps,
            )
            self.watcher.access(access)
            if kind != "load" and len(touch.elements):
                self.memory.stored.add(touch.argument.memory)

        try:
            return self.memory.reach(address, on, width, tell)
        except Astray:
            raise LabError(
                f"{program_name(self.program)} {kind}s at an address outside every tensor "
                f"({line}): the lab cannot follow pointers that a kernel reads from memory"
            ) from None

    def undefined(self, dtype: np.dtype):
        """The lanes that a load without `other=` does not read. Returns what they hold, or None."""
        line = current_line()
        self.watcher.undefined(self.program, line)
        return self.poison and self.poison(line, dtype)

    def dot(self, m: int, n: int, k: int, batch: int, dtype: str, minimum) -> None:
        self.watcher.dot(Dot(self.program, m, n, k, batch, dtype, minimum, current_line()))

    def wrong_bf16(self, operation: str) -> None:
        self.watcher.wrong_bf16(operation, self.program, current_line())

    def scan(self, apart: Callable[[], str]) -> None:
        """A scan by an operator of the reader's: apart() tells what a tree of joins changes."""
        if type(self.watcher).scan is not Watcher.scan and (says := apart()):
            self.watcher.scan(says, self.program, current_line())

    def follow(
        self, kind: str, address: np.ndarray, width: int, shadow: Shadow, mask: Mask, bounded: bool
    ) -> None:
        """How the addresses and the mask of the access that comes next depend on the program."""
        path = self.memory.path(kind, address, width, shadow, mask, current_line())
        self.watcher.follow(path._replace(bounded=bounded))

    def decide(self, shadow: Shadow) -> None:
        self.watcher.decide(shadow)

    def barrier(self, named: bool = False) -> None:
        self.watcher.barrier(named)

    def steps_of(self, numbers: Iterable) -> Iterator:
        """The same numbers, each step of the kernel's loop noted."""
        outer = self.steps
        frame = _kernel_frame() if self.follows_steps else None
        line = frame and _line(frame.f_code.co_filename, frame.f_lineno)
        for i, number in enumerate(numbers):
            self.steps = (*outer, i)
            if frame and line:
                self.watcher.step(self.program, line, i, frame)
            yield number
        if frame and line:
            self.watcher.step(self.program, line, -1, frame)
        self.steps = outer


class Launch:
    """A kernel with its grid and copies of its arguments, for one run on CPU."""

    def __init__(self, kernel, grid, args: Sequence, constexprs: dict):
        self.interpreter = triton_private.interpreter()
        self.function, self.values, self.configuration = bind(kernel, args, constexprs)
        self.grid = _grid(grid, self.values)
        self.memory = Memory(self.values)
        self.arguments = self.memory.arguments
        self._call_hook()

    def run(self, watcher: Watcher | None = None, order: Callable[[list], Iterable] = list) -> None:
        """Run the programs one after the other, in the given order of their ids."""
        observer = Observer(self.memory, watcher or Watcher())
        self._run(observer, order(self.programs))

    def run_poisoned(self, watcher: Watcher, programs: Iterable, poison: Poison) -> None:
        """Run some programs, with numbers of our choice where a load leaves them undefined."""
        self._run(Observer(self.memory, watcher, poison), programs)

    def follow(self, watcher: Watcher, programs: Iterable) -> None:
        """Run some programs, and tell the watcher how their accesses depend on their ids."""
        self._run(Observer(self.memory, watcher), programs, follow=True)

    def run_some(self, watcher: Watcher, programs: Iterable) -> None:
        """Run some programs."""
        self._run(Observer(self.memory, watcher), programs)

    @property
    def count(self) -> int:
        """How many programs there are."""
        return math.prod(self.grid)

    @property
    def programs(self) -> list[tuple[int, ...]]:
        return [tuple(int(i) for i in program) for program in np.ndindex(self.grid)]

    def _run(self, observer: Observer, programs: Iterable, follow: bool = False) -> None:
        replaced = self.interpreter.replaced(observer, {MARK: True}, follow)
        with _ONE_AT_A_TIME, replaced as running, _no_warnings():
            body = running.rewritten(self.function)
            fixed = _constexprs(self.function)
            named = {
                name: value if name in fixed else running.to_triton(value)
                for name, value in self.memory.given.items()
            }
            for program in programs:
                observer.start(tuple(int(i) for i in program))
                running.start(observer.program, self.grid)
                _call(body, named, observer.program)

    def _call_hook(self) -> None:
        """The hook of an autotuner's configuration, which often sets an output to zero."""
        if self.configuration and self.configuration.hook:
            copies = {name: argument.copy for name, argument in self.arguments.items()}
            self.configuration.hook(self.values | copies)
            self.memory.stored |= {argument.memory for argument in self.arguments.values()}
            self.memory.follow(self.values)

    def write_back(self) -> None:
        """Copy what the kernel wrote into the caller's tensors."""
        self.memory.write_back()


class Bound(NamedTuple):
    """A kernel and the values of its parameters."""

    function: FunctionType
    values: dict[str, Any]
    configuration: triton_private.Configuration | None


def bind(kernel, args: Sequence, constexprs: dict) -> Bound:
    """The kernel's Python function and the value of each parameter.

    An autotuned kernel gets its first configuration. Raises TypeError for a wrong call.
    """
    found = triton_private.unwrapped(kernel)
    function: Any = found.function
    signature = inspect.signature(function)
    args = [plain(value) for value in args]
    named = {name: plain(value) for name, value in constexprs.items()}
    if unknown := set(named) - set(signature.parameters) - OPTIONS:
        raise TypeError(f"{function.__name__} has no parameter {', '.join(sorted(unknown))}")
    named = {name: value for name, value in named.items() if name in signature.parameters}
    named = found.completed(args, named)
    try:
        bound = signature.bind(*args, **named)
    except TypeError as error:
        raise TypeError(f"{function.__name__}: {error}") from None
    bound.apply_defaults()
    return Bound(function, dict(bound.arguments), found.configuration)


def plain(value: Any) -> Any:
    """A number of numpy as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _constexprs(function: FunctionType) -> set[str]:
    """The parameters fixed at compile time: the kernel gets their plain Python values."""
    annotations = inspect.get_annotations(function)
    return {name for name, kind in annotations.items() if "constexpr" in str(kind)}


def _grid(grid: Any, values: dict) -> tuple[int, ...]:
    grid = grid(values) if callable(grid) else grid
    sizes: tuple[Any, ...] = tuple(grid) if isinstance(grid, Iterable) else (grid,)
    if not 1 <= len(sizes) <= 3 or not all(int(n) == n and n >= 0 for n in sizes):
        raise ValueError(
            f"grid is {sizes}: "
            "it must be one to three whole numbers, or a function that returns them"
        )
    return tuple(int(n) for n in sizes)


def _call(body: Callable, named: dict, program: tuple[int, ...]) -> None:
    try:
        body(**named)
    except LabError:
        raise
    except Exception as error:
        line = _line_of_traceback(error.__traceback__)
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        remark = triton_private.remark()
        raise LabError(f"{program_name(program)} stopped at {line}: {said}{remark}") from error


@contextlib.contextmanager
def _no_warnings():
    """Infinities and NaN give no warnings, as on a GPU."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def current_line() -> Line:
    """The line that the running kernel has reached, from its frame on the stack."""
    frame = _kernel_frame()
    return Line("?", 0, "?") if frame is None else _line(frame.f_code.co_filename, frame.f_lineno)


def _kernel_frame() -> FrameType | None:
    """The innermost frame of the reader's code on the stack."""
    frame = sys._getframe(1)
    while frame is not None and MARK not in frame.f_globals:
        frame = frame.f_back
    return frame


def _line_of_traceback(traceback: TracebackType | None) -> Line:
    line = Line("?", 0, "?")
    while traceback is not None:
        if MARK in traceback.tb_frame.f_globals:
            line = _line(traceback.tb_frame.f_code.co_filename, traceback.tb_lineno)
        traceback = traceback.tb_next
    return line


@cache
def _line(file: str, number: int) -> Line:
    return Line(file, number, linecache.getline(file, number).strip())
