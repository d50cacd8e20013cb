r"""A chunk without its state

*Compute what a chunk does to any table, before the table is known. · 15 minutes · ●●● · 2 points*

The chapter's `chunk` solves for $U$ with $S_0$ inside. To prepare all chunks at once, separate the two: find $W$ (C, K) and $\tilde U$ (C, V) with

$$S_C = S_0\,(I - W^\top K) + \tilde U^\top K \qquad \text{for every } S_0.$$

Now with a **decay**: before each write the whole table is multiplied by $a_t$, and $W$ and $\tilde U$ shall describe the end of the chunk as

$$S_C = A\, S_0 + (\tilde U - W S_0^\top)^\top\, \mathrm{diag}(d)\, K, \qquad A = a_1 \cdots a_C, \quad d_t = a_{t+1} \cdots a_C.$$

Rows of $\tilde U - W S_0^\top$ are the $u_t = \beta_t (v_t - a_t S_{t-1} k_t)$. Use no loop over tokens: the check counts operations. $a$ is positive, but the product of a chunk can be too small for float32.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch08.shared import randn, strengths, unit


def wy(k, v, log_a, beta):
    """k (C, K), v (C, V), log_a (C,) at most 0 and finite, beta (C,): W (C, K) and U (C, V)."""
    ### BEGIN SOLUTION
    since = log_a.cumsum(0)  # log of a_1 ⋯ a_t
    between = (since[:, None] - since).tril(-1).exp()  # a_{j+1} ⋯ a_t
    L = beta[:, None] * (k @ k.mT).tril(-1) * between
    right = beta[:, None] * torch.cat([since.exp()[:, None] * k, v], dim=1)
    both = torch.linalg.solve_triangular(L, right, upper=False, unitriangular=True)
    return both[:, : k.shape[1]], both[:, k.shape[1] :]
    ### END SOLUTION


WHY = r"""
**Solution.** Before write $t$ the table is $a_1 \cdots a_t\, S_0 + \sum_{j<t} a_{j+1} \cdots a_t\, u_j k_j^\top$. So $u_t = \beta_t \bigl(v_t - a_1 \cdots a_t\, S_0 k_t - \sum_{j<t} a_{j+1} \cdots a_t\, (k_j \cdot k_t)\, u_j\bigr)$.
The unknowns are linear in $(v, S_0)$: solve once for $\beta V$ and once for $\beta\,(a_1 \cdots a_t) K$, with the same triangular matrix. Stacking the two right sides solves both at once.

Real kernels do exactly this, for all chunks in parallel, and then pass $S$ from chunk to chunk. (Differences of running sums are fine for a chunk with finite decays; `seqlab` sums each span, as in 07.1, so that a decay of 0 works.)

*Common mistakes:* the diagonal in $L$; the decay of token $j$ itself in the pair; a $W$ without the decay since the start; β along the columns.
"""

HINTS = (
    "Write u_t as β_t (v_t - faded S_0 k_t - faded earlier writes). Which of these contain S_0?",
    "(I + L) U = β V and (I + L) W = β (a_1 ⋯ a_t) K, with L_tj = β_t (k_t·k_j) a_{j+1} ⋯ a_t below the diagonal.",
    "torch.linalg.solve_triangular(L, torch.cat([...], 1), upper=False, unitriangular=True).",
)


def reference(k, v, log_a, beta):
    """The columns of W by running the rule on unit tables; U by running it on an empty one."""
    k, v, a, beta = k.double(), v.double(), log_a.double().exp(), beta.double()
    C, K = k.shape

    def writes(S, v):
        us = []
        for t in range(C):
            S = a[t] * S
            u = beta[t] * (v[t] - S @ k[t])
            S = S + torch.outer(u, k[t])
            us.append(u)
        return torch.stack(us)

    U = writes(torch.zeros(v.shape[1], K).double(), v)
    W = -writes(torch.eye(K).double(), torch.zeros(C, K).double())
    return W.float(), U.float()


def cases(rng):
    def case(name, C, K, V, most=1.0, fade=0.5, whole=False, size=1.0):
        beta = strengths(rng, C, most=most)
        if whole:
            beta = torch.full((C,), most)
        inputs = {"k": unit(rng, C, K), "v": size * randn(rng, C, V)}
        inputs |= {"log_a": -fade * torch.rand(C, generator=rng), "beta": beta}
        return Case(name, {n: u.requires_grad_() for n, u in inputs.items()})

    return [
        case("C = 1", 1, 3, 2),
        case("C = 2", 2, 3, 2),
        case("odd C, K ≠ V", 7, 5, 2),
        case("no decay, β = 1", 6, 4, 3, fade=0.0, whole=True),
        case("β = 2", 5, 4, 3, most=2.0, whole=True),
        case("β = 0", 4, 3, 3, most=0.0),
        case("strong decay", 8, 4, 5, fade=3.0),
        case("large values", 6, 4, 3, size=1000.0),
        case("C = 64", 64, 16, 4),
        case("C = 64, strong decay", 64, 16, 4, fade=6.0),
    ]


def effort(inputs, cost):
    C = len(inputs["k"])
    if C >= 64 and cost.calls >= C:
        return f"The values are right, but this walks over tokens: {cost.calls} torch operations for {C}. Solve one triangular system."
    return None


OUTPUTS = ("W", "U")

TIME_AXIS = {"W": 0, "U": 0}

TOLERANCE = 1e-3


def _by_inverse(k, v, log_a, beta):
    T = len(k)
    steps = log_a[:, None].expand(T, T).tril(-1).cumsum(0).exp().tril(-1)
    system = torch.eye(T) + beta[:, None] * (k @ k.mT) * steps
    inverse = torch.linalg.inv(system)
    start = log_a.cumsum(0).exp()
    return inverse @ ((beta * start)[:, None] * k), inverse @ (beta[:, None] * v)


def _two_solves(k, v, log_a, beta):
    G = log_a.cumsum(0)
    ratio = torch.exp((G.unsqueeze(1) - G.unsqueeze(0)).tril())
    system = (torch.einsum("ik, jk, i, ij -> ij", k, k, beta, ratio)).tril(
        -1
    ) + torch.eye(len(k))
    solve = torch.linalg.solve
    return solve(system, (beta * G.exp())[:, None] * k), solve(
        system, beta[:, None] * v
    )


ALTERNATIVES = (_by_inverse, _two_solves)

MISTAKES = """
beta[:, None] * (k @ k.mT).tril(-1) * between → beta * (k @ k.mT).tril(-1) * between
    β goes along the columns of L: it is the strength of the token that writes now, the row.
beta[:, None] * (k @ k.mT).tril(-1) * between → (k @ k.mT).tril(-1) * between
    L has no β: what token t removes of earlier writes is multiplied by its own β, too.
beta[:, None] * (k @ k.mT).tril(-1) * between → beta[:, None] * (k @ k.mT).tril(-1)
    The writes of the chunk do not fade: L needs the decay between the two tokens.
torch.cat([since.exp()[:, None] * k, v], dim=1) → torch.cat([k, v], dim=1)
    U is right, W is not: S_0 has faded by a_1 ⋯ a_t when token t reads it.
beta[:, None] * torch.cat([since.exp()[:, None] * k, v], dim=1) → torch.cat([since.exp()[:, None] * k, v], dim=1)
    The right side has no β.
both = torch.linalg.solve_triangular(L, right, upper=False, unitriangular=True) → both = right
    The system is not solved: this leaves out what earlier writes of the chunk changed.
both = torch.linalg.solve_triangular(L, right, upper=False, unitriangular=True) → both = right - L @ right
    One step of substitution: (I + L) is inverted to first order only. Solve the system.
(since[:, None] - since) → (since[:, None] - since + log_a)
    The decay of token j acts on what it writes itself: it fades the table before the write.
torch.cat([since.exp()[:, None] * k, v], dim=1) → torch.cat([(since - log_a).exp()[:, None] * k, v], dim=1)
    W leaves out the decay of its own token: token t fades the table before it reads it.
(k @ k.mT).tril(-1) * between → (k @ k.mT).tril(-1) ; torch.cat([since.exp()[:, None] * k, v], dim=1) → torch.cat([k, v], dim=1)
    Nothing fades: the decay is missing, in L and on the right side of W.
torch.cat([since.exp()[:, None] * k, v], dim=1) → torch.cat([log_a.exp()[:, None] * k, v], dim=1)
    W has the decay of its own token alone: S_0 has faded by all of a_1 ⋯ a_t when token t reads it.
torch.cat([since.exp()[:, None] * k, v], dim=1) → since.exp()[:, None] * torch.cat([k, v], dim=1)
    The right side of U fades too: v_t is new, only the old table has faded by a_1 ⋯ a_t.
torch.linalg.solve_triangular(L, → torch.linalg.solve_triangular(-L,
    The sign of L is turned: what earlier writes left under the key is removed, so the system is I + L.
(since[:, None] - since).tril(-1).exp() → (since[:, None] - log_a[:, None] - since).tril(-1).exp()
    L leaves out the decay of token t itself: the table fades before token t asks what its key returns.
both[:, : k.shape[1]], both[:, k.shape[1] :] → (since[-1] - since).exp()[:, None] * both[:, : k.shape[1]], (since[-1] - since).exp()[:, None] * both[:, k.shape[1] :]
    The rows are faded until the end of the chunk already: the equation does that with diag(d), outside W and U.
"""
