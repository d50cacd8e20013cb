"""Ask a learner's function for its answers, and turn whatever comes back into plain data.

This is the only part that runs learner's code, in the notebook or in the grader's kernel. What it
returns holds tensors, numbers and strings only, so that the judge can sit in another process.
"""

import linecache
import numbers
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import FunctionType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from seqlab.course.exercise import Case, Effort, Exercise

BIGGEST = 10_000_000  # elements of a tensor worth looking at
KINDS = ("returned", "raised", "stub", "slow", "missing")


@dataclass(frozen=True)
class Outcome:
    """What one call came to; kind is one of KINDS."""

    kind: str
    value: Any = (
        None  # tensors, numbers, None, tuples of these; a str names the type of anything else
    )
    type: str = ""
    message: str = ""
    line: str = ""  # 'line 3: y = S @ q'
    binding: bool = False  # raised by the call itself, before the first line of the function
    changed: tuple[str, ...] = ()  # inputs that the call changed in place
    effort: Effort = field(default_factory=Effort)

    def as_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict) -> "Outcome":
        """Read `as_dict` back, from a process that is not trusted: every field is made what it
        should be.
        """
        if data["kind"] not in KINDS:
            raise ValueError(f"unknown kind of outcome {data['kind']!r}")
        words = {name: str(data[name])[:400] for name in ("kind", "type", "message", "line")}
        changed = tuple(str(name) for name in data["changed"][:20])
        effort = Effort(
            *(int(data["effort"][name]) for name in ("calls", "largest")),
            bool(data["effort"]["gradient_finite"]),
        )
        more = {"binding": bool(data["binding"]), "changed": changed, "effort": effort}
        return cls(value=_reread(data["value"]), **more, **words)


def plan(exercise: Exercise, seed: int) -> tuple[list[Case], list[dict]]:
    """The cases, and every input set to call: the cases, then each property's variants of each
    case, in order.
    """
    cases = exercise.inputs_with(torch.Generator().manual_seed(seed))
    variants = [
        v for p in exercise.properties for case in cases for v in p.variants(clone(case.inputs))
    ]
    return cases, [case.inputs for case in cases] + variants


def answers(answer: Any, inputs: list[dict], seconds: float = 10.0) -> list[Outcome]:
    """The outcome of `answer` on every input set. After the time limit the rest are "slow"."""
    stop = time.monotonic() + seconds
    done: list[Outcome] = []
    for given in inputs:
        left = stop - time.monotonic()
        stub = done and done[0].kind == "stub"
        done.append(
            Outcome("slow") if left <= 0 else done[0] if stub else call(answer, given, left)
        )
    return done


def call(function: Any, inputs: dict, seconds: float = 10.0) -> Outcome:
    """Call once, on a copy of the inputs."""
    given, meter = clone(inputs), Meter()
    try:
        with time_limit(seconds):
            with meter:
                answer = function(**given)
                value = plain(answer)
            effort = Effort(meter.calls, meter.largest, _finite_gradients(answer, given))
    except OutOfTime:
        return Outcome("slow")
    except NotImplementedError as error:
        if (other := _raised_in(error)) in (None, getattr(function, "__name__", None)):
            return Outcome("stub", message=_text(error))
        return Outcome(
            "raised",
            type="NotImplementedError",
            message=f"it calls {other}, which is not written yet",
        )
    except (Exception, SystemExit) as error:
        return _raised(function, error)
    changed = tuple(name for name in inputs if not _same(inputs[name], given[name]))
    return Outcome("returned", value, changed=changed, effort=effort)


class Meter(TorchDispatchMode):
    """Counts the torch operations called inside it, and the elements of the largest tensor they
    make.
    """

    def __init__(self):
        super().__init__()
        self.calls = self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.calls += 1
        for x in made if isinstance(made, tuple | list) else (made,):
            if isinstance(x, torch.Tensor):
                self.largest = max(self.largest, x.numel())
        return made


def _finite_gradients(answer: Any, given: dict) -> bool:
    """Whether the sum of a tensor `answer` has a finite gradient in every input that asks for one
    (none: True).
    """
    wanted = [x for x in given.values() if isinstance(x, torch.Tensor) and x.requires_grad]
    if not wanted or not isinstance(answer, torch.Tensor) or not answer.requires_grad:
        return True
    try:
        gradients = torch.autograd.grad(answer.sum(), wanted, allow_unused=True)
    except RuntimeError:  # something that the gradient needs was changed in place
        return False
    return all(g is None or bool(g.isfinite().all()) for g in gradients)


def number(value: Any) -> Outcome:
    """The outcome of a numeric question: the learner's variable itself."""
    if value is ...:
        return Outcome("stub")
    value = plain(value)
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    return Outcome("returned", value)


def plain(value: Any, depth: int = 0) -> Any:
    """`value` as tensors, numbers, None, and tuples of these; anything else becomes the name of its
    type, a str.
    """
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
def time_limit(seconds: float):
    """Raise OutOfTime after `seconds`, and again every half second for code that swallows it
    (POSIX, main thread).
    """
    import signal
    import threading

    if (
        not hasattr(signal, "setitimer")
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def ring(*_):
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _reread(value: Any) -> Any:
    """A value that went through `plain` once already: here a str is the name of a type."""
    if type(value) is tuple:
        return tuple(_reread(x) for x in value[:100])
    return value[:100] if type(value) is str else plain(value)


def _plain_tensor(x: torch.Tensor) -> torch.Tensor | str:
    with torch._C.DisableTorchFunctionSubclass():
        if x.layout != torch.strided or x.device.type == "meta":
            return f"{x.layout} tensor on {x.device}"
        if x.numel() > BIGGEST:
            return f"tensor of {x.numel():,} numbers"
        return x.detach().cpu().clone().as_subclass(torch.Tensor)


def _bounded(n: int) -> int | float:
    """n, or infinity where no float is as large."""
    return n if n.bit_length() < 1000 else float("inf")


def _raised_in(error: BaseException) -> str | None:
    """The name of the function that raised, if it is not the call itself."""
    tb = error.__traceback__.tb_next
    while tb is not None and tb.tb_next is not None:
        tb = tb.tb_next
    return tb.tb_frame.f_code.co_name if tb is not None else None


def _raised(function, error: BaseException) -> Outcome:
    frames = []
    tb = error.__traceback__.tb_next  # the first frame is `call` itself
    while tb is not None:
        frames.append((tb.tb_frame.f_code.co_filename, tb.tb_lineno))
        tb = tb.tb_next
    home = function.__code__.co_filename if isinstance(function, FunctionType) else None
    own = [f for f in frames if f[0] == home] or [f for f in frames if "site-packages" not in f[0]]
    at = own[-1] if own else None
    line = f"line {at[1]}: {linecache.getline(*at).strip()[:80]}".removesuffix(": ") if at else ""
    return Outcome(
        "raised", type=type(error).__name__, message=_text(error), line=line, binding=not frames
    )


def _text(error: BaseException) -> str:
    try:
        return " ".join(str(error).split())[:300]
    except Exception:
        return ""


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return (
            a.shape == b.shape
            and a.dtype == b.dtype
            and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
        )
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return True
