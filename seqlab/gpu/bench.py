"""How fast the kernels are on the GPU at hand, each beside every peer that is installed, in one
run.

    python -m seqlab.gpu.bench                                  # every kernel; about a quarter of an hour
    python -m seqlab.gpu.bench --kernel flash_attention --out results/h100      # h100.json and h100.md

A kernel is checked first (`seqlab.gpu.accuracy`), and timed only if it is right. A peer is timed if
its answer is the kernel's. Every implementation gets the same fresh inputs; times are medians over
0.1 s of launches, the level-2 cache emptied before each, with the 20 % and 80 % quantiles. The
cases, and what counts as their flops, are in `cases.py`.

Without a GPU the kernels are checked in Triton's interpreter, and nothing is timed.
"""

import json
import platform
import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from seqlab.gpu.accuracy import as_tuple, errors
from seqlab.gpu.devices import DEVICES
from seqlab.gpu.roofline import roofline

if TYPE_CHECKING:
    from seqlab.gpu.cases import Case  # needs Triton

OURS = "seqlab"
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ALIKE = 0.03  # of two answers in half precision: |a - b| / |b|
PACKAGES = ("torch", "triton", "fla-core", "flash-attn", "mamba-ssm", "causal-conv1d")


class Time(NamedTuple):
    """One implementation of one case in one pass, in milliseconds; `note` says why where there are
    none.

    ratio: its time over ours, above 1 where seqlab is faster. roofline: the share of the device's
    peak that it reached.
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
    """What the accuracy rule finds wrong, a sentence each."""
    wrong = []
    for size in case.checks if device != "cpu" else case.checks[:1]:
        inputs = _draw(case, size, device, dtype)
        try:
            found = errors(case.function, case.reference, inputs, case.backward)
            wrong += [
                f"{case.kernel}, {case.say(size)}: {error}" for error in found if not error.ok
            ]
        except Exception as error:
            wrong.append(f"{case.kernel}, {case.say(size)}: {_said(error)}")
    return wrong


def measure(case: "Case", size: dict, device: str, dtype: str, timer) -> list[Time]:
    """Every implementation of one case at one size. timer(f) gives (median, low, high) in
    milliseconds.
    """
    inputs = _draw(case, size, device, TYPES[dtype])
    times, ours, seed = [], None, None
    for name, function in {OURS: case.function, **case.peers, **case.beside}.items():
        row = Time(case.kernel, case.say(size), dtype, "", name)
        leaves = [
            x.detach().requires_grad_(case.backward and x.is_floating_point()) for x in inputs
        ]
        try:
            y = as_tuple(function(*leaves))[0]
            if ours is None:
                ours, seed = y.detach(), torch.randn_like(y)
            apart = _apart(y, ours) if name not in case.beside else 0.0
            if not apart <= ALIKE:
                times.append(row._replace(note=f"another answer than ours, {apart:.0%} away"))
                continue
            for passed, f, work in _passes(case, size, function, leaves, y, seed):
                times.append(_figures(row._replace(passed=passed), timer(f), *work, times, device))
        except ImportError as error:
            times.append(row._replace(note=f"not installed: {error.name}"))
        except Exception as error:
            times.append(row._replace(note=_said(error)))
        if ours is None:  # nothing to compare with
            break
    return times


def _apart(y, ours) -> float:
    """|y - ours| / |ours|."""
    return ((y.detach() - ours).float().norm() / ours.float().norm()).item()


def _passes(case, size, function, leaves, y, seed):
    """Name, what to time, and the (flops, least bytes) of each pass: inputs and outputs move
    once.
    """
    flops, given, made = case.flops(**size), sum(map(_bytes, leaves)), _bytes(y)
    learnt = [x for x in leaves if x.requires_grad]
    yield "forward", torch.no_grad()(lambda: function(*leaves)), (flops, given + made)
    if case.backward:
        back, moved = flops * case.backward_flops, given + made + sum(map(_bytes, learnt))

        def backward():
            return torch.autograd.grad(y, learnt, seed, retain_graph=True)

        def both():
            return torch.autograd.grad(as_tuple(function(*leaves))[0], learnt, seed)

        yield "backward", backward, (back, moved)
        yield "forward + backward", both, (flops + back, given + made + moved)


def _figures(row, ms, flops, moved, times, device) -> Time:
    median, low, high = ms
    ours = [t for t in times if t.implementation == OURS and t.passed == row.passed]
    peak = named_device(device)
    dtype = (
        "tf32"
        if row.dtype == "fp32" and torch.backends.cuda.matmul.fp32_precision == "tf32"
        else row.dtype
    )
    known = peak is not None and dtype in DEVICES[peak].flops
    return row._replace(
        ms=median, low=low, high=high,
        tflops=flops / median / 1e9, gigabytes=moved / median / 1e6,
        ratio=median / ours[0].ms if ours else 1.0,
        roofline=roofline(moved, flops, peak, dtype).fraction(median / 1e3) if known else None,
    )  # fmt: skip


def named_device(device: str) -> str | None:
    """The device of `DEVICES` that this one is called by, if any: as a whole word, for an L40S is
    no L4.
    """
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    return max(
        (known for known in DEVICES if re.search(rf"\b{known}\b", name)), key=len, default=None
    )


def _draw(case, size, device, dtype):
    """Inputs of one size, drawn anew where they are used: on CPU the large ones would take longer
    than all timing.
    """
    with torch.device(device):
        drawn = enumerate(case.inputs(**size))
    return [
        x.to(device, dtype if x.is_floating_point() and i not in case.wide else x.dtype)
        for i, x in drawn
    ]


def _bytes(x):
    return x.numel() * x.element_size()


def _said(error):
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[
        :120
    ]


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
    roof = "" if t.roofline is None else f"{t.roofline:.0%}"
    rates = f"{t.tflops:.0f}" if t.tflops >= 1 else "", f"{t.gigabytes:.0f}"
    return (
        t.passed,
        t.implementation,
        f"{t.ms:.3f}",
        f"{t.low:.3f} to {t.high:.3f}",
        *rates,
        f"{t.ratio:.2f}",
        roof,
    )


def _groups(times):
    """For each kernel, case and type: its title, the rows in order of their passes, and what was
    not timed and why.
    """
    groups = {}
    for t in times:
        groups.setdefault(f"{t.kernel}, {t.case}, {t.dtype}", []).append(t)
    order = ("forward", "backward", "forward + backward")
    for title, rows in groups.items():
        timed = sorted((t for t in rows if t.ms is not None), key=lambda t: order.index(t.passed))
        yield title, timed, [f"{t.implementation}: {t.note}" for t in rows if t.ms is None]


def markdown(times: list[Time], said: str) -> str:
    """The tables as they are kept."""
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
        lines += ["", "Not timed: " + "; ".join(notes) + "."] if notes else []
    return "\n".join(lines) + "\n"


def keep(out: Path, times: list[Time], said: str) -> None:
    """out.json and out.md, each written whole or not at all."""
    data = json.dumps({"where": said, "results": [t._asdict() for t in times]}, indent=1) + "\n"
    for suffix, text in ((".json", data), (".md", markdown(times, said))):
        path = out.with_name(out.name + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_text(text)
        part.replace(path)


def show(console: Console, times: list[Time]) -> None:
    for title, rows, notes in _groups(times):
        table = Table(*COLUMNS, title=title, title_justify="left", box=None, title_style="bold")
        for t in rows:
            table.add_row(*cells(t))
        console.print("", table, *(f"not timed: {note}" for note in notes), sep="\n", markup=False)


def forget_compiled() -> None:
    """What torch.compile makes next is for its own sizes alone, and a backward of it may be run
    again and again.

    Otherwise a second size makes it general, and slower, and after some more it gives up: a peer
    loses for nothing.
    """
    torch.compiler.reset()
    torch._functorch.config.donated_buffer = False


def gpu_timer(f):
    """(median, 20 %, 80 %) in milliseconds."""
    from triton.testing import do_bench

    return do_bench(f, warmup=25, rep=100, quantiles=[0.5, 0.2, 0.8])


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
    try:
        from seqlab.gpu.cases import CASES
    except ImportError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(2) from None
    names = sorted({case.kernel for case in CASES})
    for name, known in [*((n, names) for n in kernel or []), (dtype, list(TYPES))]:
        if name not in known:
            console.print(
                f"{name!r} is unknown: choose from {', '.join(known)}", style="red", markup=False
            )
            raise typer.Exit(2)
    cases = [case for case in CASES if not kernel or case.kernel in kernel]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    types = TYPES.values() if device == "cuda" else (torch.float32, torch.float16)
    said, times, wrong = where(device), [], {}
    torch.manual_seed(0)
    console.print(said, markup=False)
    with Progress(console=console, transient=True) as progress:
        todo = progress.add_task("checking", total=len(cases))
        for case in cases:
            progress.update(todo, description=f"checking {case.kernel}", advance=1)
            wrong[case] = [sentence for one in types for sentence in check(case, device, one)]
        right = [case for case in cases if not wrong[case]]
        console.print(
            f"checked: {len(right)} of {len(cases)} cases are as accurate as the rule asks"
        )
        for sentences in wrong.values():
            for sentence in sentences:
                console.print(sentence, style="red", markup=False)
        if device == "cuda":
            pairs = [(case, size) for case in right for size in case.sizes]
            todo = progress.add_task("timing", total=len(pairs))
            for case, size in pairs:
                progress.update(
                    todo, description=f"timing {case.kernel}, {case.say(size)}", advance=1
                )
                forget_compiled()
                times += measure(case, size, device, dtype, gpu_timer)
                torch.cuda.empty_cache()
                if out is not None:
                    keep(out, times, said)
    if device == "cpu":
        console.print(
            "No GPU here: the kernels ran in Triton's interpreter, and nothing was timed."
        )
    show(console, times)
    failed = any(wrong.values()) or any(t.note for t in times if t.implementation == OURS)
    raise typer.Exit(1 if failed else 0)


if __name__ == "__main__":
    typer.run(run)
