"""Pass them on

*Turn what chunks add into the state before each. · 12 minutes · ●○○ · 1 point*

The other half of the walk. U (N, H, V, K) is what each chunk adds to the state, decay (N, H) the product of its gates, first (H, V, K) the state before the first chunk:

    S_0 = first        S_{n+1} = decay_n S_n + U_n.

`pass_states(U, decay, first)` returns the states *before* each chunk, S_0 … S_{N-1} as (N, H, V, K), and the last one, S_N, as (H, V, K), in float32. V and K are powers of two; there may be a single chunk.

Elements of a state do not meet on this way, so they can be shared among programs: program (i, h) of the given launch has 256 of the V · K elements of head h. Write the kernel.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "pass_states"


@triton.jit
def pass_states_kernel(p_U, p_decay, p_first, p_S, p_last, N, H,
                       SIZE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Elements program_id(0) · BLOCK and on of head program_id(1). SIZE is V · K."""
    ### BEGIN SOLUTION
    i_h = tl.program_id(1)
    o = i_h * SIZE + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b_S = tl.load(p_first + o)
    for n in range(0, N):
        at = n * H * SIZE + o
        tl.store(p_S + at, b_S)
        b_S = tl.load(p_decay + n * H + i_h) * b_S + tl.load(p_U + at)
    tl.store(p_last + o, b_S)
    ### END SOLUTION


def pass_states(U, decay, first):
    """The states before each chunk (N, H, V, K), and the last (H, V, K)."""
    N, H, V, K = U.shape
    S, last = torch.empty_like(U), torch.empty_like(first)
    grid = (V * K // 256, H)
    given = U, decay, first, S, last, N, H
    pass_states_kernel[grid](*given, SIZE=V * K, BLOCK=256)
    return S, last


WHY = """
**Solution.** A loop over chunks: store the state, then let it decay and add. Each step is elementwise, so no program needs more than its own elements, and V · K / 256 programs share a head.

**In how many steps?** N, one after the other: T / C instead of T. For a very long text N is large again, and one could cut it into chunks of chunks, or use a scan (chapter 26).

**Common mistakes.** Storing after the update: these are the states *after* each chunk. Letting U decay, too: it has decayed to its chunk's end already.
"""

HINTS = (
    "Which state does a chunk need: that before its update, or after?",
    "The elements of head h in first begin at h · SIZE, those of chunk n and head h in U at (n · H + h) · SIZE. Load first, then loop over n: store, then update.",
    "for n in range(0, N): tl.store(p_S + at, b_S); b_S = tl.load(p_decay + n * H + i_h) * b_S + tl.load(p_U + at); behind the loop store b_S to p_last.",
)


def reference(U, decay, first):
    N = len(U)
    states = []
    for n in range(N + 1):
        S = decay[:n].double().prod(0)[:, None, None] * first.double()
        for m in range(n):
            S = S + decay[m + 1 : n].double().prod(0)[:, None, None] * U[m].double()
        states.append(S.float())
    return torch.stack(states[:-1]), states[-1]


def cases(rng):
    def draw(*shape):
        return torch.randn(*shape, generator=rng)

    return [
        Case(
            name,
            {
                "U": draw(N, H, V, K),
                "decay": torch.rand(N, H, generator=rng) * (name != "a gate of 0"),
                "first": draw(H, V, K) + 1,
            },
        )
        for name, (N, H, V, K) in {
            "one chunk": (1, 2, 16, 16),
            "four chunks": (4, 2, 32, 16),
            "a gate of 0": (2, 1, 16, 16),
        }.items()
    ]


OUTPUTS = ("states", "last")


@triton.jit
def by_rows_kernel(p_U, p_decay, p_first, p_S, p_last, N, H, V, K: tl.constexpr):
    v, i_h, o_k = tl.program_id(0), tl.program_id(1), tl.arange(0, K)
    at = (i_h * V + v) * K + o_k
    b_S = tl.load(p_first + at)
    for n in range(0, N):
        tl.store(p_S + n * H * V * K + at, b_S)
        b_S *= tl.load(p_decay + n * H + i_h)
        b_S += tl.load(p_U + n * H * V * K + at)
    tl.store(p_last + at, b_S)


def by_rows(U, decay, first):
    N, H, V, K = U.shape
    S, last = torch.empty_like(U), torch.empty_like(first)
    by_rows_kernel[(V, H)](U, decay, first, S, last, N, H, V, K=K)
    return S, last


ALTERNATIVES = (by_rows,)

MISTAKES = """
tl.store(p_S + at, b_S)⏎b_S = tl.load(p_decay + n * H + i_h) * b_S + tl.load(p_U + at) → b_S = tl.load(p_decay + n * H + i_h) * b_S + tl.load(p_U + at)⏎tl.store(p_S + at, b_S)
    These are the states after each chunk: store a state before it is updated.
tl.load(p_decay + n * H + i_h) * b_S + tl.load(p_U + at) → b_S + tl.load(p_U + at)
    The state does not decay on its way.
tl.load(p_decay + n * H + i_h) * b_S + tl.load(p_U + at) → tl.load(p_decay + n * H + i_h) * (b_S + tl.load(p_U + at))
    What a chunk adds is decayed by its own gates once more: U is what is left at the chunk's end.
b_S = tl.load(p_first + o) → b_S = tl.load(p_first + o) * 0.0
    The first state is left out: the text does not begin with an empty one.
tl.load(p_decay + n * H + i_h) → tl.load(p_decay + n * H)
    Every head decays as head 0 does.
tl.load(p_decay + n * H + i_h) → tl.load(p_decay + i_h)
    Every chunk decays as chunk 0 does.
"""
