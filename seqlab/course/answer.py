"""Call a learner's function, and turn whatever it returns into plain data.

This is the only part that runs learners' code, in the notebook or in the grader's kernel. What it
returns holds tensors, numbers and strings only, so that the judge can be in another process.
"""

import linecache
import numbers
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import cache, partial
from importlib.util import find_spec
from types import FunctionType, TracebackType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from seqlab.course.exercise import Case, Effort, Exercise

# Elements of the largest tensor that is judged.
BIGGEST = 10_000_000
# An answer that waits instead of computing is stopped after so many times its limit.
PATIENCE = 10


class Came(StrEnum):
    """How a call ended."""

    RETURNED = "returned"
    RAISED = "raised"
    # It is not written yet: it raised NotImplementedError, or is still `...`.
    STUB = "stub"
    SLOW = "slow"
    # Nothing has its name.
    MISSING = "missing"


@dataclass(frozen=True)
class Made:
    """Which program of a kernel wrote each element of an output: its place in `programs`, or -1."""

    by: torch.Tensor
    programs: tuple[str, ...]

    def at(self, index: tuple[int, ...]) -> str:
        """The name of the program that wrote one element; "" if none did."""
        number = int(self.by[index])
        return self.programs[number] if 0 <= number < len(self.programs) else ""


@dataclass(frozen=True)
class Outcome:
    """What one call gave."""

    kind: Came
    # Tensors, numbers, None, tuples of these; a str names the type of anything else.
    value: Any = None
    type: str = ""
    message: str = ""
    # "line 3: y = S @ q"
    line: str = ""
    # Raised by the call itself, before the first line of the function.
    binding: bool = False
    # Inputs that the call changed in place.
    changed: tuple[str, ...] = ()
    effort: Effort = field(default_factory=Effort)
    # The rest is of an answer that launches kernels: what `sanitize` found: (the fault in
    # general, the sentence that names the learner's tensors and lines).
    findings: tuple[tuple[str, str], ...] = ()
    launches: int = 0
    # Of each output, who wrote it.
    made: tuple[Made | None, ...] = ()
    # The same call on a GPU, and its name.
    gpu: "Outcome | None" = None
    device: str = ""

    def as_dict(self) -> dict[str, Any]:
        gpu = self.gpu and self.gpu.as_dict()
        return {**asdict(replace(self, gpu=None)), "kind": self.kind.value, "gpu": gpu}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Outcome":
        """Read `as_dict` back from a process that is not trusted: every field gets its type."""
        effort = data["effort"]
        return cls(
            kind=Came(data["kind"]),
            value=_reread(data["value"]),
            type=str(data["type"])[:400],
            message=str(data["message"])[:400],
            line=str(data["line"])[:400],
            binding=bool(data["binding"]),
            changed=tuple(str(name) for name in data["changed"][:20]),
            effort=Effort(
                int(effort["calls"]),
                int(effort["largest"]),
                bool(effort["gradient_finite"]),
                tuple((str(name)[:400], _reread(g)) for name, g in effort["gradients"][:20]),
                tuple(str(name)[:100] for name in effort["used"][:1000]),
            ),
            findings=tuple((str(fault)[:800], str(says)[:800]) for fault, says in data["findings"]),
            launches=int(data["launches"]),
            made=tuple(_made(m) for m in data["made"][:100]),
            gpu=None if data["gpu"] is None else cls.from_dict(data["gpu"]),
            device=str(data["device"])[:100],
        )


def plan(exercise: Exercise, seed: int) -> tuple[list[Case], list[dict]]:
    """The cases, and every input set to call: the cases, then each property's variants of each."""
    cases = exercise.inputs_with(torch.Generator().manual_seed(seed))
    inputs = [case.inputs for case in cases]
    for p in exercise.properties:
        for case in cases:
            inputs += p.variants(clone(case.inputs))
    return cases, inputs


def answers(
    answer: Any,
    inputs: list[dict],
    seconds: float | None = 10.0,
    calling: Callable[[Any, dict, float | None], Outcome] | None = None,
) -> list[Outcome]:
    """The outcome of `answer` on every input set, each by `calling`, which is `call` by default.

    Once they used up `seconds` of processor time together, the rest are "slow". None: no limit.
    """
    load_meter()
    stop = None if seconds is None else time.process_time() + seconds
    done: list[Outcome] = []
    for given in inputs:
        left = None if stop is None else stop - time.process_time()
        if left is not None and left <= 0:
            done.append(Outcome(Came.SLOW))
        elif done and done[0].kind == Came.STUB:
            done.append(done[0])
        else:
            done.append((calling or call)(answer, given, left))
    return done


@cache
def load_meter() -> None:
    """Import torch's compiler, as the first operation under a Meter does.

    That takes some seconds, which must not count against the learner.
    """
    with Meter():
        torch.zeros(1).add(1)


def unavailable(exercise: Exercise) -> str:
    """Why the answers of an exercise cannot be called on this machine; "" if they can."""
    if not exercise.kernel or find_spec("triton") is not None:
        return ""
    from seqlab.gpu.anywhere import MISSING

    return MISSING


def calling(kernel: bool, gpu: bool = False) -> Callable[..., Outcome]:
    """How answers are called; Triton is imported for those that launch kernels alone."""
    if not kernel:
        return call
    from seqlab.course.kernel import call_kernel

    return partial(call_kernel, gpu=gpu)


def call(
    function: Any,
    inputs: dict,
    seconds: float | None = 10.0,
    seen: Callable[[Any], None] | None = None,
) -> Outcome:
    """Call once, on a copy of the inputs. seconds=None: trusted code, without a limit.

    seen: gets the answer itself, in whose place the outcome holds plain data.
    """
    load_meter()
    given, meter = clone(inputs), Meter()
    try:
        with time_limit(seconds):
            with meter, Names(meter.used):
                answer = function(**given)
                value = plain(answer)
            if seen is not None:
                seen(answer)
            gradients = _gradients(answer, given)
            finite = _all_finite(gradients)
            used = tuple(sorted(meter.used))
            effort = Effort(meter.calls, meter.largest, finite, gradients or (), used)
    except OutOfTime:
        return Outcome(Came.SLOW)
    except NotImplementedError as error:
        other = _raised_in(error)
        if other in (None, getattr(function, "__name__", None)):
            return Outcome(Came.STUB, message=_text(error))
        message = f"it calls {other}, which is not written yet"
        return Outcome(Came.RAISED, type="NotImplementedError", message=message)
    except (Exception, SystemExit) as error:
        return _raised(function, error)
    changed = tuple(name for name in inputs if not _same(inputs[name], given[name]))
    return Outcome(Came.RETURNED, value, changed=changed, effort=effort)


class Meter(TorchDispatchMode):
    """Counts the torch operations inside it, and the elements of the largest tensor they make.

    used: the types of numbers made, "complex64" say.
    """

    def __init__(self):
        super().__init__()
        self.calls = self.largest = 0
        self.used: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.calls += 1
        for x in made if isinstance(made, tuple | list) else (made,):
            if isinstance(x, torch.Tensor):
                self.largest = max(self.largest, x.numel())
                self.used.add(str(x.dtype).removeprefix("torch."))
        return made


class Names(TorchFunctionMode):
    """Writes down the names of torch's functions that are called inside it."""

    def __init__(self, used: set[str]):
        super().__init__()
        self.used = used

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.used.add(getattr(function, "__name__", ""))
        return function(*args, **(kwargs or {}))


def _gradients(answer: Any, given: dict) -> tuple[tuple[str, torch.Tensor | None], ...] | None:
    """The gradient of one weighted sum of an answer's tensors, for each input that wants one.

    The weights differ, as a plain sum would not see a softmax. None where autograd fails: something
    that the gradient needs was changed in place.
    """
    names = [n for n, x in given.items() if isinstance(x, torch.Tensor) and x.requires_grad]
    if not names:
        return ()
    parts = answer if issubclass(type(answer), tuple | list) else (answer,)  # as in `plain`
    sums = [_weighted(x) for x in parts if issubclass(type(x), torch.Tensor) and x.requires_grad]
    if not sums:
        return tuple((n, None) for n in names)
    try:
        found = torch.autograd.grad(sums, [given[n] for n in names], allow_unused=True)
    except RuntimeError:
        return None
    return tuple(zip(names, found, strict=True))


def _weighted(x: torch.Tensor) -> torch.Tensor:
    """The sum of x with weights; what is -inf, say, has none, as no gradient of it counts."""
    x = torch.view_as_real(x) if x.is_complex() else x
    x = torch.where(x.isfinite(), x, 0)
    n = torch.arange(x.numel(), device=x.device, dtype=torch.float32)
    return (x * n.cos().to(x.dtype).reshape(x.shape)).sum()


def _all_finite(gradients: tuple[tuple[str, torch.Tensor | None], ...] | None) -> bool:
    return gradients is not None and all(
        g is None or bool(g.isfinite().all()) for _, g in gradients
    )


def number(value: Any) -> Outcome:
    """The outcome of a numeric question: the learner's variable itself."""
    if value is ...:
        return Outcome(Came.STUB)
    value = plain(value)
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    return Outcome(Came.RETURNED, value)


def plain(value: Any, depth: int = 0) -> Any:
    """`value` as tensors, numbers, None and tuples of these; of anything else, its type's name."""
    kind = type(value)  # not isinstance: an object can lie about its class
    if value is None or kind in (bool, float):
        return value
    if issubclass(kind, torch.Tensor):
        return _plain_tensor(value)
    if issubclass(kind, int | float):
        return float.__float__(value) if issubclass(kind, float) else _bounded(int.__int__(value))
    if issubclass(kind, tuple | list) and depth < 3:
        return tuple(plain(x, depth + 1) for x in list(value)[:100])
    if kind.__module__ == "numpy" and kind.__name__ != "ndarray":
        return value.item()
    if kind.__module__ in ("fractions", "decimal") and issubclass(kind, numbers.Number):
        return float(value)
    return "numpy array" if kind.__module__ == "numpy" else str(kind.__name__)


def clone(x: Any) -> Any:
    """A copy whose tensors share no memory with x."""
    if isinstance(x, torch.Tensor):
        return x.detach().clone().requires_grad_(x.requires_grad)
    if isinstance(x, dict):
        return {name: clone(value) for name, value in x.items()}
    return type(x)(clone(value) for value in x) if type(x) in (list, tuple) else x


class OutOfTime(BaseException):
    """Raised inside learner's code by the alarm."""


@contextmanager
def time_limit(seconds: float | None):
    """Raise OutOfTime after `seconds` of processor time, of all threads of this process together.

    On a busy machine an answer waits, and that is not its fault; a sleeping one is stopped after
    PATIENCE times `seconds`. OutOfTime is raised again every half second for code that swallows it.
    Only in the main thread, and not on Windows: elsewhere nothing is limited.
    """
    import signal
    import threading

    in_main = threading.current_thread() is threading.main_thread()
    if seconds is None or not in_main or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(*_):
        raise OutOfTime

    clocks = (
        (signal.SIGPROF, signal.ITIMER_PROF, seconds),
        (signal.SIGALRM, signal.ITIMER_REAL, PATIENCE * seconds),
    )
    before = [signal.signal(rings, ring) for rings, _, _ in clocks]
    try:
        for _, clock, limit in clocks:
            signal.setitimer(clock, limit, 0.5)
        yield
    finally:
        for _, clock, _ in clocks:
            signal.setitimer(clock, 0)
        for (rings, _, _), old in zip(clocks, before, strict=True):
            signal.signal(rings, old)


def _reread(value: Any) -> Any:
    """A value that went through `plain` once already: here a str is the name of a type."""
    if type(value) is tuple:
        return tuple(_reread(x) for x in value[:100])
    return value[:100] if type(value) is str else plain(value)


def _made(data: Any) -> Made | None:
    """Who wrote an output, from a process that is not trusted."""
    if data is None:
        return None
    by = plain(data["by"])
    programs = tuple(str(name)[:100] for name in data["programs"])
    return Made(by, programs) if isinstance(by, torch.Tensor) else None


def _plain_tensor(x: torch.Tensor) -> torch.Tensor | str:
    with torch._C.DisableTorchFunctionSubclass():
        if x.layout != torch.strided or x.device.type == "meta":
            return f"{x.layout} tensor on {x.device}"
        if x.numel() > BIGGEST:
            return f"tensor of {x.numel():,} numbers"
        return x.detach().cpu().clone().as_subclass(torch.Tensor)


def _bounded(n: int) -> int | float:
    """n, or infinity if no float is as large."""
    return n if n.bit_length() < 1000 else float("inf")


def _raised_in(error: BaseException) -> str | None:
    """The name of the function that raised, if it is not the call itself."""
    frames = _frames(error)
    return frames[-1].tb_frame.f_code.co_name if frames else None


def _raised(function: Any, error: BaseException) -> Outcome:
    places = [(tb.tb_frame.f_code.co_filename, tb.tb_lineno) for tb in _frames(error)]
    home = function.__code__.co_filename if isinstance(function, FunctionType) else None
    own = [p for p in places if p[0] == home]
    own = own or [p for p in places if "site-packages" not in p[0]]
    return Outcome(
        Came.RAISED,
        type=type(error).__name__,
        message=_text(error),
        line=_line(*own[-1]) if own else "",
        binding=not places,
    )


def _frames(error: BaseException) -> list[TracebackType]:
    """The traceback inside the learner's function: all but its first entry, which is `call`."""
    frames = []
    tb = error.__traceback__
    while tb is not None:
        frames.append(tb)
        tb = tb.tb_next
    return frames[1:]


def _line(file: str, number: int) -> str:
    return f"line {number}: {linecache.getline(file, number).strip()[:80]}".removesuffix(": ")


def _text(error: BaseException) -> str:
    try:
        return " ".join(str(error).split())[:300]
    except Exception:
        return ""


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        return torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return True
