"""What one program says about all: accesses proven to stay inside their tensors, without a run.

One program runs, and `affine.py` follows how its addresses and masks depend on the program's id. If
an address is affine, each lane has a range of programs that its mask lets through, and the
extremes of its address are at the ends of that range. So the proof costs one program, whatever the
size of the grid. It needs a program that takes no decision by its id or by data.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from seqlab.gpu.affine import DATA, VARIES, Affine
from seqlab.gpu.events import Argument, LabError, Line, Path, Watcher
from seqlab.gpu.interpreter import Launch

MOST_ACCESSES = 20_000
MOST_LANES = 2**26
Program = tuple[int, ...]


class _Enough(LabError):
    """A program with too many accesses to follow."""


@dataclass
class Survey(Watcher):
    """What the first program of a launch does, and what follows from it for the others.

    decisions: "" if the program takes the same way whatever its id and the data are, else what it
    depends on. by_data: tensors and lines where an address depends on what was read.
    """

    grid: tuple[int, ...]
    paths: list[Path] = field(default_factory=list)
    decisions: str = ""
    waits: bool = False
    by_data: set[tuple[str, Line]] = field(default_factory=set)

    def access(self, access):
        if access.exchanges:
            self.waits = True

    def follow(self, path):
        if len(self.paths) >= MOST_ACCESSES:
            raise _Enough
        self.paths.append(path)
        if path.shadow in (DATA, VARIES) and not path.bounded and path.argument:
            self.by_data.add((path.argument.name, path.line))

    def decide(self, shadow):
        if shadow == DATA:
            self.decisions = "data"
            self.waits |= any(path.kind == "atomic" for path in self.paths)
        elif not (isinstance(shadow, Affine) and not shadow.slopes):
            self.decisions = self.decisions or "the program's id"


def survey(launch: Launch) -> Survey:
    """Run the first program of the launch, and follow it."""
    found = Survey(launch.grid)
    if all(launch.grid):
        try:
            launch.follow(found, [(0,) * len(launch.grid)])
        except _Enough:
            found.decisions = found.decisions or "how long it runs"
    return found


@dataclass(frozen=True)
class Proof:
    """lines: where every access of every program is inside its tensor; unproven: the other lines.

    witnesses: programs that leave a tensor, or may.
    """

    lines: list[Line]
    unproven: list[Line]
    witnesses: list[Program]


def prove(survey: Survey) -> Proof:
    """Which lines of the kernel stay inside their tensors, in all programs of the grid."""
    proven: dict[Line, bool] = {}
    witnesses = []
    for path in survey.paths:
        inside, witness = _inside(path, survey.grid)
        proven[path.line] = proven.get(path.line, True) and inside and not survey.decisions
        if witness is not None:
            witnesses.append(witness)
    lines = [line for line, known in proven.items() if known]
    unproven = [line for line, known in proven.items() if not known]
    return Proof(lines, unproven, list(dict.fromkeys(witnesses)))


def _inside(path: Path, grid: tuple[int, ...]) -> tuple[bool, Program | None]:
    """Whether the access is proven to be inside its tensor; else a program where it is not."""
    if path.bounded:
        return True, None
    if not isinstance(path.shadow, Affine) or not path.argument or not path.argument.contiguous:
        return False, None
    first, last, alive = _ranges(path, grid)
    offset, least, most = path.offset.reshape(-1), 0, 0
    for axis in range(len(grid)):
        slope = _flat(path.shadow.slopes.get(axis, 0), path)
        least = least + np.where(slope > 0, slope * first[axis], slope * last[axis])
        most = most + np.where(slope > 0, slope * last[axis], slope * first[axis])
    size = path.argument.numel * path.argument.dtype.itemsize
    below, above = offset + least < 0, offset + most + path.width > size
    lanes = np.flatnonzero(alive & (below | above))
    if not len(lanes):
        return True, None
    lane = lanes[0]
    program = []
    for axis in range(len(grid)):
        up = _flat(path.shadow.slopes.get(axis, 0), path)[lane] > 0
        end = last if up != below[lane] else first
        program.append(int(end[axis][lane]))
    return False, tuple(program)


def _ranges(
    path: Path, grid: tuple[int, ...]
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """For each lane, the first and last id on each axis that the mask lets through, if any.

    A condition on several axes at once is left out, so the ranges may be too wide.
    """
    lanes = path.offset.size
    first = [np.zeros(lanes, dtype=np.int64) for _ in grid]
    last = [np.full(lanes, n - 1, dtype=np.int64) for n in grid]
    alive = np.ones(lanes, dtype=bool)
    for at, slopes in path.mask.conditions:
        at = _flat(at, path)
        flat = {axis: _flat(slope, path) for axis, slope in slopes.items()}
        axes = sum(((slope != 0).astype(int) for slope in flat.values()), np.zeros(lanes, int))
        alive &= (axes > 0) | (at <= 0)
        for axis, slope in flat.items():
            only = axes == 1
            with np.errstate(divide="ignore", invalid="ignore"):
                end = -at // np.where(slope == 0, 1, slope)
                begin = -(at // np.where(slope == 0, 1, slope))
            last[axis] = np.where(only & (slope > 0), np.minimum(last[axis], end), last[axis])
            first[axis] = np.where(only & (slope < 0), np.maximum(first[axis], begin), first[axis])
    for begin, end in zip(first, last, strict=True):
        alive &= begin <= end
    return first, last, alive


def _flat(x, path: Path) -> np.ndarray:
    return np.broadcast_to(np.asarray(x, dtype=np.int64), path.offset.shape).reshape(-1)


def covered(survey: Survey, argument: Argument) -> np.ndarray | None:
    """Of each element, whether some program of the grid stores to it; None if that is not known."""
    paths = [p for p in survey.paths if p.kind != "load"]
    if survey.decisions or any(p.argument is None for p in paths):
        return None
    mine = [p for p in paths if p.argument and p.argument.memory == argument.memory]
    programs = np.stack([axis.reshape(-1) for axis in np.indices(survey.grid)], axis=1)
    lanes = sum(path.offset.size for path in mine) * len(programs)
    if not all(_plain(p, argument) for p in mine) or lanes > MOST_LANES:
        return None
    seen = np.zeros(argument.numel, dtype=bool)
    for path in mine:
        step = max(1, 2**20 // path.offset.size)
        for start in range(0, len(programs), step):
            _mark(seen, path, programs[start : start + step], argument)
    return seen


def _plain(path: Path, argument: Argument) -> bool:
    """Whether the elements that the access touches are known for every program."""
    same = path.argument is not None and path.argument.name == argument.name
    return same and argument.contiguous and isinstance(path.shadow, Affine) and path.mask.exact


def _mark(seen: np.ndarray, path: Path, programs: np.ndarray, argument: Argument) -> None:
    def everywhere(at, slopes):
        value = _flat(at, path)[None, :]
        for axis, slope in slopes.items():
            value = value + programs[:, axis, None] * _flat(slope, path)[None, :]
        return value

    assert isinstance(path.shadow, Affine)
    element = everywhere(path.offset, path.shadow.slopes) // argument.dtype.itemsize
    on = np.broadcast_to((element >= 0) & (element < len(seen)), (len(programs), path.offset.size))
    for at, slopes in path.mask.conditions:
        on = on & (everywhere(at, slopes) <= 0)
    seen[np.broadcast_to(element, on.shape)[on]] = True


def sample(grid: tuple[int, ...], wanted: int, witnesses: Sequence[Program]) -> list[Program]:
    """Programs of a large grid, in order: the first and last, neighbours, some at random."""
    total = int(np.prod(grid))
    part = wanted // 4
    middle = total // 2
    numbers = {*range(part), *range(middle, middle + part), *range(total - part, total)}
    rng = np.random.default_rng(0)
    numbers |= set(rng.integers(0, total, wanted - len(numbers)).tolist())
    corners = np.stack(np.meshgrid(*[[0, n - 1] for n in grid], indexing="ij"), -1)
    chosen = [*corners.reshape(-1, len(grid)).tolist(), *witnesses[:part]]
    numbers |= {int(np.ravel_multi_index(program, grid)) for program in chosen}
    kept = sorted(n for n in numbers if 0 <= n < total)
    return [tuple(int(i) for i in np.unravel_index(n, grid)) for n in kept]
