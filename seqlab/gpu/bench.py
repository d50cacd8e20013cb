"""How fast the kernels are on this machine's GPU, each beside every installed peer, in one run.

    python -m seqlab.gpu.bench                              # every kernel, about 15 minutes
    python -m seqlab.gpu.bench --kernel flash_attention --out results/h100

The second command writes h100.json and h100.md. A kernel is first checked (`seqlab.gpu.accuracy`),
and timed only if it is right. A peer is timed if it gives the kernel's answer. Every implementation
gets the same fresh inputs. Times are medians over 0.1 s of launches, with the 20 % and 80 %
quantiles; the level-2 cache is emptied before each launch. `cases.py` lists the cases, and what
counts as their flops.

Without a GPU the kernels are checked in Triton's interpreter, and nothing is timed.
"""

import platform
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import torch
import torch._functorch.config
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from seqlab.gpu.accuracy import as_tuple, errors
from seqlab.gpu.devices import DEVICES
from seqlab.gpu.results import write
from seqlab.gpu.roofline import roofline

if TYPE_CHECKING:
    from seqlab.gpu.cases import Case  # needs Triton

OURS = "seqlab"
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Timer = Callable[[Callable[[], Any]], tuple[float, float, float]]
"""Runs a function and returns (median, 20 % quantile, 80 % quantile) in milliseconds."""
ALIKE = 0.03
"""The largest |a - b| / |b| at which two answers in half precision count as the same."""
PACKAGES = ("torch", "triton", "fla-core", "flash-attn", "mamba-ssm", "causal-conv1d")


class Time(NamedTuple):
    """One implementation of one case in one pass, in milliseconds.

    ratio: its time over ours, above 1 if seqlab is faster. roofline: the share of the device's peak
    that it reached. note: why there is no time.
    """

    kernel: str
    case: str
    dtype: str
    passed: str
    implementation: str
    ms: float | None = None
    low: float | None = None
    high: float | None = None
    tflops: float | None = None
    gigabytes: float | None = None
    ratio: float | None = None
    roofline: float | None = None
    note: str = ""


def check(case: "Case", device: str, dtype: torch.dtype) -> list[str]:
    """What the accuracy rule finds wrong, one sentence each."""
    wrong = []
    for size in case.checks if device != "cpu" else case.checks[:1]:
        what = f"{case.kernel}, {case.say(size)}"
        inputs = _draw(case, size, device, dtype)
        try:
            found = errors(case.function, case.reference, inputs, case.backward)
            wrong += [f"{what}: {error}" for error in found if not error.ok]
        except Exception as error:
            wrong.append(f"{what}: {_said(error)}")
    return wrong


def measure(case: "Case", size: dict, device: str, dtype: str, timer: Timer) -> list[Time]:
    """The times of every implementation of one case at one size."""
    inputs = _draw(case, size, device, TYPES[dtype])
    times: list[Time] = []
    answer: _Answer | None = None
    for name, function in {OURS: case.function, **case.peers, **case.beside}.items():
        row = Time(case.kernel, case.say(size), dtype, "", name)
        leaves = [
            x.detach().requires_grad_(case.backward and x.is_floating_point()) for x in inputs
        ]
        try:
            y = as_tuple(function(*leaves))[0]
            if answer is None:
                answer = _Answer(y.detach(), torch.randn_like(y))
            apart = _apart(y, answer.y) if name not in case.beside else 0.0
            if not apart <= ALIKE:
                times.append(row._replace(note=f"another answer than ours, {apart:.0%} away"))
                continue
            for one in _passes(case, size, function, leaves, y, answer.seed):
                spent = timer(one.run)
                times.append(_figures(row._replace(passed=one.name), spent, one, times, device))
        except ImportError as error:
            times.append(row._replace(note=f"not installed: {error.name}"))
        except Exception as error:
            times.append(row._replace(note=_said(error)))
        if answer is None:  # ours failed, so there is nothing to compare with
            break
    return times


class _Answer(NamedTuple):
    """Our answer, and the gradient with which every backward starts."""

    y: Tensor
    seed: Tensor


def _apart(y: Tensor, ours: Tensor) -> float:
    """|y - ours| / |ours|."""
    return ((y.detach() - ours).float().norm() / ours.float().norm()).item()


class _Pass(NamedTuple):
    """What is timed. bytes: the least that must move, each input and output once."""

    name: str
    run: Callable[[], Any]
    flops: float
    bytes: int


def _passes(
    case: "Case", size: dict, function: Callable, leaves: list[Tensor], y: Tensor, seed: Tensor
) -> Iterator[_Pass]:
    learnt = [x for x in leaves if x.requires_grad]
    flops = case.flops(**size)
    moved = sum(map(_bytes, leaves)) + _bytes(y)

    @torch.no_grad()
    def forward():
        return function(*leaves)

    def backward():
        return torch.autograd.grad(y, learnt, seed, retain_graph=True)

    def both():
        return torch.autograd.grad(as_tuple(function(*leaves))[0], learnt, seed)

    yield _Pass("forward", forward, flops, moved)
    if case.backward:
        back_flops = flops * case.backward_flops
        back_moved = moved + sum(map(_bytes, learnt))
        yield _Pass("backward", backward, back_flops, back_moved)
        yield _Pass("forward + backward", both, flops + back_flops, moved + back_moved)


def _figures(
    row: Time, spent: tuple[float, float, float], one: _Pass, times: list[Time], device: str
) -> Time:
    median, low, high = spent
    ours = [t.ms for t in times if t.implementation == OURS and t.passed == row.passed]
    return row._replace(
        ms=median,
        low=low,
        high=high,
        tflops=one.flops / median / 1e9,
        gigabytes=one.bytes / median / 1e6,
        ratio=median / ours[0] if ours and ours[0] else 1.0,
        roofline=_share(one, row.dtype, device, median / 1e3),
    )


def _share(one: _Pass, dtype: str, device: str, seconds: float) -> float | None:
    """The share of the roofline that was reached, or None if the device's peak is unknown."""
    if dtype == "fp32" and torch.backends.cuda.matmul.fp32_precision == "tf32":
        dtype = "tf32"
    name = named_device(device)
    if name is None or dtype not in DEVICES[name].flops:
        return None
    return roofline(one.bytes, one.flops, name, dtype).fraction(seconds)


def named_device(device: str) -> str | None:
    """The device of `DEVICES` whose name is a whole word of this one's: an L40S is not an L4."""
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    known = [known for known in DEVICES if re.search(rf"\b{known}\b", name)]
    return max(known, key=len, default=None)


def _draw(case: "Case", size: dict, device: str, dtype: torch.dtype) -> list[Tensor]:
    """Inputs of one size, drawn on the device: on CPU large ones would take too long."""
    with torch.device(device):
        drawn = case.inputs(**size)
    return [
        x.to(device, dtype if x.is_floating_point() and i not in case.wide else x.dtype)
        for i, x in enumerate(drawn)
    ]


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


def _said(error: Exception) -> str:
    """The first line of an exception, not too long."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:120]


def where(device: str) -> str:
    """The device and the versions."""
    found = []
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    name = torch.cuda.get_device_name() if device == "cuda" else "no GPU"
    return ", ".join((name, *found, f"Python {platform.python_version()}"))


COLUMNS = (
    "pass",
    "implementation",
    "ms",
    "20 to 80 %",
    "TFLOP/s",
    "GB/s",
    "time / ours",
    "of roofline",
)


def cells(t: Time) -> tuple[str, ...]:
    """One row of the table."""
    return (
        t.passed,
        t.implementation,
        _text(t.ms, ".3f"),
        f"{_text(t.low, '.3f')} to {_text(t.high, '.3f')}",
        _text(t.tflops, ".0f") if t.tflops and t.tflops >= 1 else "",
        _text(t.gigabytes, ".0f"),
        _text(t.ratio, ".2f"),
        _text(t.roofline, ".0%"),
    )


def _text(x: float | None, form: str) -> str:
    return "" if x is None else format(x, form)


def _groups(times: list[Time]) -> Iterator[tuple[str, list[Time], list[str]]]:
    """For each kernel, case and type: its title, its rows by pass, and why others have no time."""
    groups: dict[str, list[Time]] = {}
    for t in times:
        groups.setdefault(f"{t.kernel}, {t.case}, {t.dtype}", []).append(t)
    order = ("forward", "backward", "forward + backward")
    for title, rows in groups.items():
        timed = sorted((t for t in rows if t.ms is not None), key=lambda t: order.index(t.passed))
        yield title, timed, [f"{t.implementation}: {t.note}" for t in rows if t.ms is None]


def markdown(times: list[Time], said: str) -> str:
    """The tables, as they are kept in a file."""
    lines = [
        "# Kernels on a GPU",
        "",
        said,
        "",
        "Time / ours: above 1, seqlab is faster. How: `seqlab/gpu/bench.py`.",
    ]
    for title, rows, notes in _groups(times):
        lines += ["", f"## {title}", "", f"| {' | '.join(COLUMNS)} |", "|---|---|" + "---:|" * 6]
        lines += [f"| {' | '.join(cells(t))} |" for t in rows]
        if notes:
            lines += ["", "Not timed: " + "; ".join(notes) + "."]
    return "\n".join(lines) + "\n"


def keep(out: Path, times: list[Time], said: str) -> None:
    """out.json and out.md."""
    write(out, said, [t._asdict() for t in times], markdown(times, said))


def show(console: Console, times: list[Time]) -> None:
    for title, rows, notes in _groups(times):
        table = Table(*COLUMNS, title=title, title_justify="left", box=None, title_style="bold")
        for t in rows:
            table.add_row(*cells(t))
        console.print("", table, *(f"not timed: {note}" for note in notes), sep="\n", markup=False)


def forget_compiled() -> None:
    """Make torch.compile start afresh: for the next size alone, with a backward that can be rerun.

    Otherwise a second size compiles to general, slower code, and later sizes hit the recompile
    limit: the peer then looks slow through no fault of its own.
    """
    torch.compiler.reset()
    torch._functorch.config.donated_buffer = False


def gpu_timer(f: Callable[[], Any]) -> tuple[float, float, float]:
    from triton.testing import do_bench

    quantiles: Any = do_bench(f, warmup=25, rep=100, quantiles=[0.5, 0.2, 0.8])
    median, low, high = quantiles
    return median, low, high


def run(
    kernel: Annotated[
        list[str] | None, typer.Option(help="One kernel; may be given several times.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Keep the result as OUT.json and OUT.md.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="The type to time in: bf16, fp16 or fp32.")] = "bf16",
) -> None:
    """Check the Triton kernels and, where there is a GPU, time each beside its peers."""
    console = Console(highlight=False)
    cases = _chosen(console, kernel or [], dtype)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    said = where(device)
    times: list[Time] = []
    torch.manual_seed(0)
    console.print(said, markup=False)
    with Progress(console=console, transient=True) as progress:
        right = _check_all(console, progress, cases, device)
        if device == "cuda":
            for more in _time_all(progress, right, device, dtype):
                times += more
                if out is not None:
                    keep(out, times, said)
    if device == "cpu":
        console.print(
            "No GPU here: the kernels ran in Triton's interpreter, and nothing was timed."
        )
    show(console, times)
    failed = len(right) < len(cases) or any(t.note for t in times if t.implementation == OURS)
    raise typer.Exit(1 if failed else 0)


def _chosen(console: Console, kernels: list[str], dtype: str) -> list["Case"]:
    """The cases of these kernels, or all; for an unknown name, one sentence and exit status 2."""
    try:
        from seqlab.gpu.cases import CASES
    except ImportError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(2) from None
    names = sorted({case.kernel for case in CASES})
    asked = [(kernel, names) for kernel in kernels] + [(dtype, list(TYPES))]
    for name, known in asked:
        if name not in known:
            said = f"{name!r} is unknown: choose from {', '.join(known)}"
            console.print(said, style="red", markup=False)
            raise typer.Exit(2)
    return [case for case in CASES if not kernels or case.kernel in kernels]


def _check_all(
    console: Console, progress: Progress, cases: list["Case"], device: str
) -> list["Case"]:
    """The cases that are right; of the others it prints what is wrong."""
    types = list(TYPES.values()) if device == "cuda" else [torch.float32, torch.float16]
    right, sentences = [], []
    todo = progress.add_task("checking", total=len(cases))
    for case in cases:
        progress.update(todo, description=f"checking {case.kernel}", advance=1)
        wrong = [sentence for dtype in types for sentence in check(case, device, dtype)]
        sentences += wrong
        if not wrong:
            right.append(case)
    console.print(f"checked: {len(right)} of {len(cases)} cases are as accurate as the rule asks")
    for sentence in sentences:
        console.print(sentence, style="red", markup=False)
    return right


def _time_all(
    progress: Progress, cases: list["Case"], device: str, dtype: str
) -> Iterator[list[Time]]:
    pairs = [(case, size) for case in cases for size in case.sizes]
    todo = progress.add_task("timing", total=len(pairs))
    for case, size in pairs:
        progress.update(todo, description=f"timing {case.kernel}, {case.say(size)}", advance=1)
        forget_compiled()
        yield measure(case, size, device, dtype, gpu_timer)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    typer.run(run)
