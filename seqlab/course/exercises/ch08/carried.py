r"""Chunks of any length, with a state

*Run Gated DeltaNet over a text in chunks, from a given table. · 15 minutes · ●●● · 2 points*

Use exercise 08.6 (or solve as the chapter's `chunk` does) for a whole text: start from a given table, cut the text into chunks of at most `chunk` tokens (the last may be shorter), and return every read $y_t = S_t q_t$
and the last table. The decay is one number per token. Cost: a loop over chunks is fine, one over tokens is not, nor are the pairs of the whole text; the check counts. A product of decays can be too small for float32.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch08.shared import by_steps, randn, strengths, unit
from seqlab.course.exercises.vocabulary import state_ignored


def carried(q, k, v, log_a, beta, S, chunk):
    """q, k (T, K), v (T, V), log_a and beta (T,), S (V, K): y (T, V) and the last S."""
    ### BEGIN SOLUTION
    ys = []
    pieces = (x.split(chunk) for x in (q, k, v, log_a, beta))
    for q_c, k_c, v_c, log_c, b_c in zip(*pieces, strict=True):
        since = log_c.cumsum(0)
        between = (since[:, None] - since).tril().exp().tril()
        L = b_c[:, None] * (k_c @ k_c.mT * between).tril(-1)
        start = since.exp()[:, None]
        R = b_c[:, None] * (v_c - start * (k_c @ S.mT))
        U = torch.linalg.solve_triangular(L, R, upper=False, unitriangular=True)
        ys.append(start * (q_c @ S.mT) + (q_c @ k_c.mT * between) @ U)
        S = since[-1].exp() * S + U.mT @ (between[-1][:, None] * k_c)
    return torch.cat(ys), S
    ### END SOLUTION


WHY = r"""
**Solution.** Inside a chunk everything is chapter 07's gated sum, with the solved $U$ in the place of $v$: a read of the old table, faded since the chunk's start, and a read of all pairs. At the end the old table fades by the product
of all decays, and each write by those after it.

*Common mistakes:* reading the table after the chunk in place of before it; a pair (t, t) left out of the read (a token reads its own write); forgetting to fade the carried table, which shows only from the second chunk on.
"""

HINTS = (
    "Three places need the old table: the right side of the system, the read, and the end of the chunk. By how much has it faded in each?",
    "R_t = β_t (v_t - a_1 ⋯ a_t S k_t); y_t = a_1 ⋯ a_t S q_t + Σ_{j ≤ t} a_{j+1} ⋯ a_t (q_t·k_j) u_j.",
    "S = since[-1].exp() * S + U.mT @ (between[-1][:, None] * k_c).",
)


def reference(q, k, v, log_a, beta, S, chunk):
    return by_steps(q, k, v, log_a[:, None], beta, S)


def cases(rng):
    def case(name, T, K, V, chunk, most=1.0, fade=0.5, empty=False, size=1.0):
        S = randn(rng, V, K)
        inputs = {
            "q": randn(rng, T, K),
            "k": unit(rng, T, K),
            "v": size * randn(rng, T, V),
        }
        inputs |= {"log_a": -fade * torch.rand(T, generator=rng)}
        inputs |= {"beta": strengths(rng, T, most=most), "S": 0 * S if empty else S}
        inputs = {n: u.requires_grad_() for n, u in inputs.items()}
        return Case(name, {**inputs, "chunk": chunk})

    return [
        case("T = 1", 1, 3, 2, 4),
        case("one chunk", 5, 4, 3, 8),
        case("two chunks", 8, 4, 3, 4),
        case("ragged, K ≠ V", 11, 5, 2, 4),
        case("chunks of one", 6, 3, 4, 1),
        case("from an empty table", 9, 3, 4, 3, empty=True),
        case("no decay, β up to 2", 10, 4, 3, 4, most=2.0, fade=0.0),
        case("strong decay", 9, 4, 3, 4, fade=3.0),
        case("large values", 7, 4, 3, 3, size=1000.0),
        case("200 tokens in chunks of 100", 200, 16, 4, 100),
        case("long chunks, strong decay", 70, 8, 4, 64, fade=6.0),
    ]


def effort(inputs, cost):
    T = len(inputs["q"])
    if T >= 200 and cost.calls >= T:
        return f"The values are right, but this walks over tokens: {cost.calls} torch operations for {T}. Solve each chunk at once."
    if T >= 200 and cost.largest >= T * T:
        C = inputs["chunk"]
        return f"The values are right, but a tensor of {cost.largest:,} numbers was made, and the pairs of a chunk are {C * C:,}. Cut the text into chunks, and multiply keys with @."
    return None


def parts_hint(t, inputs):
    if t == 0:
        return "this is the first token. Is the table that was given faded and read, and does the token read its own write?"
    if t < inputs["chunk"]:
        return "this is inside the first chunk. Its first token is right: look at how earlier writes of the chunk enter, and at what has faded since the start."
    return "this is behind the first chunk: what does the table look like that the chunk before it left?"


OUTPUTS = ("y", "S")

TIME_AXIS = {"y": 0, "S": None}

TOLERANCE = 1e-3


def _by_wy(q, k, v, log_a, beta, S, chunk):
    from seqlab.course.exercises.ch08.wy import wy

    ys = []
    for i in range(0, len(q), chunk):
        here = slice(i, i + chunk)
        W, U = wy(k[here], v[here], log_a[here], beta[here])
        u = U - W @ S.mT
        G = log_a[here].cumsum(0)
        D = (G[:, None] - G).tril().exp().tril()
        ys.append(G.exp()[:, None] * (q[here] @ S.mT) + (q[here] @ k[here].mT * D) @ u)
        S = G[-1].exp() * S + (D[-1][:, None] * u).mT @ k[here]
    return torch.cat(ys), S


ALTERNATIVES = (_by_wy,)

MISTAKES = """
S = since[-1].exp() * S + U.mT @ (between[-1][:, None] * k_c) → end = since[-1].exp() * S + U.mT @ (between[-1][:, None] * k_c) ; return torch.cat(ys), S → return torch.cat(ys), end
    The table is not carried: every chunk starts from the one that was given.
since[-1].exp() * S + U.mT → S + U.mT
    The carried table does not fade over a chunk: it is multiplied by all the chunk's decays.
(between[-1][:, None] * k_c) → k_c
    The writes of a chunk do not fade until its end.
start * (q_c @ S.mT) + → q_c @ S.mT +
    The read of the old table is not faded: token t sees a_1 ⋯ a_t S.
v_c - start * (k_c @ S.mT) → v_c - k_c @ S.mT
    What is removed is measured on a table that has not faded: first fade, then clear.
v_c - start * (k_c @ S.mT) → v_c
    The writes do not remove what the old table returns: S is missing in the right side.
(q_c @ k_c.mT * between) @ U → (q_c @ k_c.mT * between).tril(-1) @ U
    A token does not read its own write: the pair (t, t) counts.
(q_c @ k_c.mT * between) @ U → (q_c @ k_c.mT * between) @ v_c
    The reads take the values as they came: with U in their place, the chunk is a sum.
start * (q_c @ S.mT) + (q_c → (q_c
    The old table is not read at all.
L = b_c[:, None] * → L = b_c *
    β goes along the columns of L: it is the strength of the token that writes now, the row.
L = b_c[:, None] * → L =
    L has no β: what token t removes of earlier writes is multiplied by its own β, too.
(k_c @ k_c.mT * between).tril(-1) → (k_c @ k_c.mT).tril(-1)
    The writes of a chunk do not fade before they are removed: L needs the decay between the two tokens.
(q_c @ k_c.mT * between) @ U → (q_c @ k_c.mT).tril() @ U
    The writes of a chunk do not fade before they are read: the read needs the decay between the two tokens.
U = torch.linalg.solve_triangular(L, R, upper=False, unitriangular=True) → U = R
    The system is not solved: this leaves out what earlier writes of the chunk changed.
torch.linalg.solve_triangular(L, → torch.linalg.solve_triangular(-L,
    The sign of L is turned: what earlier writes left under the key is removed, so the system is I + L.
"""

ALSO = (state_ignored("S"),)
