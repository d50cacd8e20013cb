"""Bug hunt: a carry that is read before it is written

*Find two faults in a scan that is cut among programs along time. · 18 minutes · ●●● · 3 points*

For one long text with few channels the page's scan has too few programs. `suspect_scan(a, b, first)` above gives each program a tile of 16 tokens: it scans the tile, takes the carry that the program before it left, and leaves its own. It returns h (T, W) and the last state (W,). Its h is right here: run it. There are two faults. One would show on a GPU only, the other shows in the last state.

`chained_scan(a, b, first)` returns the same two, h_t = a_t h_{t-1} + b_t for a and b (T, W) and first (W,), W up to 4, and is to be right on a GPU, whatever the order in which programs run. What has one number for each tile and channel can be left to PyTorch, between two launches.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "chained_scan"


@triton.jit
def join_steps(a1, b1, a2, b2):
    return a2 * a1, a2 * b1 + b2


@triton.jit
def totals_kernel(p_a, p_b, p_A, p_B, T, W, BW: tl.constexpr):
    """The step that a whole tile is: its gate and its write, (N, W) each."""
    ### BEGIN SOLUTION
    c, o_t, o_w = tl.program_id(0), tl.arange(0, 16)[:, None], tl.arange(0, BW)[None, :]
    at, there = (c * 16 + o_t) * W + o_w, (c * 16 + o_t < T) & (o_w < W)
    b_a = tl.load(p_a + at, mask=there, other=1.0)
    b_b = tl.load(p_b + at, mask=there, other=0.0)
    b_a, b_b = tl.associative_scan((b_a, b_b), 0, join_steps)
    end_a = tl.sum(tl.where(o_t == 15, b_a, 0.0), 0, keep_dims=True)
    end_b = tl.sum(tl.where(o_t == 15, b_b, 0.0), 0, keep_dims=True)
    tl.store(p_A + c * W + o_w, end_a, mask=o_w < W)
    tl.store(p_B + c * W + o_w, end_b, mask=o_w < W)
    ### END SOLUTION


@triton.jit
def tiles_kernel(p_a, p_b, p_before, p_h, T, W, BW: tl.constexpr):
    """h of each tile, from the state before it, (N, W)."""
    ### BEGIN SOLUTION
    c, o_t, o_w = tl.program_id(0), tl.arange(0, 16)[:, None], tl.arange(0, BW)[None, :]
    at, there = (c * 16 + o_t) * W + o_w, (c * 16 + o_t < T) & (o_w < W)
    b_a, b_b = tl.load(p_a + at, mask=there), tl.load(p_b + at, mask=there)
    b_a, b_b = tl.associative_scan((b_a, b_b), 0, join_steps)
    before = tl.load(p_before + c * W + o_w, mask=o_w < W)
    tl.store(p_h + at, b_a * before + b_b, mask=there)
    ### END SOLUTION


def chained_scan(a, b, first):
    """h (T, W) and the last state (W,)."""
    ### BEGIN SOLUTION
    (T, W), N = b.shape, triton.cdiv(len(b), 16)
    A, B, h = a.new_empty(N, W), a.new_empty(N, W), torch.empty_like(b)
    totals_kernel[(N,)](a, b, A, B, T, W, BW=4)
    states = [first]
    for n in range(N):
        states.append(A[n] * states[-1] + B[n])
    before = torch.stack(states[:-1])
    tiles_kernel[(N,)](a, b, before, h, T, W, BW=4)
    return h, states[-1]
    ### END SOLUTION


WHY = """
**Solution.** *The carry.* A program reads what the one before it, in the same launch, should have written. In the interpreter programs run in turn; on a GPU they run at once, and it reads whatever is there. The end of a launch is the one point that all programs reach. So: one launch for the step that each tile is, a short scan over tiles, a second launch that starts each tile from its state.

*The last state.* Past the end of the text the suspect loads a gate of 0, so the last row of a ragged tile has forgotten everything. A step that changes nothing is (1, 0).

**The price.** a and b are read twice: 20 bytes an element in float32 instead of 12. In return there are as many programs as tiles. "Decoupled look-back" reads once: each program publishes its total by an atomic, and waits for its predecessors. It is safe only if those are sure to run.
"""

HINTS = (
    "Run sanitize on the suspect: which line does it name? And what is the gate of a token that does not exist?",
    "First launch: scan each tile and store the last row of both results. In PyTorch: state = A[n] * state + B[n]. Second launch: scan again, h = ā · (the state before the tile) + b̄.",
    "Load gates with other=1.0. Store the row 15, picked by tl.where and tl.sum, to p_A + c * W + o_w, the same for B; states = [first]; for n in range(N): states.append(A[n] * states[-1] + B[n]).",
)


def reference(a, b, first):
    h, found = first.double(), []
    for a_t, b_t in zip(a.double(), b.double(), strict=True):
        h = a_t * h + b_t
        found.append(h)
    return torch.stack(found).float(), h.float()


def cases(rng):
    found = []
    for name, (T, W) in {
        "one token": (1, 4),
        "a ragged end": (37, 3),
        "two whole tiles": (32, 2),
    }.items():
        a = 0.5 + torch.rand(T, W, generator=rng) / 2
        b = torch.randn(T, W, generator=rng)
        first = torch.randn(W, generator=rng) + 2
        found.append(Case(name, {"a": a, "b": b, "first": first}))
    return found


OUTPUTS = ("h", "last")


@triton.jit
def one_program_kernel(p_a, p_b, p_first, p_h, p_last, T, W):
    w = tl.program_id(0)
    h = tl.load(p_first + w)
    for t in range(0, T):
        h = tl.load(p_a + t * W + w) * h + tl.load(p_b + t * W + w)
        tl.store(p_h + t * W + w, h)
    tl.store(p_last + w, h)


def one_program(a, b, first):
    h, last = torch.empty_like(b), torch.empty_like(first)
    one_program_kernel[(b.shape[1],)](a, b, first, h, last, *b.shape)
    return h, last


@triton.jit
def suspect_kernel(p_a, p_b, p_first, p_h, p_carry, T, W, BW: tl.constexpr):
    c, o_t, o_w = tl.program_id(0), tl.arange(0, 16)[:, None], tl.arange(0, BW)[None, :]
    at, there = (c * 16 + o_t) * W + o_w, (c * 16 + o_t < T) & (o_w < W)
    b_a = tl.load(p_a + at, mask=there, other=0.0)
    b_b = tl.load(p_b + at, mask=there, other=0.0)
    b_a, b_b = tl.associative_scan((b_a, b_b), 0, join_steps)
    if c == 0:
        before = tl.load(p_first + o_w, mask=o_w < W)
    else:
        before = tl.load(p_carry + (c - 1) * W + o_w, mask=o_w < W)
    b_h = b_a * before + b_b
    tl.store(p_h + at, b_h, mask=there)
    end = tl.sum(tl.where(o_t == 15, b_h, 0.0), 0, keep_dims=True)
    tl.store(p_carry + c * W + o_w, end, mask=o_w < W)


def suspect_scan(a, b, first):
    (T, W), N = b.shape, triton.cdiv(len(b), 16)
    h, carry = torch.empty_like(b), a.new_zeros(N, W)
    suspect_kernel[(N,)](a, b, first, h, carry, T, W, BW=4)
    return h, carry[-1]


def half_mended(a, b, first):
    h, _ = suspect_scan(a, b, first)
    return h, h[-1].clone()


ALTERNATIVES = (one_program,)

MISTAKES = """
states = [first] → return suspect_scan(a, b, first)
    Both faults are still there: a program reads a carry of the same launch, and past the end the gate is 0.
states = [first] → return half_mended(a, b, first)
    The last state is right now, but a program still reads a carry that another one of the same launch may not have written yet.
states = [first] → states = [first * 0]
    The text begins from an empty state: first is left out.
mask=there, other=1.0 → mask=there, other=0.0
    Past the end of the text the gate is 0, so the last state is lost: a step that changes nothing has gate 1.
states.append(A[n] * states[-1] + B[n]) → states.append(states[-1] + B[n])
    From tile to tile the state does not fade: it meets the gate of each whole tile.
torch.stack(states[:-1]) → torch.stack(states[1:])
    Each tile starts from the state after it.
b_a * before + b_b → before + b_b
    The state before a tile is added as it is: at row t it has met the gates of all rows up to t.
"""
