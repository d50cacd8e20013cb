r"""Bug hunt: momentum and forgetting

*Find what is wrong in code that runs, from how its answers differ. · 15 minutes · ●●● · 3 points*

This function computes Titans' memory with a matrix for M, token by token, with the gradient at the newest M. It runs, and a model trains with it. It has **two bugs**. Run the cell below: it shows two symptoms. Then write the right version into `mended`. You may copy the code and change a few lines.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch13.shared import rand, randn, unit


def mended(q, k, v, alpha, eta, theta):
    """From an empty memory. q, k (T, K), v (T, V), alpha, eta and theta (T,): y (T, V)."""
    ### BEGIN SOLUTION
    M = S = q.new_zeros(v.shape[-1], k.shape[-1])
    ys = []
    for t in range(len(k)):
        surprise = 2 * torch.outer(M @ k[t] - v[t], k[t])
        S = eta[t] * S - theta[t] * surprise
        M = (1 - alpha[t]) * M + S
        ys.append(M @ q[t])
    return torch.stack(ys)
    ### END SOLUTION


WHY = r"""
**The first bug**: the momentum η multiplied the new surprise as well, $η\,(S - θ ∇)$. With η = 0 the memory never learned anything. In Titans $η$ says how much of the *old* surprise goes on, θ how much of the new one is added.

**The second bug**: the forgetting faded the write as well, $(1 - α)(M + S)$. With α = 1 the memory should hold the newest step alone; it held nothing.

**How to find such bugs.** Set a gate to its end and say what must remain. With η = 0 it is a plain step with forgetting; with α = 1 and η = 0 the memory is $-θ ∇$, and with θ = ½ and a key of length 1 it returns the newest value whole.

*Common mistakes:* mending one of the two; taking the surprise from the faded memory, another layer, which is right only where nothing fades.
"""

HINTS = (
    "Each symptom isolates one line: which one matters with η = 0? With α = 1?",
    "η belongs to the old S alone, 1 - α to the old M alone.",
    "S = eta * S - theta * surprise; M = (1 - alpha) * M + S.",
)


def reference(q, k, v, alpha, eta, theta):
    """Both recurrences unrolled: every surprise by the weight that it has in M_t."""
    T = len(k)
    surprises, ys = [], []
    M = torch.zeros(v.shape[-1], k.shape[-1])
    for t in range(T):
        surprises.append(-theta[t] * 2 * torch.outer(M @ k[t] - v[t], k[t]))
        M = torch.zeros_like(M)
        for j in range(t + 1):
            share = sum(
                eta[j + 1 : i + 1].prod() * (1 - alpha[i + 1 : t + 1]).prod()
                for i in range(j, t + 1)
            )
            M = M + share * surprises[j]
        ys.append(M @ q[t])
    return torch.stack(ys)


def cases(rng):
    def case(name, T, K, V, alpha=None, eta=None, theta=None, size=1.0):
        gates = {
            "alpha": 0.5 * rand(rng, T) if alpha is None else torch.full((T,), alpha),
            "eta": 0.8 * rand(rng, T) if eta is None else torch.full((T,), eta),
            "theta": 0.3 * rand(rng, T) if theta is None else torch.full((T,), theta),
        }
        inputs = {"q": randn(rng, T, K), "k": unit(rng, T, K)}
        inputs |= {"v": size * randn(rng, T, V)} | gates
        return Case(name, {n: x.requires_grad_() for n, x in inputs.items()})

    return [
        case("T = 1", 1, 3, 2),
        case("K ≠ V", 6, 4, 3),
        case("η = 0", 5, 3, 3, eta=0.0),
        case("α = 1", 5, 2, 4, alpha=1.0),
        case("the delta rule", 7, 3, 2, alpha=0.0, eta=0.0, theta=0.5),
        case("η = 1", 4, 3, 3, eta=1.0),
        case("large values", 5, 3, 2, size=30.0),
    ]


OUTPUTS = ("y",)

TIME_AXIS = 0


def _by_parts(q, k, v, alpha, eta, theta):
    M = torch.zeros(v.shape[-1], k.shape[-1])
    S, ys = torch.zeros_like(M), []
    for t in range(len(k)):
        e = v[t] - torch.mv(M, k[t])
        S = S * eta[t] + (2 * theta[t] * e)[:, None] * k[t]
        M = torch.lerp(M, torch.zeros_like(M), alpha[t]) + S
        ys.append(torch.mv(M, q[t]))
    return torch.stack(ys)


ALTERNATIVES = (_by_parts,)

MISTAKES = """
eta[t] * S - theta[t] * surprise → eta[t] * (S - theta[t] * surprise) ; (1 - alpha[t]) * M + S → (1 - alpha[t]) * (M + S)
    Both bugs are still there: η multiplies the new surprise, and the forgetting fades the write.
eta[t] * S - theta[t] * surprise → eta[t] * (S - theta[t] * surprise)
    The forgetting is mended, the momentum is not: η multiplies the new surprise as well.
(1 - alpha[t]) * M + S → (1 - alpha[t]) * (M + S)
    The momentum is mended, the forgetting is not: what is just written fades with the rest.
surprise = 2 * torch.outer(M @ k[t] - v[t], k[t]) → surprise = 2 * torch.outer((1 - alpha[t]) * M @ k[t] - v[t], k[t])
    The surprise is taken from the faded memory: it is the gradient at M as it was after the token before.
2 * torch.outer(M @ k[t] - v[t], k[t]) → torch.outer(M @ k[t] - v[t], k[t])
    The 2 of the derivative of a square is missing: Titans' loss has no ½.
(1 - alpha[t]) * M + S → M + S
    Nothing is forgotten: α is missing.
eta[t] * S - theta[t] * surprise → -theta[t] * surprise
    There is no momentum: the old surprise is lost.
(1 - alpha[t]) * M + S → alpha[t] * M + S
    α is what is kept here: it is what is forgotten.
eta[t] * S - theta[t] * surprise → eta[t] * S - (1 - eta[t]) * theta[t] * surprise
    The new surprise is multiplied by 1 - η, as in a moving average: here it is multiplied by θ alone.
M = (1 - alpha[t]) * M + S ⏎ ys.append(M @ q[t]) → ys.append(M @ q[t]) ⏎ M = (1 - alpha[t]) * M + S
    Each read comes before the token's own write: y_t is M_t q_t.
eta[t] * S - theta[t] * surprise → (1 - alpha[t]) * eta[t] * S - theta[t] * surprise
    The forgetting multiplies the momentum as well: it fades M alone.
2 * torch.outer(M @ k[t] - v[t], k[t]) → 2 * torch.outer(-v[t], k[t])
    What M returns for the key is not taken off: the surprise is the gradient at the newest M, not at an empty one.
"""
