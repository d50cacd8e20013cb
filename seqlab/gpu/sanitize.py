"""`sanitize`: what a GPU would punish and the interpreter forgives, each finding one sentence.

    sanitize(add, (4,), x, y, out, 100, BT=32)      # empty if nothing is wrong

The programs run on copies: in order, and where one program touches what another wrote, also
reversed and shuffled. The caller's tensors never change. Lanes that are out of bounds are switched
off before they touch memory, and the run goes on. Of a grid with more than 256 programs some run;
that the rest stays inside its tensors is proven where addresses are affine (`bounds.py`), and the
findings say where it is not.

An element counts as unwritten in two cases. It is NaN when the kernel starts: so fill outputs with
NaN. Or its tensor is only ever stored into, only updated by atomics, or updated in place: all of
such a tensor must be written, unless the addresses depend on data. List in `outputs` the arguments
to treat as unwritten whatever they hold, and in `initialised` those already valid on entry (a cache
that gets one new row, an input with a NaN in it).
"""

import random
from collections.abc import Collection, Sequence
from functools import cache
from typing import NamedTuple

from seqlab.gpu.bounds import Proof, Survey, prove, sample, survey
from seqlab.gpu.events import Access, LabError, Watcher, program_name
from seqlab.gpu.findings import KINDS, Finding, Findings
from seqlab.gpu.inspector import Inspector
from seqlab.gpu.interpreter import Launch
from seqlab.gpu.poison import reached
from seqlab.gpu.trace import Trace, traced

__all__ = ["KINDS", "Finding", "Findings", "sanitize"]

MOST_PROGRAMS = 256
"""A larger grid is sampled."""
SAMPLE = 96


def sanitize(
    kernel,
    grid,
    *args,
    outputs: Collection[str] = (),
    initialised: Collection[str] = (),
    **constexprs,
) -> Findings:
    """The faults of `kernel[grid](*args, **constexprs)`: a finding for each tensor and source line.

    Changes nothing. Raises ValueError if `outputs` or `initialised` has an unknown name.
    """

    return inspected(kernel, grid, args, constexprs, outputs, initialised).findings


class Inspected(NamedTuple):
    """The findings, and the run in order: what it wrote, and who wrote it.

    whole: all programs ran.
    """

    findings: Findings
    launch: Launch
    inspector: Inspector
    whole: bool


def inspected(
    kernel,
    grid,
    args: Sequence,
    constexprs: dict,
    outputs: Collection[str] = (),
    initialised: Collection[str] = (),
) -> Inspected:
    """As `sanitize`, with the run that was looked at."""

    def make() -> Launch:
        return Launch(kernel, grid, args, constexprs)

    launch = make()
    if unknown := {*outputs, *initialised} - set(launch.arguments):
        name = launch.function.__name__
        said, has = ", ".join(sorted(unknown)), ", ".join(launch.arguments)
        raise ValueError(f"{name} has no tensor {said}: it has {has}")
    seen = cache(lambda: survey(make()))
    proof = prove(seen()) if launch.count > MOST_PROGRAMS else None
    programs = _chosen(launch, seen(), proof) if proof else None
    inspector = Inspector(launch, outputs, initialised, seen, whole=programs is None)
    _run(launch, inspector, programs)
    findings = Findings(inspector.findings())
    if inspector.undefined_at:
        findings += reached(make, inspector.undefined_at)
    findings += _of_other_orders(make, launch, inspector, programs)
    if proof and programs is not None:
        findings.note = _note(launch, proof, len(programs))
    findings.outside = _outside(make, findings)
    return Inspected(findings, launch, inspector, programs is None)


def _chosen(launch: Launch, seen: Survey, proof: Proof) -> list[tuple[int, ...]] | None:
    """The programs of a large grid to run; None for all. One that waits for others needs them."""
    return None if seen.waits else sample(launch.grid, SAMPLE, proof.witnesses)


def _run(launch: Launch, watcher: Watcher, programs: list | None, order=list) -> None:
    if programs is None:
        launch.run(watcher, order)
    else:
        launch.run_some(watcher, order(programs))


def _of_other_orders(make, launch, inspector, programs) -> list[Finding]:
    if launch.count > 1 and not inspector.any_order:
        for name, order in (("reversed", reversed), ("shuffled", _shuffled)):
            if finding := _of_another_order(make(), inspector, name, order, programs):
                return [finding]
    return []


def _of_another_order(
    again: Launch, inspector: Inspector, name: str, order, programs
) -> Finding | None:
    """The finding that the programs depend on the order in which they ran."""
    try:
        _run(again, _Counter(limit=1000 + 10 * inspector.accesses), programs, order)
    except _Endless as stop:
        return _waits(name, stop.access)
    return inspector.compare(again, name)


def _note(launch: Launch, proof: Proof, ran: int) -> str:
    """What was proven for all programs, and what was only tried."""
    said = f"{ran} of {launch.count:,} programs ran"
    if not proof.unproven:
        return f"{said}; it is proven that all of them stay inside their tensors"
    where = ", ".join(str(line) for line in proof.unproven[:3])
    more = f" and {len(proof.unproven) - 3} more lines" if len(proof.unproven) > 3 else ""
    known = (
        f"{len(proof.lines)} of {len(proof.lines) + len(proof.unproven)} lines are proven to stay "
        "inside their tensors in all programs"
    )
    return f"{said}; {known}, the others were only tried in those that ran: {where}{more}"


def _outside(make, findings: Findings) -> Trace | None:
    """A trace of the first program that leaves its tensor."""
    wrong = [finding for finding in findings if finding.kind == "out of bounds"]
    return traced(make(), [wrong[0].program], strict=False) if wrong else None


def _shuffled(programs: Sequence) -> list:
    return random.Random(0).sample(programs, len(programs))


class _Endless(LabError):
    """A run that waits for a program that has not started yet."""

    def __init__(self, access: Access):
        super().__init__()
        self.access = access


class _Counter(Watcher):
    """Lets every access pass, up to a limit."""

    def __init__(self, limit: int):
        self.left = limit

    def access(self, access):
        self.left -= 1
        if self.left < 0:
            raise _Endless(access)


def _waits(order: str, access: Access) -> Finding:
    tensor = access.argument.name
    sentence = (
        f"{program_name(access.program)} waits for ever when programs run {order}: "
        f"it polls {tensor} until another program has run ({access.line}), "
        "and a GPU promises no order"
    )
    return Finding("order", access.program, tensor, None, access.line, sentence)
