# ruff: noqa: E402
"""A large grid: what is proven for all programs, against running all of them."""

import itertools

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton installs on Linux only")
import triton.language as tl

from seqlab.gpu import sanitize as module
from seqlab.gpu.bounds import covered, prove, sample, survey
from seqlab.gpu.interpreter import Launch
from seqlab.gpu.sanitize import sanitize


@triton.jit
def scale(p_x, p_y, n, START: tl.constexpr, STEP: tl.constexpr, N: tl.constexpr):
    o = START + tl.program_id(0) * STEP + tl.arange(0, N)
    tl.store(p_y + o, 2 * tl.load(p_x + o, mask=(o < n) & (o >= 0), other=0.0), mask=o < n)


@triton.jit
def tile(p_x, p_y, R, C, s_r, s_c, LAST: tl.constexpr, N: tl.constexpr):
    """A tile of a matrix, by two axes of the grid; the second axis counts down."""
    r = (tl.program_id(0) * N + tl.arange(0, N))[:, None]
    c = ((tl.num_programs(1) - 1 - tl.program_id(1)) * N + tl.arange(0, N))[None, :]
    m = (r < R) & (c < LAST)
    tl.store(p_y + r * s_r + c * s_c, tl.load(p_x + r * s_r + c * s_c, mask=m, other=0.0), mask=m)


def outside(kernel, grid, args, named):
    """Every program and line that leaves its tensor, by running them all."""
    found = set()

    class Outside(module.Watcher):
        def access(self, access):
            if len(access.outside):
                found.add((access.program, access.line))

    launch = Launch(kernel, grid, args, named)
    launch.run(Outside())
    return found


CASES = [
    (scale, (7,), (50, 50), (start, step, 8))
    for start, step in itertools.product((0, 3, -2, -60), (8, 7, 0, -8))
]


@pytest.mark.parametrize(("kernel", "grid", "sizes", "constants"), CASES)
def test_a_proof_along_one_axis_says_what_running_every_program_says(
    kernel, grid, sizes, constants
):
    n, length = sizes
    args = (torch.zeros(length), torch.zeros(length), n)
    named = dict(zip(("START", "STEP", "N"), constants, strict=True))
    ran = outside(kernel, grid, args, named)
    proof = prove(survey(Launch(kernel, grid, args, named)))
    assert {line for _, line in ran} == set(proof.unproven)
    assert bool(ran) == bool(proof.witnesses)
    assert set(proof.witnesses) <= {program for program, _ in ran}


@pytest.mark.parametrize("last", [20, 21, 24, 30])
def test_a_proof_along_two_axes_says_what_running_every_program_says(last):
    x = torch.zeros(24, 20)
    args, named = (x, x.clone(), 24, 20, 20, 1), {"LAST": last, "N": 8}
    ran = outside(tile, (3, 3), args, named)
    proof = prove(survey(Launch(tile, (3, 3), args, named)))
    assert bool(ran) == bool(proof.unproven) == (last > 20)
    assert set(proof.witnesses) <= {program for program, _ in ran}


def test_what_is_stored_by_all_programs_is_known_without_running_them():
    y = torch.zeros(24, 20)
    launch = Launch(tile, (3, 3), (y.clone(), y, 24, 20, 20, 1), {"LAST": 19, "N": 8})
    stored = covered(survey(launch), launch.arguments["p_y"]).reshape(24, 20)
    assert stored[:, :19].all() and not stored[:, 19].any()


@triton.jit
def by_decision(p_x, n, N: tl.constexpr):
    if tl.program_id(0) == 300:
        n += 1
    o = tl.program_id(0) * N + tl.arange(0, N)
    tl.store(p_x + o, 1.0, mask=o < n)


@triton.jit
def by_table(p_i, p_x, N: tl.constexpr):
    b_i = tl.load(p_i + tl.program_id(0))
    tl.store(p_x + b_i * N + tl.arange(0, N), 1.0)


def counted(monkeypatch):
    ran, run = [], module.Launch.run_some
    monkeypatch.setattr(
        module.Launch,
        "run_some",
        lambda self, w, ps: run(self, w, [ran.append(p) or p for p in ps]),
    )
    return ran


def test_of_a_large_grid_some_programs_run_and_the_rest_is_proven(monkeypatch):
    ran = counted(monkeypatch)
    x, y = torch.zeros(8 * 10**5), torch.full((8 * 10**5,), torch.nan)
    found = sanitize(scale, (10**5,), x, y, 8 * 10**5, START=0, STEP=8, N=8)
    assert found == [] and len(set(ran)) < 200
    said = r"100,000 programs ran; it is proven that all of them stay inside their tensors"
    assert said in repr(found)


def test_the_one_program_of_many_that_leaves_its_tensor_is_run_and_found():
    x, y = torch.zeros(8 * 10**5), torch.zeros(8 * 10**5 - 4)
    (finding,) = sanitize(scale, (10**5,), x, y, 8 * 10**5, START=0, STEP=8, N=8)
    assert finding.kind == "out of bounds" and finding.program == (10**5 - 1,)


def test_an_element_that_no_program_of_many_stores_is_found_without_running_them():
    x, y = torch.zeros(8 * 10**5), torch.full((8 * 10**5,), torch.nan)
    (finding,) = sanitize(scale, (10**5,), x, y, 8 * 10**5 - 3, START=0, STEP=8, N=8)
    assert finding.kind == "never written" and finding.index == 8 * 10**5 - 3


@pytest.mark.parametrize(
    ("kernel", "args"),
    [
        (by_decision, (torch.zeros(8000), 7990)),
        (by_table, (torch.arange(1000), torch.zeros(8000))),
    ],
)
def test_what_cannot_be_proven_is_sampled_and_said_so(kernel, args):
    found = sanitize(kernel, (1000,), *args, N=8, initialised=["p_x"])
    assert found == []
    said = "the others were only tried in those that ran: test_bounds.py:"
    assert said in repr(found) and "of 1,000 programs ran" in repr(found)


@triton.jit
def in_turn(p_x, p_flag, N: tl.constexpr):
    i = tl.program_id(0)
    while tl.atomic_add(p_flag, 0) != i:
        pass
    tl.store(p_x + i * N + tl.arange(0, N), 1.0)
    tl.atomic_add(p_flag, 1)


def test_programs_that_wait_for_others_all_run():
    flag = torch.zeros(1, dtype=torch.int32)
    (finding,) = sanitize(in_turn, (300,), torch.zeros(300), flag, N=1)
    assert finding.kind == "order" and "waits for ever" in str(finding)


@pytest.mark.parametrize("grid", [(1000,), (30, 40), (300, 1, 2)])
def test_a_sample_holds_the_corners_neighbours_and_witnesses(grid):
    witness = tuple(n // 3 for n in grid)
    chosen = sample(grid, 96, [witness])
    assert len(chosen) == len(set(chosen)) <= 110 and chosen == sorted(chosen)
    assert witness in chosen
    assert set(itertools.product(*[(0, n - 1) for n in grid])) <= set(chosen)
    numbers = np.ravel_multi_index(np.array(chosen).T, grid)
    assert (np.diff(numbers) == 1).sum() > 40
