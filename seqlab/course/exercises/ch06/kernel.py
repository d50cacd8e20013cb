r"""The kernel by doubling

*Compute all powers of a matrix that are needed in about log₂ T steps. · 10 minutes · ●●○ · 2 points*

The kernel of a state space model is $K_l = C A^l B$, $l = 0, …, T - 1$. The chapter makes it with T products, one after
another. But if you have the columns $[B,\, AB,\, …,\, A^{m-1}B]$ and the power $A^m$, one product gives the next m columns, and
one more gives $A^{2m}$.

Write `kernel(A, B, C, T)` in that way. The check refuses a walk of T steps.
"""

import torch

from seqlab.core import discretize
from seqlab.course.exercise import Case
from seqlab.course.exercises.ch06.shared import _randn, no_walk


def kernel(A, B, C, T):
    """K_l = C A^l B for l = 0 .. T - 1. A (N, N), B and C (N,). Returns K (T,)."""
    ### BEGIN SOLUTION
    columns, power = B[:, None], A
    for _ in range(T.bit_length()):
        columns = torch.cat([columns, power @ columns], dim=1)
        power = power @ power
    return C @ columns[:, :T]
    ### END SOLUTION


WHY = r"""
**Solution.** After s doublings there are $2^s$ columns, and `power` is $A^{2^s}$. So about $\log_2 T$ steps are enough, each of
them two matrix products, large enough to keep a processor busy. At the end cut to T columns and read them with C.

This is the idea of the parallel scan, for a gate that is always the same: then all spans of one length share one power.

*Common mistakes:* starting with A B loses the first tap, $K_0 = C B$, the answer to the newest input. Not squaring the power
repeats the same columns. C A is not A C: reading with the transposed matrix gives another system's kernel.
"""

HINTS = (
    "Keep two things: the columns so far, and the power of A that carries the first of them to the next free place.",
    "[B … A^(m-1)B] and A^m give [A^m B … A^(2m-1) B] in one product; (A^m)² = A^(2m).",
    "columns, power = B[:, None], A; then repeatedly columns = torch.cat([columns, power @ columns], dim=1) and "
    "power = power @ power; C @ columns[:, :T].",
)


def reference(A, B, C, T):
    """The answer of the recurrence to a single 1, in float64."""
    h, ys = torch.zeros(len(B)).double(), []
    for t in range(T):
        h = A.double() @ h + (B.double() if t == 0 else 0)
        ys.append(C.double() @ h)
    return torch.stack(ys).float()


def cases(rng):
    def case(name, N, T, A=None):
        A = (
            0.7
            * torch.linalg.qr(_randn(rng, N, N)).Q
            @ torch.diag(0.6 + 0.4 * torch.rand(N, generator=rng))
            if A is None
            else A
        )
        return Case(name, {"A": A, "B": _randn(rng, N), "C": _randn(rng, N), "T": T})

    A, B = discretize.hippo_legs(6)
    legs = discretize.bilinear_matrix(A, B[:, None], 0.03)[0].float()
    return [
        case("T = 1", 3, 1),
        case("T = 2", 3, 2),
        case("odd T", 4, 7),
        case("T a power of two", 3, 8),
        case("one mode", 1, 9),
        case("A = 0: only the newest input", 3, 5, torch.zeros(3, 3)),
        case("A = 1: a plain sum", 3, 6, torch.eye(3)),
        case("HiPPO", 6, 37, legs),
        case("long", 5, 200),
        case("T = N", 4, 4),
    ]


effort = no_walk("B")

OUTPUTS = ("K",)

TIME_AXIS = 0


def _by_rows(A, B, C, T):
    rows, power = C[None], A
    while len(rows) < T:
        rows, power = torch.cat([rows, rows @ power]), power @ power
    return rows[:T] @ B


def _tables(A, B, C, T):
    """A^(m i + j): a short table from the left, a short one from the right."""
    m = int(T**0.5) + 1
    right = [B]
    for _ in range(m - 1):
        right.append(A @ right[-1])
    left, jump = [C], torch.linalg.matrix_power(A, m)
    for _ in range(m - 1):
        left.append(left[-1] @ jump)
    return (torch.stack(left) @ torch.stack(right, 1)).flatten()[:T]


def _all_powers(A, B, C, T):
    powers, jump = torch.eye(len(A))[None], A
    while len(powers) < T:
        powers, jump = torch.cat([powers, powers @ jump]), jump @ jump
    return torch.einsum("n, tnm, m -> t", C, powers[:T], B)


ALTERNATIVES = (_by_rows, _tables, _all_powers)

MISTAKES = """
B[:, None], A → (A @ B)[:, None], A
    The first tap is missing: this starts with C A B. The newest input is read as C B, so K_0 = C B.
power = power @ power → pass
    The power is not squared: the second block of columns is right, later ones repeat powers that are already there.
power @ columns → power.mT @ columns
    This is C Aᵀ B: A is used transposed (the column B stands on its right), or B and C have changed places, which gives
    the same numbers.
C @ columns → B @ columns
    The columns are read with B: the read is C.
B[:, None], A → C[:, None], A
    The columns start from C: the input is written with B, and the read with C comes last.
columns[:, :T] → columns[:, :T].flip(1)
    The kernel runs backwards: K_0 belongs to the newest input, and comes first.
columns[:, :T] → columns[:, :T].cumsum(1)
    These are running sums of the kernel: the answer to a constant input, not to a single 1.
power @ columns → columns
    The columns are repeated without the power of A: each block must be multiplied by it.
torch.cat([columns, power @ columns], dim=1) → torch.cat([power @ columns, columns], dim=1)
    The new columns are put in front of the old ones: higher powers of A belong to older tokens, and come later.
power = power @ power → power = power * power
    The power is squared entry by entry: A^(2m) is a matrix product.
power = power @ power → power = power @ A
    The power grows by one factor A at each step. After a doubling it must be squared: A^(2m) = A^m A^m.
C @ columns[:, :T] → columns[:, :T].sum(0)
    The entries of the state are added up: they must be read with C.
"""
